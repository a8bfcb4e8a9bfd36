"""What the fixture `wrong` relies on: whoever Gatepost lets in is in the upstream's log, and is counted there."""

from __future__ import annotations

import imaplib
import smtplib
import ssl

from tests.clients.conftest import upstream_visits
from tests.clients.kit import TIMEOUT_S, Login, until
from tests.gate import Gate


def test_the_upstream_logs_each_client_that_is_let_in(gate: Gate, trust: ssl.SSLContext, login: Login) -> None:
    imap_visits, smtp_visits = upstream_visits(gate.lab)
    with imaplib.IMAP4_SSL(*gate.imaps, ssl_context=trust, timeout=TIMEOUT_S) as imap:
        imap.login(login.user, login.password)
    with smtplib.SMTP_SSL(*gate.smtps, context=trust, timeout=TIMEOUT_S) as smtp:
        smtp.login(login.user, login.password)
    until(lambda: upstream_visits(gate.lab) == (imap_visits + 1, smtp_visits + 1), "both logs have one line more")
