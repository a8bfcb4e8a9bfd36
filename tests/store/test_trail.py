"""The audit: who did what, in the transaction that did it; first uses; what is let go."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import timedelta

import pytest
from sqlalchemy import event

from proxy.errors import StoreError
from proxy.store.audit_rows import NEW_NETWORK, Actor, Entry, Event, Refusals, Wanted
from proxy.store.rows import (
    AccountState,
    Claim,
    CredentialState,
    LastUse,
    MasterKey,
    NewSecret,
    Purpose,
    TokenState,
    Use,
)
from proxy.store.store import Store
from proxy.store.trail import entry_subject

ALL = Wanted()


@pytest.fixture
def root(store):
    return store.acting(Actor("cli:root", "mail1", "192.0.2.9"))


def entries(store, wanted: Wanted = ALL) -> list[Entry]:
    return store.trail.entries(wanted, 0, 1000)


def told(store, wanted: Wanted = ALL) -> list[tuple]:
    return [(one.event, one.account, one.app_password, one.detail) for one in entries(store, wanted)]


def test_every_change_of_an_app_password_is_one_entry_in_the_actors_name(root, ann, new_credential, clock):
    begin = len(entries(root))
    made = root.add_credential(new_credential(ann, networks=("192.0.2.0/24",)))
    clock.pass_s(1)
    root.rotate(made.public_id, NewSecret("t001", "$argon2id$new"), clock.now + timedelta(hours=24))
    root.set_credential_states([made.public_id], CredentialState.SUSPENDED)
    root.set_credential_states([made.public_id], CredentialState.SUSPENDED)  # no change, no entry
    root.set_credential_states([made.public_id], CredentialState.ACTIVE)
    root.revoke([made.public_id])
    new = entries(root)[begin:]
    assert [one.event for one in new] == [
        Event.CREATED, Event.ROTATED, Event.SUSPENDED, Event.RESUMED, Event.REVOKED,
    ]  # fmt: skip
    assert {(one.actor, one.node, one.address, one.account, one.app_password, one.name) for one in new} == {
        ("cli:root", "mail1", "192.0.2.9", "ann@x.test", made.public_id, "scanner")
    }
    assert new[0].detail == "imap smtp, from 192.0.2.0/24, never expires"
    assert new[1].detail == "the former until 2026-11-24T12:00:01+00:00"
    assert [one.id for one in new] == sorted(one.id for one in new)
    assert new[1].at - new[0].at == timedelta(seconds=1)


def test_accounts_aliases_consents_and_keys_are_told_of(root, ann, new_deposit, clock):
    begin = len(entries(root))
    root.add_alias(ann.id, "printer", 50)
    root.remove_alias(ann.id, "printer")
    root.set_account_state(ann.id, AccountState.DISABLED)
    root.set_account_state(ann.id, AccountState.ACTIVE)
    root.put_deposit(new_deposit(ann))
    root.put_deposit(new_deposit(ann, Purpose.ACCESS_TOKEN))  # a refresh: nobody's consent
    root.set_token_state(ann.id, TokenState.NEEDS_CONSENT, "invalid_grant", clock.now)
    root.set_token_state(ann.id, TokenState.UPSTREAM_REFUSES, "no", clock.now)
    root.remove_account(ann.id)
    root.add_master(MasterKey("m2", b"\x02" * 32, clock.now))
    root.drop_master("m2")
    found = [(one.event, one.account, one.cause, one.detail) for one in entries(root)[begin:]]
    assert found == [
        (Event.ALIAS_ADDED, "ann@x.test", "", "printer"),
        (Event.ALIAS_REMOVED, "ann@x.test", "", "printer"),
        (Event.ACCOUNT_DISABLED, "ann@x.test", "", ""),
        (Event.ACCOUNT_ENABLED, "ann@x.test", "", ""),
        (Event.CONSENT_GIVEN, "ann@x.test", "refresh_token", ""),
        (Event.CONSENT_LOST, "ann@x.test", "invalid_grant", ""),
        (Event.UPSTREAM_REFUSES, "ann@x.test", "no", ""),
        (Event.ACCOUNT_REMOVED, "ann@x.test", "", ""),
        (Event.KEY_ADDED, "", "", "m2"),
        (Event.KEY_DROPPED, "", "", "m2"),
    ]


def test_change_that_is_taken_back_leaves_no_entry(root, ann, scanner, new_credential):
    begin = entries(root)
    with pytest.raises(StoreError, match="named"):
        root.add_credential(new_credential(ann))
    with pytest.raises(StoreError, match="there is no app password"):
        root.revoke([scanner.public_id, "nothing"])
    assert entries(root) == begin


def use(credential, address: str, network: str, clock, client: str = "mutt") -> Use:
    return Use(credential.id, LastUse(clock.now, address, "imap", client), network)


def test_first_use_of_a_day_from_an_address_is_one_entry_and_a_new_network_is_named(store, ann, scanner, clock):
    uses = Wanted(events=(Event.USED,))
    store.record_uses([use(scanner, "192.0.2.7", "192.0.2.0/24", clock)] * 2, is_told=True)
    store.record_uses([use(scanner, "192.0.2.7", "192.0.2.0/24", clock)], is_told=True)
    store.record_uses([use(scanner, "192.0.2.8", "192.0.2.0/24", clock)], is_told=True)
    clock.pass_s(60)
    store.record_uses([use(scanner, "198.51.100.1", "198.51.100.0/24", clock)], is_told=True)
    assert [(one.address, one.cause, one.actor, one.detail) for one in entries(store, uses)] == [
        ("192.0.2.7", "", "client", "mutt"),
        ("192.0.2.8", "", "client", "mutt"),
        ("198.51.100.1", NEW_NETWORK, "client", "mutt"),
    ]
    clock.pass_s(86_400)
    store.record_uses([use(scanner, "198.51.100.1", "198.51.100.0/24", clock)], is_told=True)
    assert [one.cause for one in entries(store, uses)] == ["", "", NEW_NETWORK, ""]
    (untold,) = store.trail.untold(10)
    assert untold.address == "198.51.100.1"


def test_an_entry_is_told_by_one_and_by_the_next_if_he_could_not(store, ann, scanner, clock):
    for number in (1, 2):
        store.record_uses([use(scanner, f"192.0.{number}.7", f"192.0.{number}.0/24", clock)], is_told=True)
    (untold,) = store.trail.untold(10)

    def claims(owner: str) -> bool:
        return store.trail.claim_entry(untold.id, Claim(owner, clock(), clock() + timedelta(seconds=60)))

    assert claims("one")
    assert not claims("two")
    store.upkeep.drop_claim(entry_subject(untold.id), "one")  # nobody took it
    assert store.trail.untold(10) == [untold]
    assert claims("two")
    store.trail.settle_entry(untold.id, "two")
    assert store.trail.untold(10) == []
    assert not claims("three")
    assert store.upkeep.upstreams_told_of() == {}


def test_use_from_a_new_network_is_not_to_be_told_unless_asked(store, ann, scanner, clock):
    for number in (1, 2):
        store.record_uses([use(scanner, f"192.0.{number}.7", f"192.0.{number}.0/24", clock)])
    assert store.trail.untold(10) == []


def test_use_of_an_app_password_that_is_gone_is_left_out(store, ann, scanner, clock):
    gone = use(scanner, "192.0.2.7", "192.0.2.0/24", clock)
    store.remove_account(ann.id)
    store.record_uses([gone])
    assert entries(store, Wanted(events=(Event.USED,))) == []


def test_refusals_keep_their_count_and_times(store, clock):
    later = clock.now + timedelta(minutes=5)
    store.trail.record_refusals(
        [Refusals(clock.now, later, "ann@x.test", "id1", "scanner", "smtp", "192.0.2.7", "wrong_password", 30)]
    )
    store.trail.record_refusals([])
    (one,) = entries(store)
    assert (one.event, one.actor, one.cause, one.count) == (Event.REFUSED, "client", "wrong_password", 30)
    assert (one.at, one.until, one.address) == (clock.now, later, "192.0.2.7")


def test_entries_are_found_by_account_time_and_event_page_by_page(store, ann, scanner, clock):
    begin = clock.now
    clock.pass_s(3600)
    store.revoke([scanner.public_id])
    assert [one.event for one in entries(store, Wanted(account="ann@x.test"))] == [
        Event.ACCOUNT_ADDED, Event.CREATED, Event.REVOKED,
    ]  # fmt: skip
    assert entries(store, Wanted(account="bob@x.test")) == []
    assert [one.event for one in entries(store, Wanted(since=begin + timedelta(seconds=1)))] == [Event.REVOKED]
    assert [one.event for one in entries(store, Wanted(events=(Event.CREATED,)))] == [Event.CREATED]
    first = store.trail.entries(ALL, 0, 2)
    assert len(first) == 2
    assert [one.event for one in store.trail.entries(ALL, first[-1].id, 2)] == [Event.REVOKED]


def test_what_was_done_on_a_node_is_told_without_its_ordinary_logins(store, ann, scanner, clock):
    here = store.acting(Actor("system", "mail1", worker=0))
    store.acting(Actor("cli:root", "mail1")).set_account_state(ann.id, AccountState.DISABLED)
    store.acting(Actor("cli:root", "mail2")).set_account_state(ann.id, AccountState.ACTIVE)
    here.trail.record_refusals([Refusals(clock.now, clock.now, "", "", "", "imap", "192.0.2.7", "unknown_user", 1)])
    here.record_uses([use(scanner, "192.0.2.7", "192.0.2.0/24", clock)])
    clock.pass_s(1)
    here.record_uses([use(scanner, "198.51.100.1", "198.51.100.0/24", clock)])
    found = store.trail.deeds_on("mail1", 0)
    assert [(one.event, one.cause) for one in found] == [(Event.ACCOUNT_DISABLED, ""), (Event.USED, NEW_NETWORK)]
    assert [one.event for one in store.trail.deeds_on("mail1", found[0].id)] == [Event.USED]
    assert store.trail.deeds_on("mail1", store.trail.last_id()) == []
    assert store.trail.last_id_before(clock.now) == found[-1].id - 1
    assert store.trail.last_id_before(clock.pass_s(1)) == store.trail.last_id() == found[-1].id


def test_old_entries_go_refusals_first_and_sightings_with_them(store, ann, scanner, clock):
    kept, kept_refusals = timedelta(days=400), timedelta(days=30)
    store.record_uses([use(scanner, "192.0.2.7", "192.0.2.0/24", clock)])
    store.trail.record_refusals([Refusals(clock.now, clock.now, "", "", "", "imap", "192.0.2.7", "unknown_user", 1)])
    assert store.trail.drop_old(kept, kept_refusals) == 0
    clock.pass_s(31 * 86_400)
    assert store.trail.drop_old(kept, kept_refusals) == 1
    assert [one.event for one in entries(store)] == [Event.ACCOUNT_ADDED, Event.CREATED, Event.USED]
    clock.pass_s(400 * 86_400)
    assert store.trail.drop_old(kept, kept_refusals) == 4  # a sighting is one
    assert entries(store) == []
    assert store.trail.drop_old(kept, kept_refusals) == 0


def plan(store, look) -> str:
    """How SQLite finds what the last statement of `look` asks for."""
    asked = []

    def note(connection, cursor, statement, parameters, *_):
        asked.append((statement, parameters))

    engine = store._database._engine
    event.listen(engine, "before_cursor_execute", note)
    look()
    event.remove(engine, "before_cursor_execute", note)
    with store._database.read() as connection:
        statement, parameters = asked[-1]
        steps = connection.connection.execute("EXPLAIN QUERY PLAN " + statement, parameters).fetchall()
    return "; ".join(step for *_, step in steps)


def test_what_every_worker_looks_for_every_few_seconds_reads_no_more_than_it_finds(sqlite_url):
    # Each of these went through the whole audit: half a second of a core, with a million entries.
    with closing(Store.open(sqlite_url, migrate=False)) as store:
        assert plan(store, lambda: store.trail.untold(50)) == "SCAN audit USING INDEX ix_audit_untold"
        assert "PRIMARY KEY (rowid>?)" in plan(store, lambda: store.trail.deeds_on("mail1", 7))
        assert plan(store, store.trail.last_id) == "SEARCH audit"  # the end of the table


def test_housekeeping_that_finds_nothing_keeps_no_writer_waiting(sqlite_url):
    with (
        closing(Store.open(sqlite_url, migrate=False, wait_s=0.05)) as store,
        closing(sqlite3.connect(sqlite_url.removeprefix("sqlite:///"), isolation_level=None)) as other,
    ):
        other.execute("BEGIN IMMEDIATE")
        assert store.trail.drop_old(timedelta(days=400), timedelta(days=30)) == 0
