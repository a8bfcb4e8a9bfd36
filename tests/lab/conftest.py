"""The labs that the tests of the lab share; each starts when first asked for."""

from collections.abc import Iterator

import httpx2
import pytest

from tests.lab import Lab
from tests.lab.talk import TIMEOUT_S


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    with Lab.start() as running:
        yield running


@pytest.fixture(scope="session")
def rootless(lab: Lab) -> Iterator[Lab]:
    """A second lab beside the first, with Dovecot's submission as a user without root has it."""
    with Lab.start(submission="dovecot") as running:
        yield running


@pytest.fixture
def http() -> Iterator[httpx2.Client]:
    with httpx2.Client(timeout=TIMEOUT_S, trust_env=False) as client:
        yield client
