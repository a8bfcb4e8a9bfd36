"""Outcomes E33, E34, E35 through a running Gatepost: what clients are told, what people are, and nothing is lost."""

from __future__ import annotations

import imaplib
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.connecting import stored
from tests.gate import Gate
from tests.lab import Lab
from tests.lab.talk import tls

ANN, BOB = "ann@example.test", "bob@example.test"
TIMEOUT_S = 20
# The operator's program: one line for each alert.
HOOK = "import sys; open(sys.argv[1], 'a').write(sys.stdin.read())"


class Alarmed:
    """A Gatepost whose alerts go into a file."""

    def __init__(self, gate: Gate, file: Path) -> None:
        self.gate = gate
        self.file = file
        self.passwords = {user: gate.create(user, "scanner")["password"] for user in (ANN, BOB)}

    def alerts(self) -> list[dict[str, str]]:
        return [json.loads(line) for line in self.file.read_text().splitlines()] if self.file.exists() else []

    def await_alerts(self, count: int) -> list[dict[str, str]]:
        deadline = time.monotonic() + TIMEOUT_S
        while len(self.alerts()) < count and time.monotonic() < deadline:
            time.sleep(0.02)
        return self.alerts()

    def log_in(self, user: str) -> imaplib.IMAP4:
        client = imaplib.IMAP4_SSL(*self.gate.imaps, ssl_context=tls(self.gate.lab), timeout=TIMEOUT_S)
        try:
            client.login(user, self.passwords[user])
        except BaseException:
            client.shutdown()
            raise
        return client

    def is_refused(self, user: str, code: str) -> None:
        with pytest.raises(imaplib.IMAP4.error, match=rf"\[{code}\]"):
            self.log_in(user)

    def state(self, user: str) -> str:
        return str(stored(self.gate, user)["state"])


@pytest.fixture
def alarmed(lab: Lab, tmp_path: Path) -> Iterator[Alarmed]:
    gate = Gate.prepare(lab, tmp_path / "gate")
    file = tmp_path / "alerts"
    command = json.dumps([sys.executable, "-I", "-c", HOOK, str(file)])
    gate.config.write_text(gate.config.read_text() + f"\n[alerts]\ncommand = {command}\n")
    for user in (ANN, BOB):
        gate.add_account(user)
    gate.start()
    try:
        yield Alarmed(gate, file)
        assert gate.leaked() == []
    finally:
        gate.kill()
        lab.idp.clear_fault()


def test_a_revoked_grant_is_one_alert_no_hot_loop_and_over_when_somebody_signs_in(lab: Lab, alarmed: Alarmed) -> None:
    lab.idp.revoke(ANN)
    before = lab.idp.token_requests().refreshes
    for _ in range(3):
        alarmed.is_refused(ANN, "CONTACTADMIN")
    assert lab.idp.token_requests().refreshes == before + 1
    (alert,) = alarmed.await_alerts(1)
    assert (alert["event"], alert["account"], alert["state"]) == ("token_state", ANN, "needs_consent")
    assert alert["detail"].startswith("invalid_grant")
    assert alarmed.state(ANN) == "needs_consent"
    alarmed.log_in(BOB).logout()
    token = lab.refresh_token(ANN)
    alarmed.gate.secrets.append(token)
    alarmed.gate.cli("account", "connect", ANN, "--refresh-token-stdin", stdin=f"{token}\n")
    alarmed.log_in(ANN).logout()
    assert [(one["account"], one["state"]) for one in alarmed.await_alerts(2)][1:] == [(ANN, "fresh")]


def test_a_rejected_client_is_one_alert_for_all_mailboxes_and_one_when_it_is_well(lab: Lab, alarmed: Alarmed) -> None:
    lab.idp.set_fault("invalid_client")
    for user in (ANN, BOB, ANN):
        alarmed.is_refused(user, "UNAVAILABLE")
    (alert,) = alarmed.await_alerts(1)
    assert (alert["event"], alert["upstream"], alert["state"]) == ("provider_client", "lab", "rejected")
    assert alarmed.state(ANN) == alarmed.state(BOB) == "fresh"
    lab.idp.clear_fault()
    alarmed.gate.kill()  # a restart forgets nothing, and does not wait
    alarmed.gate.start()
    alarmed.log_in(ANN).logout()
    assert [one["state"] for one in alarmed.await_alerts(2)] == ["rejected", "accepted"]


def test_a_provider_that_is_down_is_mended_in_the_background_without_a_login(lab: Lab, alarmed: Alarmed) -> None:
    lab.idp.set_fault("500")
    alarmed.is_refused(ANN, "UNAVAILABLE")
    assert alarmed.state(ANN) == "failing"
    lab.idp.clear_fault()
    alarmed.gate.kill()
    position = len(alarmed.gate.log())
    alarmed.gate.start()  # its first round looks for accounts that were left failing
    alarmed.gate.await_log(f"event=token_refreshed user={ANN}", after=position)
    alarmed.log_in(ANN).logout()
    assert alarmed.state(ANN) == "fresh"
    assert alarmed.alerts() == []  # too short to be told
