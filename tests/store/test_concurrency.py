"""Several threads and processes on one store: one winner, nothing lost, nothing half-written."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from proxy.errors import StoreError, StoreUnavailable
from proxy.store.audit_rows import Entry, Event, Wanted
from proxy.store.engine import Database, parse_url
from proxy.store.rows import CredentialState, LastUse, NewAccount, NewCredential, Purpose, Use
from proxy.store.store import Store

THREADS = 8


def race(work: Callable[[int], object]) -> list[object]:
    """Run work(0..7) at one instant; a StoreError counts as a result."""
    start = threading.Barrier(THREADS)

    def run(number: int) -> object:
        start.wait()
        try:
            return work(number)
        except StoreError as error:
            return error

    with ThreadPoolExecutor(THREADS) as threads:
        return list(threads.map(run, range(THREADS)))


def test_one_of_eight_threads_adds_the_name(store, ann, new_credential):
    news = [new_credential(ann, "printer") for _ in range(THREADS)]
    results = race(lambda number: store.add_credential(news[number]))
    errors = [one for one in results if isinstance(one, StoreError)]
    assert len(errors) == THREADS - 1
    assert all('"printer" already' in str(error) for error in errors)
    assert len(store.credentials(ann.id)) == 1


def test_one_of_eight_threads_adds_the_login_name(store):
    results = race(lambda number: store.add_account(NewAccount(f"u{number}@x.test", "mail", "u", ("shared",), "cli")))
    assert len([one for one in results if isinstance(one, StoreError)]) == THREADS - 1
    assert len(store.accounts()) == 1


def test_one_of_eight_threads_takes_the_lease(store, ann, clock):
    until = clock.now + timedelta(seconds=30)
    fences = race(lambda number: store.take_lease(ann.id, f"w{number}", clock.now, until))
    assert len([fence for fence in fences if fence is not None]) == 1


def test_revisions_of_eight_threads_are_all_counted(store, ann, new_credential):
    made = [store.add_credential(new_credential(ann, f"app{number}")) for number in range(THREADS)]
    before = store.revision()
    race(lambda number: store.revoke([made[number].public_id]))
    assert store.revision() == before + THREADS


def test_lists_revoked_in_opposite_orders_do_not_lock_each_other(store, ann, new_credential):
    ids = [store.add_credential(new_credential(ann, f"app{number}")).public_id for number in range(20)]
    results = race(lambda number: store.revoke(ids if number % 2 else ids[::-1]))
    assert all(isinstance(one, list) for one in results)


def test_deposits_of_eight_threads_leave_one_whole(store, ann, new_deposit):
    news = [new_deposit(ann, text=bytes([number])) for number in range(THREADS)]
    assert race(lambda number: store.put_deposit(news[number])) == [None] * THREADS
    assert store.deposit(ann.id, Purpose.REFRESH_TOKEN) in news


def test_refreshed_tokens_and_a_new_sign_in_never_mix(store, ann, new_deposit, clock):
    fence = store.take_lease(ann.id, "w1", clock.now, clock.now + timedelta(seconds=30))
    sign_in = new_deposit(ann, text=b"sign-in")
    tokens = [new_deposit(ann, text=b"rotated"), new_deposit(ann, Purpose.ACCESS_TOKEN)]
    race(lambda number: store.put_tokens(ann.id, fence, tokens) if number % 2 else store.put_deposit(sign_in))
    assert store.deposit(ann.id, Purpose.REFRESH_TOKEN) == sign_in  # whoever came first
    assert store.deposit(ann.id, Purpose.ACCESS_TOKEN) is None


def test_login_names_learned_by_eight_threads_are_kept(store):
    race(lambda number: store.put_extensions("mail", "smtp", (f"SIZE {number}",)))
    assert store.extensions("mail", "smtp") is not None


LEASE = """
import sys
from datetime import datetime, timedelta, UTC
from proxy.store.store import Store
store = Store.open(sys.argv[1], migrate=True)
now = datetime(2026, 11, 23, tzinfo=UTC)
print("ready", flush=True)
sys.stdin.readline()
print(store.take_lease(int(sys.argv[2]), sys.argv[3], now, now + timedelta(seconds=30)), flush=True)
store.close()
"""


def test_one_of_two_processes_takes_the_lease(url, ann):
    both = [
        subprocess.Popen(
            [sys.executable, "-c", LEASE, url, str(ann.id), owner],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for owner in ("a", "b")
    ]
    for process in both:
        assert process.stdout.readline() == "ready\n"
    for process in both:
        process.stdin.write("go\n")
        process.stdin.flush()
    assert sorted(process.communicate(timeout=60)[0].strip() for process in both) == ["1", "None"]


def test_threads_that_open_a_new_file_at_once_all_get_write_ahead_logging(tmp_path):
    for number in range(20):
        url = parse_url(f"sqlite:///{tmp_path}/{number}.db")
        (tmp_path / f"{number}.db").touch()
        databases = [Database(url, wait_s=5.0) for _ in range(THREADS)]

        def mode(index: int, databases: list[Database] = databases) -> object:
            with databases[index].read() as connection:
                return connection.exec_driver_sql("PRAGMA journal_mode").scalar_one()

        assert race(mode) == ["wal"] * THREADS
        for database in databases:
            database.close()


WRITE = """
import sys
from itertools import count
from proxy.store.store import Store
from proxy.store.rows import Deposit, NewAccount, NewCredential, Purpose, Wrap
store = Store.open(sys.argv[1], migrate=True)
for n in count():
    account = store.add_account(
        NewAccount(f"u{n}@x.test", "mail", "u", (f"u{n}",), "test"),
        lambda id_: [Deposit(f"row{id_}", id_, Purpose.REFRESH_TOKEN, b"x" * 4000, (Wrap("m1", b"w"),))],
    )
    store.add_credential(
        NewCredential(f"p{n}", account.id, "app", frozenset({"imap"}), (), None, "test", "abcd", "$argon2id$")
    )
    print(n, flush=True)
"""


def test_kill_in_the_middle_of_writing_leaves_a_sound_store(url, store, master):
    process = subprocess.Popen([sys.executable, "-c", WRITE, url], stdout=subprocess.PIPE, text=True)
    done = [int(process.stdout.readline()) for _ in range(25)][-1]
    process.send_signal(signal.SIGKILL)
    rest = process.communicate(timeout=60)[0].split()
    done = int(rest[-1]) if rest else done

    again = Store.open(url, migrate=False)
    try:
        again.check(deep=True)
        accounts = again.accounts()
        assert {f"u{number}@x.test" for number in range(done + 1)} <= {account.email for account in accounts}
        for account in accounts:  # each whole, the last one too
            assert len(account.aliases) == 1
            assert again.deposit(account.id, Purpose.REFRESH_TOKEN) is not None
        for credential in again.credentials(None):
            assert again.find_login(credential.email, "abcd").credential == credential
        assert again.add_account(NewAccount("next@x.test", "mail", "n", (), "test")).id > len(accounts)
    finally:
        again.close()


def test_locked_file_is_unavailable_for_writers_and_open_to_readers(sqlite_url):
    store = Store.open(sqlite_url, migrate=False, wait_s=0.05)
    try:
        with closing(sqlite3.connect(sqlite_url.removeprefix("sqlite:///"), isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(StoreUnavailable, match="locked"):
                store.put_extensions("mail", "imap", ())
            assert store.extensions("mail", "imap") is None
            assert store.find_login("ann", "abcd") is None
            other.execute("ROLLBACK")
        store.put_extensions("mail", "imap", ())
    finally:
        store.close()


def test_locked_row_is_unavailable_on_postgresql(cluster):
    import psycopg  # noqa: PLC0415 - an extra

    url = cluster.database("migrated")
    store = Store.open(url, migrate=False, wait_s=0.1)
    try:
        account = store.add_account(NewAccount("ann@x.test", "mail", "ann", (), "cli"))
        with psycopg.connect(url) as other:
            other.execute("SELECT 1 FROM account FOR UPDATE")
            with pytest.raises(StoreUnavailable, match="timeout"):
                store.remove_account(account.id)
            assert store.account("ann@x.test") == account
        store.remove_account(account.id)
    finally:
        store.close()


def test_connections_that_the_server_ended_cost_nobody_a_login(cluster):
    url = cluster.database("migrated")
    store = Store.open(url, migrate=False)
    try:
        store.add_account(NewAccount("ann@x.test", "mail", "ann", (), "cli"))
        name = url.split("/")[3].split("?")[0]
        cluster.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
        assert store.find_login("ann@x.test", "abcd") is not None
        store.put_extensions("mail", "imap", ())
    finally:
        store.close()


@contextmanager
def waiting_for(url: str, held: int, work: Callable[[], object]) -> Iterator[Any]:
    """A transaction that holds one app password, for which `work` waits by now; it is let go in the end."""
    import psycopg  # noqa: PLC0415 - an extra

    waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    with ThreadPoolExecutor(1) as threads, psycopg.connect(url) as holder, psycopg.connect(url, autocommit=True) as eye:
        holder.execute("SELECT 1 FROM credential WHERE id = %s FOR UPDATE", [held])
        done = threads.submit(work)
        until = time.monotonic() + 4
        while eye.execute(waits).fetchone() == (0,):
            assert time.monotonic() < until, "it does not wait"
        yield holder
        holder.rollback()
        done.result()


@pytest.mark.parametrize("act", ["remove", "record"])
def test_app_passwords_are_locked_in_the_order_of_their_ids(cluster, act):
    """Whoever waits for one of them holds none behind it: else two that do so wait for each other."""
    url = cluster.database("migrated")
    with closing(Store.open(url, migrate=False)) as store:
        ann = store.add_account(NewAccount("ann@x.test", "mail", "ann", (), "cli"))
        first, second = [
            store.add_credential(
                NewCredential(f"id{n}", ann.id, f"app{n}", frozenset({"imap"}), (), None, "cli", f"s{n}", "phc")
            ).id
            for n in (1, 2)
        ]
        now = datetime.now(UTC)
        uses = [Use(one, LastUse(now, "192.0.2.7", "imap", "mutt"), "192.0.2.0/24") for one in (first, second)]
        store.record_uses(uses[:1])
        store.set_credential_states(["id1"], CredentialState.SUSPENDED)  # from here on its row lies behind the other's
        work = (lambda: store.remove_account(ann.id)) if act == "remove" else (lambda: store.record_uses(uses))
        with waiting_for(url, first, work) as holder:
            holder.execute("SELECT 1 FROM credential WHERE id = %s FOR UPDATE NOWAIT", [second])


def replayed(entries: list[Entry]) -> dict[str, bool]:
    """The model: app passwords by id, and whether each lives, as the audit tells it. A name has one live bearer."""
    lives: dict[str, bool] = {}
    bearers: dict[tuple[str, str], str] = {}
    for entry in entries:
        name = entry.account, entry.name
        if entry.event is Event.CREATED:
            assert name not in bearers, "a name that is in use was given again"
            assert entry.app_password not in lives
            bearers[name] = entry.app_password
        else:
            assert bearers.pop(name) == entry.app_password, "revoked twice, or never there"
        lives[entry.app_password] = entry.event is Event.CREATED
    return lives


def test_a_thousand_acts_of_eight_processes_end_as_the_audit_says(url):
    with closing(Store.open(url, migrate=False)) as store:
        accounts = [store.add_account(NewAccount(f"u{n}@x.test", "mail", f"u{n}", (), "cli")) for n in range(3)]
        before = store.revision()
        command = [sys.executable, "-m", "tests.store.mob", url]
        mob = [
            subprocess.Popen([*command, str(seed), "125"], stdout=subprocess.PIPE, text=True) for seed in range(THREADS)
        ]
        said = [json.loads(member.communicate(timeout=120)[0]) for member in mob]
        assert [member.returncode for member in mob] == [0] * THREADS
        assert [one["broken"] for one in said] == [[]] * THREADS
        told = store.trail.entries(Wanted(events=(Event.CREATED, Event.REVOKED)), 0, 10_000)
        lives = replayed(told)
        left = {one.public_id: one.state is CredentialState.ACTIVE for a in accounts for one in store.credentials(a.id)}
        assert left == lives
        assert set(lives) == {one for member in said for one in member["created"]}
        revoked = {one for one, is_alive in lives.items() if not is_alive}
        assert revoked == {one for member in said for one in member["revoked"]}
        assert store.revision() == before + len(revoked)  # raised once by each, and by nothing else
        assert len(revoked) > 50
        assert min(sum(one["refused"] for one in said), sum(one["logins"] for one in said)) > 50
