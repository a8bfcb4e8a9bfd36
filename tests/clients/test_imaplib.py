"""Python's imaplib: each way to log in, IDLE, and a message of 10 MB there and back, octet for octet."""

from __future__ import annotations

import imaplib
import ssl
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

from tests.clients.conftest import ODD_ALIASES
from tests.clients.kit import TIMEOUT_S, Login, big_text, fetch, message
from tests.gate import Gate

FORMS = pytest.mark.parametrize("form", ["implicit", "starttls"])
MAX_LINES = 30  # of the untagged answers that a test reads over


@pytest.fixture
def calling(gate: Gate, trust: ssl.SSLContext) -> Callable[..., AbstractContextManager[imaplib.IMAP4]]:
    """Connect, within TLS, up to the login."""

    @contextmanager
    def call(form: str = "implicit") -> Iterator[imaplib.IMAP4]:
        if form == "implicit":
            with imaplib.IMAP4_SSL(*gate.imaps, ssl_context=trust, timeout=TIMEOUT_S) as imap:
                yield imap
            return
        with imaplib.IMAP4(*gate.imap, timeout=TIMEOUT_S) as imap:
            imap.starttls(trust)
            yield imap

    return call


def answer(imap: imaplib.IMAP4, tag: str) -> bytes:
    """Read up to the tagged answer, and return it: imaplib knows nothing of commands that were sent past it."""
    for _ in range(MAX_LINES):
        line = imap.readline()
        if line.startswith(tag.encode() + b" "):
            return line
    pytest.fail(f"no answer to {tag}")


def await_line(imap: imaplib.IMAP4, end: bytes) -> bytes:
    for _ in range(MAX_LINES):
        line = imap.readline()
        if line.endswith(end + b"\r\n"):
            return line
    pytest.fail(f"no line ends in {end!r}")


def quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


@FORMS
def test_imaplib_logs_in_by_login(calling, login: Login, form: str) -> None:
    with calling(form) as imap:
        assert imap.login(login.user, login.password)[0] == "OK"
        assert imap.select("INBOX")[0] == "OK"


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
@FORMS
def test_imaplib_logs_in_by_authenticate(calling, login: Login, form: str, mechanism: str) -> None:
    words = iter([f"\0{login.user}\0{login.password}"] if mechanism == "PLAIN" else [login.user, login.password])
    with calling(form) as imap:
        assert f"AUTH={mechanism}" in imap.capabilities
        assert imap.authenticate(mechanism, lambda _: next(words).encode())[0] == "OK"
        assert imap.select("INBOX")[0] == "OK"


@pytest.mark.parametrize("name", ["{user}", " CLIENT@Example.TEST ", r"WORK\{user}", ODD_ALIASES[0]])
def test_odd_login_names_in_quoted_strings(calling, login: Login, name: str) -> None:
    name = name.replace("{user}", login.user)
    with calling() as imap:
        imap.send(f"q1 login {quoted(name)} {quoted(login.password.upper())}\r\n".encode())
        assert answer(imap, "q1").startswith(b"q1 OK ")


@pytest.mark.parametrize("name", ["{user}", *ODD_ALIASES, "Kunde\u00a0Mu\u0308ller"])
def test_odd_login_names_in_literals(calling, login: Login, name: str) -> None:
    user, password = name.replace("{user}", login.user).encode(), login.password.encode()
    with calling() as imap:
        imap.send(b"l1 LOGIN {%d}\r\n" % len(user))
        assert imap.readline().startswith(b"+ ")
        imap.send(b"%b {%d}\r\n" % (user, len(password)))
        assert imap.readline().startswith(b"+ ")
        imap.send(password + b"\r\n")
        assert answer(imap, "l1").startswith(b"l1 OK ")


def test_login_in_unasked_literals_and_the_next_command_in_one_packet(calling, login: Login) -> None:
    user, password = login.user.encode(), login.password.encode()
    with calling() as imap:
        assert "LITERAL+" in imap.capabilities
        imap.send(
            b"p1 LOGIN {%d+}\r\n%b {%d+}\r\n%b\r\np2 SELECT INBOX\r\n" % (len(user), user, len(password), password)
        )
        assert answer(imap, "p1").startswith(b"p1 OK ")
        assert answer(imap, "p2").startswith(b"p2 OK [READ-WRITE] ")


@FORMS
def test_idle_delivers_a_new_message(calling, gate: Gate, login: Login, mark: str, form: str) -> None:
    with calling(form) as imap:
        imap.login(login.user, login.password)
        imap.select("INBOX")
        imap.send(b"i1 IDLE\r\n")
        await_line(imap, b"+ idling")
        gate.lab.deliver(login.user, message(mark).encode())
        number = int(await_line(imap, b" EXISTS").split()[1])
        imap.send(b"DONE\r\n")
        assert answer(imap, "i1").startswith(b"i1 OK ")
        assert f"Subject: {mark}".encode() in fetch(imap, number, "BODY.PEEK[HEADER]")


def test_ten_megabytes_appended_come_back_octet_for_octet(calling, login: Login, mark: str) -> None:
    mail = message(mark, big_text()).encode()
    with calling() as imap:
        imap.login(login.user, login.password)
        imap.create(mark)
        assert imap.append(mark, None, None, mail)[0] == "OK"
        imap.select(mark)
        # Not compared in the assertion: pytest would take minutes to explain the difference.
        is_same = fetch(imap, 1, "BODY.PEEK[]") == mail
        assert is_same


def test_imaplib_hears_that_the_password_is_wrong(calling, wrong: Login) -> None:
    with calling() as imap, pytest.raises(imaplib.IMAP4.error) as refused:
        imap.login(wrong.user, wrong.password)
    assert "[AUTHENTICATIONFAILED] Login name or app password is wrong" in str(refused.value)
