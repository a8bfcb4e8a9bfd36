"""People: whose mailbox is whose, who was granted what, and that an address alone never takes over."""

from __future__ import annotations

import pytest

from proxy.errors import StoreError
from proxy.store.audit_rows import Actor, Event, Wanted
from proxy.store.people_rows import Identity
from proxy.store.rows import NewAccount

ISSUER = "https://login.example.com"
ANN = Identity(ISSUER, "", "ann-1")
OTHER_ANN = Identity(ISSUER, "", "ann-2")  # got the address after the first one left
EVE = Identity(ISSUER, "", "eve-9")


@pytest.fixture
def bob(store):
    return store.add_account(NewAccount("bob@x.test", "mail", "bob@x.test", (), "cli:root"))


def emails(store, person):
    return [account.email for account in store.people.accounts_of(person.id)]


def test_somebody_is_the_same_person_at_every_sign_in(store):
    first = store.people.meet(ANN, "ann@x.test", "Ann")
    again = store.people.meet(ANN, "ann.smith@x.test", "Ann Smith")
    assert (again.id, again.address, again.display) == (first.id, "ann.smith@x.test", "Ann Smith")
    assert store.people.find(ANN) == again
    assert store.people.find(OTHER_ANN) is None
    assert store.people.find(Identity(ISSUER, "tenant", "ann-1")) is None


def test_an_account_is_bound_once_and_not_to_whoever_has_the_address_later(store, ann):
    owner, later = store.people.meet(ANN, "ann@x.test", ""), store.people.meet(OTHER_ANN, "ann@x.test", "")
    assert store.people.bind(ann.id, owner.id)
    assert store.people.bind(ann.id, owner.id)
    assert not store.people.bind(ann.id, later.id)
    assert store.people.owners([ann.id]) == {ann.id: owner.id}
    assert emails(store, owner) == ["ann@x.test"]
    assert emails(store, later) == []
    assert store.people.open_to(OTHER_ANN, "ann@x.test") == []


def test_a_grant_to_an_address_is_the_first_persons_whom_the_provider_vouches_for(store, bob):
    assert store.people.grant(bob.id, "ann@x.test")
    assert not store.people.grant(bob.id, "ann@x.test")
    assert store.people.open_to(EVE, "") == []
    assert store.people.open_to(ANN, "ann@x.test") == [bob.id]
    ann = store.people.meet(ANN, "ann@x.test", "")
    assert emails(store, ann) == ["bob@x.test"]
    later = store.people.meet(OTHER_ANN, "ann@x.test", "")
    assert emails(store, later) == []


def test_a_grant_to_an_identity_needs_no_address(store, bob):
    store.people.grant(bob.id, str(EVE))
    eve = store.people.meet(EVE, "", "whatever she calls herself")
    assert emails(store, eve) == ["bob@x.test"]
    (access,) = store.people.access_to(bob.id)
    assert (access.grantee, access.person, access.is_owner) == (str(EVE), eve, False)


def test_a_grant_to_somebody_who_is_known_works_at_once_unless_two_go_by_the_name(store, bob):
    ann = store.people.meet(ANN, "ann@x.test", "")
    store.people.grant(bob.id, "ann@x.test")
    assert emails(store, ann) == ["bob@x.test"]
    store.people.revoke_grant(bob.id, "ann@x.test")
    later = store.people.meet(OTHER_ANN, "ann@x.test", "")
    store.people.grant(bob.id, "ann@x.test")
    assert emails(store, ann) == emails(store, later) == []


@pytest.mark.parametrize("name", ["ann@x.test", str(ANN)])
def test_what_is_revoked_is_the_grant_the_binding_and_the_persons_browsers(store, ann, bob, new_web_session, name):
    owner = store.people.meet(ANN, "ann@x.test", "")
    store.people.bind(ann.id, owner.id)
    store.people.grant(ann.id, "ann@x.test")
    store.people.grant(bob.id, "ann@x.test")
    store.web.open(new_web_session(owner))
    assert store.people.revoke_grant(ann.id, name) == 2
    assert emails(store, owner) == ["bob@x.test"]
    assert store.web.find("hash1") is None
    assert store.people.revoke_grant(ann.id, name) == 0


def test_the_audit_tells_who_got_access(store, ann):
    acting = store.acting(Actor("cli:root", "mail1"))
    owner = acting.people.meet(ANN, "ann@x.test", "")
    acting.people.bind(ann.id, owner.id)
    acting.people.grant(ann.id, "eve@x.test")
    acting.people.revoke_grant(ann.id, "eve@x.test")
    told = store.trail.entries(Wanted("ann@x.test", None, (Event.BOUND, Event.GRANTED, Event.GRANT_REVOKED)), 0, 10)
    assert [(one.event, one.detail, one.actor) for one in told] == [
        (Event.BOUND, str(ANN), "cli:root"),
        (Event.GRANTED, "eve@x.test", "cli:root"),
        (Event.GRANT_REVOKED, "eve@x.test", "cli:root"),
    ]


def test_an_account_takes_its_binding_and_grants_along(store, ann):
    owner = store.people.meet(ANN, "ann@x.test", "")
    store.people.bind(ann.id, owner.id)
    store.people.grant(ann.id, "eve@x.test")
    store.remove_account(ann.id)
    assert emails(store, owner) == []
    with pytest.raises(StoreError, match="no account"):
        store.people.grant(ann.id, "eve@x.test")
    with pytest.raises(StoreError, match="no account"):
        store.people.bind(ann.id, owner.id)
