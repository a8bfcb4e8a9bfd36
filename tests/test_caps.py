"""Sessions per mailbox: a fair line, a bound that the upstream sets itself, and nothing left behind."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from proxy.config import MailboxLimits, Protocol, UpstreamConfig
from proxy.errors import Refusal, Refused, UpstreamError, UpstreamFault
from proxy.login.caps import Caps, Place
from tests.service.house import House, until

pytest_plugins = ("tests.service.plugin",)
TWO = UpstreamConfig("mail", limits=MailboxLimits(imap=2, smtp=1))
FREE = UpstreamConfig("free")
BUSY = UpstreamError(UpstreamFault.BUSY, "NO [LIMIT] too many")
LONG = (3600.0, 3600.0)


async def opened(caps: Caps, upstream: UpstreamConfig = TWO, user: str = "ann", protocol: Protocol = "imap") -> Place:
    place = await caps.place(upstream, user, protocol)
    with place:
        pass
    return place


async def busy(caps: Caps, upstream: UpstreamConfig = FREE) -> None:
    place = await caps.place(upstream, "ann", "imap")
    with pytest.raises(UpstreamError), place:
        raise BUSY


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_mailbox_has_as_many_sessions_as_it_may_at_each_protocol_for_itself() -> None:
    caps = Caps(queue_s=0.01)
    for user, protocol in (("ann", "imap"), ("ann", "imap"), ("ann", "smtp"), ("bob", "imap")):
        await opened(caps, user=user, protocol=protocol)  # type: ignore[arg-type]
    for user, protocol in (("ann", "imap"), ("ANN", "imap"), ("ann", "smtp")):
        with pytest.raises(Refused) as caught:
            await opened(caps, user=user, protocol=protocol)  # type: ignore[arg-type]
        assert caught.value.refusal is Refusal.UPSTREAM_BUSY


async def test_a_session_that_ends_lets_in_who_stands_first_in_line() -> None:
    caps = Caps()
    places = [await opened(caps) for _ in range(2)]
    order: list[int] = []

    async def wait(number: int) -> None:
        places.append(await opened(caps))
        order.append(number)

    line = [asyncio.create_task(wait(number)) for number in range(3)]
    await settle()
    assert order == []
    for expected in (1, 2, 3):
        places.pop(0).leave()
        await settle()
        assert order == list(range(expected))
    await asyncio.gather(*line)
    for place in places:
        place.leave()
        place.leave()  # twice is as good as once
    assert len(caps) == 0


async def test_nobody_overtakes_the_line() -> None:
    caps = Caps()
    first, _ = await opened(caps), await opened(caps)
    waiting = asyncio.create_task(opened(caps))
    await settle()
    first.leave()  # the turn is given, but not taken yet
    late = asyncio.create_task(opened(caps))
    await settle()
    assert (waiting.done(), late.done()) == (True, False)
    late.cancel()
    await asyncio.gather(late, return_exceptions=True)


async def test_who_hangs_up_in_line_or_at_his_turn_leaves_the_place_to_the_next() -> None:
    caps = Caps()
    first, second = await opened(caps), await opened(caps)
    gone, unlucky, last = (asyncio.create_task(opened(caps)) for _ in range(3))
    await settle()
    gone.cancel()
    await settle()
    first.leave()  # it is the second one's turn,
    unlucky.cancel()  # who hangs up in the same instant
    place = await last
    for one in (second, place):
        one.leave()
    await asyncio.gather(gone, unlucky, return_exceptions=True)
    assert len(caps) == 0


async def test_a_line_that_is_full_refuses_at_once() -> None:
    caps = Caps(waiting=1)
    await opened(caps)
    await opened(caps)
    waiting = asyncio.create_task(opened(caps))
    await settle()
    with pytest.raises(Refused):
        async with asyncio.timeout(1):
            await opened(caps)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)


@pytest.mark.parametrize("error", [UpstreamError(UpstreamFault.REFUSED), Refused(Refusal.PROVIDER_DOWN)])
async def test_a_dial_that_fails_gives_its_place_back(error: Exception) -> None:
    caps = Caps()
    for _ in range(5):
        place = await caps.place(TWO, "ann", "imap")
        with pytest.raises(type(error)), place:
            raise error
    assert len(caps) == 0


async def test_too_many_said_the_upstream_and_is_not_dialled_until_a_session_of_ours_ends() -> None:
    caps = Caps(queue_s=0.01, hold_s=LONG)
    ours = [await opened(caps, FREE) for _ in range(3)]
    await busy(caps)
    for _ in range(3):
        with pytest.raises(Refused) as caught:
            await caps.place(FREE, "ann", "imap")
        assert caught.value.refusal is Refusal.UPSTREAM_BUSY
    ours.pop().leave()
    ours.append(await opened(caps, FREE))
    with pytest.raises(Refused):
        await caps.place(FREE, "ann", "imap")
    await opened(caps, FREE, "bob")  # nobody else waits
    caps.close()


async def test_after_a_while_it_is_tried_again_by_one_dial_at_a_time() -> None:
    caps = Caps(hold_s=(0.01, 0.01))
    await busy(caps)
    dials = 0
    is_open = False

    async def log_in() -> Place:
        nonlocal dials
        place = await caps.place(FREE, "ann", "imap")
        with place:
            dials += 1
            await asyncio.sleep(0)
            if not is_open:
                raise BUSY
        return place

    first, *rest = [asyncio.create_task(log_in()) for _ in range(4)]
    with pytest.raises(UpstreamError):
        await first
    assert dials == 1
    is_open = True
    places = await asyncio.gather(*rest)
    assert dials == 4
    for place in places:
        place.leave()
    assert len(caps) == 0
    caps.close()


async def test_a_mailbox_that_did_not_let_us_in_yet_is_dialled_once_at_a_time() -> None:
    caps = Caps()
    first = await caps.place(FREE, "ann", "imap")
    rest = [asyncio.create_task(caps.place(FREE, "ann", "imap")) for _ in range(3)]
    await settle()
    assert not any(task.done() for task in rest)
    with first:
        pass  # it is in: the others need not wait for one another
    places = await asyncio.gather(*rest)
    with pytest.raises(UpstreamError), places[0]:
        raise UpstreamError(UpstreamFault.REFUSED)
    later = asyncio.create_task(caps.place(FREE, "ann", "imap"))
    await settle()
    assert not later.done()
    for place in places[1:]:
        place.leave()
    (await later).leave()
    first.leave()
    assert len(caps) == 0


async def test_who_waits_for_a_dial_that_does_not_end_is_told_so() -> None:
    caps = Caps(queue_s=0.01)
    await caps.place(FREE, "ann", "imap")
    with pytest.raises(Refused) as caught:
        await caps.place(FREE, "ann", "imap")
    assert caught.value.refusal is Refusal.UPSTREAM_DOWN


async def test_ten_logins_at_once_with_one_dead_token_are_one_failure_upstream(house: House) -> None:
    password, _ = house.app_password(house.account())
    await house.enter("ann@x.test", password, protocol="smtp")  # verified: no lane is full
    house.upstream.refuses = lambda _: UpstreamError(UpstreamFault.REFUSED, "NO")
    results = await asyncio.gather(*(house.enter("ann@x.test", password) for _ in range(10)), return_exceptions=True)
    assert [error.refusal for error in results if isinstance(error, Refused)] == [Refusal.UPSTREAM_REFUSES] * 10
    assert len(house.upstream.dialled) == 2


async def test_a_login_waits_for_a_place_and_its_session_s_end_gives_it_to_the_next(house: House) -> None:
    house.upstreams["mail"] = _with_limits(house.upstreams["mail"], imap=1)
    password, _ = house.app_password(house.account())
    passage = await house.enter("ann@x.test", password)
    second = asyncio.create_task(house.enter("ann@x.test", password))
    await until(lambda: bool(house.caps._mailboxes["mail", "box-ann@x.test", "imap"].line))
    assert len(house.upstream.dialled) == 1
    house.registry.remove(passage.session)
    house.registry.remove((await second).session)
    assert len(house.caps) == 0


async def test_an_account_that_was_refused_while_others_stood_in_line_is_not_dialled_for_them(house: House) -> None:
    """To the upstream Gatepost is one address: a dead token in a line of logins is one failure, not one for each."""
    house.upstreams["mail"] = _with_limits(house.upstreams["mail"], imap=1)
    password, _ = house.app_password(house.account())
    house.upstream.refuses = lambda _: UpstreamError(UpstreamFault.REFUSED, "NO")
    results = await asyncio.gather(*(house.enter("ann@x.test", password) for _ in range(3)), return_exceptions=True)
    assert [error.refusal for error in results if isinstance(error, Refused)] == [Refusal.UPSTREAM_REFUSES] * 3
    assert len(house.upstream.dialled) == 1


def _with_limits(upstream: UpstreamConfig, *, imap: int) -> UpstreamConfig:
    return replace(upstream, limits=MailboxLimits(imap=imap))
