"""Discovery: whose document is believed, what of it, and when it is asked for at all."""

from __future__ import annotations

import ssl

import pytest

from proxy.errors import ProviderError, ProviderFault
from proxy.oauth import TokenClient
from proxy.oauth.discovery import KEPT_S, PATH
from proxy.secret import Secret
from tests.oauth.scripted_provider import ScriptedProvider

TOKEN = Secret("refresh-0")


async def fault(client: TokenClient, provider: ScriptedProvider) -> str:
    with pytest.raises(ProviderError) as caught:
        await client.provider(provider.upstream())
    assert caught.value.fault is ProviderFault.DOWN
    return caught.value.code


async def test_endpoints_that_are_left_out_are_discovered(asking: TokenClient, provider: ScriptedProvider) -> None:
    found = await asking.provider(provider.upstream())
    assert found.authorize_url == f"{provider.url}/authorize"
    assert found.device_url == f"{provider.url}/device"
    await asking.refresh(provider.upstream(), TOKEN)
    assert [request.path for request in provider.requests] == [PATH, "/token"]


async def test_what_the_operator_wrote_wins(asking: TokenClient, provider: ScriptedProvider) -> None:
    own = provider.upstream(authorize_url="https://own.test/a", token_url=f"{provider.url}/own", device_url=None)
    found = await asking.provider(own)
    assert (found.authorize_url, found.token_url) == ("https://own.test/a", f"{provider.url}/own")
    assert found.device_url == f"{provider.url}/device"


async def test_a_refresh_at_a_named_endpoint_asks_for_no_document(
    asking: TokenClient, provider: ScriptedProvider
) -> None:
    await asking.refresh(provider.upstream(token_url=f"{provider.url}/token"), TOKEN)
    assert [request.path for request in provider.requests] == ["/token"]


async def test_another_issuer_s_document_is_not_believed(asking: TokenClient, provider: ScriptedProvider) -> None:
    for issuer in ("https://evil.test", f"{provider.url}/", None, 7, "https://{tenantid}"):
        provider.say(PATH, {**provider.document, "issuer": issuer})
        assert await fault(asking, provider) == "discovery_other_issuer"


async def test_an_issuer_with_a_path_is_asked_below_it(asking: TokenClient, provider: ScriptedProvider) -> None:
    issuer = f"{provider.url}/realms/x"
    provider.say("/realms/x" + PATH, {**provider.document, "issuer": issuer})
    assert (await asking.provider(provider.upstream(issuer=issuer))).issuer == issuer


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"token_endpoint": None}, "no_token_endpoint"),
        ({"token_endpoint": "http://not-loopback.test/token"}, "bad_token_endpoint"),
        ({"token_endpoint": 7}, "bad_token_endpoint"),
        ({"jwks_uri": "file:///etc/passwd"}, "bad_jwks_uri"),
        ({"authorization_endpoint": "https://user:pw@x.test/"}, "bad_authorization_endpoint"),
    ],
)
async def test_addresses_that_would_leak_are_not_used(
    asking: TokenClient, provider: ScriptedProvider, change: dict[str, object], code: str
) -> None:
    provider.say(PATH, {**provider.document, **change})
    assert await fault(asking, provider) == f"discovery_{code}"


@pytest.mark.parametrize(
    "answer", [(500, {}), (404, {}), (200, b"<html>"), (200, b"[]"), (400, {"error": "invalid_client"}), None]
)
async def test_without_a_document_the_provider_is_down_and_nobody_is_blamed(
    asking: TokenClient, provider: ScriptedProvider, answer: object
) -> None:
    provider.say(PATH, answer)
    assert (await fault(asking, provider)).startswith("discovery_")


async def test_a_document_is_kept_and_an_old_one_serves_while_the_provider_is_away(provider: ScriptedProvider) -> None:
    now = [0.0]
    client = TokenClient(lambda _: ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), clock=lambda: now[0])
    for _ in range(3):
        await client.refresh(provider.upstream(), TOKEN)
    assert len(provider.asked(PATH)) == 1
    now[0] += KEPT_S + 1
    provider.say(PATH, (503, {}))
    await client.refresh(provider.upstream(), TOKEN)
    assert len(provider.asked(PATH)) == 2
    await client.close()


async def test_discovery_and_request_share_one_deadline(provider: ScriptedProvider) -> None:
    client = TokenClient(lambda _: ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), deadline_s=0.3)
    provider.say(PATH, 5.0)
    with pytest.raises(ProviderError) as caught:
        await client.refresh(provider.upstream(), TOKEN)
    assert caught.value.fault is ProviderFault.DOWN
    await client.close()
