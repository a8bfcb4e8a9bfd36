"""What many tests share: one lab and one running Gatepost per test process."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from itertools import count

import pytest

from tests.gate import Gate
from tests.lab import Lab

USERS = ("ann@example.test", "bob@example.test", "cy@example.test", "dee@example.test", "eve@example.test")
# Mailboxes of tests/clients, which gives them accounts of its own making.
CLIENT_USERS = ("client@example.test", "wrong@example.test")
pytest_plugins = ("tests.postgresql",)
_names = count(1)
# A Debian is booted by `make test-systemd` alone, which CI runs too.
collect_ignore = [] if os.environ.get("GATEPOST_SYSTEMD") else ["systemd"]


if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts what it puts into the background with SIGINT ignored, and processes that tests start inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--pictures", action="store_true", help="write the pictures of docs/images anew")


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    with Lab.start(USERS + CLIENT_USERS) as lab:
        yield lab


@pytest.fixture(scope="session")
def gate(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gate]:
    """A Gatepost of two workers, with an account for each user of the lab. Tests make app passwords of their own."""
    gate = Gate.prepare(lab, tmp_path_factory.mktemp("gate"), workers=2)
    for user in USERS:
        gate.add_account(user)
    gate.start()
    yield gate
    gate.kill()
    # Outcomes E62, over everything that the tests of this process did, at level debug.
    assert gate.leaked() == []


@pytest.fixture(scope="session")
def as_root() -> None:
    """For tests that become another user, give files away, or have Postfix: no installation gives these rights."""
    if os.geteuid() != 0:
        pytest.skip("root alone can do this: run as root, as CI does")


@pytest.fixture
def password_name() -> str:
    """A name for an app password that no other test has taken."""
    return f"test {next(_names)}"
