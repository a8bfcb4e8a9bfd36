"""A store with something in every table, and what a store holds, row by row."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta

from sqlalchemy import insert, select

from proxy.store.audit_rows import Refusals
from proxy.store.backup import TABLES
from proxy.store.people_rows import Identity
from proxy.store.rows import (
    AccountState,
    CredentialState,
    Deposit,
    LastUse,
    MasterKey,
    NewAccount,
    NewCredential,
    NewSecret,
    Purpose,
    TokenState,
    Told,
    Use,
    Wrap,
)
from proxy.store.schema import recipient
from proxy.store.store import Store
from tests.store.conftest import NOW

Rows = dict[str, list[dict[str, object]]]


def fill(store: Store, new_credential: Callable[..., NewCredential]) -> None:
    master = MasterKey("m1", bytes(range(32)), NOW)
    store.add_master(master)
    gone = store.add_account(NewAccount("gone@x.test", "mail", "gone@x.test", (), "cli:root"))
    ann = store.add_account(NewAccount("ann@x.test", "mail", "Ann", ("ann", "ännchen@x.test"), "cli:root"))
    bob = store.add_account(NewAccount("bob@x.test", "other", "bob@x.test", (), "web:ann", sealed=True))
    store.set_account_state(bob.id, AccountState.DISABLED)
    scanner = store.add_credential(new_credential(ann, 'a "scanner"\\'))
    phone = store.add_credential(new_credential(ann, "phone", networks=("192.0.2.0/24", "2001:db8::/32")))
    old = store.add_credential(new_credential(ann, "old", protocols=frozenset({"smtp"}), expires=NOW))
    lost = store.add_credential(new_credential(ann, "lost"))
    own = store.add_credential(new_credential(bob, "own"))
    store.rotate(phone.public_id, NewSecret("zzzz", "$argon2id$v=19$m=8,t=1,p=1$c2FsdA$new"), NOW + timedelta(days=1))
    store.set_credential_states([old.public_id], CredentialState.SUSPENDED)
    store.revoke([lost.public_id])
    for purpose, text in ((Purpose.REFRESH_TOKEN, b"\x00\xffsealed"), (Purpose.ACCESS_TOKEN, b"also")):
        until = NOW + timedelta(hours=1) if purpose is Purpose.ACCESS_TOKEN else None
        store.put_deposit(Deposit(f"row {purpose.value}", ann.id, purpose, text, (Wrap("m1", b"\x01"),), until))
    store.set_token_state(ann.id, TokenState.NEEDS_CONSENT, "invalid_grant", NOW)
    store.put_extensions("mail", "imap", ("IDLE", "LITERAL+"))
    store.upkeep.replace_told(f"account:{ann.id}", ann.id, None, Told("needs_consent", NOW))
    store.upkeep.replace_told("upstream:mail", None, None, Told("rejected", NOW))
    use = LastUse(NOW, "192.0.2.7", "imap", 'Thunder "bird" \u2603')
    store.record_uses([Use(scanner.id, use, "192.0.2.0/24")])
    store.trail.record_refusals([Refusals(NOW, NOW, "eve@x.test", "", "", "imap", "192.0.2.9", "unknown_user", 17)])
    owner = store.people.meet(Identity("https://login.example", "", "sub-1"), "ann@x.test", "Ann")
    assert store.people.bind(ann.id, owner.id)
    assert store.people.grant(bob.id, "ann@x.test")
    with store._database.write() as connection:
        own_key = {"key_id": "k", "public": b"p", "created": NOW, "secret_id": 6, "sealed_private": b"\x00"}
        assert own.id == 5
        connection.execute(insert(recipient).values(own_key))
    store.remove_account(gone.id)  # its id never comes again


def held(store: Store) -> Rows:
    with store._database.read() as connection:
        found = {}
        for table in TABLES:
            rows = connection.execute(select(table).order_by(*table.primary_key.columns))
            found[table.name] = [dict(row) for row in rows.mappings()]
        return found


def without_what_a_restore_does(rows: Mapping[str, list[dict[str, object]]]) -> Rows:
    """What is equal before a backup and after its restore."""
    kept = {name: [dict(row) for row in found] for name, found in rows.items() if name != "revision"}
    for row in kept["credential"]:
        if row["state"] in (CredentialState.ACTIVE, CredentialState.RESTORED):
            del row["state"], row["generation"]
    kept["audit"] = [row for row in kept["audit"] if row["event"].value not in ("backed_up", "restored")]
    return kept
