"""Tokens that nobody signs in for: one request for everybody, none too many, and an old one rather than none."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from proxy.errors import Refusal, Refused
from proxy.oauth import TokenClient
from proxy.oauth.app_only import MIN_AGE_TO_RENEW_S, PAUSE_S, RENEW_INTERVAL_S, AppTokens
from proxy.oauth.client import Grant
from proxy.secret import Secret
from tests.oauth.scripted_provider import ScriptedProvider

ANN, BOB = "ann@x.test", "bob@x.test"


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def tokens(asking: TokenClient, clock: Clock) -> AsyncIterator[AppTokens]:
    tokens = AppTokens(asking, clock)
    yield tokens
    await tokens.close()


def app(provider: ScriptedProvider):
    return provider.upstream(grant="client_credentials", token_url=f"{provider.url}/token", issuer=None)


def grants(provider: ScriptedProvider, *names: str, expires_in: int = 3600) -> None:
    provider.say("/token", *({"access_token": name, "expires_in": expires_in} for name in names))


async def refused(tokens: AppTokens, provider: ScriptedProvider) -> Refused:
    with pytest.raises(Refused) as caught:
        await tokens.token(app(provider), ANN)
    return caught.value


async def test_one_token_serves_every_mailbox_of_an_upstream(tokens: AppTokens, provider: ScriptedProvider) -> None:
    grants(provider, "t1", "t2")
    found = await asyncio.gather(*(tokens.token(app(provider), user) for user in (ANN, BOB) * 20))
    assert {token.token.reveal() for token in found} == {"t1"}
    (request,) = provider.requests
    assert request.form == {
        "grant_type": "client_credentials",
        "scope": "mail offline_access",
        "client_id": "our client",
    }


async def test_a_token_near_its_end_is_replaced(tokens: AppTokens, provider: ScriptedProvider, clock: Clock) -> None:
    grants(provider, "t1", "t2", expires_in=600)
    await tokens.token(app(provider), ANN)
    clock.now += 545
    assert (await tokens.token(app(provider), ANN)).token.reveal() == "t2"


async def test_while_the_provider_is_down_the_old_token_serves_to_its_end(
    tokens: AppTokens, provider: ScriptedProvider, clock: Clock
) -> None:
    grants(provider, "t1", expires_in=600)
    await tokens.token(app(provider), ANN)
    clock.now += 590
    provider.say("/token", (503, {}))
    for _ in range(5):
        assert (await tokens.token(app(provider), ANN)).token.reveal() == "t1"
    assert len(provider.requests) == 2
    clock.now += 11
    provider.say("/token", (503, {}))
    clock.now += PAUSE_S[1]
    assert (await refused(tokens, provider)).refusal is Refusal.PROVIDER_DOWN


@pytest.mark.parametrize(
    ("answer", "refusal"),
    [
        ((503, {}), Refusal.PROVIDER_DOWN),
        ((401, {"error": "invalid_client", "error_description": "AADSTS7000222"}), Refusal.CLIENT_REJECTED),
        ((400, {"error": "invalid_grant"}), Refusal.NEEDS_CONSENT),
    ],
)
async def test_after_a_failure_the_provider_is_left_alone_for_a_while(
    tokens: AppTokens, provider: ScriptedProvider, clock: Clock, answer: object, refusal: Refusal
) -> None:
    provider.say("/token", answer)
    for _ in range(5):
        assert (await refused(tokens, provider)).refusal is refusal
    assert len(provider.requests) == 1
    clock.now += PAUSE_S[1]
    grants(provider, "t1")
    assert (await tokens.token(app(provider), ANN)).token.reveal() == "t1"


async def test_a_refused_token_is_replaced_seldom(tokens: AppTokens, provider: ScriptedProvider, clock: Clock) -> None:
    grants(provider, "t1", "t2", "t3")
    first = await tokens.token(app(provider), ANN)
    assert await tokens.renewed(app(provider), ANN, first.token) is None  # too young
    clock.now += MIN_AGE_TO_RENEW_S
    second = await tokens.renewed(app(provider), ANN, first.token)
    assert second is not None
    assert second.token.reveal() == "t2"
    assert await tokens.renewed(app(provider), BOB, first.token) is second  # somebody did it meanwhile
    clock.now += MIN_AGE_TO_RENEW_S
    assert await tokens.renewed(app(provider), BOB, second.token) is None
    clock.now += RENEW_INTERVAL_S
    third = await tokens.renewed(app(provider), BOB, second.token)
    assert third is not None
    assert third.token.reveal() == "t3"


async def test_whoever_hangs_up_does_not_take_the_request_from_the_others(
    tokens: AppTokens, provider: ScriptedProvider
) -> None:
    provider.say("/token", 0.1)  # and then the connection ends
    first, second = (asyncio.create_task(tokens.token(app(provider), user)) for user in (ANN, BOB))
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(Refused):
        await second
    assert len(provider.requests) == 1


class Accounts:
    """A service account's client, without HTTP: the real one is tried against the lab."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def service_account(self, upstream: object, mailbox: str) -> Grant:
        self.asked.append(mailbox)
        return Grant(Secret(f"token of {mailbox}"), 3600.0, None)


async def test_a_service_account_has_a_token_for_each_mailbox(provider: ScriptedProvider, clock: Clock) -> None:
    client = Accounts()
    tokens = AppTokens(client, clock)  # type: ignore[arg-type]
    upstream = provider.upstream(grant="service_account")
    for _ in range(3):
        for user in (ANN, BOB):
            assert (await tokens.token(upstream, user)).token.reveal() == f"token of {user}"
    assert client.asked == [ANN, BOB]


def test_which_grants_need_nobody_to_sign_in(provider: ScriptedProvider) -> None:
    grants = ("user", "client_credentials", "service_account")
    assert [provider.upstream(grant=grant).is_app_only for grant in grants] == [False, True, True]


async def test_a_token_in_its_last_part_is_replaced_while_logins_go_on_with_it(
    tokens: AppTokens, provider: ScriptedProvider, clock: Clock
) -> None:
    provider.say("/token", {"access_token": "t1", "expires_in": 3600}, (503, {}), {"access_token": "t2"})
    await tokens.token(app(provider), ANN)
    clock.now += 3600 * 0.74
    await tokens.token(app(provider), ANN)
    await tokens.close()
    assert len(provider.requests) == 1
    clock.now += 3600 * 0.12
    for number in (2, 3):  # the second request fails, and is not repeated at once
        for _ in range(3):
            assert (await tokens.token(app(provider), ANN)).token.reveal() == "t1"
        await tokens.close()
        assert len(provider.requests) == number
        clock.now += PAUSE_S[1]
    assert (await tokens.token(app(provider), ANN)).token.reveal() == "t2"
