"""The clock jumps an hour (outcomes E55): nobody loses a session or a token by it, and dates are the wall clock's."""

from __future__ import annotations

import imaplib
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.gate import Gate
from tests.lab import Lab
from tests.whole.clock import Clock

MANY = ("ann@example.test", "bob@example.test", "cy@example.test")
HOUR_S = 3600
PATIENCE_S = 20


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Clock:
    return Clock(monkeypatch, tmp_path, is_monotonic_too=False)


@pytest.fixture
def own_gate(clock: Clock, lab: Lab, tmp_path: Path) -> Iterator[Gate]:
    gate = Gate.prepare(lab, tmp_path / "gate", workers=1)
    for user in MANY:
        gate.add_account(user)
    clock.start(gate)
    yield gate
    gate.kill()


def login(gate: Gate, user: str, password: str) -> imaplib.IMAP4_SSL:
    trust = ssl.create_default_context(cafile=str(gate.lab.ca_file))
    imap = imaplib.IMAP4_SSL(*gate.imaps, ssl_context=trust, timeout=PATIENCE_S)
    try:
        imap.login(user, password)
    except imaplib.IMAP4.error as error:
        imap.shutdown()
        causes = [line for line in gate.log().splitlines() if "event=login" in line]
        raise imaplib.IMAP4.error(f"{error}; {causes[-1:]}") from None
    return imap


@pytest.mark.parametrize("jump_s", [HOUR_S, -HOUR_S])
def test_an_hour_more_or_less_costs_no_session_and_no_tokens(
    own_gate: Gate, clock: Clock, lab: Lab, jump_s: int
) -> None:
    passwords = {user: own_gate.create(user, "laptop")["password"] for user in MANY}
    live = [login(own_gate, user, password) for user, password in passwords.items()]
    before = lab.idp.token_requests().refreshes
    position = len(own_gate.log())
    clock.leap(jump_s)
    for user, password in passwords.items():
        login(own_gate, user, password).logout()
    assert lab.idp.token_requests().refreshes == before  # a token's life is counted by the monotonic clock
    assert all(session.noop()[0] == "OK" for session in live)
    for session in live:
        session.logout()
    said = own_gate.log()[position:]
    assert "event=worker_frozen" not in said
    assert "Traceback" not in said
    assert own_gate.stop() == 0


def test_an_app_password_ends_by_the_wall_clock(own_gate: Gate, clock: Clock) -> None:
    ends = datetime.now(UTC) + timedelta(seconds=HOUR_S / 2)
    password = own_gate.create("ann@example.test", "for a while", "--expires", f"{ends:%Y-%m-%dT%H:%M:%SZ}")["password"]
    live = login(own_gate, "ann@example.test", password)
    clock.leap(HOUR_S)
    with pytest.raises(imaplib.IMAP4.error, match="AUTHENTICATIONFAILED"):
        login(own_gate, "ann@example.test", password)
    own_gate.await_log("event=session_end .*reason=revoked")
    live.shutdown()
    clock.leap(0)
    login(own_gate, "ann@example.test", password).logout()
    assert own_gate.stop() == 0
