"""A client may hang up at any moment: enter() cancelled anywhere leaves one line, no ticket, connection or session."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable

import pytest

from proxy.errors import Refusal, Refused, UpstreamError, UpstreamFault
from proxy.login import service
from proxy.store.rows import Purpose
from tests.service.house import HOME, House, LogBook, until, wrong_password
from tests.service.token_endpoint import waits

pytest_plugins = ("tests.service.plugin",)
STEPS = 400


async def is_set(event: threading.Event) -> None:
    await asyncio.get_running_loop().run_in_executor(None, event.wait, 5)


async def in_the_look_up(house: House, gate: threading.Event) -> Awaitable[object]:
    house.store.gate = gate
    return is_set(house.store.is_waiting)


async def in_the_hash(house: House, gate: threading.Event) -> Awaitable[object]:
    house.hasher.gate = gate
    return is_set(house.hasher.is_waiting)


async def in_the_refresh(house: House, gate: threading.Event) -> Awaitable[object]:
    house.endpoint.script.append(waits)
    return house.endpoint.has_asked.wait()


async def in_the_dial(house: House, gate: threading.Event) -> Awaitable[object]:
    house.upstream.release = asyncio.Event()
    return house.upstream.has_rung.wait()


@pytest.mark.parametrize("stage", [in_the_look_up, in_the_hash, in_the_refresh, in_the_dial])
@pytest.mark.parametrize("peer_is_known", [False, True])
async def test_a_client_that_hangs_up_leaves_nothing(
    house: House,
    book: LogBook,
    stage: Callable[[House, threading.Event], Awaitable[Awaitable[object]]],
    peer_is_known: bool,
) -> None:
    password, _ = house.app_password(house.account())
    if peer_is_known:  # the other lane
        house.throttle.record_success("192.0.2.10", "ann@x.test")
    gate = threading.Event()
    reached = await stage(house, gate)
    login = asyncio.create_task(house.enter("ann@x.test", password))
    await reached
    login.cancel()
    gate.set()
    with pytest.raises(asyncio.CancelledError):
        await login
    assert (house.tickets, len(house.registry), house.upstream.lines) == (0, 0, [])
    level = logging.DEBUG if stage is in_the_look_up else logging.INFO  # nobody has looked at his secret
    assert len(book.of(level, "event=login", "result=cut_off", "peer=192.0.2.10")) == 1
    house.store.gate = house.hasher.gate = house.upstream.release = None
    house.endpoint.release.set()
    await house.enter("ann@x.test", password)


async def hang_up(login: asyncio.Task[object]) -> None:
    login.cancel()
    with pytest.raises(asyncio.CancelledError):
        await login


@pytest.mark.parametrize("peer_is_known", [False, True])
async def test_a_guesser_who_hangs_up_amid_the_hash_has_guessed(
    house: House, book: LogBook, peer_is_known: bool
) -> None:
    password, credential = house.app_password(house.account())
    guesses = 10
    if peer_is_known:  # the other lane, and ten times the room
        house.throttle.record_success(HOME, "ann@x.test")
        guesses = 100
    for number in range(guesses):
        gate = threading.Event()
        reached = await in_the_hash(house, gate)
        login = asyncio.create_task(house.enter("ann@x.test", wrong_password(like=password)))
        await reached
        login.cancel()
        await asyncio.sleep(0)
        assert not house.throttle.is_blocked(HOME, "ann@x.test"), number
        gate.set()
        await hang_up(login)
        house.hasher.is_waiting.clear()
    assert house.throttle.is_blocked(HOME, "ann@x.test")
    assert house.hasher.verifies == guesses
    lines = book.of(logging.INFO, "event=login", "result=refused", "cause=wrong_password", credential.public_id)
    assert len(lines) == guesses
    assert book.of(logging.INFO, "result=cut_off") == []


async def test_a_rightful_client_that_hangs_up_is_never_counted(house: House, book: LogBook) -> None:
    """An office behind one address whose clients give up, all at once, on a server that is slow."""
    account = house.account()
    for _ in range(12):  # more than wrong ones would have room
        password, _ = house.app_password(account)
        house.hasher.is_waiting.clear()
        gate = threading.Event()
        reached = await in_the_hash(house, gate)
        login = asyncio.create_task(house.enter("ann@x.test", password))
        await reached
        gate.set()
        await hang_up(login)
    assert house.hasher.verifies == 12
    house.hasher.gate = None
    assert len(book.of(logging.INFO, "event=login", "result=cut_off")) == 12
    await house.enter("ann@x.test", password)


async def test_who_hangs_up_before_his_hash_was_begun_costs_nothing_and_fills_no_log(
    house: House, book: LogBook
) -> None:
    password, _ = house.app_password(house.account())
    gate = threading.Event()
    reached = await in_the_hash(house, gate)
    first = asyncio.create_task(house.enter("ann@x.test", password))
    await reached
    waiting = asyncio.create_task(house.enter("ann@x.test", wrong_password(like=password)))
    await until(lambda: house.store.lookups == 2 and house.tickets == 2)
    await hang_up(waiting)
    assert len(book.of(logging.DEBUG, "event=login", "result=cut_off")) == 1
    assert book.of(logging.INFO, "event=login") == []
    gate.set()
    await first
    assert house.hasher.verifies == 1


@pytest.mark.parametrize("which", ["QUEUE_S", "LOGIN_S"])
async def test_a_hash_that_ends_behind_the_deadline_still_tells(
    house: House, monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    """Else a guesser who keeps the server busy would guess uncounted."""
    password, _ = house.app_password(house.account())
    monkeypatch.setattr(service, which, 0.5 if which == "LOGIN_S" else 0.05)
    gate = threading.Event()
    reached = await in_the_hash(house, gate)
    started = asyncio.get_running_loop().time()
    login = asyncio.create_task(house.enter("ann@x.test", wrong_password(like=password), started=started))
    await reached
    await until(lambda: login.cancelling() > 0)
    gate.set()
    with pytest.raises(Refused) as caught:
        await login
    assert caught.value.refusal is Refusal.WRONG_PASSWORD


async def test_a_client_that_hangs_up_while_waiting_for_its_refusal_leaves_nothing(house: House, book: LogBook) -> None:
    loop = asyncio.get_running_loop()
    login = asyncio.create_task(house.enter("ann@x.test", wrong_password(), started=loop.time()))
    await until(lambda: house.store.lookups > 0 and house.tickets == 0)
    await hang_up(login)
    assert len(book.of(logging.INFO, "event=login")) == 1


async def test_a_hang_up_in_the_very_turn_that_brings_the_token_is_no_login(house: House) -> None:
    """asyncio.wait_for of Python 3.11 would swallow it."""
    password, _ = house.app_password(house.account())
    house.endpoint.script.append(waits)
    login = asyncio.create_task(house.enter("ann@x.test", password))
    await house.endpoint.has_asked.wait()
    (refresh,) = house.broker._refreshes.values()
    refresh.add_done_callback(lambda _: login.cancel())
    house.endpoint.release.set()
    with pytest.raises(asyncio.CancelledError):
        await login
    assert house.upstream.dialled == []


async def test_a_login_cancelled_at_any_turn_of_the_loop_ends_cancelled_or_let_in(house: House) -> None:
    """Over a refused token, its renewal and the second dial, turn by turn until a login gets through."""
    account = house.account()
    password, _ = house.app_password(account)
    cancelled = 0
    for turns in range(STEPS):
        house.broker.forget(account.id)
        house.broker._renewed_at.clear()
        house.cache._entries.clear()
        house.store.put_deposit(house.sealed(Purpose.ACCESS_TOKEN, account.id, "access.dead", valid_s=3600))
        house.upstream.refuses = lambda token: UpstreamError(UpstreamFault.REFUSED) if token == "access.dead" else None
        login = asyncio.create_task(house.enter("ann@x.test", password))
        for _ in range(turns * (1 + turns // 6)):
            await asyncio.sleep(0)
        if login.cancel():
            result = (await asyncio.gather(login, return_exceptions=True))[0]
            assert isinstance(result, asyncio.CancelledError), "a cancellation was swallowed"
            cancelled += 1
        await asyncio.gather(*house.broker._refreshes.values())
        assert house.tickets == 0
        assert len(house.registry) == len(house.upstream.lines) == turns + 1 - cancelled
        assert all(not line.is_aborted for line in house.upstream.lines)
        if turns + 1 - cancelled >= 2:
            break
    assert cancelled > 20
    assert house.kept(account) == house.endpoint.newest["ann@x.test"]
    assert house.token_state(account) == "fresh"
    assert house.endpoint.reuses == []
