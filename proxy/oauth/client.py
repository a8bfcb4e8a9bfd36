"""The token endpoint over HTTP (RFC 6749 6): one request, one of three faults, nothing remembered."""

from __future__ import annotations

import asyncio
import json
import re
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import TypeGuard
from urllib.parse import quote_plus

import httpx2

from proxy.config import OAuth2Config, UpstreamConfig
from proxy.errors import ConfigError, ProviderError, ProviderFault
from proxy.secret import Secret

REQUEST_S = 8.0  # the whole exchange, inside the login's ten seconds for a token
MAX_ANSWER_BYTES = 262_144  # a token answer is under 20 kB
DEFAULT_LIFETIME_S = 300  # RFC 6749 5.1 only recommends expires_in; a short guess costs a refresh, a long one mail
MAX_RETRY_AFTER_S = 300.0

_GRANT_LOST = frozenset({"invalid_grant", "interaction_required", "consent_required", "login_required"})
# About us, whoever's token it was. All other codes count as the provider's trouble with this one account.
_CLIENT_REJECTED = frozenset(
    {
        "invalid_client",
        "unauthorized_client",
        "unsupported_grant_type",
        "invalid_scope",
        "deleted_client",  # Google's, as the next one
        "disabled_client",
    }
)
_CODE = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_ENTRA_CODE = re.compile(r"AADSTS\d{4,8}")


@dataclass(frozen=True, slots=True)
class Grant:
    """A token answer (RFC 6749 5.1). `refresh_token` is None when the provider keeps the old one valid."""

    access_token: Secret
    expires_in_s: float
    refresh_token: Secret | None


class TokenClient:
    """Asks token endpoints. One HTTP client per upstream, since each may have a private CA."""

    def __init__(
        self, context_of: Callable[[UpstreamConfig], ssl.SSLContext], *, deadline_s: float = REQUEST_S
    ) -> None:
        """`deadline_s` is for one whole exchange."""
        self._context_of = context_of
        self._deadline_s = deadline_s
        self._clients: dict[str, httpx2.AsyncClient] = {}

    async def refresh(self, upstream: UpstreamConfig, refresh_token: Secret) -> Grant:
        """Exchange a refresh token. Raises ProviderError; the refresh token may be spent whenever it does."""
        if upstream.oauth2 is None:
            raise ProviderError(ProviderFault.CLIENT_REJECTED, "no_oauth2_configuration")
        form = {"grant_type": "refresh_token", "refresh_token": refresh_token.reveal()}
        if upstream.oauth2.scopes:
            form["scope"] = " ".join(upstream.oauth2.scopes)
        return await self._post(upstream, upstream.oauth2, form)

    async def close(self) -> None:
        for client in self._clients.values():
            await client.aclose()

    async def _post(self, upstream: UpstreamConfig, oauth2: OAuth2Config, form: dict[str, str]) -> Grant:
        auth = _client_authentication(oauth2, form)
        try:
            client = self._client(upstream)
        except ConfigError as error:
            raise ProviderError(ProviderFault.DOWN, "tls_ca_unreadable") from error
        try:
            async with asyncio.timeout(self._deadline_s):
                request = client.stream("POST", oauth2.token_url, data=form, auth=auth)
                async with request as response:
                    body = await _read_bounded(response)
        except (TimeoutError, httpx2.HTTPError, httpx2.InvalidURL, ssl.SSLError, OSError) as error:
            # The exception's text may repeat the request; its type says enough.
            raise ProviderError(ProviderFault.DOWN, type(error).__name__) from None
        return _read_answer(response.status_code, response.headers.get("retry-after"), body)

    def _client(self, upstream: UpstreamConfig) -> httpx2.AsyncClient:
        client = self._clients.get(upstream.name)
        if client is None:
            client = httpx2.AsyncClient(
                verify=self._context_of(upstream),
                timeout=self._deadline_s,
                follow_redirects=False,  # a redirected token request would carry the secret somewhere else
                headers={"accept": "application/json"},
                # A cookie from one account's answer has no business in another's request.
                cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
            )
            self._clients[upstream.name] = client
        return client


def _client_authentication(oauth2: OAuth2Config, form: dict[str, str]) -> httpx2.BasicAuth | None:
    """HTTP Basic for a confidential client, which every server must support; client_id alone for a public one.

    Source: RFC 6749 2.3.1 (both parts are form-urlencoded first) and 3.2.1.
    """
    if oauth2.client_secret is None:
        form["client_id"] = oauth2.client_id
        return None
    try:
        secret = oauth2.client_secret.read()
    except ConfigError as error:
        raise ProviderError(ProviderFault.CLIENT_REJECTED, "client_secret_unreadable") from error
    return httpx2.BasicAuth(quote_plus(oauth2.client_id), quote_plus(secret.reveal()))


async def _read_bounded(response: httpx2.Response) -> bytes:
    body = bytearray()
    async for part in response.aiter_bytes():
        body += part
        if len(body) > MAX_ANSWER_BYTES:
            raise ProviderError(ProviderFault.DOWN, "answer_too_long")
    return bytes(body)


def _read_answer(status: int, retry_after: str | None, body: bytes) -> Grant:
    if status == 429 or status >= 500:
        raise ProviderError(ProviderFault.DOWN, f"http_{status}", _seconds(retry_after))
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict):
        raise ProviderError(ProviderFault.DOWN, f"http_{status}_not_json")
    if status != 200:
        raise _error_of(answer, status, _seconds(retry_after))
    return _grant_of(answer)


def _grant_of(answer: dict[str, object]) -> Grant:
    access_token, refresh_token = answer.get("access_token"), answer.get("refresh_token")
    if not _is_token(access_token):
        raise ProviderError(ProviderFault.DOWN, "no_access_token")
    try:
        lifetime_s = float(str(answer.get("expires_in", DEFAULT_LIFETIME_S)))
    except ValueError:
        lifetime_s = DEFAULT_LIFETIME_S
    if not 0 < lifetime_s <= 10 * 365 * 86_400:  # also refuses nan
        lifetime_s = DEFAULT_LIFETIME_S
    rotated = Secret(refresh_token) if _is_token(refresh_token) else None
    return Grant(Secret(access_token), lifetime_s, rotated)


def _is_token(value: object) -> TypeGuard[str]:
    """Whether it is a text of printable ASCII (RFC 6749 A.12, A.17): anything else could not be sent upstream."""
    return isinstance(value, str) and bool(value) and value.isascii() and value.isprintable()


def _error_of(answer: dict[str, object], status: int, retry_after_s: float | None) -> ProviderError:
    """Translate an error answer (RFC 6749 5.2). Its description is not kept: only codes that we can read."""
    error = answer.get("error")
    code = error if isinstance(error, str) and _CODE.fullmatch(error) else f"http_{status}"
    entra = _ENTRA_CODE.search(str(answer.get("error_description", "")))
    shown = f"{code}/{entra.group()}" if entra else code
    if code in _GRANT_LOST:
        return ProviderError(ProviderFault.GRANT_LOST, shown)
    if code in _CLIENT_REJECTED:
        return ProviderError(ProviderFault.CLIENT_REJECTED, shown)
    return ProviderError(ProviderFault.DOWN, shown, retry_after_s)


def _seconds(retry_after: str | None) -> float | None:
    """Retry-After in seconds (RFC 9110 10.2.3); its date form is left to our own back-off."""
    if retry_after is None or not retry_after.isdecimal():
        return None
    return min(float(retry_after), MAX_RETRY_AFTER_S)
