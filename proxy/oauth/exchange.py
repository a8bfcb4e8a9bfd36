"""HTTP with identity providers: one bounded exchange at a time, nothing remembered between them."""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.cookiejar import CookieJar, DefaultCookiePolicy

import httpx2

from proxy.config import UpstreamConfig
from proxy.errors import ConfigError, ProviderError, ProviderFault

MAX_ANSWER_BYTES = 262_144  # a token answer is under 20 kB, a discovery document or key set under 50
MAX_RETRY_AFTER_S = 300.0

_DECIMAL = re.compile(r"[0-9]{1,9}")


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole answer. `body` may hold tokens, so it is not shown."""

    status: int
    retry_after_s: float | None
    body: bytes = field(repr=False)


class Exchange:
    """Posts forms and gets documents. One HTTP client per upstream, since each may have a private CA.

    Outbound proxies come from the usual environment variables. Every method raises ProviderError(DOWN) for whatever
    keeps an answer from arriving whole; the caller sets the deadline for all of it.
    """

    def __init__(self, context_of: Callable[[UpstreamConfig], ssl.SSLContext], *, idle_s: float) -> None:
        """`idle_s` is for one step: connecting, a write, a read."""
        self._context_of = context_of
        self._idle_s = idle_s
        self._clients: dict[str, httpx2.AsyncClient] = {}

    async def post(
        self, upstream: UpstreamConfig, url: str, form: Mapping[str, str], basic: tuple[str, str] | None = None
    ) -> Reply:
        """POST a form. `basic` is user name and password for HTTP Basic, as they go into it."""
        return await self._send(upstream, "POST", url, form, httpx2.BasicAuth(*basic) if basic else None)

    async def get(self, upstream: UpstreamConfig, url: str) -> Reply:
        return await self._send(upstream, "GET", url, None, None)

    async def close(self) -> None:
        for client in self._clients.values():
            await client.aclose()

    async def _send(
        self,
        upstream: UpstreamConfig,
        method: str,
        url: str,
        form: Mapping[str, str] | None,
        auth: httpx2.BasicAuth | None,
    ) -> Reply:
        try:
            client = self._client(upstream)
        except ConfigError as error:
            raise ProviderError(ProviderFault.DOWN, "tls_ca_unreadable") from error
        try:
            async with client.stream(method, url, data=form, auth=auth) as response:
                body = await _read_bounded(response)
        except (httpx2.HTTPError, httpx2.InvalidURL, ssl.SSLError, OSError) as error:
            # The exception's text may repeat the request; its type says enough.
            raise ProviderError(ProviderFault.DOWN, type(error).__name__) from None
        return Reply(response.status_code, _seconds(response.headers.get("retry-after")), body)

    def _client(self, upstream: UpstreamConfig) -> httpx2.AsyncClient:
        client = self._clients.get(upstream.name)
        if client is None:
            client = httpx2.AsyncClient(
                verify=self._context_of(upstream),
                timeout=self._idle_s,
                # Clear text is for loopback alone (config): a proxy of the environment's would read the tokens.
                mounts={"http://": None},
                follow_redirects=False,  # a redirected token request would carry the secret somewhere else
                headers={"accept": "application/json"},
                # A cookie from one account's answer has no business in another's request.
                cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
            )
            self._clients[upstream.name] = client
        return client


async def _read_bounded(response: httpx2.Response) -> bytes:
    body = bytearray()
    async for part in response.aiter_bytes():
        body += part
        if len(body) > MAX_ANSWER_BYTES:
            raise ProviderError(ProviderFault.DOWN, "answer_too_long")
    return bytes(body)


def _seconds(retry_after: str | None) -> float | None:
    """Retry-After in seconds (RFC 9110 10.2.3); its date form is left to our own back-off."""
    if retry_after is None or not _DECIMAL.fullmatch(retry_after):
        return None
    return min(float(retry_after), MAX_RETRY_AFTER_S)
