"""The life of an app password with a real Gatepost: rotated, suspended, its account disabled, known by an alias."""

from __future__ import annotations

import imaplib
import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.gate import Gate
from tests.lab import Lab
from tests.whole.test_revoke import PATIENCE_S, idle, trust, until_closed
from tests.whole.test_sealed import sealed_bob

LOOKS = 20  # each takes a command's time, some 0.3 s
BOB, DEE = "bob@example.test", "dee@example.test"


@pytest.fixture(scope="module")
def own_gate(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gate]:
    """A Gatepost of this module's own: accounts are disabled, and Bob is sealed here."""
    gate = Gate.prepare(lab, tmp_path_factory.mktemp("life"), limits="argon2_memory_kib = 64\nargon2_time = 1\n")
    gate.add_account(DEE)
    gate.start()
    yield gate
    gate.kill()


def does_log_in(lab: Lab, gate: Gate, user: str, password: str) -> bool:
    """Whether this opens the mailbox by IMAP; False only for the answer to wrong credentials."""
    with imaplib.IMAP4_SSL(*gate.imaps, ssl_context=trust(lab), timeout=PATIENCE_S) as client:
        try:
            client.login(user, password)
        except imaplib.IMAP4.error as error:
            if "AUTHENTICATIONFAILED" not in str(error):
                raise
            return False
        return client.select("INBOX")[0] == "OK"


def rotated(gate: Gate, public_id: str, *words: str, stdin: str = "") -> str:
    """The new text of an app password."""
    new: str = json.loads(gate.cli("rotate", public_id, "--json", *words, stdin=stdin))["password"]
    gate.secrets.append(new)
    return new


def test_both_texts_log_in_during_the_overlap_and_one_after_it(lab: Lab, own_gate: Gate) -> None:
    made = own_gate.create(DEE, "rotated")
    session = idle(lab, own_gate, DEE, made["password"])
    second = rotated(own_gate, made["id"])
    assert does_log_in(lab, own_gate, DEE, made["password"])
    assert does_log_in(lab, own_gate, DEE, second)
    session.send(b"DONE\r\n")  # nobody was thrown out
    assert session.readline().startswith(b"x1 OK")
    session.send(b"x2 IDLE\r\n")
    assert session.readline().startswith(b"+ ")
    third = rotated(own_gate, made["id"], "--overlap", "0h")
    assert until_closed(session.readline) == b""
    session.shutdown()
    assert [does_log_in(lab, own_gate, DEE, text) for text in (made["password"], second, third)] == [False, False, True]
    assert own_gate.leaked() == []


def test_both_texts_of_a_sealed_mailbox_log_in_during_the_overlap_and_one_after_it(lab: Lab, own_gate: Gate) -> None:
    phone, laptop = sealed_bob(own_gate)
    (public_id,) = [row["id"] for row in json.loads(own_gate.cli("list", BOB, "--json")) if row["name"] == "phone"]
    second = rotated(own_gate, public_id, "--unlock-stdin", stdin=laptop)
    assert all(does_log_in(lab, own_gate, BOB, text) for text in (phone, second, laptop))
    third = rotated(own_gate, public_id, "--unlock-stdin", "--overlap", "0h", stdin=second)
    logins = [does_log_in(lab, own_gate, BOB, text) for text in (phone, second, third, laptop)]
    assert logins == [False, False, True, True]
    assert own_gate.leaked() == []


def test_suspending_ends_its_sessions_and_no_others_until_it_is_resumed(lab: Lab, own_gate: Gate) -> None:
    doomed, spared = own_gate.create(DEE, "suspended"), own_gate.create(DEE, "not suspended")
    session, other = (idle(lab, own_gate, DEE, made["password"]) for made in (doomed, spared))
    own_gate.cli("suspend", doomed["id"])
    assert until_closed(session.readline) == b""
    session.shutdown()
    assert not does_log_in(lab, own_gate, DEE, doomed["password"])
    other.send(b"DONE\r\n")
    assert other.readline().startswith(b"x1 OK")
    other.shutdown()
    own_gate.cli("resume", doomed["id"])
    assert does_log_in(lab, own_gate, DEE, doomed["password"])


def test_disabling_ends_all_sessions_of_an_account_until_it_is_enabled(lab: Lab, own_gate: Gate) -> None:
    made = own_gate.create(DEE, "disabled")
    session = idle(lab, own_gate, DEE, made["password"])
    own_gate.cli("account", "disable", DEE)
    assert until_closed(session.readline) == b""
    session.shutdown()
    assert not does_log_in(lab, own_gate, DEE, made["password"])
    own_gate.cli("account", "enable", DEE)
    assert does_log_in(lab, own_gate, DEE, made["password"])


def test_a_scanner_logs_in_by_an_alias_until_it_is_taken_away(lab: Lab, own_gate: Gate) -> None:
    made = own_gate.create(DEE, "scanner")
    own_gate.cli("account", "alias", DEE, "add", "scanner2")
    assert does_log_in(lab, own_gate, "Scanner2", made["password"])
    own_gate.cli("account", "alias", DEE, "remove", "scanner2")
    assert not does_log_in(lab, own_gate, "Scanner2", made["password"])
    assert does_log_in(lab, own_gate, DEE, made["password"])


def test_live_session_is_listed_told_of_and_kicked(lab: Lab, own_gate: Gate) -> None:
    made = own_gate.create(DEE, "kicked")
    session = idle(lab, own_gate, DEE, made["password"])
    found = listed(own_gate, made["id"])
    assert {name: found[name] for name in ("account", "app_password", "name", "protocol", "worker")} == {
        "account": DEE, "app_password": made["id"], "name": "kicked", "protocol": "imap", "worker": 0,
    }  # fmt: skip
    out = own_gate.cli("sessions", "kick", found["id"])
    assert f"Kicked {found['id']}: imap from {found['address']}" in out
    assert until_closed(session.readline) == b""
    session.shutdown()
    assert does_log_in(lab, own_gate, DEE, made["password"])  # kicked is not revoked
    (entry,) = json.loads(own_gate.cli("audit", "--event", "kicked", "--account", DEE, "--json"))
    assert (entry["app_password"], entry["protocol"]) == (made["id"], "imap")


def listed(gate: Gate, public_id: str) -> dict[str, Any]:
    """The live session of this app password, once its worker has published it: within a second."""
    for _ in range(LOOKS):
        for one in json.loads(gate.cli("sessions", "--account", DEE, "--json")):
            if one["app_password"] == public_id:
                found: dict[str, Any] = one
                return found
    raise AssertionError(f"no live session of {public_id} among them")
