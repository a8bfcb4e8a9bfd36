"""The token endpoint over HTTP: each grant is one request, with one of three faults, and no token is remembered.

Source: RFC 6749 4.1.3, 4.4, 6; RFC 7636 4.5; RFC 8628 3; RFC 7523 2.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from importlib import import_module
from urllib.parse import quote_plus

from proxy.config import OAuth2Config, UpstreamConfig
from proxy.errors import ConfigError, ProviderError, ProviderFault
from proxy.meters import REFRESHES, Meters
from proxy.oauth.answers import DEFAULT_LIFETIME_S, DeviceCode, Grant, device_code_of, grant_of, object_of
from proxy.oauth.discovery import Discovery, Provider
from proxy.oauth.exchange import MAX_RETRY_AFTER_S, Exchange
from proxy.secret import Secret

__all__ = ["DEFAULT_LIFETIME_S", "MAX_RETRY_AFTER_S", "REQUEST_S", "Grant", "TokenClient", "preload"]

REQUEST_S = 8.0  # one method of TokenClient, discovery included, inside the login's ten seconds for a token

_DEVICE_GRANT = "urn:ietf:params:oauth:grant-type:device_code"
_JWT_GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"
_ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


def preload(upstreams: Iterable[UpstreamConfig]) -> None:
    """Import what signs, if one of these has us sign: workers share what was there before they were forked.

    Most have not, and joserfc with what it brings is 1.5 MB of each process; so everything here imports it late.
    """
    if any(one.oauth2 and (one.oauth2.client_key or one.oauth2.service_account) for one in upstreams):
        import_module("proxy.oauth.jwts")


class TokenClient:
    """Asks identity providers. Every method raises ProviderError within the deadline, and nothing else."""

    def __init__(
        self,
        context_of: Callable[[UpstreamConfig], ssl.SSLContext],
        *,
        deadline_s: float = REQUEST_S,
        clock: Callable[[], float] = time.monotonic,
        meters: Meters | None = None,
    ) -> None:
        """`deadline_s` is for one method call."""
        self._deadline_s = deadline_s
        self._exchange = Exchange(context_of, idle_s=deadline_s)
        self._discovery = Discovery(self._exchange, clock)
        self._meters = meters or Meters()

    async def refresh(self, upstream: UpstreamConfig, refresh_token: Secret) -> Grant:
        """Exchange a refresh token. It may be spent whenever this raises."""
        form = {"grant_type": "refresh_token", "refresh_token": refresh_token.reveal()}
        with self._counted(upstream):
            return await self._token(upstream, form, scopes=_oauth2(upstream).scopes)

    async def client_credentials(self, upstream: UpstreamConfig) -> Grant:
        """A token for Gatepost itself, whatever mailboxes the provider lets it open (RFC 6749 4.4)."""
        with self._counted(upstream):
            return await self._token(upstream, {"grant_type": "client_credentials"}, scopes=_oauth2(upstream).scopes)

    async def service_account(self, upstream: UpstreamConfig, mailbox: str) -> Grant:
        """A token in the name of a mailbox, by a Google service account's signature (RFC 7523 2.1)."""
        oauth2 = _oauth2(upstream)
        with self._counted(upstream):
            return await self._signed_for(upstream, oauth2, mailbox)

    async def _signed_for(self, upstream: UpstreamConfig, oauth2: OAuth2Config, mailbox: str) -> Grant:
        from proxy.oauth.jwts import service_account_assertion  # noqa: PLC0415 - joserfc: see preload

        async with self._within_deadline():
            provider = await self._discovery.token_side(upstream, oauth2)
            with _as_rejected("service_account_unreadable"):
                assertion = service_account_assertion(oauth2, provider.token_url, mailbox)
            form = {"grant_type": _JWT_GRANT, "assertion": assertion}
            return grant_of(object_of(await self._exchange.post(upstream, provider.token_url, form)))

    async def exchange_code(self, upstream: UpstreamConfig, code: Secret, redirect_url: str, verifier: Secret) -> Grant:
        """Exchange an authorization code. `redirect_url` is exactly the one that the request named."""
        form = {
            "grant_type": "authorization_code",
            "code": code.reveal(),
            "redirect_uri": redirect_url,
            "code_verifier": verifier.reveal(),
        }
        return await self._token(upstream, form)

    async def device_code(self, upstream: UpstreamConfig, scopes: Iterable[str]) -> DeviceCode:
        """Ask for a code that a person types on another device (RFC 8628 3.1)."""
        oauth2 = _oauth2(upstream)
        async with self._within_deadline():
            provider = await self._discovery.all_sides(upstream, oauth2)
            if provider.device_url is None:
                raise ProviderError(ProviderFault.CLIENT_REJECTED, "no_device_url")
            # By name even where Basic says it: a provider may look for it in the form alone.
            form = _scoped({"client_id": oauth2.client_id}, scopes)
            basic = _authenticate(oauth2, provider, form)
            return device_code_of(object_of(await self._exchange.post(upstream, provider.device_url, form, basic)))

    async def device_token(self, upstream: UpstreamConfig, device_code: Secret) -> Grant:
        """Ask whether the person has signed in (RFC 8628 3.4): "authorization_pending" and "slow_down" are errors."""
        return await self._token(upstream, {"grant_type": _DEVICE_GRANT, "device_code": device_code.reveal()})

    async def provider(self, upstream: UpstreamConfig) -> Provider:
        """All its endpoints, discovered where the operator named none."""
        async with self._within_deadline():
            return await self._discovery.all_sides(upstream, _oauth2(upstream))

    async def who_signed_in(self, upstream: UpstreamConfig, id_token: Secret, nonce: Secret | None) -> str:
        """The address in a validated ID token, "" if it has none. Raises BadIdToken too."""
        from proxy.oauth.jwts import address_in  # noqa: PLC0415 - joserfc: see preload

        claims = await self.id_claims(upstream, id_token, nonce)
        return "" if claims is None else address_in(claims)

    async def id_claims(
        self, upstream: UpstreamConfig, id_token: Secret, nonce: Secret | None
    ) -> dict[str, object] | None:
        """What a validated ID token says; None for a provider without keys. Raises BadIdToken too."""
        from proxy.oauth.jwts import claims_in  # noqa: PLC0415 - joserfc: see preload

        oauth2 = _oauth2(upstream)
        async with self._within_deadline():
            provider = await self._discovery.all_sides(upstream, oauth2)
            if provider.issuer is None or provider.jwks_url is None:
                return None  # without keys nothing that it says counts
            jwks = object_of(await self._exchange.get(upstream, provider.jwks_url))
            return claims_in(id_token, jwks, issuer=provider.issuer, client_id=oauth2.client_id, nonce=nonce)

    async def close(self) -> None:
        await self._exchange.close()

    async def _token(self, upstream: UpstreamConfig, form: dict[str, str], *, scopes: Iterable[str] = ()) -> Grant:
        oauth2 = _oauth2(upstream)
        form = _scoped(form, scopes)
        async with self._within_deadline():
            provider = await self._discovery.token_side(upstream, oauth2)
            basic = _authenticate(oauth2, provider, form)
            return grant_of(object_of(await self._exchange.post(upstream, provider.token_url, form, basic)))

    @contextmanager
    def _counted(self, upstream: UpstreamConfig) -> Iterator[None]:
        try:
            yield
        except ProviderError as error:
            self._meters.count(REFRESHES, upstream.name, error.fault.value)
            raise
        self._meters.count(REFRESHES, upstream.name, "ok")

    @asynccontextmanager
    async def _within_deadline(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._deadline_s):
                yield
        except TimeoutError:
            raise ProviderError(ProviderFault.DOWN, "TimeoutError") from None


def _oauth2(upstream: UpstreamConfig) -> OAuth2Config:
    if upstream.oauth2 is None:
        raise ProviderError(ProviderFault.CLIENT_REJECTED, "no_oauth2_configuration")
    return upstream.oauth2


def _scoped(form: dict[str, str], scopes: Iterable[str]) -> dict[str, str]:
    words = " ".join(scopes)
    return {**form, "scope": words} if words else dict(form)


def _authenticate(oauth2: OAuth2Config, provider: Provider, form: dict[str, str]) -> tuple[str, str] | None:
    """Say who the client is: by a signed assertion or client_id in `form`, or by what is returned for HTTP Basic.

    Every server must support Basic for a confidential client. Source: RFC 6749 2.3.1 (both parts are form-urlencoded
    first) and 3.2.1, RFC 7523 2.2.
    """
    if oauth2.client_key is not None:
        from proxy.oauth.jwts import client_assertion  # noqa: PLC0415 - joserfc: see preload

        with _as_rejected("client_key_unreadable"):
            form["client_assertion"] = client_assertion(oauth2, provider.token_url, provider.assertion_algorithms)
        form["client_assertion_type"] = _ASSERTION_TYPE
        form["client_id"] = oauth2.client_id
        return None
    if oauth2.client_secret is None:
        form["client_id"] = oauth2.client_id
        return None
    with _as_rejected("client_secret_unreadable"):
        secret = oauth2.client_secret.read()
    return quote_plus(oauth2.client_id), quote_plus(secret.reveal())


@contextmanager
def _as_rejected(code: str) -> Iterator[None]:
    try:
        yield
    except ConfigError as error:
        raise ProviderError(ProviderFault.CLIENT_REJECTED, code) from error
