"""A crowd of eight processes creates, revokes and logs in at random: the end is what a simple model predicts."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from proxy.secret import Secret
from proxy.store.audit_rows import Entry, Event, Wanted
from proxy.store.rows import CredentialState, NewAccount, Purpose
from proxy.store.store import Store
from proxy.vault.sealing import Recipient, generate_master, seal
from tests.postgresql import Cluster
from tests.service.crowd import ACCOUNTS

PROCESSES, DEEDS_EACH = 8, 125
PATIENCE_S = 300


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path}/gatepost.db"
        Store.create(url).close()
        return url
    cluster: Cluster = request.getfixturevalue("cluster")
    return cluster.database("migrated")


def furnish(url: str, key_file: Path) -> int:
    """A master key, and accounts with a password upstream. Returns the revision then."""
    text, key = generate_master()
    key_file.write_text(text.reveal())
    store = Store.open(url, migrate=False)
    store.add_master(key)
    for email in ACCOUNTS:
        store.add_account(
            NewAccount(email, "plain", email, (), "test"),
            lambda id_: [seal(Purpose.PASSWORD, id_, Secret("upstream's"), [Recipient(key.key_id, key.public)])],
        )
    revision = store.revision()
    store.close()
    return revision


def let_loose(url: str, directory: Path) -> list[dict]:
    """All deeds of the crowd."""
    board = directory / "board"
    board.touch()
    command = [sys.executable, "-m", "tests.service.crowd", url, str(board)]
    crowd = [
        subprocess.Popen([*command, str(seed), str(DEEDS_EACH)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for seed in range(PROCESSES)
    ]
    deeds = []
    try:
        for process in crowd:
            out, err = process.communicate(timeout=PATIENCE_S)
            assert process.returncode == 0, err.decode()[-3000:]
            deeds += [json.loads(line) for line in out.splitlines()]
    finally:
        for process in crowd:
            if process.poll() is None:
                process.kill()
                process.communicate()
    return deeds


def allowed(login: dict, revokes: list[dict]) -> set[str]:
    """What may come of a login, by the times of the revocations of its app password."""
    outcomes = {"store_down"}  # a loaded machine; says nothing of the password
    if not any(revoke["end"] <= login["begin"] for revoke in revokes):
        outcomes.add("ok")
    if any(revoke["begin"] <= login["end"] for revoke in revokes):
        outcomes.add("revoked")
    return outcomes


def test_a_thousand_deeds_of_eight_processes_end_as_the_model_says(url: str, tmp_path: Path) -> None:
    before = furnish(url, tmp_path / "master.key")
    by_kind: dict[str, list[dict]] = defaultdict(list)
    for deed in let_loose(url, tmp_path):
        by_kind[deed["deed"]].append(deed)
    assert sum(len(deeds) for deeds in by_kind.values()) == PROCESSES * DEEDS_EACH
    created = [deed["id"] for deed in by_kind["create"]]
    revokes: dict[str, list[dict]] = defaultdict(list)
    for deed in by_kind["revoke"]:
        revokes[deed["id"]].append(deed)
    wrong = [one for one in by_kind["login"] if one["outcome"] not in allowed(one, revokes[one["id"]])]
    assert wrong == []
    outcomes = Counter(one["outcome"] for one in by_kind["login"])
    assert outcomes["ok"] > 50
    assert outcomes["revoked"] > 50
    revoked = {public_id for public_id, deeds in revokes.items() if deeds}
    store = Store.open(url, migrate=False)
    try:
        rows = {row.public_id: row for row in store.credentials(None)}
        assert sorted(rows) == sorted(created)
        assert {one for one, row in rows.items() if row.state is CredentialState.REVOKED} == revoked
        used = {one["id"] for one in by_kind["login"] if one["outcome"] == "ok"}
        assert {one for one, row in rows.items() if row.last_use is not None} == used
        assert store.revision() == before + len(revoked)
        entries = store.trail.entries(Wanted(), 0, 1_000_000)
        store.check(deep=True)
    finally:
        store.close()
    assert sorted(told(entries, Event.CREATED)) == sorted(created)
    assert sorted(told(entries, Event.REVOKED)) == sorted(revoked)
    assert set(told(entries, Event.USED)) == used
    refused = sum(one.count for one in entries if one.event is Event.REFUSED)
    assert refused == outcomes.total() - outcomes["ok"]


def told(entries: list[Entry], event: Event) -> list[str]:
    return [one.app_password for one in entries if one.event is event]
