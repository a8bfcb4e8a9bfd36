"""Live sessions of all workers: published, listed, kicked from anywhere; caps count others' sessions."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from proxy.config import MailboxLimits
from proxy.errors import Refusal, Refused, StoreUnavailable
from proxy.live.publishing import DOUBT_S, RENEW_S, _row
from proxy.live.sessions import End
from proxy.login.caps import Caps
from proxy.store.rows import Account
from tests.service.house import House, until
from tests.test_caps import TWO, opened

pytest_plugins = ("tests.service.plugin",)


class Relay:
    """Ends at once when told to."""

    last_byte_at = 0.0

    def __init__(self, house: House, session) -> None:  # type: ignore[no-untyped-def]
        self.house, self.session = house, session
        self.ends: list[End] = []
        session.relay = self

    def end(self, why: End) -> None:
        self.ends.append(why)
        self.house.registry.remove(self.session)


@pytest.fixture
async def ann(house: House) -> tuple[Account, str]:
    account = house.account()
    return account, house.app_password(account)[0]


def listed(house: House) -> set[str]:
    return {one.session.id for one in house.store.roster.sessions(None)}


async def test_a_session_is_listed_while_it_lives_with_what_people_ask(house: House, ann: tuple[Account, str]) -> None:
    account, password = ann
    passage = await house.enter("ann@x.test", password, client="mutt 2.2")
    await house.publisher.publish()
    (found,) = house.store.roster.sessions(account.id)
    session = passage.session
    assert (found.session.id, found.session.email, found.session.public_id) == (
        session.id, "ann@x.test", session.public_id,
    )  # fmt: skip
    assert (found.session.upstream_user, found.session.client, found.node, found.worker) == (
        "box-ann@x.test", "mutt 2.2", "node1", 0,
    )  # fmt: skip
    assert found.session.since == session.since
    house.registry.remove(session)
    await house.publisher.publish()
    assert listed(house) == set()


async def test_a_store_that_was_down_is_told_what_it_missed(house: House, ann: tuple[Account, str]) -> None:
    first = await house.enter("ann@x.test", ann[1])
    await house.publisher.publish()
    second = await house.enter("ann@x.test", ann[1])
    house.registry.remove(first.session)
    house.store.is_down = True
    with pytest.raises(StoreUnavailable):
        await house.publisher.publish()
    house.store.is_down = False
    await house.publisher.publish()
    assert listed(house) == {second.session.id}


async def test_a_store_that_has_forgotten_the_worker_is_told_all(house: House, ann: tuple[Account, str]) -> None:
    first = await house.enter("ann@x.test", ann[1])
    await house.publisher.publish()
    await house.publisher.retire()  # what others do to a worker whose lease ran out
    assert listed(house) == set()
    second = await house.enter("ann@x.test", ann[1])
    await house.publisher.publish()
    assert listed(house) == {first.session.id, second.session.id}


async def test_a_session_that_the_store_wrote_after_all_is_taken_away(house: House, ann: tuple[Account, str]) -> None:
    passage = await house.enter("ann@x.test", ann[1])
    (row,) = [_row(session) for session in house.registry]
    house.store.is_down = True
    with pytest.raises(StoreUnavailable):
        await house.publisher.publish()
    house.registry.remove(passage.session)
    house.store.is_down = False
    await house.publisher.publish()
    house.store.roster.publish(house.publisher._seat, [row], [])  # that call was late, not lost
    house.clock.pass_s(RENEW_S)
    await house.publisher.publish()
    assert listed(house) == set()
    house.clock.pass_s(DOUBT_S)
    await house.publisher.publish()
    assert not house.publisher._doubtful


async def test_nothing_new_costs_no_write(house: House, ann: tuple[Account, str]) -> None:
    await house.publisher.publish()
    house.store.is_down = True
    await house.publisher.publish()


async def test_a_session_is_kicked_from_another_process_and_no_other_ends(
    house: House, ann: tuple[Account, str]
) -> None:
    kicked, other = [Relay(house, (await house.enter("ann@x.test", ann[1])).session) for _ in range(2)]
    await house.publisher.publish()
    watcher = asyncio.create_task(house.registry.watch())
    async with house.another() as elsewhere:
        assert elsewhere.store.roster.kick(kicked.session.id) is not None
        await until(lambda: bool(kicked.ends))
    watcher.cancel()
    assert (kicked.ends, other.ends) == ([End.KICKED], [])
    await house.publisher.publish()
    assert listed(house) == {other.session.id}


async def test_sessions_at_other_workers_count_for_the_mailboxs_cap(house: House, ann: tuple[Account, str]) -> None:
    house.upstreams["mail"] = replace(house.upstreams["mail"], limits=MailboxLimits(imap=2))
    async with house.another() as elsewhere:
        first = await elsewhere.enter("ann@x.test", ann[1])
        await elsewhere.enter("ann@x.test", ann[1])
        await elsewhere.publisher.publish()
        waiting = asyncio.create_task(house.enter("ann@x.test", ann[1]))
        await until(lambda: any(mailbox.line for mailbox in house.login._dialler._caps._mailboxes.values()))
        assert house.upstream.dialled == []
        elsewhere.registry.remove(first.session)  # nobody here is told; the line looks
        await elsewhere.publisher.publish()
        await waiting


async def test_who_waits_for_sessions_elsewhere_is_refused_like_anybody_when_time_is_over() -> None:
    async def two(*_: object) -> int:
        return 2

    caps = Caps(queue_s=0.05, count_elsewhere=two, look_s=0.01)
    with pytest.raises(Refused, match="2 sessions of this mailbox are open") as caught:
        await caps.place(TWO, "ann", "imap", 2)
    assert caught.value.refusal is Refusal.UPSTREAM_BUSY
    assert len(caps) == 0
    await opened(caps)  # by a row that says that they are gone


async def test_a_store_that_is_down_leaves_the_last_count() -> None:
    asked = asyncio.Event()

    async def down(*_: object) -> int:
        asked.set()
        raise StoreUnavailable("down")

    caps = Caps(count_elsewhere=down, look_s=0.01)
    waiting = asyncio.create_task(caps.place(TWO, "ann", "imap", 2))
    await asked.wait()
    assert not waiting.done()
    waiting.cancel()
    await asyncio.wait([waiting])
    assert len(caps) == 0
