"""Sessions of browsers, and what counts once."""

from __future__ import annotations

from datetime import timedelta

import pytest

from proxy.errors import StoreError
from proxy.store.audit_rows import Event, Wanted
from proxy.store.people_rows import Identity
from proxy.store.rows import AlreadySpent, Once
from tests.store.conftest import NOW


@pytest.fixture
def eve(store):
    return store.people.meet(Identity("https://login.example.com", "", "eve-9"), "eve@x.test", "Eve")


def test_a_session_is_found_by_its_hash_until_it_is_over(store, clock, eve, new_web_session):
    store.web.open(new_web_session(eve, amr=("pwd", "mfa"), acr="mfa"))
    found = store.web.find("hash1")
    assert (found.person, found.is_admin, found.address, found.held) == (eve, False, "192.0.2.7", None)
    assert store.web.find("hash2") is None
    clock.pass_s(8 * 3600)
    assert store.web.find("hash1") is None


def test_signing_in_again_ends_the_browsers_former_session(store, eve, new_web_session):
    store.web.open(new_web_session(eve))
    store.web.open(new_web_session(eve, id_hash="hash2"), former="hash1")
    assert store.web.find("hash1") is None
    assert store.web.find("hash2") is not None


def test_everywhere_is_every_browser_of_this_person_only(store, eve, new_web_session):
    bob = store.people.meet(Identity("https://login.example.com", "", "bob-1"), "", "")
    for name in ("a", "b"):
        store.web.open(new_web_session(eve, id_hash=name))
    store.web.open(new_web_session(bob, id_hash="c"))
    assert store.web.close_all(eve.id) == 2
    assert [store.web.find(name) is None for name in "abc"] == [True, True, False]
    store.web.close("c")
    assert store.web.find("c") is None


def test_last_seen_is_written_once_a_minute(store, clock, eve, new_web_session):
    store.web.open(new_web_session(eve))
    clock.pass_s(30)
    store.web.find("hash1")
    assert store.web.find("hash1").last_seen == NOW
    clock.pass_s(31)
    store.web.find("hash1")
    assert store.web.find("hash1").last_seen == clock.now


def test_what_is_held_is_for_one_account_and_lets_go(store, ann, eve, new_web_session):
    store.web.open(new_web_session(eve))
    store.web.hold("hash1", ann.id, b"held")
    assert (store.web.find("hash1").held_for, store.web.find("hash1").held) == (ann.id, b"held")
    assert "held'" not in repr(store.web.find("hash1"))
    store.web.hold("hash1", None, None)
    assert store.web.find("hash1").held is None


def test_a_token_is_spent_once(store):
    store.web.spend(Once("one", NOW + timedelta(minutes=10)))
    assert store.web.is_spent("one")
    assert not store.web.is_spent("two")
    with pytest.raises(AlreadySpent):
        store.web.spend(Once("one", NOW + timedelta(minutes=10)))


def test_a_form_that_is_sent_twice_makes_one_app_password(store, ann, new_credential):
    once = Once("form", NOW + timedelta(hours=1))
    store.add_credential(new_credential(ann, "first", once=once))
    with pytest.raises(AlreadySpent):
        store.add_credential(new_credential(ann, "second", once=once))
    assert [row.name for row in store.credentials(ann.id)] == ["first"]


def test_a_form_whose_app_password_was_refused_may_be_sent_again(store, ann, new_credential, scanner):
    once = Once("form", NOW + timedelta(hours=1))
    with pytest.raises(StoreError, match='named "scanner"'):
        store.add_credential(new_credential(ann, "scanner", once=once))
    assert not store.web.is_spent("form")
    store.add_credential(new_credential(ann, "another", once=once))


def test_what_is_over_is_forgotten_and_nothing_else(store, clock, eve, new_web_session):
    store.web.open(new_web_session(eve))
    store.web.open(new_web_session(eve, id_hash="hash2", expires=NOW + timedelta(hours=9)))
    store.web.spend(Once("old", NOW + timedelta(minutes=10)))
    store.web.spend(Once("new", NOW + timedelta(hours=9)))
    clock.pass_s(8 * 3600)
    assert store.web.drop_old() == 2
    assert store.web.find("hash2") is not None
    assert store.web.is_spent("new")


def test_the_audit_tells_of_sign_ins(store, eve, new_web_session):
    store.web.open(new_web_session(eve, is_admin=True, amr=("mfa",)))
    store.web.refuse("mallory@x.test", "no_mfa", "https://login.example.com#m")
    store.web.close_all(eve.id)
    told = store.trail.entries(Wanted(None, None, (Event.SIGNED_IN, Event.SIGN_IN_REFUSED, Event.SIGNED_OUT)), 0, 10)
    assert [(one.account, one.cause, one.detail) for one in told] == [
        ("", "", "admin mfa"),
        ("", "no_mfa", "mallory@x.test: https://login.example.com#m"),
        ("", "", "1 browsers"),
    ]
