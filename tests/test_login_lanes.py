"""What a login does when the hash lanes are full, the verify cache knows it, or the store is down."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from datetime import UTC, datetime

import pytest

from proxy.errors import Answer, Refusal, Refused
from proxy.store.rows import Account, AccountState, Credential, NewSecret
from proxy.vault.hashing import Hasher, HashFailed, Lane
from tests.service.house import CHEAP, HOME, House, LogBook, until, wrong_password

pytest_plugins = ("tests.service.plugin",)
AWAY = "203.0.113.7"


async def refusal_of(house: House, login: str, password: str, **changes: object) -> Refusal:
    with pytest.raises(Refused) as caught:
        await house.enter(login, password, **changes)
    return caught.value.refusal


def fill(house: House, lane: Lane) -> contextlib.ExitStack:
    """Take every place of a lane until the stack is closed."""
    stack = contextlib.ExitStack()
    for _ in range(house.hashes._queue):
        stack.callback(house.hashes.release, house.hashes.reserve(lane))
    return stack


async def test_a_full_lane_refuses_known_and_unknown_alike_before_any_look_up(house: House) -> None:
    password, _ = house.app_password(house.account())
    with fill(house, Lane.STRANGERS):
        known = await refusal_of(house, "ann@x.test", password)
        unknown = await refusal_of(house, "nobody@x.test", wrong_password())
    assert known is unknown is Refusal.HASH_QUEUE_FULL
    assert (house.store.lookups, house.hasher.verifies) == (0, 0)
    assert known.answer is Answer.UNAVAILABLE


@pytest.mark.parametrize("name", ["ann@x.test", "ann"])
async def test_who_logged_in_lately_has_a_lane_of_his_own(house: House, name: str) -> None:
    ann = house.account("ann@x.test", "ann")
    first, _ = house.app_password(ann)
    second, _ = house.app_password(ann)
    third, _ = house.app_password(ann)
    await house.enter(name, first)
    with fill(house, Lane.STRANGERS):
        await house.enter(name, second)  # never verified before, so it needs a hash
        assert await refusal_of(house, name, third, peer=AWAY) is Refusal.HASH_QUEUE_FULL
    assert house.hasher.verifies == 2


async def test_a_hash_that_got_no_memory_is_no_wrong_password(
    house: House, book: LogBook, monkeypatch: pytest.MonkeyPatch
) -> None:
    password, _ = house.app_password(house.account())

    def without_memory(*_arguments: object) -> bool:
        raise HashFailed("Memory allocation error")

    with monkeypatch.context() as patch:
        patch.setattr(house.hasher, "verify", without_memory)
        for _ in range(12):  # as many wrong ones would be throttled
            assert await refusal_of(house, "ann@x.test", password) is Refusal.HASH_QUEUE_FULL
    await house.enter("ann@x.test", password)
    assert book.of(logging.WARNING, "event=hash_failed", "Memory allocation error")
    assert not book.of(logging.ERROR)


async def test_a_login_verified_a_moment_ago_passes_full_lanes(house: House) -> None:
    password, _ = house.app_password(house.account())
    await house.enter("ann@x.test", password)
    with fill(house, Lane.STRANGERS), fill(house, Lane.REGULARS):
        await house.enter("ann@x.test", password)
        await house.enter("ann@x.test", password, peer=AWAY)
    assert house.hasher.verifies == 1


async def test_the_cache_spares_the_hash_but_never_the_rules(house: House) -> None:
    password, credential = house.app_password(house.account(), protocols=frozenset({"imap"}))
    await house.enter("ann@x.test", password)
    assert await refusal_of(house, "ann@x.test", password, protocol="smtp") is Refusal.WRONG_PROTOCOL
    house.store.revoke([credential.public_id])
    assert await refusal_of(house, "ann@x.test", password) is Refusal.REVOKED
    assert len(house.upstream.dialled) == 1


async def test_a_store_that_is_down_is_never_called_a_wrong_password(house: House) -> None:
    password, _ = house.app_password(house.account())
    house.store.is_down = True
    for attempted in (password, wrong_password()):
        refusal = await refusal_of(house, "ann@x.test", attempted)
        assert (refusal, refusal.answer) == (Refusal.STORE_DOWN, Answer.UNAVAILABLE)


async def test_a_password_verified_lately_bridges_the_store_until_its_time_is_over_and_not_longer(house: House) -> None:
    password, _ = house.app_password(house.account(), protocols=frozenset({"imap"}))
    await house.enter("ann@x.test", password)
    house.store.is_down = True
    house.clock.pass_s(299)
    await house.enter("ann@x.test", password)  # and this must not extend it
    assert await refusal_of(house, "ann@x.test", password, protocol="smtp") is Refusal.WRONG_PROTOCOL
    assert await refusal_of(house, "ann@x.test", wrong_password(like=password)) is Refusal.STORE_DOWN
    house.clock.pass_s(1.5)
    assert await refusal_of(house, "ann@x.test", password) is Refusal.STORE_DOWN
    assert house.hasher.verifies == 1


async def changed(house: House, ann: Account, credential: Credential, how: str) -> None:
    match how:
        case "revoked":
            house.store.revoke([credential.public_id])
        case "disabled":
            house.store.set_account_state(ann.id, AccountState.DISABLED)
        case "removed":
            house.store.remove_account(ann.id)
        case "rotated":
            house.store.rotate(credential.public_id, NewSecret("t001", "$argon2id$new"), datetime.now(UTC))


@pytest.mark.parametrize("how", ["revoked", "disabled", "removed", "rotated"])
async def test_what_was_revoked_before_the_store_went_away_stays_so(house: House, how: str) -> None:
    ann = house.account()
    password, credential = house.app_password(ann)
    other, _ = house.app_password(house.account("bob@x.test"))
    await house.enter("ann@x.test", password)
    await house.enter("bob@x.test", other)
    await changed(house, ann, credential, how)
    watcher = asyncio.create_task(house.registry.watch())
    await until(lambda: house.registry._reconsidered_revision == house.store.revision())
    watcher.cancel()
    house.store.is_down = True
    assert await refusal_of(house, "ann@x.test", password) is Refusal.STORE_DOWN
    await house.enter("bob@x.test", other)
    assert house.hasher.verifies == 2


async def test_weaker_parameters_are_raised_at_login_and_stronger_ones_are_left(house: House) -> None:
    ann = house.account()
    password, _ = house.app_password(ann)
    house.hashes.hasher = Hasher(**{**CHEAP, "memory_kib": 16})
    await house.enter("ann@x.test", password)
    await house.login.close()
    row = house.store.find_login("ann@x.test", password[:4])
    assert row is not None
    assert row.secret is not None
    assert "m=16," in row.secret.phc
    house.hashes.hasher = Hasher(**CHEAP)
    house.clock.pass_s(301)
    await house.enter("ann@x.test", password)
    await house.login.close()
    assert house.store.find_login("ann@x.test", password[:4]) == row


async def test_a_better_hash_that_cannot_be_kept_harms_nobody(house: House, book: LogBook) -> None:
    password, _ = house.app_password(house.account())
    house.hashes.hasher = Hasher(**{**CHEAP, "memory_kib": 16})
    house.upstream.on_dial = lambda _: setattr(house.store, "is_down", True)
    await house.enter("ann@x.test", password)
    await house.login.close()
    assert book.of(logging.ERROR) == []


async def test_a_crash_behind_a_login_is_logged_by_its_owner(house: House, book: LogBook) -> None:
    password, _ = house.app_password(house.account())
    house.hashes.hasher = Hasher(**{**CHEAP, "memory_kib": 16})
    house.store.replace_phc = None  # type: ignore[assignment, method-assign]
    await house.enter("ann@x.test", password)
    await house.login.close()
    assert len(book.of(logging.ERROR, "event=chore_crashed")) == 1


async def test_raised_parameters_never_fill_the_lanes(house: House) -> None:
    """A rehash is a favour: it takes a place like a login, or it waits for the next login."""
    password, _ = house.app_password(house.account())
    house.hashes.hasher = Hasher(**{**CHEAP, "memory_kib": 16})
    house.throttle.record_success(HOME, "ann@x.test")  # verified in the other lane
    with fill(house, Lane.STRANGERS):
        await house.enter("ann@x.test", password)
        await house.login.close()
    row = house.store.find_login("ann@x.test", password[:4])
    assert row is not None
    assert row.secret is not None
    assert "m=8," in row.secret.phc
