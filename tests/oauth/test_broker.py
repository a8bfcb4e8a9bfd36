"""The broker through whole logins: one refresh, nothing lost, and what the world learns of a failure."""

from __future__ import annotations

import asyncio
import json
import logging
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from proxy.errors import Answer, Refusal, Refused, UpstreamError, UpstreamFault
from proxy.secret import Secret
from proxy.store.rows import Account, NewAccount, Purpose
from proxy.vault.apppassword import parse
from proxy.wire.sasl import UpstreamCredential
from tests.service.house import House, LogBook, until
from tests.service.token_endpoint import Request, TokenEndpoint, answers, behaves, refuses, resets, send, waits

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


async def warm(house: House, password: str) -> None:
    """Put the password into the verify cache without any token."""
    row = house.store.find_login("ann@x.test", password[:4])
    parsed = parse(Secret(password))
    assert row is not None
    assert parsed is not None
    house.cache.remember("ann@x.test", parsed, row)


# -- one refresh ----------------------------------------------------------------------------------------------------


async def test_fifty_logins_at_once_are_one_refresh(house: House, ann: tuple[Account, str]) -> None:
    await warm(house, ann[1])
    results = await log_in(house, ann[1], 50)
    assert [result for result in results if isinstance(result, BaseException)] == []
    assert len(house.endpoint.requests) == 1
    assert set(house.upstream.tokens) == {"access.ann@x.test.1"}


async def test_two_processes_at_once_are_one_refresh(house: House, ann: tuple[Account, str]) -> None:
    async with house.another() as other:
        for one in (house, other):
            await warm(one, ann[1])
        both = await asyncio.gather(log_in(house, ann[1], 20), log_in(other, ann[1], 20))
        assert [result for results in both for result in results if isinstance(result, BaseException)] == []
        assert (len(house.endpoint.requests), house.endpoint.reuses) == (1, [])
        assert {*house.upstream.tokens, *other.upstream.tokens} == {"access.ann@x.test.1"}


async def test_a_process_that_starts_uses_the_token_in_the_store(house: House, ann: tuple[Account, str]) -> None:
    await house.enter("ann@x.test", ann[1])
    async with house.another() as other:
        await other.enter("ann@x.test", ann[1])
        assert other.upstream.tokens == ["access.ann@x.test.1"]
    assert len(house.endpoint.requests) == 1


async def test_a_rotated_token_is_in_the_store_before_anybody_dials(house: House, ann: tuple[Account, str]) -> None:
    seen: list[tuple[str | None, str | None]] = []

    def look(credential: UpstreamCredential) -> None:
        seen.append((house.kept(ann[0]), house.kept(ann[0], Purpose.ACCESS_TOKEN)))

    house.upstream.on_dial = look
    await house.enter("ann@x.test", ann[1])
    assert seen == [("refresh.ann@x.test.1", "access.ann@x.test.1")]


async def test_a_provider_that_does_not_rotate_keeps_its_one_refresh_token(
    house: House, ann: tuple[Account, str]
) -> None:
    house.endpoint.rotates = False
    house.endpoint.lifetime_s = 30  # never long enough to be kept
    for number in (1, 2):
        await house.enter("ann@x.test", ann[1])
        assert house.upstream.tokens[-1] == f"access.ann@x.test.{number}"
    assert house.kept(ann[0]) == "refresh.ann@x.test.0"


async def test_a_client_that_hangs_up_does_not_stop_the_refresh(house: House, ann: tuple[Account, str]) -> None:
    house.endpoint.script.append(waits)
    login = asyncio.create_task(house.enter("ann@x.test", ann[1]))
    await house.endpoint.has_asked.wait()
    login.cancel()
    with pytest.raises(asyncio.CancelledError):
        await login
    house.endpoint.release.set()
    await house.broker.close()
    assert house.kept(ann[0]) == "refresh.ann@x.test.1"
    await house.enter("ann@x.test", ann[1])
    assert len(house.endpoint.requests) == 1


async def test_a_process_that_ends_begins_no_request(house: House, ann: tuple[Account, str]) -> None:
    now = datetime.now(UTC)
    fence = house.store.take_lease(ann[0].id, "another process", now, now + timedelta(seconds=30))
    assert fence is not None
    login = asyncio.create_task(house.enter("ann@x.test", ann[1]))
    await until(lambda: bool(house.broker._refreshes))
    closing = asyncio.create_task(house.broker.close())
    await until(lambda: house.broker._is_closing)
    house.store.release_lease(ann[0].id, fence)
    await closing
    with pytest.raises(Refused) as caught:
        await login
    assert caught.value.refusal is Refusal.PROVIDER_DOWN
    assert house.endpoint.requests == []
    assert house.kept(ann[0]) == "refresh.ann@x.test.0"


async def test_a_store_that_goes_down_while_the_provider_answers_loses_no_token(
    house: House, ann: tuple[Account, str], book: LogBook
) -> None:
    async def answer_and_break(endpoint: TokenEndpoint, request: Request, writer: asyncio.StreamWriter) -> None:
        house.store.is_down = True
        await behaves(endpoint, request, writer)

    house.endpoint.script.append(answer_and_break)
    login = asyncio.create_task(house.enter("ann@x.test", ann[1]))
    await until(lambda: bool(book.of(logging.WARNING, "event=token_commit_delayed")) or login.done())
    assert house.upstream.dialled == []  # not used before it is kept
    house.store.is_down = False
    await login
    assert house.kept(ann[0]) == "refresh.ann@x.test.1"


async def test_the_last_note_of_a_refresh_is_not_worth_a_login(house: House, ann: tuple[Account, str]) -> None:
    real = house.store.set_token_state

    def down(*args: object, **more: object) -> bool:
        house.store.is_down = True
        try:
            return real(*args, **more)  # type: ignore[arg-type]
        finally:
            house.store.is_down = False

    house.store.set_token_state = down  # type: ignore[method-assign, assignment]
    await house.enter("ann@x.test", ann[1])


async def test_a_deposit_during_a_refresh_wins_over_its_result(house: House, ann: tuple[Account, str]) -> None:
    """A person signs in anew while the old grant is being refreshed: nothing of the old may remain."""
    account, password = ann
    house.endpoint.script.append(waits)
    login = asyncio.create_task(house.enter("ann@x.test", password))
    await house.endpoint.has_asked.wait()
    new = house.endpoint.new_family("new")
    house.secrets.add(new)
    house.store.put_deposit(house.sealed(Purpose.REFRESH_TOKEN, account.id, new))
    house.endpoint.release.set()
    with pytest.raises(Refused) as caught:
        await login
    assert caught.value.refusal.answer is Answer.UNAVAILABLE
    assert house.kept(account) == new
    house.clock.pass_s(20)
    await house.enter("ann@x.test", password)
    assert house.upstream.tokens == ["access.new.1"]


async def test_a_deposit_during_a_refresh_is_not_hidden_by_its_failure(house: House, ann: tuple[Account, str]) -> None:
    account, password = ann

    async def lost_meanwhile(endpoint: TokenEndpoint, request: Request, writer: asyncio.StreamWriter) -> None:
        new = house.endpoint.new_family("new")
        house.secrets.add(new)
        house.store.put_deposit(house.sealed(Purpose.REFRESH_TOKEN, account.id, new))
        await send(writer, 400, json.dumps({"error": "invalid_grant"}).encode())

    house.endpoint.script.append(lost_meanwhile)
    await refusal_of(house, password)
    assert house.token_state(account) == "fresh"
    await house.enter("ann@x.test", password)
    assert house.upstream.tokens == ["access.new.1"]


# -- the provider is down -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "behaviour", [answers(500, b""), answers(429, b"", retry_after="60"), resets, answers(200, b"<html>")]
)
async def test_a_provider_that_is_down_loses_nothing_and_is_left_alone_for_a_while(
    house: House, ann: tuple[Account, str], behaviour: object
) -> None:
    account, password = ann
    house.endpoint.script.append(behaviour)  # type: ignore[arg-type]
    first = await refusal_of(house, password)
    assert (first, first.answer) == (Refusal.PROVIDER_DOWN, Answer.UNAVAILABLE)
    assert await refusal_of(house, password) is Refusal.PROVIDER_DOWN
    assert len(house.endpoint.requests) == 1  # no hot loop
    assert (house.kept(account), house.token_state(account)) == ("refresh.ann@x.test.0", "failing")
    house.clock.pass_s(61)
    await house.enter("ann@x.test", password)
    assert house.token_state(account) == "fresh"


async def test_retry_after_is_waited_for(house: House, ann: tuple[Account, str]) -> None:
    house.endpoint.script.append(answers(429, b"", retry_after="60"))
    await refusal_of(house, ann[1])
    house.clock.pass_s(59)
    await refusal_of(house, ann[1])
    assert len(house.endpoint.requests) == 1


async def test_a_token_is_used_until_it_really_expires_while_the_provider_is_down(
    house: House, ann: tuple[Account, str]
) -> None:
    house.endpoint.lifetime_s = 50  # inside the margin: every login would like a newer one
    await house.enter("ann@x.test", ann[1])
    for _ in range(3):
        house.endpoint.script.append(answers(500, b""))
    for _ in range(3):  # the first failure is noted in the store, and the next logins see it there
        house.clock.pass_s(13)
        await house.enter("ann@x.test", ann[1])
    assert house.upstream.tokens == ["access.ann@x.test.1"] * 4
    house.clock.pass_s(13)
    house.endpoint.script.append(answers(500, b""))
    house.store.put_deposit(house.sealed(Purpose.ACCESS_TOKEN, ann[0].id, "access.ann@x.test.1", valid_s=-2))
    assert await refusal_of(house, ann[1]) is Refusal.PROVIDER_DOWN


async def test_a_process_that_starts_while_the_provider_is_down_uses_what_the_store_has(
    house: House, ann: tuple[Account, str]
) -> None:
    house.endpoint.lifetime_s = 50
    await house.enter("ann@x.test", ann[1])
    house.endpoint.script.append(answers(500, b""))
    async with house.another() as other:
        await other.enter("ann@x.test", ann[1])
        assert other.upstream.tokens == ["access.ann@x.test.1"]


async def test_a_token_held_bridges_the_store_as_well(house: House, ann: tuple[Account, str]) -> None:
    house.endpoint.lifetime_s = 50
    await house.enter("ann@x.test", ann[1])
    house.store.is_down = True
    await house.enter("ann@x.test", ann[1])
    assert house.upstream.tokens == ["access.ann@x.test.1"] * 2


async def test_a_clock_that_jumps_refreshes_nothing_that_is_held(house: House, ann: tuple[Account, str]) -> None:
    """Outcomes E55: what is in memory goes by monotonic time, whatever the store's wall-clock times say."""
    await house.enter("ann@x.test", ann[1])
    house.store.put_deposit(house.sealed(Purpose.ACCESS_TOKEN, ann[0].id, "access.ann@x.test.1", valid_s=-3600))
    await house.enter("ann@x.test", ann[1])
    assert len(house.endpoint.requests) == 1


# -- consent lost, client rejected -----------------------------------------------------------------------------------


async def test_a_lost_grant_needs_consent_deletes_nothing_and_asks_once(
    house: House, ann: tuple[Account, str], book: LogBook
) -> None:
    account, password = ann
    house.endpoint.script.append(refuses("invalid_grant", "AADSTS70043: by policy"))
    for _ in range(3):
        refusal = await refusal_of(house, password)
        assert (refusal, refusal.answer) == (Refusal.NEEDS_CONSENT, Answer.CONTACT_ADMIN)
    assert (len(house.endpoint.requests), house.upstream.dialled) == (1, [])
    assert house.kept(account) == "refresh.ann@x.test.0"
    assert house.token_state(account) == "needs_consent"
    assert len(book.of(logging.WARNING, "state=needs_consent", "AADSTS70043", "user=ann@x.test")) == 1
    house.store.put_deposit(house.sealed(Purpose.REFRESH_TOKEN, account.id, house.endpoint.new_family("ann@x.test")))
    await house.enter("ann@x.test", password)  # somebody signed in


async def test_a_rejected_client_is_one_alarm_for_all_accounts_and_blames_none(house: House, book: LogBook) -> None:
    people = [house.account(f"user{number}@x.test") for number in range(4)]
    passwords = [house.app_password(account)[0] for account in people]
    house.endpoint.script.extend(refuses("invalid_client", "AADSTS7000222: expired", 401) for _ in range(4))
    for _ in range(2):
        for account, password in zip(people, passwords, strict=True):
            with pytest.raises(Refused) as caught:
                await house.enter(account.email, password)
            assert (caught.value.refusal, caught.value.refusal.answer) == (Refusal.CLIENT_REJECTED, Answer.UNAVAILABLE)
        house.clock.pass_s(13)
    assert len(book.of(logging.WARNING, "provider_rejects_client", "AADSTS7000222")) == 1
    assert len(house.endpoint.requests) == 2  # one for each time it was left alone
    assert {house.token_state(account) for account in people} == {"fresh"}
    house.endpoint.script.clear()
    await house.enter(people[0].email, passwords[0])
    assert len(book.of(logging.WARNING, "provider_accepts_client_again")) == 1


async def test_an_account_without_a_deposit_needs_consent(house: House) -> None:
    account = house.store.add_account(NewAccount("ann@x.test", "mail", "ann@x.test", (), "test"))
    password, _ = house.app_password(account)
    assert await refusal_of(house, password) is Refusal.NEEDS_CONSENT
    assert house.endpoint.requests == []


async def test_an_access_token_that_was_altered_is_got_anew(house: House, ann: tuple[Account, str]) -> None:
    good = house.sealed(Purpose.ACCESS_TOKEN, ann[0].id, "access.stored", valid_s=3600)
    house.store.put_deposit(replace(good, ciphertext=good.ciphertext[:-1] + bytes([good.ciphertext[-1] ^ 1])))
    await house.enter("ann@x.test", ann[1])
    assert house.upstream.tokens == ["access.ann@x.test.1"]


async def test_a_lease_that_somebody_else_holds_is_waited_for(house: House, ann: tuple[Account, str]) -> None:
    account, password = ann
    now = datetime.now(UTC)
    fence = house.store.take_lease(account.id, "another node", now, now + timedelta(seconds=20))
    assert fence is not None
    login = asyncio.create_task(house.enter("ann@x.test", password))
    stored = house.sealed(Purpose.ACCESS_TOKEN, account.id, "access.other", valid_s=3600)
    await asyncio.sleep(0.02)
    assert house.endpoint.requests == []
    assert house.store.put_tokens(account.id, fence, [stored])
    house.store.release_lease(account.id, fence)
    await login
    assert house.upstream.tokens == ["access.other"]
