"""A token that the upstream refuses: renewed once, never young, not twice in five minutes, and then no dialling."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime, timedelta

import pytest

from proxy.errors import Answer, Refusal, Refused, UpstreamError, UpstreamFault
from proxy.login.dialling import REFUSED_REDIAL_S
from proxy.store.rows import Account, Purpose
from proxy.store.schema import account as account_table
from tests.service.house import House, LogBook, opened
from tests.service.token_endpoint import answers

pytest_plugins = ("tests.service.plugin",)
REFUSED = UpstreamError(UpstreamFault.REFUSED, "NO AUTHENTICATE failed")


@pytest.fixture
async def ann(house: House) -> tuple[Account, str]:
    account = house.account()
    return account, house.app_password(account)[0]


async def refusal_of(house: House, password: str) -> Refusal:
    with pytest.raises(Refused) as caught:
        await house.enter("ann@x.test", password)
    return caught.value.refusal


async def log_in(house: House, password: str, times: int) -> list[object]:
    """Many at once, each a verified login already, so that no lane is full."""
    return await asyncio.gather(*(house.enter("ann@x.test", password) for _ in range(times)), return_exceptions=True)


async def token_to_be_refused(house: House, password: str) -> None:
    """The upstream has let in by the first token, and now refuses it; it is old enough to be renewed."""
    await house.enter("ann@x.test", password)
    house.clock.pass_s(61)
    house.upstream.refuses = lambda token: REFUSED if token == "access.ann@x.test.1" else None


def five_minutes_later(house: House, account: Account) -> None:
    """For the pause between two dials: in memory, and what the row tells the other processes."""
    house.login._dialler._redial_at.clear()
    with house.store._database.write() as connection:
        noted = datetime.now(UTC) - timedelta(seconds=REFUSED_REDIAL_S[0] + 1)
        connection.execute(account_table.update().where(account_table.c.id == account.id).values(token_since=noted))


async def test_a_refused_token_is_renewed_and_tried_once_more(house: House, ann: tuple[Account, str]) -> None:
    await token_to_be_refused(house, ann[1])
    await house.enter("ann@x.test", ann[1])
    assert house.upstream.tokens == ["access.ann@x.test.1", "access.ann@x.test.1", "access.ann@x.test.2"]
    assert house.token_state(ann[0]) == "fresh"


async def test_many_logins_with_one_refused_token_share_one_renewal(house: House, ann: tuple[Account, str]) -> None:
    await token_to_be_refused(house, ann[1])
    results = await log_in(house, ann[1], 20)
    assert [result for result in results if isinstance(result, BaseException)] == []
    assert len(house.endpoint.requests) == 2
    assert house.token_state(ann[0]) == "fresh"


async def test_a_refused_token_out_of_the_store_is_renewed_however_young_the_process(
    house: House, ann: tuple[Account, str]
) -> None:
    await house.enter("ann@x.test", ann[1])
    async with house.another() as other:
        other.upstream.refuses = lambda token: REFUSED if token == "access.ann@x.test.1" else None
        await other.enter("ann@x.test", ann[1])
        assert other.upstream.tokens == ["access.ann@x.test.1", "access.ann@x.test.2"]


async def test_a_token_renewed_by_another_process_is_taken_from_the_store(
    house: House, ann: tuple[Account, str]
) -> None:
    await house.enter("ann@x.test", ann[1])
    async with house.another() as other:
        await other.enter("ann@x.test", ann[1])
        for one in (house, other):
            one.clock.pass_s(61)
            one.upstream.refuses = lambda token: REFUSED if token == "access.ann@x.test.1" else None
        await other.enter("ann@x.test", ann[1])
        await house.enter("ann@x.test", ann[1])
    assert len(house.endpoint.requests) == 2


async def test_a_token_younger_than_a_minute_is_not_renewed(house: House, ann: tuple[Account, str]) -> None:
    house.upstream.refuses = lambda _: REFUSED
    refusal = await refusal_of(house, ann[1])
    assert (refusal, refusal.answer) == (Refusal.UPSTREAM_REFUSES, Answer.CONTACT_ADMIN)
    assert (len(house.endpoint.requests), len(house.upstream.dialled)) == (1, 1)


async def test_an_account_that_the_upstream_refuses_is_not_dialled_and_alarms_once(
    house: House, ann: tuple[Account, str], book: LogBook
) -> None:
    account, password = ann
    await house.enter("ann@x.test", password)
    house.clock.pass_s(61)
    house.upstream.refuses = lambda _: REFUSED
    assert await refusal_of(house, password) is Refusal.UPSTREAM_REFUSES
    assert (len(house.upstream.dialled), house.token_state(account)) == (3, "upstream_refuses")
    for _ in range(3):
        assert await refusal_of(house, password) is Refusal.UPSTREAM_REFUSES
    assert (len(house.upstream.dialled), len(house.endpoint.requests)) == (3, 2)
    five_minutes_later(house, account)
    house.clock.pass_s(301)
    assert await refusal_of(house, password) is Refusal.UPSTREAM_REFUSES  # renewed once more, refused once more
    assert (len(house.upstream.dialled), len(house.endpoint.requests)) == (5, 3)
    assert len(book.of(logging.WARNING, "state=upstream_refuses")) == 1


async def test_what_the_upstream_refused_one_process_another_does_not_dial_for_five_minutes(
    house: House, ann: tuple[Account, str]
) -> None:
    house.upstream.refuses = lambda _: REFUSED
    assert await refusal_of(house, ann[1]) is Refusal.UPSTREAM_REFUSES
    async with house.another() as other:
        for _ in range(2):
            assert await refusal_of(other, ann[1]) is Refusal.UPSTREAM_REFUSES
        assert other.upstream.dialled == []
        five_minutes_later(other, ann[0])
        await other.enter("ann@x.test", ann[1])
        assert len(other.upstream.dialled) == 1


async def test_a_refused_token_is_not_renewed_twice_in_five_minutes(house: House, ann: tuple[Account, str]) -> None:
    await house.enter("ann@x.test", ann[1])
    house.clock.pass_s(61)
    house.upstream.script.extend([REFUSED, None])
    await house.enter("ann@x.test", ann[1])
    house.clock.pass_s(200)
    house.upstream.script.append(REFUSED)
    assert await refusal_of(house, ann[1]) is Refusal.UPSTREAM_REFUSES
    assert len(house.endpoint.requests) == 2


async def test_a_renewal_that_failed_for_the_provider_s_sake_does_not_count(
    house: House, ann: tuple[Account, str]
) -> None:
    await token_to_be_refused(house, ann[1])
    house.endpoint.script.append(answers(500, b""))
    assert await refusal_of(house, ann[1]) is Refusal.PROVIDER_DOWN
    assert house.token_state(ann[0]) == "failing"
    house.clock.pass_s(20)
    await house.enter("ann@x.test", ann[1])
    assert house.upstream.tokens[-1] == "access.ann@x.test.2"


async def test_a_refused_token_is_not_shown_again_while_the_provider_is_down(
    house: House, ann: tuple[Account, str]
) -> None:
    await token_to_be_refused(house, ann[1])
    house.endpoint.script.extend([answers(500, b"")] * 2)
    for pause_s in (0, 1, 20, 1):  # asked twice; between that left alone
        house.clock.pass_s(pause_s)
        assert await refusal_of(house, ann[1]) is Refusal.PROVIDER_DOWN
    assert (len(house.endpoint.requests), len(house.upstream.dialled)) == (3, 2)
    house.clock.pass_s(20)
    await house.enter("ann@x.test", ann[1])
    assert house.upstream.tokens[2:] == ["access.ann@x.test.2"]


async def test_an_upstream_that_accepts_again_ends_the_state(house: House, ann: tuple[Account, str]) -> None:
    house.upstream.script.append(REFUSED)
    await refusal_of(house, ann[1])
    five_minutes_later(house, ann[0])
    await house.enter("ann@x.test", ann[1])
    await house.login.close()
    assert house.token_state(ann[0]) == "fresh"


async def test_new_consent_ends_the_state_at_once(house: House, ann: tuple[Account, str]) -> None:
    account, password = ann
    house.upstream.script.append(REFUSED)
    await refusal_of(house, password)
    house.store.put_deposit(house.sealed(Purpose.REFRESH_TOKEN, account.id, house.endpoint.new_family("new")))
    await house.enter("ann@x.test", password)
    assert house.upstream.tokens[-1] == "access.new.1"


async def test_new_consent_counts_from_the_next_login_on_however_good_the_former_token(
    house: House, ann: tuple[Account, str]
) -> None:
    account, password = ann
    async with house.another() as other:
        for one in (house, other):
            await one.enter("ann@x.test", password)
        house.store.put_deposit(house.sealed(Purpose.REFRESH_TOKEN, account.id, house.endpoint.new_family("new")))
        for one in (house, other):
            await one.enter("ann@x.test", password)
            assert one.upstream.tokens == ["access.ann@x.test.1", "access.new.1"]


async def test_a_password_upstream_that_refuses_is_not_dialled_again(house: House) -> None:
    account = house.account("bob@x.test", upstream="plain")
    password, _ = house.app_password(account)
    house.upstream.refuses = lambda _: REFUSED
    for _ in range(2):
        with pytest.raises(Refused) as caught:
            await house.enter("bob@x.test", password)
        assert caught.value.refusal is Refusal.UPSTREAM_REFUSES
    assert [opened(credential) for credential in house.upstream.dialled] == ["mailbox-password-bob@x.test"]
