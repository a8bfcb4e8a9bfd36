"""Accounts, login names, token states: on SQLite and on PostgreSQL."""

from __future__ import annotations

from datetime import timedelta

import pytest

from proxy.errors import StoreError
from proxy.store.rows import AccountState, NewAccount, Purpose, TokenState


def test_account_comes_back_as_it_was_added(store, ann, clock):
    assert ann.email == "ann@x.test"
    assert ann.aliases == ("a.smith@x.test", "ann")
    assert ann.state is AccountState.ACTIVE
    assert ann.token_state is TokenState.NONE
    assert ann.created == ann.token_since == clock.now  # to the microsecond
    assert ann.created.utcoffset() == timedelta(0)
    assert ann.created_by == "cli:root"
    assert store.account("ann@x.test") == store.account("ann") == ann
    assert store.account("nobody") is None


def test_accounts_are_listed_by_email(store, ann):
    first = store.add_account(NewAccount("aaron@x.test", "mail", "aaron", (), "cli"))
    assert store.accounts() == [first, ann]


@pytest.mark.parametrize("taken", ["ann@x.test", "ann"])
def test_login_name_belongs_to_one_account_and_the_error_names_it(store, ann, taken):
    with pytest.raises(StoreError, match=f"login name {taken} "):
        store.add_account(NewAccount("new@x.test", "mail", "new", (taken,), "cli"))
    with pytest.raises(StoreError, match=f"login name {taken} "):
        store.add_account(NewAccount(taken, "mail", "new", (), "cli"))
    assert store.accounts() == [ann]
    assert store.account("new@x.test") is None


def test_alias_that_repeats_the_email_is_one_name(store):
    assert store.add_account(NewAccount("b@x.test", "mail", "b", ("b@x.test", "b", "b"), "cli")).aliases == ("b",)


def test_account_and_its_first_deposit_are_added_together(store, master, new_deposit):
    made = store.add_account(
        NewAccount("b@x.test", "mail", "b", (), "cli"), lambda account_id: [new_deposit(account_id)]
    )
    assert made.token_state is TokenState.FRESH
    assert store.deposit(made.id, Purpose.REFRESH_TOKEN) is not None


def test_account_is_not_added_when_sealing_its_deposit_fails(store):
    def fail(account_id):
        raise OSError("no entropy")

    with pytest.raises(OSError, match="no entropy"):
        store.add_account(NewAccount("b@x.test", "mail", "b", ("b",), "cli"), fail)
    assert store.accounts() == []
    assert store.account("b") is None


def test_removed_account_takes_everything_it_owned(store, ann, scanner, new_deposit, clock):
    store.put_deposit(new_deposit(ann))
    store.take_lease(ann.id, "w1", clock.now, clock.now + timedelta(seconds=30))
    secret = store.find_login("ann", "s001").secret
    before = store.revision()

    store.remove_account(ann.id)

    assert store.revision() > before
    assert store.accounts() == []
    assert store.account("ann") is None
    assert store.find_login("ann@x.test", "s001") is None
    assert store.credentials(None) == []
    assert store.deposit(ann.id, Purpose.REFRESH_TOKEN) is None
    assert store.standings([secret.id]) == {}
    with pytest.raises(StoreError, match="no account"):
        store.remove_account(ann.id)
    again = store.add_account(NewAccount("ann@x.test", "mail", "ann", ("ann",), "cli"))
    assert again.id > ann.id  # never used twice: caches and sealed deposits name accounts by id


def test_disabling_and_enabling_raise_the_revision_once_each(store, ann):
    before = store.revision()
    assert store.set_account_state(ann.id, AccountState.DISABLED)
    assert not store.set_account_state(ann.id, AccountState.DISABLED)
    assert store.revision() == before + 1
    assert store.account("ann").state is AccountState.DISABLED
    assert store.set_account_state(ann.id, AccountState.ACTIVE)
    assert store.revision() == before + 2
    with pytest.raises(StoreError, match="no account 99"):
        store.set_account_state(99, AccountState.DISABLED)


def test_token_state_says_once_that_it_changed(store, ann, clock):
    first = clock.pass_s(60)
    assert store.set_token_state(ann.id, TokenState.FAILING, "503", first)
    later = clock.pass_s(60)
    assert not store.set_token_state(ann.id, TokenState.FAILING, "timeout", later)
    now = store.account("ann")
    assert (now.token_state, now.token_detail, now.token_since) == (TokenState.FAILING, "timeout", first)
    assert store.set_token_state(ann.id, TokenState.FRESH, "", later)
    assert store.account("ann").token_since == later
    assert not store.set_token_state(99, TokenState.FRESH, "", later)


def test_outdated_refresh_does_not_change_the_token_state(store, ann, new_deposit, clock):
    fence = store.take_lease(ann.id, "w1", clock.now, clock.now + timedelta(seconds=30))
    store.put_deposit(new_deposit(ann))  # a new sign-in, while the refresh of the old grant is under way
    assert not store.set_token_state(ann.id, TokenState.NEEDS_CONSENT, "invalid_grant", clock.now, fence=fence)
    assert store.account("ann").token_state is TokenState.FRESH


def test_token_state_does_not_raise_the_revision(store, ann, clock):
    before = store.revision()
    store.set_token_state(ann.id, TokenState.NEEDS_CONSENT, "AADSTS700082", clock.now)
    assert store.revision() == before  # live sessions stay until the upstream ends them


def test_naive_time_is_refused(store, ann, clock):
    with pytest.raises(ValueError, match="without a zone"):
        store.set_token_state(ann.id, TokenState.FRESH, "", clock.now.replace(tzinfo=None))


@pytest.mark.parametrize("name", ["nul\0@x.test", "surrogate\udcff@x.test"])
def test_text_that_the_database_cannot_hold_is_an_error_that_does_not_repeat_it(store, backend, name):
    if backend == "sqlite" and "\0" in name:  # SQLite holds it; canonical login names never have one
        assert store.account(name) is None
        return
    with pytest.raises(StoreError, match="cannot hold this text") as raised:
        store.account(name)
    assert name not in str(raised.value)
    with pytest.raises(StoreError, match="cannot hold this text"):
        store.add_account(NewAccount(name, "mail", "x", (), "cli"))
