"""Sealed upstream secrets, masters and the refresh lease: on SQLite and on PostgreSQL."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from proxy.errors import StoreError
from proxy.store.deposits import HEIR_WAITS
from proxy.store.rows import MasterKey, NewAccount, Purpose, TokenState, Wrap

LEASE = timedelta(seconds=30)


def test_deposit_comes_back_as_it_was_put(store, ann, new_deposit):
    store.add_master(MasterKey("m0", b"\x02" * 32, store.masters()[0].created - LEASE))
    new = replace(new_deposit(ann, Purpose.PASSWORD), wraps=(Wrap("m0", b"a\0b"), Wrap("m1", b"c")))
    assert store.deposit(ann.id, Purpose.PASSWORD) is None
    store.put_deposit(new)
    assert store.deposit(ann.id, Purpose.PASSWORD) == new
    assert store.deposit(ann.id, Purpose.REFRESH_TOKEN) is None


def test_second_deposit_replaces_the_first_of_its_purpose(store, ann, new_deposit):
    store.put_deposit(new_deposit(ann))
    second = new_deposit(ann, text=b"second")
    store.put_deposit(second)
    assert store.deposit(ann.id, Purpose.REFRESH_TOKEN) == second
    store.put_deposit(second)  # tried again after an answer that came too late
    assert store.deposit(ann.id, Purpose.REFRESH_TOKEN) == second


def test_new_way_in_is_fresh_and_drops_the_former_access_token(store, ann, new_deposit, clock):
    store.put_deposit(new_deposit(ann))
    store.put_deposit(new_deposit(ann, Purpose.ACCESS_TOKEN))
    store.set_token_state(ann.id, TokenState.NEEDS_CONSENT, "invalid_grant", clock.now)
    store.put_deposit(new_deposit(ann, text=b"after a new sign-in"))
    assert store.deposit(ann.id, Purpose.ACCESS_TOKEN) is None
    assert store.account("ann").token_state is TokenState.FRESH


def test_deposit_for_an_unknown_key_or_account_is_refused_whole(store, ann, new_deposit):
    kept = new_deposit(ann)
    store.put_deposit(kept)
    with pytest.raises(StoreError, match="not in the store any more"):
        store.put_deposit(replace(new_deposit(ann), wraps=(Wrap("unknown", b"x"),)))
    with pytest.raises(ValueError, match="nobody can open"):
        store.put_deposit(replace(new_deposit(ann), wraps=()))
    with pytest.raises(StoreError, match="no account 99"):
        store.put_deposit(new_deposit(99))
    assert store.deposit(ann.id, Purpose.REFRESH_TOKEN) == kept


def test_masters_come_newest_first_and_once(store, master):
    newer = MasterKey("a-newer", b"\x03" * 32, master.created + timedelta(microseconds=1))
    store.add_master(newer)
    assert store.masters() == [newer, master]
    with pytest.raises(StoreError, match="this key is in the store already"):
        store.add_master(master)


def test_lease_is_taken_once_until_it_is_released(store, ann, clock):
    first = store.take_lease(ann.id, "w1", clock.now, clock.now + LEASE)
    assert store.take_lease(ann.id, "w2", clock.now, clock.now + LEASE) is None
    assert store.take_lease(ann.id, "w1", clock.now, clock.now + LEASE) is None  # one at a time, whoever asks
    store.release_lease(ann.id, first)
    assert store.take_lease(ann.id, "w2", clock.now, clock.now + LEASE) > first


def inherited(store, ann, owner, clock):
    """The fence of a lease after one that ran out; exactly at its end it is over."""
    assert store.take_lease(ann.id, owner, clock.now, clock.now + LEASE) is None
    clock.pass_s(HEIR_WAITS.total_seconds())
    return store.take_lease(ann.id, owner, clock.now, clock.now + LEASE)


def test_fence_rises_over_releases_and_run_out_leases(store, ann, clock):
    fences = []
    for _ in range(3):
        fences.append(store.take_lease(ann.id, "w1", clock.now, clock.now + LEASE))
        clock.pass_s(30)
        fences.append(inherited(store, ann, "w1", clock))
        store.release_lease(ann.id, fences[-1])
    assert fences == sorted(set(fences))


def test_who_inherits_a_lease_lets_its_holder_commit_first(store, ann, new_deposit, clock):
    """A store that could not be written to is back: the token that waits for it must not meet a new fence."""
    fence = store.take_lease(ann.id, "w1", clock.now, clock.now + LEASE)
    clock.pass_s(300)
    assert store.take_lease(ann.id, "w2", clock.now, clock.now + LEASE) is None
    assert store.take_lease(ann.id, "w3", clock.now, clock.now + LEASE) is None  # one heir at a time
    rotated = new_deposit(ann, text=b"rotated")
    assert store.put_tokens(ann.id, fence, [rotated])
    store.release_lease(ann.id, fence)
    assert store.take_lease(ann.id, "w2", clock.now, clock.now + LEASE) > fence
    assert store.deposit(ann.id, Purpose.REFRESH_TOKEN) == rotated


def test_stale_release_frees_nothing(store, ann, clock):
    stale = store.take_lease(ann.id, "w1", clock.now, clock.now + LEASE)
    clock.pass_s(31)
    assert inherited(store, ann, "w2", clock) > stale
    store.release_lease(ann.id, stale)
    assert store.take_lease(ann.id, "w3", clock.now, clock.now + LEASE) is None


def test_lease_of_no_account_and_of_no_length_are_refused(store, ann, clock):
    with pytest.raises(StoreError, match="no account 99"):
        store.take_lease(99, "w1", clock.now, clock.now + LEASE)
    with pytest.raises(ValueError, match="over before it starts"):
        store.take_lease(ann.id, "w1", clock.now, clock.now)


def test_refreshed_tokens_are_kept_together(store, ann, new_deposit, clock):
    store.put_deposit(new_deposit(ann))
    fence = store.take_lease(ann.id, "w1", clock.now, clock.now + LEASE)
    tokens = [new_deposit(ann, text=b"rotated"), new_deposit(ann, Purpose.ACCESS_TOKEN)]
    assert store.put_tokens(ann.id, fence, tokens)
    assert store.put_tokens(ann.id, fence, tokens)  # tried again after an answer that came too late
    assert [store.deposit(ann.id, one.purpose) for one in tokens] == tokens


def test_tokens_of_a_lease_that_ran_out_are_kept_while_nobody_took_it(store, ann, new_deposit, clock):
    fence = store.take_lease(ann.id, "w1", clock.now, clock.now + LEASE)
    clock.pass_s(300)
    assert store.put_tokens(ann.id, fence, [new_deposit(ann)])  # the provider has spent the old one


def test_tokens_with_a_stale_fence_are_not_written(store, ann, new_deposit, clock):
    kept = new_deposit(ann)
    store.put_deposit(kept)
    stale = store.take_lease(ann.id, "w1", clock.now, clock.now + LEASE)
    clock.pass_s(31)
    inherited(store, ann, "w2", clock)
    assert not store.put_tokens(ann.id, stale, [new_deposit(ann), new_deposit(ann, Purpose.ACCESS_TOKEN)])
    assert store.deposit(ann.id, Purpose.REFRESH_TOKEN) == kept
    assert store.deposit(ann.id, Purpose.ACCESS_TOKEN) is None


def test_refresh_under_way_cannot_replace_a_new_sign_in(store, ann, new_deposit, clock):
    store.put_deposit(new_deposit(ann))
    fence = store.take_lease(ann.id, "w1", clock.now, clock.now + LEASE)
    signed_in = new_deposit(ann, text=b"signed in meanwhile")
    store.put_deposit(signed_in)
    assert not store.put_tokens(ann.id, fence, [new_deposit(ann, text=b"of the old grant")])
    assert store.deposit(ann.id, Purpose.REFRESH_TOKEN) == signed_in
    assert store.take_lease(ann.id, "w2", clock.now, clock.now + LEASE) > fence


def test_tokens_of_a_removed_account_are_not_written(store, ann, new_deposit, clock):
    fence = store.take_lease(ann.id, "w1", clock.now, clock.now + LEASE)
    tokens = [new_deposit(ann)]
    store.remove_account(ann.id)
    assert not store.put_tokens(ann.id, fence, tokens)


def test_tokens_of_another_account_are_a_bug(store, ann, new_deposit):
    bob = store.add_account(NewAccount("bob@x.test", "mail", "bob", (), "cli"))
    with pytest.raises(ValueError, match="another account"):
        store.put_tokens(ann.id, 1, [new_deposit(bob)])


def test_tokens_are_written_all_or_none(store, ann, new_deposit, clock):
    kept = new_deposit(ann)
    store.put_deposit(kept)
    fence = store.take_lease(ann.id, "w1", clock.now, clock.now + LEASE)
    broken = replace(new_deposit(ann, Purpose.ACCESS_TOKEN), wraps=(Wrap("unknown", b"x"),))
    with pytest.raises(StoreError):
        store.put_tokens(ann.id, fence, [new_deposit(ann), broken])
    assert store.deposit(ann.id, Purpose.REFRESH_TOKEN) == kept
