"""Background renewal: what is in use before it is needed, what failed until it works, what is idle in time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from proxy.errors import Refusal, Refused, UpstreamError, UpstreamFault
from proxy.oauth.ahead import IDLE_SWEEP_S, RETRY_S, SWEEP_S, Ahead
from proxy.store.rows import Account, AccountState, NewAccount, Purpose
from proxy.store.schema import account as account_table, deposit
from tests.service.house import House
from tests.service.token_endpoint import answers, refuses

pytest_plugins = ("tests.service.plugin",)
LIFE_S = 3600
LATE_S = LIFE_S * 0.86  # past the last moment that may be drawn


@pytest.fixture
async def ann(house: House) -> tuple[Account, str]:
    account = house.account()
    return account, house.app_password(account)[0]


async def test_a_token_in_use_is_renewed_before_its_last_sixth(house: House, ann: tuple[Account, str]) -> None:
    await house.enter("ann@x.test", ann[1])
    house.clock.pass_s(LIFE_S * 0.74)
    await house.ahead.renew_due()
    assert len(house.endpoint.requests) == 1
    house.clock.pass_s(LATE_S - LIFE_S * 0.74)
    await house.ahead.renew_due()
    assert len(house.endpoint.requests) == 2
    await house.enter("ann@x.test", ann[1])
    assert house.upstream.tokens == ["access.ann@x.test.1", "access.ann@x.test.2"]
    assert (len(house.endpoint.requests), house.kept(ann[0])) == (2, "refresh.ann@x.test.2")


async def test_a_token_that_nobody_uses_any_more_is_let_go(house: House, ann: tuple[Account, str]) -> None:
    """Else a scanner that logs in once a day would cost a refresh an hour."""
    await house.enter("ann@x.test", ann[1])
    for _ in range(5):
        house.clock.pass_s(LATE_S)
        await house.ahead.renew_due()
    assert len(house.endpoint.requests) == 2


async def test_a_token_of_a_short_life_is_left_to_the_logins(house: House, ann: tuple[Account, str]) -> None:
    house.endpoint.lifetime_s = 120
    await house.enter("ann@x.test", ann[1])
    house.clock.pass_s(119)
    await house.ahead.renew_due()
    assert len(house.endpoint.requests) == 1


async def test_of_two_processes_one_renews_and_the_other_takes_it_from_the_store(
    house: House, ann: tuple[Account, str]
) -> None:
    async with house.another() as other:
        for one in (house, other):
            await one.enter("ann@x.test", ann[1])
            one.ahead._broker.due()  # seen: from here on it knows when it will renew
            one.clock.pass_s(LATE_S)
        for one in (house, other):
            await one.ahead.renew_due()
        for one in (house, other):
            await one.enter("ann@x.test", ann[1])
            assert one.upstream.tokens[-1] == "access.ann@x.test.2"
    assert (len(house.endpoint.requests), house.endpoint.reuses) == (2, [])


async def test_what_nobody_uses_here_is_renewed_by_one_worker_of_the_node_alone(
    house: House, ann: tuple[Account, str]
) -> None:
    house.endpoint.script.append(answers(503, b""))
    with pytest.raises(Refused):
        await house.enter("ann@x.test", ann[1])
    async with house.another() as other:
        second = Ahead(
            broker=other.broker,
            store=other.store,
            pool=other.pool,
            upstreams=other.upstreams.get,
            clock=other.clock,
            is_searching=False,
        )
        for one in (house, other):
            one.clock.pass_s(60)
        await second.renew_due()
        assert len(house.endpoint.requests) == 1
        await house.ahead.renew_due()
        assert len(house.endpoint.requests) == 2
        await other.enter("ann@x.test", ann[1])  # a worker that does not search renews what is used at it
        other.broker.due()  # seen: from here on it knows when it will renew
        other.clock.pass_s(LATE_S)
        await second.renew_due()
        assert len(house.endpoint.requests) == 3


async def test_a_renewal_ahead_of_need_does_not_count_as_one_for_a_refused_token(
    house: House, ann: tuple[Account, str]
) -> None:
    await house.enter("ann@x.test", ann[1])
    house.clock.pass_s(LATE_S)
    await house.ahead.renew_due()
    house.clock.pass_s(61)
    refused = UpstreamError(UpstreamFault.REFUSED, "NO")
    house.upstream.refuses = lambda token: refused if token == "access.ann@x.test.2" else None
    await house.enter("ann@x.test", ann[1])
    assert house.upstream.tokens[-1] == "access.ann@x.test.3"


async def test_while_the_provider_is_down_mail_goes_on_and_it_is_asked_ever_less_often(
    house: House, ann: tuple[Account, str]
) -> None:
    await house.enter("ann@x.test", ann[1])
    house.clock.pass_s(LATE_S)
    house.endpoint.script.extend([answers(500, b"")] * 4)
    await house.ahead.renew_due()
    assert house.token_state(ann[0]) == "failing"
    await house.enter("ann@x.test", ann[1])
    assert house.upstream.tokens == ["access.ann@x.test.1"] * 2
    asked = len(house.endpoint.requests)
    await house.ahead.renew_due()
    assert len(house.endpoint.requests) == asked
    for number in range(3):
        house.clock.pass_s(RETRY_S[0] * 2**number * 0.9)
        await house.ahead.renew_due()
        assert len(house.endpoint.requests) == asked + number  # not yet
        house.clock.pass_s(RETRY_S[0] * 2**number * 0.7)
        house.ahead._sweep_at = 0.0
        await house.ahead.renew_due()
        assert len(house.endpoint.requests) == asked + number + 1
    house.clock.pass_s(RETRY_S[1])
    await house.ahead.renew_due()
    assert house.token_state(ann[0]) == "fresh"
    assert house.ahead._failures == {}


async def test_an_hour_without_the_provider_costs_it_little_and_nobody_his_sign_in(
    house: House, ann: tuple[Account, str]
) -> None:
    """A client tries every half minute, as phones do. Outcomes E33."""
    house.endpoint.lifetime_s = 600
    account, password = ann
    await house.enter("ann@x.test", password)
    # The store's copy goes by wall clock, which nobody here moves.
    house.store.put_deposit(house.sealed(Purpose.ACCESS_TOKEN, account.id, "access.ann@x.test.1", valid_s=-2))
    house.endpoint.script.extend([answers(503, b"")] * 1000)
    heard: list[Refusal | None] = []
    for _ in range(120):
        house.clock.pass_s(30)
        await house.ahead.renew_due()
        try:
            await house.enter("ann@x.test", password)
        except Refused as refused:
            heard.append(refused.refusal)
        else:
            heard.append(None)
    # Let in until the token really ended, and then told to try again: never that anything is wrong.
    ended = heard.index(Refusal.PROVIDER_DOWN)
    assert ended in (19, 20)
    assert heard == [None] * ended + [Refusal.PROVIDER_DOWN] * (120 - ended)
    assert len(house.endpoint.requests) <= 1 + len(heard) * 2
    assert (house.kept(account), house.token_state(account)) == ("refresh.ann@x.test.1", "failing")
    house.endpoint.script.clear()
    house.clock.pass_s(30)
    await house.enter("ann@x.test", password)
    assert (house.token_state(account), house.endpoint.reuses) == ("fresh", [])


async def test_a_failure_that_another_process_had_is_mended_without_a_login(
    house: House, ann: tuple[Account, str]
) -> None:
    house.endpoint.script.append(answers(503, b""))
    with pytest.raises(Refused):
        await house.enter("ann@x.test", ann[1])
    async with house.another() as other:
        await other.ahead.renew_due()
    assert house.token_state(ann[0]) == "fresh"
    assert len(house.endpoint.requests) == 2


async def test_a_failing_account_whose_token_is_still_good_is_asked_for_all_the_same(
    house: House, ann: tuple[Account, str]
) -> None:
    """Or it would be called failing until that token ends, though nobody tries."""
    await house.enter("ann@x.test", ann[1])
    house.clock.pass_s(LATE_S)
    house.endpoint.script.append(answers(503, b""))
    await house.ahead.renew_due()
    async with house.another() as other:
        await other.ahead.renew_due()
    assert house.token_state(ann[0]) == "fresh"


async def test_a_grant_that_is_lost_is_noticed_before_the_next_login_and_asked_for_no_more(
    house: House, ann: tuple[Account, str]
) -> None:
    await house.enter("ann@x.test", ann[1])
    house.endpoint.script.append(refuses("invalid_grant"))
    for _ in range(4):
        house.clock.pass_s(LATE_S)
        await house.ahead.renew_due()
    assert (len(house.endpoint.requests), house.token_state(ann[0])) == (2, "needs_consent")
    house.store.put_deposit(house.sealed(Purpose.REFRESH_TOKEN, ann[0].id, house.endpoint.new_family("new")))
    await house.enter("ann@x.test", ann[1])
    house.clock.pass_s(LATE_S)
    await house.ahead.renew_due()
    assert house.kept(ann[0]) == "refresh.new.2"


async def test_a_disabled_account_gets_no_new_tokens(house: House, ann: tuple[Account, str]) -> None:
    await house.enter("ann@x.test", ann[1])
    house.store.set_account_state(ann[0].id, AccountState.DISABLED)
    house.clock.pass_s(LATE_S)
    await house.ahead.renew_due()
    age(house, ann[0], days=8)
    house.clock.pass_s(IDLE_SWEEP_S)
    await house.ahead.renew_due()
    assert len(house.endpoint.requests) == 1


async def test_an_account_that_is_removed_under_a_renewal_harms_nobody(house: House, ann: tuple[Account, str]) -> None:
    bob = house.account("bob@x.test")
    for account, password in (ann, (bob, house.app_password(bob)[0])):
        await house.enter(account.email, password)
    house.clock.pass_s(LATE_S)
    found = house.store.upkeep.upheld_accounts([ann[0].id, bob.id])
    house.store.remove_account(ann[0].id)
    house.store.upkeep.upheld_accounts = lambda _: found  # type: ignore[method-assign]
    await house.ahead.renew_due()
    assert house.kept(bob) == "refresh.bob@x.test.2"


def age(house: House, account: Account, *, days: float) -> None:
    with house.store._database.write() as connection:
        change = deposit.update().where(deposit.c.account_id == account.id)
        connection.execute(change.values(created=datetime.now(UTC) - timedelta(days=days)))


async def test_a_refresh_token_unused_for_a_week_is_kept_alive(house: House, ann: tuple[Account, str]) -> None:
    young, spoilt = house.account("young@x.test"), house.account("bob@x.test")
    age(house, young, days=6.9)
    age(house, spoilt, days=8)
    house.endpoint.script.append(refuses("invalid_grant"))
    await house.ahead.renew_due()
    age(house, ann[0], days=7.1)
    for _ in range(2):
        house.clock.pass_s(IDLE_SWEEP_S)
        await house.ahead.renew_due()
    assert [house.kept(one) for one in (ann[0], young)] == ["refresh.ann@x.test.1", "refresh.young@x.test.0"]
    assert house.token_state(spoilt) == "needs_consent"  # known before somebody's mail stops
    assert len(house.endpoint.requests) == 2


async def test_the_store_is_searched_now_and_then_only(house: House) -> None:
    await house.ahead.renew_due()
    house.store.upkeep.failing_accounts = lambda _: pytest.fail("so soon")  # type: ignore[method-assign]
    house.clock.pass_s(SWEEP_S - 1)
    await house.ahead.renew_due()


async def test_a_sealed_account_is_never_renewed_in_the_background(house: House) -> None:
    account = house.store.add_account(NewAccount("eve@x.test", "mail", "eve", (), "test", sealed=True))
    house.broker._held.note_use(account)
    with house.store._database.write() as connection:
        connection.execute(account_table.update().values(token_state="failing"))
    assert (house.store.upkeep.failing_accounts(9), house.store.upkeep.upheld_accounts([account.id])) == ([], [])
    with pytest.raises(Refused) as caught:
        await house.broker.token(account, house.upstreams["mail"])
    assert caught.value.refusal is Refusal.NEEDS_CONSENT
    assert house.broker.due() == []
