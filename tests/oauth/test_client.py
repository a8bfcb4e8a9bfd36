"""The token endpoint's client against real HTTP: what each answer means, and what is never sent."""

from __future__ import annotations

import base64
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import unquote_plus

import pytest

from proxy.config import OAuth2Config, UpstreamConfig
from proxy.errors import ConfigError, ProviderError, ProviderFault
from proxy.oauth import TokenClient
from proxy.oauth.client import DEFAULT_LIFETIME_S, MAX_RETRY_AFTER_S
from proxy.secret import Secret, SecretSource
from tests.service.token_endpoint import (
    CLIENT_SECRET,
    Behaviour,
    TokenEndpoint,
    answers,
    floods,
    listening,
    refuses,
    resets,
    waits,
)

TOKEN = Secret("refresh.ann.0")


@pytest.fixture
async def endpoint() -> AsyncIterator[TokenEndpoint]:
    async with listening() as endpoint:
        endpoint.new_family("ann")
        yield endpoint


@pytest.fixture
async def client() -> AsyncIterator[TokenClient]:
    client = TokenClient(lambda _: ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), deadline_s=1.5)
    yield client
    await client.close()


def public(endpoint: TokenEndpoint, **changes: object) -> UpstreamConfig:
    return UpstreamConfig("mail", oauth2=OAuth2Config(**{"client_id": "our id", "token_url": endpoint.url, **changes}))


async def fault_of(client: TokenClient, upstream: UpstreamConfig) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        await client.refresh(upstream, TOKEN)
    return caught.value


async def test_a_refresh_is_one_form_as_rfc_6749_says(client: TokenClient, endpoint: TokenEndpoint) -> None:
    grant = await client.refresh(public(endpoint, scopes=("mail.read", "mail.send")), TOKEN)
    assert grant.access_token.reveal() == "access.ann.1"
    assert grant.refresh_token is not None
    assert grant.refresh_token.reveal() == "refresh.ann.1"
    assert grant.expires_in_s == 3600
    (request,) = endpoint.requests
    assert request.form == {
        "grant_type": "refresh_token",
        "refresh_token": "refresh.ann.0",
        "scope": "mail.read mail.send",
        "client_id": "our id",
    }
    assert "authorization" not in request.headers


async def test_a_confidential_client_shows_its_secret_by_basic_alone(
    client: TokenClient, endpoint: TokenEndpoint, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_text(CLIENT_SECRET + "\n")
    upstream = public(endpoint, client_id="our:id ü", client_secret=SecretSource("file", str(tmp_path / "secret")))
    await client.refresh(upstream, TOKEN)
    (request,) = endpoint.requests
    scheme, _, blob = request.headers["authorization"].partition(" ")
    user, _, secret = base64.b64decode(blob).decode().partition(":")
    assert (scheme, unquote_plus(user), unquote_plus(secret)) == ("Basic", "our:id ü", CLIENT_SECRET)
    assert not {"client_id", "client_secret"} & set(request.form)


async def test_a_client_secret_that_cannot_be_read_is_our_fault_and_asks_nobody(
    client: TokenClient, endpoint: TokenEndpoint
) -> None:
    error = await fault_of(client, public(endpoint, client_secret=SecretSource("file", "/nowhere/secret")))
    assert error.fault is ProviderFault.CLIENT_REJECTED
    assert endpoint.requests == []


async def test_a_private_authority_that_cannot_be_read_is_a_fault_like_any_other(endpoint: TokenEndpoint) -> None:
    def no_context(upstream: UpstreamConfig) -> ssl.SSLContext:
        raise ConfigError("cannot read ca.pem", "name a readable file")

    assert (await fault_of(TokenClient(no_context), public(endpoint))).fault is ProviderFault.DOWN


@pytest.mark.parametrize(
    ("behaviour", "fault", "code"),
    [
        (answers(500, b"<html>oops"), ProviderFault.DOWN, "http_500"),
        (answers(503, {"error": "invalid_grant"}), ProviderFault.DOWN, "http_503"),
        (answers(200, b"<html>a captive portal"), ProviderFault.DOWN, "http_200_not_json"),
        (answers(200, b"[" * 100_000), ProviderFault.DOWN, "http_200_not_json"),
        (answers(200, b"\xff\xfe"), ProviderFault.DOWN, "http_200_not_json"),
        (answers(200, b'["access_token"]'), ProviderFault.DOWN, "http_200_not_json"),
        (answers(200, {"token_type": "Bearer"}), ProviderFault.DOWN, "no_access_token"),
        (answers(200, {"access_token": 7}), ProviderFault.DOWN, "no_access_token"),
        (answers(200, {"access_token": ""}), ProviderFault.DOWN, "no_access_token"),
        (answers(200, {"access_token": "a\x01auth=Bearer b"}), ProviderFault.DOWN, "no_access_token"),
        (answers(200, {"access_token": "a\ud800"}), ProviderFault.DOWN, "no_access_token"),
        (answers(302, b"", location="https://elsewhere.test/"), ProviderFault.DOWN, "http_302_not_json"),
        (answers(404, {"what": "ever"}), ProviderFault.DOWN, "http_404"),
        (answers(400, {"error": "new\nline"}), ProviderFault.DOWN, "http_400"),
        (answers(400, {"error": ["invalid_grant"], "error_description": 7}), ProviderFault.DOWN, "http_400"),
        (refuses("invalid_grant"), ProviderFault.GRANT_LOST, "invalid_grant"),
        (
            refuses("invalid_grant", "AADSTS70043: expired by policy"),
            ProviderFault.GRANT_LOST,
            "invalid_grant/AADSTS70043",
        ),
        (refuses("invalid_grant", "AADSTS700082: inactive"), ProviderFault.GRANT_LOST, "invalid_grant/AADSTS700082"),
        (refuses("invalid_grant", "AADSTS50173: new password"), ProviderFault.GRANT_LOST, "invalid_grant/AADSTS50173"),
        (refuses("interaction_required"), ProviderFault.GRANT_LOST, "interaction_required"),
        (
            refuses("invalid_client", "AADSTS7000215: bad", 401),
            ProviderFault.CLIENT_REJECTED,
            "invalid_client/AADSTS7000215",
        ),
        (
            refuses("invalid_client", "AADSTS7000222: old", 401),
            ProviderFault.CLIENT_REJECTED,
            "invalid_client/AADSTS7000222",
        ),
        (refuses("unauthorized_client"), ProviderFault.CLIENT_REJECTED, "unauthorized_client"),
        (refuses("temporarily_unavailable"), ProviderFault.DOWN, "temporarily_unavailable"),
        # One account's broken token must not stop the whole provider for everybody.
        (refuses("invalid_request", "AADSTS9002313: malformed"), ProviderFault.DOWN, "invalid_request/AADSTS9002313"),
        (refuses("access_denied"), ProviderFault.DOWN, "access_denied"),
    ],
)
async def test_every_answer_has_its_fault(
    client: TokenClient, endpoint: TokenEndpoint, behaviour: Behaviour, fault: ProviderFault, code: str
) -> None:
    endpoint.script.append(behaviour)
    error = await fault_of(client, public(endpoint))
    assert (error.fault, error.code) == (fault, code)
    assert len(endpoint.requests) == 1


@pytest.mark.parametrize("behaviour", [waits, resets, floods])
async def test_an_endpoint_that_hangs_resets_or_floods_is_down(
    client: TokenClient, endpoint: TokenEndpoint, behaviour: Behaviour
) -> None:
    endpoint.script.append(behaviour)
    assert (await fault_of(client, public(endpoint))).fault is ProviderFault.DOWN


async def test_nobody_listening_and_no_such_host_are_down(client: TokenClient, endpoint: TokenEndpoint) -> None:
    for url in ("http://127.0.0.1:1/token", "https://nowhere.invalid/token"):
        upstream = UpstreamConfig("mail", oauth2=OAuth2Config("our id", url))
        assert (await fault_of(client, upstream)).fault is ProviderFault.DOWN


@pytest.mark.parametrize(
    ("said", "seconds"),
    [("7", 7.0), ("86400", MAX_RETRY_AFTER_S), ("-1", None), ("Wed, 21 Oct 2026 07:28:00 GMT", None), ("soon", None)],
)
async def test_retry_after_is_heeded_within_bounds(
    client: TokenClient, endpoint: TokenEndpoint, said: str, seconds: float | None
) -> None:
    endpoint.script.append(answers(429, b"", retry_after=said))
    error = await fault_of(client, public(endpoint))
    assert (error.fault, error.retry_after_s) == (ProviderFault.DOWN, seconds)


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("3599", 3599.0),
        (90.5, 90.5),
        *((odd, float(DEFAULT_LIFETIME_S)) for odd in (None, "soon", -1, 0, 1e300, True, [3600], "nan", "inf")),
    ],
)
async def test_a_lifetime_that_makes_no_sense_is_taken_for_a_short_one(
    client: TokenClient, endpoint: TokenEndpoint, said: object, seconds: float
) -> None:
    endpoint.script.append(answers(200, {"access_token": "access.ann.1", "expires_in": said}))
    grant = await client.refresh(public(endpoint), TOKEN)
    assert (grant.expires_in_s, grant.refresh_token) == (seconds, None)


async def test_no_exception_holds_a_token_or_what_the_provider_said(
    client: TokenClient, endpoint: TokenEndpoint
) -> None:
    endpoint.script.append(refuses("invalid_grant", "the token refresh.ann.0 of ann"))
    for behaviour in (refuses("refresh.ann.0"), answers(200, b"refresh.ann.0"), resets):
        endpoint.script.append(behaviour)
    for _ in range(3):
        error = await fault_of(client, public(endpoint))
        assert "of ann" not in f"{error!r} {error.__cause__!r}"


async def test_one_account_s_answer_leaves_no_cookie_for_the_next(client: TokenClient, endpoint: TokenEndpoint) -> None:
    endpoint.script.append(answers(200, {"access_token": "access.ann.1"}, set_cookie="session=ann; Path=/"))
    for _ in range(2):
        await client.refresh(public(endpoint), TOKEN)
    assert [request.headers.get("cookie") for request in endpoint.requests] == [None, None]


async def test_an_upstream_without_oauth2_is_never_asked_about(client: TokenClient) -> None:
    assert (await fault_of(client, UpstreamConfig("plain", auth="password"))).fault is ProviderFault.CLIENT_REJECTED
