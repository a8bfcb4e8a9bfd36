"""A real upstream for tests, demo and benchmarks: Dovecot, Postfix and an OAuth2 identity provider on loopback."""

from tests.lab.idp import FaultKind, TokenRequests, totp_code
from tests.lab.lab import Lab
from tests.lab.ports import Endpoint
from tests.lab.process import LabError, LabUnavailable

__all__ = ["Endpoint", "FaultKind", "Lab", "LabError", "LabUnavailable", "TokenRequests", "totp_code"]
