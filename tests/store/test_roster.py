"""Workers and the live sessions that they publish."""

from __future__ import annotations

from datetime import timedelta

import pytest

from proxy.store.audit_rows import Actor, Event, Wanted
from proxy.store.roster import FORGET_AFTER, LEASE
from proxy.store.rows import LiveSession, Seat

HERE, THERE = Seat("w-here", "mail1", 0), Seat("w-there", "mail2", 1)


@pytest.fixture
def live(ann, scanner, clock):
    def make(id_: str, **changes: object) -> LiveSession:
        values = {
            "id": id_, "account_id": ann.id, "email": ann.email, "public_id": scanner.public_id, "name": scanner.name,
            "protocol": "imap", "upstream": ann.upstream, "upstream_user": ann.upstream_user, "address": "192.0.2.7",
            "client": "mutt", "since": clock.now,
        }  # fmt: skip
        return LiveSession(**{**values, **changes})

    return make


def ids(store, account_id: int | None = None) -> list[str]:
    return [one.session.id for one in store.roster.sessions(account_id)]


def test_sessions_of_all_workers_are_listed_until_they_end(store, ann, live, clock):
    assert not store.roster.publish(HERE, [live("s1")], [])  # it was not known
    clock.pass_s(1)
    assert not store.roster.publish(THERE, [live("s2", account_id=99)], [])
    found = store.roster.sessions(None)
    assert [(one.session, one.node, one.worker) for one in found] == [
        (live("s1", since=found[0].session.since), "mail1", 0),
        (live("s2", account_id=99), "mail2", 1),
    ]
    assert ids(store, ann.id) == ["s1"]
    assert store.roster.publish(HERE, [live("s3")], ["s1", "s2"])  # s2 is another's: it stays
    assert ids(store) == ["s2", "s3"]
    assert store.roster.publish(HERE, [live("s3")], [])  # told twice
    assert ids(store) == ["s2", "s3"]


def test_a_worker_is_known_with_all_its_sessions_or_not_at_all(store, live):
    for _ in range(2):  # its answer may have been lost
        assert not store.roster.publish(HERE, [live("s1")], [], is_all=False)
    assert ids(store) == []
    assert not store.roster.publish(HERE, [live("s1"), live("s2")], [])
    assert store.roster.publish(HERE, [live("s3")], ["s1"], is_all=False)
    assert ids(store) == ["s2", "s3"]


def test_dead_workers_sessions_vanish_and_its_rows_follow(store, live, clock):
    store.roster.publish(HERE, [live("s1")], [])
    clock.pass_s(LEASE.total_seconds())
    assert ids(store) == []
    assert store.roster.forget_dead() == 0  # it may only have been slow
    assert store.roster.publish(HERE, [], [])
    assert ids(store) == ["s1"]
    clock.pass_s((LEASE + FORGET_AFTER).total_seconds() + 1)
    assert store.roster.forget_dead() == 1
    assert not store.roster.publish(HERE, [], [])  # so it publishes all anew
    assert ids(store) == []


def test_worker_that_ends_takes_its_sessions_along(store, live):
    store.roster.publish(HERE, [live("s1")], [])
    store.roster.publish(THERE, [live("s2")], [])
    store.roster.retire(HERE)
    assert ids(store) == ["s2"]


def test_kick_marks_the_session_for_its_worker_raises_the_revision_and_is_told_of(store, live):
    store.roster.publish(HERE, [live("s1"), live("s2")], [])
    revision = store.revision()
    kicked = store.acting(Actor("cli:root", "mail2")).roster.kick("s1")
    assert (kicked.session.id, kicked.node) == ("s1", "mail1")
    assert store.revision() == revision + 1
    assert store.roster.kicked(HERE) == {"s1"}
    assert store.roster.kicked(THERE) == set()
    (entry,) = store.trail.entries(Wanted(events=(Event.KICKED,)), 0, 10)
    assert (entry.actor, entry.account, entry.app_password) == ("cli:root", "ann@x.test", live("s1").public_id)
    assert store.roster.kick("nothing") is None
    assert store.revision() == revision + 1


def test_login_sees_the_mailboxs_sessions_at_other_workers(store, ann, scanner, live, clock):
    store.roster.publish(HERE, [live("s1")], [])
    others = [live("s2"), live("s3"), live("s4", protocol="smtp"), live("s5", upstream_user="bob")]
    store.roster.publish(THERE, others, [])
    assert store.find_login("ann", "s001", "imap", HERE.id).elsewhere == 2
    assert store.find_login("ann", "s001", "smtp", HERE.id).elsewhere == 1
    assert store.find_login("ann", "s001", "imap", THERE.id).elsewhere == 1
    assert store.find_login("ann", "zzzz", "imap", HERE.id).elsewhere == 2
    assert store.roster.sessions_elsewhere(HERE, "mail", "ann@x.test", "imap") == 2
    clock.pass_s((LEASE + timedelta(seconds=1)).total_seconds())
    assert store.find_login("ann", "s001", "imap", HERE.id).elsewhere == 0
    assert store.roster.sessions_elsewhere(HERE, "mail", "ann@x.test", "imap") == 0
