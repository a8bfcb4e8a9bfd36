"""For real clients: a mailbox with an app password, another whose password was revoked, a place to run in."""

from __future__ import annotations

import imaplib
import re
import secrets
import smtplib
import ssl
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.clients.kit import TIMEOUT_S, Desk, Login, redact, until
from tests.conftest import CLIENT_USERS
from tests.gate import Gate
from tests.lab import Lab

# Login names of the client's mailbox besides its address. RFC 9051 lets quoted strings and literals hold them.
ODD_ALIASES = ('the "client" {7}', "kunde müller")


@pytest.fixture(scope="session")
def trust(lab: Lab) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=lab.ca_file)


@pytest.fixture(scope="session")
def login(gate: Gate, trust: ssl.SSLContext, tmp_path_factory: pytest.TempPathFactory) -> Login:
    """The mailbox of all clients: each test works in a folder of its own, or looks for its own mark."""
    _await_offers(gate, trust)
    aliases = [word for alias in ODD_ALIASES for word in ("--alias", alias)]
    return _new_login(gate, CLIENT_USERS[0], tmp_path_factory.mktemp("login"), *aliases)


@pytest.fixture(scope="session")
def revoked(gate: Gate, tmp_path_factory: pytest.TempPathFactory) -> Login:
    """A password that was right until it was revoked: to be refused like any other, and no typo."""
    login = _new_login(gate, CLIENT_USERS[1], tmp_path_factory.mktemp("revoked"))
    gate.cli("revoke", "--account", login.user, "--all")
    return login


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failure quotes arguments, also those of imaplib and smtplib, whose every second one is a password."""
    report = yield
    gate = getattr(item, "funcargs", {}).get("gate")
    if gate is not None and report.failed:
        text = redact(report.longreprtext, gate.secrets)
        if text != report.longreprtext:
            report.longrepr = text
        report.sections = [(title, redact(words, gate.secrets)) for title, words in report.sections]
    return report


@pytest.fixture
def wrong(revoked: Login, gate: Gate, lab: Lab) -> Iterator[Login]:
    """The same, with the promise that Gatepost refused it by itself: the upstream never saw the client."""
    begin, seen = len(gate.log()), upstream_visits(lab)
    yield revoked
    gate.await_log(rf"event=login .*user={revoked.user} .*result=refused cause=revoked", after=begin)
    assert upstream_visits(lab) == seen


def upstream_visits(lab: Lab) -> tuple[int, int]:
    """How many IMAP clients Dovecot has let in or sent away so far, and how many connections Postfix has had."""
    logs = lab.logs()
    return len(re.findall("imap-login: ", logs["dovecot"])), len(re.findall("/smtpd.*: connect from", logs["postfix"]))


@pytest.fixture
def desk(gate: Gate, tmp_path: Path) -> Desk:
    return Desk(gate, tmp_path)


@pytest.fixture
def mark() -> str:
    """A word that is in no other message."""
    return f"mark-{secrets.token_hex(6)}"


def _new_login(gate: Gate, user: str, directory: Path, *words: str) -> Login:
    gate.add_account(user, *words)
    login = Login(user, gate.create(user, "A real client")["password"], directory / "password")
    login.password_file.touch(mode=0o600)
    login.password_file.write_text(login.password + "\n")
    return login


def _await_offers(gate: Gate, trust: ssl.SSLContext) -> None:
    """Wait until Gatepost has asked the new upstream what it offers: clients ask before login, and only then."""

    def has_idle() -> bool:
        with imaplib.IMAP4_SSL(*gate.imaps, ssl_context=trust, timeout=TIMEOUT_S) as imap:
            return "IDLE" in imap.capabilities

    def has_pipelining() -> bool:
        with smtplib.SMTP(*gate.smtp, timeout=TIMEOUT_S) as smtp:
            smtp.ehlo()
            return smtp.has_extn("PIPELINING")

    until(has_idle, "IDLE is offered")
    until(has_pipelining, "PIPELINING is offered")
