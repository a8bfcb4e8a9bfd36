"""NOTIFY as a hint: heard on PostgreSQL at once and again after a lost connection, and never needed."""

from __future__ import annotations

import threading

from proxy.store.hints import hints
from proxy.store.rows import AccountState

PATIENCE_S = 20


class Ear:
    def __init__(self) -> None:
        self.heard = threading.Event()

    def __call__(self) -> None:
        self.heard.set()


def change_until_heard(store, account, ear: Ear) -> None:
    """A hint that comes before the ear listens is lost, and may be: so once more, a few times."""
    ear.heard.clear()
    for number in range(PATIENCE_S * 5):
        state = (AccountState.DISABLED, AccountState.ACTIVE)[number % 2]
        assert store.set_account_state(account.id, state)
        if ear.heard.wait(0.2):
            break
    store.set_account_state(account.id, AccountState.ACTIVE)
    assert ear.heard.is_set()


def test_change_is_heard_and_again_after_a_lost_connection(cluster):
    from proxy.store.rows import NewAccount  # noqa: PLC0415
    from proxy.store.store import Store  # noqa: PLC0415

    url = cluster.database("migrated")
    store = Store.open(url, migrate=False)
    ear = Ear()
    try:
        ann = store.add_account(NewAccount("ann@x.test", "mail", "ann", (), "cli"))
        with hints(url, ear):
            change_until_heard(store, ann, ear)
            cluster.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'gatepost-hints'"
            )
            change_until_heard(store, ann, ear)
    finally:
        store.close()


def test_sqlite_has_no_hints(sqlite_url):
    before = threading.active_count()
    with hints(sqlite_url, Ear()):
        assert threading.active_count() == before
