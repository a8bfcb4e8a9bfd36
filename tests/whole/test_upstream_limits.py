"""Outcomes E41 and the upstream's penalties, against a Dovecot that keeps its own limits: what it ever hears of us."""

from __future__ import annotations

import imaplib
import smtplib
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import pytest

from tests.gate import Gate
from tests.lab import Lab
from tests.lab.talk import tls

ANN, BOB, CY = "ann@example.test", "bob@example.test", "cy@example.test"
BEARS = 2  # IMAP sessions of one mailbox
TIMEOUT_S = 20
TOO_MANY = "Maximum number of connections"
FAILED = "auth failed"


@pytest.fixture(scope="module")
def strict() -> Iterator[Lab]:
    """A mail server as they come: few sessions per mailbox, and failed logins that slow the next ones."""
    with Lab.start((ANN, BOB, CY), auth_penalty=True, max_user_connections=BEARS) as lab:
        yield lab


@pytest.fixture
def serving(strict: Lab, tmp_path: Path) -> Iterator[Callable[..., Gate]]:
    with ExitStack() as stack:

        def serve(upstream: str = "", prepare: Callable[[Gate], None] = lambda _: None) -> Gate:
            gate = Gate.prepare(strict, tmp_path / "gate")
            gate.config.write_text(gate.config.read_text().replace("[upstream.lab]\n", f"[upstream.lab]\n{upstream}\n"))
            for user in (ANN, CY):
                gate.add_account(user)
            prepare(gate)
            gate.start()
            stack.callback(gate.kill)
            return gate

        yield serve


class Clients:
    """IMAP clients that stay logged in until they are told to leave, and those that wait in threads of their own."""

    def __init__(self, gate: Gate, user: str = ANN) -> None:
        self._gate = gate
        self._user = user
        self._password = gate.create(user, "phones")["password"]
        self._pool = ThreadPoolExecutor(8)
        self.sessions: list[imaplib.IMAP4] = []

    def log_in(self) -> imaplib.IMAP4:
        """Raises imaplib.IMAP4.error with what the server says."""
        client = imaplib.IMAP4_SSL(*self._gate.imaps, ssl_context=tls(self._gate.lab), timeout=TIMEOUT_S)
        try:
            client.login(self._user, self._password)
        except BaseException:
            client.shutdown()
            raise
        self.sessions.append(client)
        return client

    def wait(self) -> Future[imaplib.IMAP4]:
        return self._pool.submit(self.log_in)

    def leave(self) -> None:
        self.sessions.pop(0).logout()

    def close(self) -> None:
        self._pool.shutdown()
        for session in self.sessions:
            try:
                session.logout()
            except (imaplib.IMAP4.error, OSError):
                session.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def heard(lab: Lab, words: str) -> int:
    """How often the mail server has written this into its log."""
    return lab.dovecot.server.log().count(words)


def test_a_mailbox_with_all_its_sessions_is_waited_for_and_the_upstream_hears_of_none_too_many(
    strict: Lab, serving: Callable[..., Gate]
) -> None:
    gate = serving(f"limits = {{ imap = {BEARS} }}")
    before = heard(strict, TOO_MANY)
    with Clients(gate) as clients, Clients(gate, CY) as others:
        for _ in range(BEARS):
            clients.log_in()
        first, second = clients.wait(), clients.wait()
        others.log_in()  # another mailbox waits for nobody
        assert not first.done()
        clients.leave()
        clients.leave()
        for future in (first, second):
            assert future.result(TIMEOUT_S).noop()[0] == "OK"
        with pytest.raises(imaplib.IMAP4.error, match=r"\[LIMIT\]"):
            clients.log_in()  # nobody leaves within the 5 s that it stands in line
    assert heard(strict, TOO_MANY) == before
    assert f"{BEARS} sessions of this mailbox are open" in gate.await_log("cause=upstream_busy")


def test_an_upstream_that_says_too_many_is_left_alone_until_a_session_of_ours_ends(
    strict: Lab, serving: Callable[..., Gate]
) -> None:
    gate = serving()  # nobody told Gatepost how many it bears
    before = heard(strict, TOO_MANY)
    with Clients(gate) as clients:
        for _ in range(BEARS):
            clients.log_in()
        with pytest.raises(imaplib.IMAP4.error, match=r"\[LIMIT\]"):
            clients.log_in()
        assert heard(strict, TOO_MANY) == before + 1
        crowd = [clients.wait() for _ in range(4)]
        with pytest.raises(imaplib.IMAP4.error, match=r"\[LIMIT\]"):
            crowd[0].result(TIMEOUT_S)
        for future in crowd[1:]:
            assert isinstance(future.exception(TIMEOUT_S), imaplib.IMAP4.error)
        assert heard(strict, TOO_MANY) == before + 1  # the four never got there
        waiting = clients.wait()
        clients.leave()
        assert waiting.result(TIMEOUT_S).noop()[0] == "OK"


def test_a_mailbox_that_the_upstream_refuses_costs_one_failed_login_and_slows_nobody_else(
    strict: Lab, serving: Callable[..., Gate]
) -> None:
    """Dovecot makes the next login from our address wait 4 s for one failure, up to 15 s for more, and forgets at a
    success. So failures are what counts here, and that others get in between."""

    def add_bob_with_a_strange_token(gate: Gate) -> None:
        token = strict.refresh_token(CY)
        gate.secrets.append(token)
        gate.cli("account", "add", BOB, "--upstream", "lab", "--refresh-token-stdin", stdin=f"{token}\n")

    gate = serving(prepare=add_bob_with_a_strange_token)
    before = heard(strict, FAILED)
    with Clients(gate, BOB) as broken, Clients(gate) as fine:
        crowd = [broken.wait() for _ in range(6)]
        assert all("[CONTACTADMIN]" in str(future.exception(TIMEOUT_S)) for future in crowd)
        assert heard(strict, FAILED) == before + 1
        for _ in range(3):  # a scanner that does not give up, among people who read their mail
            with pytest.raises(imaplib.IMAP4.error, match="CONTACTADMIN"):
                broken.log_in()
            fine.log_in().logout()
            fine.sessions.clear()
        assert heard(strict, FAILED) == before + 1
        with smtplib.SMTP_SSL(*gate.smtps, context=tls(strict), timeout=TIMEOUT_S) as smtp:
            with pytest.raises(smtplib.SMTPAuthenticationError) as caught:
                smtp.login(BOB, gate.create(BOB, "scanner")["password"])
            assert caught.value.smtp_code == 454
    assert heard(strict, FAILED) == before + 1
    assert gate.log().count("state=upstream_refuses") == 2  # the log's warning, and the alert
    assert gate.leaked() == []
