"""What is seen of the tokens and of readiness."""

from __future__ import annotations

import asyncio
import math
from datetime import UTC, datetime, timedelta

from proxy.errors import StoreUnavailable
from proxy.live.observing import Observer, Readiness
from proxy.meters import ACCEPTING, ACCOUNTS, CERTIFICATE_ENDS, SESSIONS, TOKEN_AGE, WORKER_STARTS, Board, Meters
from proxy.store.rows import TokenState
from tests.service.house import House

pytest_plugins = ("tests.service.plugin",)


def observer(house: House, meters: Meters, *, is_first: bool = True, ends: datetime | None = None) -> Observer:
    return Observer(
        meters=meters, registry=house.registry, connections=lambda: 3, store=house.store, pool=house.pool,
        is_first=is_first, certificate_ends=lambda: ends,
    )  # fmt: skip


def readiness(house: House, board: Board, **changes: object) -> Readiness:
    values: dict[str, object] = {
        "store": house.store, "pool": house.pool, "board": board, "workers": 2, "certificate_days": 7,
    }  # fmt: skip
    return Readiness(**{**values, **changes})


async def test_accounts_are_counted_by_the_state_of_their_token_with_the_oldest(house: House) -> None:
    meters, account = Meters(), house.account()
    since = datetime.now(UTC) - timedelta(hours=2)
    house.store.set_token_state(account.id, TokenState.NEEDS_CONSENT, "invalid_grant", since)
    await observer(house, meters).look_at_accounts()
    assert meters.read(ACCOUNTS, "needs_consent") == 1
    assert meters.read(ACCOUNTS, "fresh") == 0
    assert 7200 <= meters.read(TOKEN_AGE, "needs_consent") < 7300
    assert meters.read(TOKEN_AGE, "fresh") == 0


async def test_a_worker_that_leaves_says_nothing_for_the_node_any_more(house: House) -> None:
    meters = Meters()
    one = observer(house, meters, ends=datetime.now(UTC))
    one.accepts()
    one.look()
    assert meters.read(CERTIFICATE_ENDS) > 0
    await one.look_at_accounts()
    assert (meters.read(ACCEPTING), meters.read(WORKER_STARTS), meters.read(SESSIONS, "imap")) == (1, 1, 0)
    one.leaves()
    assert meters.read(ACCEPTING) == 0
    assert math.isnan(meters.read(ACCOUNTS, "fresh"))
    assert math.isnan(meters.read(CERTIFICATE_ENDS))


async def test_only_the_first_worker_speaks_of_the_certificate(house: House) -> None:
    meters = Meters()
    observer(house, meters, is_first=False, ends=datetime.now(UTC)).look()
    assert meters.read(CERTIFICATE_ENDS) == 0


async def test_each_of_its_parts_makes_it_unready(house: House) -> None:
    board = Board()
    ends: list[datetime | None] = [None]
    one = readiness(house, board, certificate_ends=lambda: ends[0])
    assert (await one.report())[0] is False  # nobody accepts
    observer(house, Meters(board.lend())).accepts()
    is_ready, report = await one.report()
    assert is_ready
    assert report["workers"] == {"accepting": 1, "configured": 2}
    assert report["certificate_days_left"] is None
    ends[0] = datetime.now(UTC) + timedelta(days=7, hours=1)
    assert (await one.report())[0] is True
    ends[0] = datetime.now(UTC) + timedelta(days=6, hours=23)
    assert (await one.report())[0] is False
    ends[0] = datetime.now(UTC) - timedelta(hours=1)
    assert (await one.report())[1]["certificate_days_left"] == -1
    ends[0], one.is_draining = None, True
    assert (await one.report())[0] is False


async def test_many_who_ask_are_one_query_and_the_store_is_asked_again_later(house: House) -> None:
    asked, now = [], [0.0]

    class Down:
        async def run(self, *_: object) -> None:
            asked.append(now[0])
            raise StoreUnavailable("gone")

    one = readiness(house, Board(), pool=Down(), clock=lambda: now[0])
    reports = await asyncio.gather(*(one.report() for _ in range(50)))
    assert asked == [0.0]
    assert {report["store"] for _, report in reports} == {"down"}
    now[0] = 2.0
    await one.report()
    assert asked == [0.0, 2.0]
