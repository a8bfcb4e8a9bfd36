"""What runs by itself, on both databases: accounts to be looked after, and what people were told."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import timedelta

import pytest

from proxy.store.rows import AccountState, Claim, NewAccount, Purpose, TokenState, Told
from tests.store.conftest import NOW

BAD, WORSE = Told("failing", NOW), Told("needs_consent", NOW + timedelta(hours=1))


def add(store, name, **more):
    return store.add_account(NewAccount(f"{name}@x.test", "mail", name, (), "test", **more))


def ids(accounts):
    return [account.id for account in accounts]


@pytest.mark.usefixtures("master")
def test_idle_accounts_are_those_whose_grant_nobody_used_since_then(store, clock, new_deposit):
    used, idle, oldest, disabled, sealed, bare, lost = (add(store, name) for name in "abcdefg")
    store.put_deposit(new_deposit(oldest))
    clock.pass_s(10)
    for account in (used, idle, disabled, lost, sealed):
        store.put_deposit(new_deposit(account))
    store.set_account_state(disabled.id, AccountState.DISABLED)
    store.set_token_state(lost.id, TokenState.NEEDS_CONSENT, "", clock())
    with store._database.write() as connection:
        connection.exec_driver_sql(f"UPDATE account SET sealed = (1 = 1) WHERE id = {sealed.id}")
    clock.pass_s(3600)
    store.put_deposit(new_deposit(used, Purpose.ACCESS_TOKEN))  # by a refresh that did not rotate
    assert ids(store.upkeep.idle_accounts(clock(), 9)) == [oldest.id, idle.id]
    assert ids(store.upkeep.idle_accounts(clock(), 1)) == [oldest.id]
    assert ids(store.upkeep.idle_accounts(clock.pass_s(1), 9)) == [oldest.id, idle.id, used.id]
    assert bare.id not in ids(store.upkeep.idle_accounts(clock(), 9))


def test_a_census_counts_all_and_those_that_need_consent(store, clock):
    assert store.upkeep.census() == (0, 0)
    for name in "abc":
        account = add(store, name)
    store.set_token_state(account.id, TokenState.NEEDS_CONSENT, "", clock())
    assert store.upkeep.census() == (3, 1)


def test_upheld_and_failing_accounts_are_active_and_may_still_be_mended(store, clock):
    fresh, failing, longer, refused, lost, disabled = (add(store, name) for name in "abcdef")
    sealed = add(store, "s", sealed=True)
    for account, state in (
        (fresh, TokenState.FRESH),
        (longer, TokenState.FAILING),
        (failing, TokenState.FAILING),
        (refused, TokenState.UPSTREAM_REFUSES),
        (lost, TokenState.NEEDS_CONSENT),
        (disabled, TokenState.FAILING),
        (sealed, TokenState.FAILING),
    ):
        store.set_token_state(account.id, state, "", clock.pass_s(1))
    store.set_account_state(disabled.id, AccountState.DISABLED)
    everybody = [*range(600), sealed.id]  # more than one SELECT takes
    assert sorted(ids(store.upkeep.upheld_accounts(everybody))) == [fresh.id, failing.id, longer.id]
    assert store.upkeep.upheld_accounts([]) == []
    assert ids(store.upkeep.failing_accounts(9)) == [longer.id, failing.id]
    assert ids(store.upkeep.failing_accounts(1)) == [longer.id]


def test_accounts_in_trouble_come_with_what_people_were_told(store, clock, ann):
    well = add(store, "bob")
    store.set_token_state(ann.id, TokenState.FAILING, "http_503", clock())
    assert [(account.email, told) for account, told in store.upkeep.accounts_to_tell_of()] == [(ann.email, None)]
    assert store.upkeep.replace_told(f"account:{well.id}", well.id, None, BAD)
    assert {account.email: told for account, told in store.upkeep.accounts_to_tell_of()} == {
        ann.email: None,
        well.email: BAD,
    }
    store.remove_account(well.id)
    assert len(store.upkeep.accounts_to_tell_of()) == 1


@pytest.mark.parametrize("account_id", [None, 1])
def test_a_telling_is_claimed_once_and_only_in_place_of_what_was_told(store, ann, account_id):
    assert ann.id == 1
    claim = ("subject", account_id)
    assert not store.upkeep.replace_told(*claim, None, None)
    assert not store.upkeep.replace_told(*claim, BAD, WORSE)
    assert store.upkeep.replace_told(*claim, None, BAD)
    assert not store.upkeep.replace_told(*claim, None, BAD)
    assert not store.upkeep.replace_told(*claim, WORSE, None)
    assert store.upkeep.replace_told(*claim, BAD, WORSE)
    assert not store.upkeep.replace_told(*claim, BAD, None)
    assert store.upkeep.upstreams_told_of() == ({"subject": WORSE} if account_id is None else {})
    assert store.upkeep.replace_told(*claim, WORSE, None)
    assert store.upkeep.upstreams_told_of() == {}


def claim_of(owner: str, clock) -> Claim:
    return Claim(owner, clock(), clock() + timedelta(seconds=60))


@pytest.mark.parametrize("account_id", [None, 1])
def test_a_change_is_told_by_one_while_his_claim_runs_and_noted_when_it_was_told(store, clock, ann, account_id):
    assert ann.id == 1

    def claims(owner: str, former: Told | None = None) -> bool:
        return store.upkeep.claim_change("subject", former, claim_of(owner, clock))

    assert claims("one")
    assert not claims("two")
    assert store.upkeep.upstreams_told_of() == {}
    store.upkeep.drop_claim("subject", "two")  # not his
    assert not claims("two")
    clock.pass_s(60)
    assert claims("two")  # the first one is gone
    store.upkeep.drop_claim("subject", "one")
    assert not claims("three")
    store.upkeep.settle_change("subject", account_id, None, BAD, "two")
    assert store.upkeep.upstreams_told_of() == ({"subject": BAD} if account_id is None else {})
    assert not claims("three")  # it was told meanwhile
    assert claims("three", BAD)
    store.upkeep.settle_change("subject", account_id, BAD, None, "three")
    assert store.upkeep.upstreams_told_of() == {}
    assert claims("four")


def test_nobody_is_told_of_an_account_that_is_gone(store):
    assert not store.upkeep.replace_told("account:7", 7, None, BAD)


def test_of_many_that_claim_at_once_one_tells(store, clock, ann):
    barrier = threading.Barrier(8)
    won: list[bool] = []

    def claim() -> None:
        barrier.wait(5)
        mine = claim_of(threading.current_thread().name, clock)
        won.append(store.upkeep.claim_change(f"account:{ann.id}", None, mine))

    threads = [threading.Thread(target=claim) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won) == [False] * 7 + [True]


def test_a_claim_of_a_clock_that_was_set_back_does_not_last_for_hours(store, clock, ann):
    claim = claim_of("ahead", clock)
    ahead = timedelta(hours=2)
    late = replace(claim, taken=claim.taken + ahead, until=claim.until + ahead)
    assert store.upkeep.claim_change("subject", None, late)
    assert store.upkeep.claim_change("subject", None, claim)
