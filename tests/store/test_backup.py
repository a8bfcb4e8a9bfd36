"""A backup is whole, of one moment, and the same for every database; a restore is all or nothing."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import insert

from proxy.errors import StoreError
from proxy.store.archive import FORMAT, BadArchive
from proxy.store.audit_rows import Actor, Event
from proxy.store.backup import TABLES, Backups
from proxy.store.rows import AccountState, CredentialState, MasterKey, NewAccount, Seat, TokenState
from proxy.store.schema import HEAD, account, credential, metadata
from proxy.store.store import Store
from tests.store.conftest import NOW, Clock
from tests.store.full import fill, held, without_what_a_restore_does

LIVE = {"worker", "session", "lease", "web_session", "spent"}
PATIENCE_S = 60


def written(store: Store) -> bytes:
    out = io.BytesIO()
    store.backups.write(out, "0.1.0")
    return out.getvalue()


def resealed(data: bytes) -> bytes:
    """The same lines, whatever was done to them, with a hash that fits."""
    lines = data.splitlines(keepends=True)
    end = json.loads(lines[-1])
    end["sha256"] = hashlib.sha256(b"".join(lines[:-1])).hexdigest()
    return b"".join(lines[:-1]) + json.dumps(end).encode() + b"\n"


@pytest.fixture
def full(store: Store, new_credential) -> Store:
    fill(store, new_credential)
    return store


@pytest.fixture
def fresh(migrated_file: Path, tmp_path: Path, clock: Clock) -> Callable[[], Store]:
    """New SQLite stores, as `gatepost init` makes them."""
    opened = []

    def make() -> Store:
        file = tmp_path / f"fresh{len(opened)}.db"
        shutil.copy(migrated_file, file)
        opened.append(Store.open(f"sqlite:///{file}", migrate=False, clock=clock))
        opened[-1].add_master(MasterKey("of the new set-up", b"\x02" * 32, NOW))
        return opened[-1]

    yield make
    for one in opened:
        one.close()


def test_every_table_is_in_a_backup_or_lives() -> None:
    assert {table.name for table in TABLES} | LIVE == set(metadata.tables)


def test_sqlite_to_postgresql_to_sqlite_is_equal_row_by_row(cluster, fresh, sqlite_url, new_credential, clock) -> None:
    first = Store.open(sqlite_url, migrate=False, clock=clock)
    fill(first, new_credential)
    second = Store.open(cluster.database("migrated"), migrate=False, clock=clock)
    third = fresh()
    second.backups.restore(io.BytesIO(written(first)), "one")
    third.backups.restore(io.BytesIO(written(second)), "two")
    rows = [held(one) for one in (first, second, third)]
    assert all(rows[0][table.name] for table in TABLES)
    kept = [without_what_a_restore_does(one) for one in rows]
    assert kept[0] == kept[1] == kept[2]
    for store in (second, third):  # ids go on where they were, those of what is gone included
        assert store.add_account(NewAccount("new@x.test", "mail", "new@x.test", (), "cli:root")).id == 4
        assert store.take_lease(2, "somebody", NOW, NOW + timedelta(seconds=1)) is not None
    first.close()
    second.close()


def test_what_was_active_is_suspended_and_resumed_together_and_the_rest_stays(full: Store, fresh) -> None:
    before = {one.name: one for one in full.credentials(None)}
    other = fresh()
    result = other.backups.restore(io.BytesIO(written(full)), "one")
    assert result.rows["credential"] == len(before)
    after = {one.name: one for one in other.credentials(None)}
    for name, one in before.items():
        assert after[name].state_at(NOW) == ("revoked" if name == "lost" else "suspended")
        if one.state is CredentialState.ACTIVE:
            assert after[name].generation == one.generation + 1  # no cache of an earlier life knows it
    assert other.backups.resume_restored() == 3
    states = {one.name: one.state for one in other.credentials(None)}
    assert states == {name: one.state for name, one in before.items()}  # one suspended before stays so
    assert other.backups.resume_restored() == 0
    told = [entry for entry in held(other)["audit"] if entry["event"] in (Event.RESTORED, Event.RESUMED)]
    assert [entry["event"] for entry in told] == [Event.RESTORED, Event.RESUMED]


def test_states_of_tokens_are_as_they_were(full: Store, fresh) -> None:
    other = fresh()
    other.backups.restore(io.BytesIO(written(full)), "one")
    assert [one.token_state for one in other.accounts()] == [one.token_state for one in full.accounts()]
    assert [key.key_id for key in other.masters()] == ["m1"]  # the new set-up's own is gone


def test_writers_go_on_beside_a_backup_which_shows_one_moment(full: Store, fresh) -> None:
    class Interfering(io.BytesIO):
        """Adds an account when the first table is written."""

        def write(self, data) -> int:
            if data.startswith(b'{"table": "login_name"'):
                full.add_account(NewAccount("late@x.test", "mail", "late@x.test", (), "cli:root"))
            return super().write(data)

    out = Interfering()
    full.backups.write(out, "0.1.0")
    assert full.account("late@x.test") is not None
    other = fresh()
    other.backups.restore(io.BytesIO(out.getvalue()), "one")
    assert other.account("late@x.test") is None
    assert other.account("ann@x.test") is not None


def test_whoever_reads_a_backup_finds_no_master_key_and_nothing_opened(full: Store) -> None:
    data = written(full)
    assert json.loads(data.splitlines()[0])["masters"] == ["m1"]
    private = [json.loads(line) for line in data.splitlines() if line.startswith(b'["m1"')]
    assert [row[4] for row in private] == [None]  # sealed_private: of app passwords alone


@pytest.mark.parametrize("what", ["accounts", "an audit", "a worker"])
def test_a_store_that_is_not_new_is_refused_and_left_alone(what: str, full: Store, fresh) -> None:
    other = fresh()
    if what == "a worker":
        other.roster.publish(Seat("w", "node1", 0), [], [])
    else:
        made = other.add_account(NewAccount("eve@x.test", "mail", "eve@x.test", (), "cli:root"))
        if what == "an audit":
            other.remove_account(made.id)
    before = held(other)
    with pytest.raises(StoreError, match="serves" if what == "a worker" else "already|in use") as caught:
        other.backups.restore(io.BytesIO(written(full)), "one")
    assert caught.value.remedy
    assert held(other) == before


def damages(data: bytes) -> dict[str, bytes]:
    lines = data.splitlines(keepends=True)
    head = json.loads(lines[0])
    swapped = [*lines[:2], lines[3], lines[2], *lines[4:]]
    row = json.loads(lines[2])

    def with_row(changed: bytes) -> bytes:
        return resealed(b"".join([*lines[:2], changed + b"\n", *lines[3:]]))

    return {
        "empty": b"",
        "a picture": b"\x89PNG\r\n\x1a\n" + bytes(1000),
        "another program's": b'{"table": "account"}\n' + b"".join(lines[1:]),
        "cut in a line": data[:-20],
        "cut between lines": b"".join(lines[:-1]),
        "cut behind the head": lines[0],
        "one byte": data.replace(b"ann@x.test", b"anm@x.test", 1),
        "a line less": b"".join([*lines[:2], *lines[3:]]),
        "lines swapped": b"".join(swapped),
        "another hash": data.replace(b'"sha256": "', b'"sha256": "0', 1),
        "more behind the end": data + b"{}\n",
        "no json": with_row(b"[1, "),
        "a row too short": with_row(json.dumps(row[:-1]).encode()),
        "a number for a text": with_row(json.dumps([row[0], 7, *row[2:]]).encode()),
        "nothing for a name": with_row(json.dumps([row[0], None, *row[2:]]).encode()),
        "an unknown state": with_row(json.dumps(row).encode().replace(b'"needs_consent"', b'"wonderful"')),
        "a time without a zone": with_row(json.dumps(row).encode().replace(b"+00:00", b"")),
        "brackets": with_row(b"[" * 100_000),
        "an endless line": lines[0] + b"[" + b" " * 5_000_000,
        "a newer format": lines[0].replace(b'"gatepost_backup": 1', b'"gatepost_backup": %d' % (FORMAT + 1)) + b"?",
        "an older schema": json.dumps({**head, "schema": "0001"}).encode() + b"\n" + b"".join(lines[1:]),
        "a newer schema": json.dumps({**head, "schema": "9999"}).encode() + b"\n" + b"".join(lines[1:]),
    }  # fmt: skip


DAMAGES = (
    "empty", "a picture", "another program's", "cut in a line", "cut between lines", "cut behind the head", "one byte",
    "a line less", "lines swapped", "another hash", "more behind the end", "no json", "a row too short",
    "a number for a text", "an unknown state", "a time without a zone", "nothing for a name", "brackets",
    "an endless line", "a newer format", "an older schema", "a newer schema",
)  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_file_that_is_not_whole_or_not_ours_leaves_nothing_and_is_one_line(
    damage: str, sqlite_url, new_credential, clock, fresh
) -> None:
    source = Store.open(sqlite_url, migrate=False, clock=clock)
    fill(source, new_credential)
    data = damages(written(source))[damage]
    source.close()
    other = fresh()
    before = held(other)
    with pytest.raises(StoreError) as caught:
        other.backups.restore(io.BytesIO(data), "/srv/file")
    assert "/srv/file" in caught.value.problem
    assert caught.value.remedy
    assert str(caught.value).isprintable()
    assert held(other) == before
    if "schema" in damage:
        assert f"this Gatepost needs {HEAD}" in caught.value.problem
    else:
        assert isinstance(caught.value, BadArchive)


RESTORES = """
import sys
from proxy.store.store import Store
store = Store.open(sys.argv[1], migrate=False)
with open(sys.argv[2], "rb") as source:
    store.backups.restore(source, "pipe")
"""


def test_a_restore_that_is_killed_half_way_leaves_nothing(full: Store, backend, cluster, fresh, tmp_path) -> None:
    data = written(full).splitlines(keepends=True)
    half = next(number for number, line in enumerate(data) if line.startswith(b'{"table": "deposit"'))
    other = fresh()
    url = cluster.database("migrated") if backend == "postgresql" else f"sqlite:///{other._database.name}"
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    child = subprocess.Popen([sys.executable, "-c", RESTORES, url, pipe], env={**os.environ, "PYTHONPATH": "."})
    with pipe.open("wb", buffering=0) as out:
        out.write(b"".join(data[:half]))
        # A pipe holds 64 KiB: what goes in beyond that shows that what was before has been read.
        padding = b'{"table": "wrap", ' + b" " * 200_000
        out.write(padding)
        os.kill(child.pid, signal.SIGKILL)
        assert child.wait(PATIENCE_S) == -signal.SIGKILL
    there = Store.open(url, migrate=False)
    assert there.accounts() == []
    assert [key.key_id for key in there.masters()] == ([] if backend == "postgresql" else ["of the new set-up"])
    assert there.backups.restore(io.BytesIO(b"".join(data)), "again").rows["account"] == 2
    there.close()


def crowd(store: Store, accounts: int) -> None:
    with store._database.write() as connection:
        connection.execute(insert(account), [
            {
                "id": number, "email": f"user{number}@x.test", "upstream": "mail", "upstream_user": "user",
                "state": AccountState.ACTIVE, "sealed": False, "token_state": TokenState.FRESH, "token_since": NOW,
                "token_detail": "",
                "created": NOW, "created_by": "cli:root",
            }
            for number in range(1, accounts + 1)
        ])  # fmt: skip
        connection.execute(insert(credential), [
            {
                "public_id": f"{number}-{one}", "account_id": number, "name": f"{one}", "protocols": ("imap",),
                "networks": (), "state": CredentialState.ACTIVE, "generation": 1, "created": NOW, "created_by": "x",
            }
            for number in range(1, accounts + 1) for one in range(3)
        ])  # fmt: skip


def test_memory_does_not_grow_with_the_store(fresh, tmp_path) -> None:
    peaks = []
    for accounts in (1_500, 6_000):
        source, target = fresh(), fresh()
        crowd(source, accounts)
        tracemalloc.start()
        with (tmp_path / "backup").open("wb") as out:
            assert source.backups.write(out, "0.1.0").rows["credential"] == 3 * accounts
        with (tmp_path / "backup").open("rb") as again:
            target.backups.restore(again, "backup")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert len(target.accounts()) == accounts
    assert peaks[1] < 1.3 * peaks[0]


def test_who_backed_up_is_told_by_the_audit(full: Store) -> None:
    root = Backups(full._database, full._clock, Actor("cli:root", "node1"))
    result = root.write(io.BytesIO(), "0.1.0")
    root.wrote(result)
    (entry,) = [row for row in held(full)["audit"] if row["event"] is Event.BACKED_UP]
    assert (entry["actor"], entry["detail"]) == ("cli:root", f"sha256 {result.sha256}")


def test_a_slow_reader_of_a_backup_keeps_no_writer_waiting(full: Store) -> None:
    is_written, may_go_on = threading.Event(), threading.Event()

    class Slow(io.BytesIO):
        def write(self, data) -> int:
            if data.startswith(b'{"table": "credential"'):
                is_written.set()
                assert may_go_on.wait(PATIENCE_S)
            return super().write(data)

    backing_up = threading.Thread(target=full.backups.write, args=(Slow(), "0.1.0"))
    backing_up.start()
    assert is_written.wait(PATIENCE_S)
    full.set_credential_states([full.credentials(None)[0].public_id], CredentialState.SUSPENDED)
    may_go_on.set()
    backing_up.join(PATIENCE_S)
    assert not backing_up.is_alive()
