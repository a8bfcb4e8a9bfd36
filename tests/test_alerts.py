"""Alerts: once per change, over processes and restarts; not lost by a hook that is down; never a secret."""

from __future__ import annotations

import asyncio
from datetime import datetime
from functools import partial

import pytest

from proxy.errors import Refused, StoreUnavailable, UpstreamError, UpstreamFault
from proxy.record.alerts import CLAIM, Alerts
from proxy.record.journal import Journal
from proxy.store.rows import Account, AccountState, LastUse, NewAccount, Purpose, TokenState, Use
from tests.service.house import House, LogBook, until
from tests.service.token_endpoint import answers, refuses

pytest_plugins = ("tests.service.plugin",)
QUARTER_S = 15 * 60


@pytest.fixture
async def ann(house: House) -> tuple[Account, str]:
    account = house.account()
    return account, house.app_password(account)[0]


async def fail(house: House, password: str, email: str = "ann@x.test") -> None:
    with pytest.raises(Refused):
        await house.enter(email, password)


def consent(house: House, account: Account) -> None:
    """What `account connect` does, in a process of its own."""
    new = house.endpoint.new_family("new")
    house.secrets.add(new)
    house.store.put_deposit(house.sealed(Purpose.REFRESH_TOKEN, account.id, new))


async def test_a_lost_grant_is_told_once_and_its_end_too(house: House, ann: tuple[Account, str]) -> None:
    account, password = ann
    house.endpoint.script.append(refuses("invalid_grant", "AADSTS70043: by policy"))
    for _ in range(2):
        await fail(house, password)
        assert await house.alerts.tell()
    (alert,) = house.post.alerts
    now = house.store.account("ann@x.test")
    assert now is not None
    assert alert == {
        "event": "token_state",
        "account": "ann@x.test",
        "state": "needs_consent",
        "detail": "invalid_grant/AADSTS70043",
        "since": now.token_since.isoformat(timespec="seconds"),
        "node": "node1",
    }
    assert datetime.fromisoformat(alert["since"]).utcoffset() is not None
    consent(house, account)
    for _ in range(2):
        await house.alerts.tell()
    assert house.post.told == [("ann@x.test", "needs_consent"), ("ann@x.test", "fresh")]


async def test_two_processes_and_one_that_starts_later_tell_once_together(
    house: House, ann: tuple[Account, str]
) -> None:
    house.endpoint.script.append(refuses("invalid_grant"))
    await fail(house, ann[1])
    async with house.another() as other:
        await asyncio.gather(house.alerts.tell(), other.alerts.tell())
        assert len(house.post.alerts) + len(other.post.alerts) == 1
    async with house.another() as third:
        await third.alerts.tell()
        assert third.post.alerts == []


async def test_a_grant_lost_a_second_time_between_two_looks_is_told_again(
    house: House, ann: tuple[Account, str]
) -> None:
    for _ in range(2):
        house.endpoint.script.append(refuses("invalid_grant"))
        await fail(house, ann[1])
        await house.alerts.tell()
        consent(house, ann[0])
    assert house.post.told == [("ann@x.test", "needs_consent")] * 2


async def test_an_upstream_that_refuses_is_told_with_its_words(house: House, ann: tuple[Account, str]) -> None:
    house.upstream.script.append(UpstreamError(UpstreamFault.REFUSED, "NO no such mailbox"))
    await fail(house, ann[1])
    await house.alerts.tell()
    (alert,) = house.post.alerts
    assert (alert["state"], alert["detail"]) == ("upstream_refuses", "NO no such mailbox")


async def test_a_failing_provider_is_told_of_after_a_quarter_of_an_hour_only(
    house: House, ann: tuple[Account, str]
) -> None:
    house.endpoint.script.append(answers(503, b""))
    await fail(house, ann[1])
    house.clock.pass_s(QUARTER_S - 5)
    await house.alerts.tell()
    assert house.post.alerts == []
    house.clock.pass_s(6)
    await house.alerts.tell()
    await house.enter("ann@x.test", ann[1])
    await house.alerts.tell()
    assert house.post.told == [("ann@x.test", "failing"), ("ann@x.test", "fresh")]


async def test_trouble_that_mended_itself_before_anybody_was_told_is_not_told(
    house: House, ann: tuple[Account, str]
) -> None:
    house.endpoint.script.append(answers(503, b""))
    await fail(house, ann[1])
    await house.alerts.tell()
    house.clock.pass_s(20)
    await house.enter("ann@x.test", ann[1])
    house.clock.pass_s(QUARTER_S)
    await house.alerts.tell()
    assert house.post.alerts == []


async def test_an_old_failure_of_a_sealed_account_is_told_when_it_fails_again(house: House) -> None:
    """Nobody tries in between: what failed long ago may be well by now."""
    account = house.store.add_account(NewAccount("eve@x.test", "mail", "eve", (), "test", sealed=True))
    await house.broker.note_state(account, TokenState.FAILING, "http_503")
    for wait_s in (1, QUARTER_S):
        house.clock.pass_s(wait_s)
        await house.alerts.tell()
    assert house.post.alerts == []
    await house.broker.note_state(account, TokenState.FAILING, "http_503")
    await house.alerts.tell()
    assert house.post.told == [("eve@x.test", "failing")]


async def test_a_rejected_client_is_one_alert_for_all_its_accounts_and_processes(house: House) -> None:
    people = [house.account(f"user{number}@x.test") for number in range(3)]
    passwords = [house.app_password(account)[0] for account in people]
    async with house.another() as other:
        for one in (house, other):
            for account, password in zip(people, passwords, strict=True):
                house.endpoint.script.append(refuses("invalid_client", "AADSTS7000222: expired", 401))
                await fail(one, password, account.email)
                one.clock.pass_s(13)
            await one.alerts.tell()
        (alert,) = house.post.alerts + other.post.alerts
        assert (alert["event"], alert["upstream"], alert["state"]) == ("provider_client", "mail", "rejected")
        assert alert["detail"] == "invalid_client/AADSTS7000222"
        house.endpoint.script.clear()
        await other.enter(people[0].email, passwords[0])  # the other one is the first to hear that it is well
        await other.alerts.tell()
        await house.alerts.tell()
        await house.enter(people[1].email, passwords[1])
        await house.alerts.tell()
        assert house.post.told + other.post.told == [("mail", "rejected"), ("mail", "accepted")]
        house.endpoint.script.append(refuses("invalid_client", "", 401))
        await fail(house, passwords[2], people[2].email)
        await house.alerts.tell()
        assert house.post.told[-1] == ("mail", "rejected")


async def test_a_process_that_starts_ends_the_alert_of_one_that_is_gone(house: House, ann: tuple[Account, str]) -> None:
    house.endpoint.script.append(refuses("invalid_client", "", 401))
    await fail(house, ann[1])
    await house.alerts.tell()
    async with house.another() as other:
        await other.enter("ann@x.test", ann[1])  # before its first round
        await other.alerts.tell()
        assert other.post.told == [("mail", "accepted")]


async def test_a_hook_that_is_down_gets_the_alert_later(house: House, ann: tuple[Account, str]) -> None:
    house.endpoint.script.append(refuses("invalid_grant"))
    await fail(house, ann[1])
    house.post.is_down = True
    assert not await house.alerts.tell()
    house.post.is_down = False
    assert await house.alerts.tell()
    assert house.post.told == [("ann@x.test", "needs_consent")]


async def test_a_hook_and_a_store_that_are_cut_off_together_lose_no_alert(
    house: House, ann: tuple[Account, str]
) -> None:
    async def cut_off(alert: bytes) -> bool:
        house.store.is_down = True
        return False

    alerts = Alerts(store=house.store, pool=house.pool, deliver=cut_off, node="n", now=house.clock.utc_now)
    await house.broker.note_state(ann[0], TokenState.NEEDS_CONSENT, "")
    for _ in range(2):  # it gives its claim back, and tries again
        with pytest.raises(StoreUnavailable):
            await alerts.tell()
        house.store.is_down = False
    await alerts._settle()
    assert await house.alerts.tell()
    assert house.post.told == [("ann@x.test", "needs_consent")]


async def test_one_alert_that_nobody_takes_does_not_hold_up_the_others(house: House) -> None:
    refused: list[str] = []

    async def picky(alert: bytes) -> bool:
        if b"ann@" in alert:
            refused.append("ann")
            return False
        return await house.post.deliver(alert)

    alerts = Alerts(store=house.store, pool=house.pool, deliver=picky, node="n", now=house.clock.utc_now)
    for account in (house.account(), house.account("bob@x.test")):
        await house.broker.note_state(account, TokenState.NEEDS_CONSENT, "")
    assert not await alerts.tell()
    assert not await alerts.tell()
    assert (house.post.told, refused) == ([("bob@x.test", "needs_consent")], ["ann", "ann"])


async def test_an_alert_under_way_when_the_process_ends_is_told_by_the_next(
    house: House, ann: tuple[Account, str]
) -> None:
    is_out = asyncio.Event()

    async def forever(alert: bytes) -> bool:
        is_out.set()
        await asyncio.Event().wait()
        return True

    await house.broker.note_state(ann[0], TokenState.NEEDS_CONSENT, "")
    alerts = Alerts(store=house.store, pool=house.pool, deliver=forever, node="n")
    running = asyncio.create_task(alerts.run())
    alerts.noted(ann[0], TokenState.NEEDS_CONSENT, has_changed=True)
    await is_out.wait()
    running.cancel()
    await asyncio.wait([running])
    await house.alerts.tell()
    assert house.post.told == [("ann@x.test", "needs_consent")]


async def test_a_process_ends_amid_an_alert_though_the_store_is_down(house: House, ann: tuple[Account, str]) -> None:
    is_out = asyncio.Event()

    async def forever(alert: bytes) -> bool:
        is_out.set()
        await asyncio.Event().wait()
        return True

    await house.broker.note_state(ann[0], TokenState.NEEDS_CONSENT, "")
    alerts = Alerts(store=house.store, pool=house.pool, deliver=forever, node="n", now=house.clock.utc_now)
    running = asyncio.create_task(alerts.run())
    await is_out.wait()
    house.store.is_down = True
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        async with asyncio.timeout(5):
            await running


@pytest.mark.parametrize("what", ["change", "use"])
async def test_an_alert_of_a_process_that_was_killed_is_told_by_another_after_a_while(
    house: House, ann: tuple[Account, str], what: str
) -> None:
    is_out, lives = asyncio.Event(), asyncio.Event()

    async def dying(alert: bytes) -> bool:
        is_out.set()
        await lives.wait()
        return True

    if what == "change":
        await house.broker.note_state(ann[0], TokenState.NEEDS_CONSENT, "")
    else:
        (credential,) = house.store.credentials(ann[0].id)
        for address in ("192.0.2.10", "198.51.100.7"):
            use = LastUse(house.clock.utc_now(), address, "smtp", "HP Scan")
            house.store.record_uses([Use(credential.id, use, f"{address}/32")], is_told=True)
    killed = Alerts(store=house.store, pool=house.pool, deliver=dying, node="n", now=house.clock.utc_now)
    telling = asyncio.create_task(killed.tell())
    await is_out.wait()  # and no more of it: its claim stays
    await house.alerts.tell()
    house.clock.pass_s(CLAIM.total_seconds() - 5)
    await house.alerts.tell()
    assert house.post.alerts == []
    house.clock.pass_s(6)
    await house.alerts.tell()
    await house.alerts.tell()
    assert len(house.post.alerts) == 1
    lives.set()  # it was only stopped: what it says comes late, and breaks nothing
    assert await telling
    await house.alerts.tell()
    assert len(house.post.alerts) == 1


async def test_an_alert_that_was_taken_while_the_store_went_away_is_not_told_again(
    house: House, ann: tuple[Account, str]
) -> None:
    async def last(alert: bytes) -> bool:
        house.store.is_down = True
        return await house.post.deliver(alert)

    await house.broker.note_state(ann[0], TokenState.NEEDS_CONSENT, "")
    alerts = Alerts(store=house.store, pool=house.pool, deliver=last, node="n", now=house.clock.utc_now)
    with pytest.raises(StoreUnavailable):
        await alerts.tell()
    house.store.is_down = False
    assert await alerts.tell()
    await house.alerts.tell()
    assert house.post.told == [("ann@x.test", "needs_consent")]


async def test_who_is_disabled_or_removed_is_told_of_no_more(house: House, ann: tuple[Account, str]) -> None:
    bob = house.account("bob@x.test")
    for account in (ann[0], bob):
        await house.broker.note_state(account, TokenState.NEEDS_CONSENT, "")
    await house.alerts.tell()
    house.store.set_account_state(ann[0].id, AccountState.DISABLED)
    house.store.remove_account(bob.id)
    await house.alerts.tell()
    assert len(house.post.alerts) == 2
    house.store.set_account_state(ann[0].id, AccountState.ACTIVE)
    await house.alerts.tell()
    assert house.post.told[2:] == [("ann@x.test", "needs_consent")]  # still so, and his again


async def test_it_runs_until_told_to_end_and_wakes_at_once(
    house: House, ann: tuple[Account, str], book: LogBook
) -> None:
    running = asyncio.create_task(house.alerts.run())
    house.endpoint.script.append(refuses("invalid_grant"))
    await fail(house, ann[1])
    await until(lambda: bool(house.post.alerts))
    running.cancel()
    await asyncio.wait([running])
    assert any("event=alert account=ann@x.test state=needs_consent" in text for text in book.texts)


async def test_a_store_that_is_down_ends_nothing(house: House, ann: tuple[Account, str]) -> None:
    house.store.is_down = True
    with pytest.raises(StoreUnavailable):
        await house.alerts.tell()
    running = asyncio.create_task(house.alerts.run())
    house.alerts.noted(ann[0], TokenState.FAILING, has_changed=True)
    await until(lambda: not house.alerts._wake.is_set())
    house.store.is_down = False
    assert not running.done()
    running.cancel()
    await asyncio.wait([running])


async def test_a_use_from_a_new_network_is_told_once_if_somebody_wants_to_know(
    house: House, ann: tuple[Account, str]
) -> None:
    account, _ = ann
    (credential,) = house.store.credentials(account.id)
    wants = Journal(lambda uses: house.pool.run(partial(house.store.record_uses, is_told=True), uses))
    for address in ("192.0.2.10", "192.0.2.200", "198.51.100.7", "2001:db8::1", "2001:db8::2"):
        wants.record(credential.id, LastUse(house.clock.utc_now(), address, "smtp", "HP Scan"))
        await wants.flush()
    house.post.is_down = True
    assert not await house.alerts.tell()  # nobody takes it: it is not lost
    house.post.is_down = False
    async with house.another() as elsewhere:
        await asyncio.gather(house.alerts.tell(), elsewhere.alerts.tell())
        alerts = house.post.alerts + elsewhere.post.alerts
    assert sorted(alert["address"] for alert in alerts) == ["198.51.100.7", "2001:db8::1"]
    (one,) = [alert for alert in alerts if alert["address"] == "198.51.100.7"]
    assert {key: one[key] for key in one if key != "since"} == {
        "event": "new_network",
        "account": "ann@x.test",
        "app_password": credential.public_id,
        "name": credential.name,
        "protocol": "smtp",
        "address": "198.51.100.7",
        "client": "HP Scan",
        "node": "node1",
    }
    await house.alerts.tell()
    assert len(house.post.alerts) <= 2
