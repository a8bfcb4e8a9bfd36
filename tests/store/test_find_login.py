"""The one SELECT of every login: what it finds, and that its cost does not grow with the store."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing

import pytest
from sqlalchemy import event, insert, text
from sqlalchemy.dialects import sqlite

from proxy.store.credentials import FIND_LOGIN
from proxy.store.rows import AccountState, CredentialState, LiveSession, NewAccount, Seat, TokenState
from proxy.store.schema import account, credential, login_name, secret
from proxy.store.store import Store


def test_every_login_name_finds_the_app_password_by_its_selector(store, ann, scanner):
    for name in ("ann@x.test", "ann", "a.smith@x.test"):
        row = store.find_login(name, "s001")
        assert (row.account.id, row.account.email, row.account.aliases) == (ann.id, ann.email, ())
        assert row.credential == scanner
        assert row.secret.selector == "s001"
        assert row.secret.valid_until is None
        assert row.revision == store.revision()


def test_unknown_selector_finds_the_account_alone_and_unknown_name_nothing(store, ann, scanner):
    row = store.find_login("ann", "zzzz")
    assert (row.account.id, row.credential, row.secret) == (ann.id, None, None)
    assert store.find_login("nobody", "s001") is None


def test_selector_of_another_account_opens_nothing(store, ann, scanner, new_credential):
    bob = store.add_account(NewAccount("bob@x.test", "mail", "bob", (), "cli"))
    store.add_credential(new_credential(bob))
    assert store.find_login("bob@x.test", "s001").secret is None
    assert store.find_login("ann", "s002").secret is None


def test_secret_that_points_at_another_accounts_app_password_opens_nothing(store, ann, scanner, new_credential):
    bob = store.add_account(NewAccount("bob@x.test", "mail", "bob", (), "cli"))
    store.add_credential(new_credential(bob))
    with store._database.write() as connection:  # what no function of the store writes
        connection.execute(text(f"UPDATE secret SET credential_id = {scanner.id} WHERE selector = 's002'"))
    row = store.find_login("bob@x.test", "s002")
    assert (row.credential, row.secret) == (None, None)


def test_states_are_those_of_the_moment_and_so_is_the_revision(store, ann, scanner):
    before = store.find_login("ann", "s001").revision
    store.revoke([scanner.public_id])
    store.set_account_state(ann.id, AccountState.DISABLED)
    row = store.find_login("ann", "s001")
    assert row.credential.state is CredentialState.REVOKED
    assert row.account.state is AccountState.DISABLED
    assert row.revision == before + 2


def test_one_login_is_one_statement(store, ann, scanner):
    seen = []
    event.listen(store._database._engine, "before_cursor_execute", lambda *args: seen.append(args[2]))
    store.find_login("ann", "s001")
    assert len(seen) == 1


def fill(store: Store, first: int, count: int, clock) -> None:
    """Accounts with three login names and two app passwords each."""
    numbers = range(first, first + count)
    now = clock.now
    with store._database.write() as connection:
        connection.execute(
            insert(account),
            [
                {
                    "id": n, "email": f"u{n}@x.test", "upstream": "mail", "upstream_user": f"u{n}",
                    "state": AccountState.ACTIVE, "sealed": False, "token_state": TokenState.NONE, "token_since": now,
                    "token_detail": "", "created": now, "created_by": "test",
                }
                for n in numbers
            ],
        )  # fmt: skip
        names = [{"name": name, "account_id": n} for n in numbers for name in (f"u{n}@x.test", f"u{n}", f"v{n}")]
        connection.execute(insert(login_name), names)
        connection.execute(
            insert(credential),
            [
                {
                    "id": 2 * n + k, "public_id": f"p{n}-{k}", "account_id": n, "name": f"app{k}",
                    "protocols": ("imap",), "networks": (), "state": CredentialState.ACTIVE, "generation": 1,
                    "created": now, "created_by": "test",
                }
                for n in numbers for k in (0, 1)
            ],
        )  # fmt: skip
        secrets = [
            {
                "account_id": n,
                "credential_id": 2 * n + k,
                "selector": f"s{n % 7}{k}",
                "phc": "$argon2id$" + "x" * 90,
                "created": now,
            }
            for n in numbers
            for k in (0, 1)
        ]
        connection.execute(insert(secret), secrets)


def asked(login: str, selector: str) -> dict[str, str]:
    now = "2026-11-23 12:00:00.000000"
    return {"login": login, "selector_": selector, "worker_": "w1", "protocol_": "imap", "now_": now}


def sql() -> str:
    return str(FIND_LOGIN.compile(dialect=sqlite.dialect(paramstyle="named")))


def test_no_table_is_scanned(sqlite_url):
    with closing(sqlite3.connect(sqlite_url.removeprefix("sqlite:///"))) as connection:
        plan = connection.execute("EXPLAIN QUERY PLAN " + sql(), asked("u1", "s10"))
        steps = [step for *_, step in plan]
    searches = [step for step in steps if step.startswith("SEARCH")]
    assert not [step for step in steps if "SCAN" in step.replace("SCALAR", "")], steps
    assert len(searches) == 7, steps  # login name, account, secret, credential, revision, sessions with their workers


def machine_steps(url: str, login: str, selector: str) -> int:
    """Instructions of SQLite's virtual machine that one find_login takes: a cost without a clock."""
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += 1
        return 0

    with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
        connection.set_progress_handler(count, 1)
        rows = connection.execute(sql(), asked(login, selector)).fetchall()
    assert len(rows) == 1
    return steps


@pytest.mark.parametrize("selector", ["s30", "zzzz"])
def test_cost_of_a_login_is_flat(sqlite_url, clock, selector):
    opened = Store.open(sqlite_url, migrate=False)
    try:
        fill(opened, 1, 10, clock)
        small = machine_steps(sqlite_url, "u3", selector)
        fill(opened, 11, 5_000, clock)
        assert machine_steps(sqlite_url, "u3", selector) == small
        assert machine_steps(sqlite_url, "v4994", selector) == small
    finally:
        opened.close()


TINY = re.compile(" on (revision|worker)")  # a row or a few: no index is quicker


def live_sessions(worker: int, count: int, clock) -> list[LiveSession]:
    return [
        LiveSession(
            f"s{worker}-{n}", n, f"u{n}@x.test", f"p{n}-0", "app0", "imap", "mail", f"u{n}", "192.0.2.1", "", clock.now
        )
        for n in range(1, count + 1)
    ]


def test_postgresql_uses_its_indexes(cluster, clock):
    url = cluster.database("migrated")
    opened = Store.open(url, migrate=False)
    try:
        fill(opened, 1, 3_000, clock)
        for number in range(4):
            opened.roster.publish(Seat(f"w{number}", "mail1", number), live_sessions(number, 500, clock), [])
        with opened._database.write() as connection:
            connection.exec_driver_sql("ANALYZE")
            bound = FIND_LOGIN.params(asked("u3", "s30") | {"now_": clock.now}).compile(
                connection, compile_kwargs={"literal_binds": True}
            )
            plan = [row[0] for row in connection.exec_driver_sql(f"EXPLAIN {bound}")]
    finally:
        opened.close()
    assert not [line for line in plan if "Seq Scan" in line and not TINY.search(line)], plan
