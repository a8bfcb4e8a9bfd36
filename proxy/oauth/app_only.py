"""Tokens that nobody signs in for: Gatepost proves itself to the provider, for an upstream or for each mailbox.

They cannot be lost: there is nothing to rotate, so they live in memory, each process has its own, and a failure is
tried again after a while. One request at a time per upstream (client_credentials) or mailbox (service_account).
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
from collections.abc import Callable
from dataclasses import dataclass

from proxy.config import UpstreamConfig
from proxy.errors import ProviderError, ProviderFault, Refusal, Refused
from proxy.oauth.client import Grant, TokenClient
from proxy.secret import Secret

MARGIN_S = 60.0  # a token with less left is replaced before use
MIN_AGE_TO_RENEW_S = 60.0  # a token younger than this that is refused was refused for another reason
RENEW_INTERVAL_S = 300.0  # refused tokens are replaced at most once in this time
AHEAD = (0.75, 0.85)  # of its life, drawn: from then on a login has it replaced, and does not wait for that
PAUSE_S = (4.0, 12.0)  # after a failure the provider is left alone for a random time between these
MAX_HELD = 100_000
MAX_PAUSES = 10_000

_REFUSAL_OF = {
    ProviderFault.DOWN: Refusal.PROVIDER_DOWN,
    ProviderFault.CLIENT_REJECTED: Refusal.CLIENT_REJECTED,
    # The provider knows the client, but not this mailbox of it: no sign-in mends that, an admin does.
    ProviderFault.GRANT_LOST: Refusal.NEEDS_CONSENT,
}
_Key = tuple[str, str]  # upstream, and the mailbox if each has a token of its own


@dataclass(frozen=True, slots=True)
class AppToken:
    """Times are of the clock given to AppTokens."""

    token: Secret
    obtained: float
    expires: float
    replace_at: float = math.inf


class AppTokens:
    """App-only tokens of all upstreams. close() waits for requests that are under way."""

    def __init__(self, client: TokenClient, clock: Callable[[], float]) -> None:
        self._client = client
        self._clock = clock
        self._held: dict[_Key, AppToken] = {}
        self._tasks: dict[_Key, asyncio.Task[AppToken]] = {}
        self._failed: dict[_Key, tuple[float, Refused]] = {}  # until when, and with what
        self._renewed_at: dict[_Key, float] = {}

    async def token(self, upstream: UpstreamConfig, mailbox: str) -> AppToken:
        """A token that is valid for at least a moment. Raises Refused."""
        key = _key(upstream, mailbox)
        held = self._held.get(key)
        if held is not None and held.expires - self._clock() > MARGIN_S:
            if self._clock() >= held.replace_at:
                self._replace_ahead(key, upstream, mailbox)
            return held
        try:
            return await self._asked(key, upstream, mailbox)
        except Refused:
            if held is not None and held.expires > self._clock():
                return held  # outcomes E33
            raise

    async def renewed(self, upstream: UpstreamConfig, mailbox: str, refused: Secret) -> AppToken | None:
        """Another token in place of one that the mail server refused; None when it is too early for that.

        One mailbox that the app may not open must not cost all others their token again and again.
        """
        key = _key(upstream, mailbox)
        held = self._held.get(key)
        if held is not None and held.token is not refused:
            return held
        now = self._clock()
        is_young = held is not None and now - held.obtained < MIN_AGE_TO_RENEW_S
        if is_young or now - self._renewed_at.get(key, -math.inf) < RENEW_INTERVAL_S:
            return None
        renewed = await self._asked(key, upstream, mailbox)
        self._renewed_at[key] = now
        return renewed

    async def close(self) -> None:
        if self._tasks:
            await asyncio.wait(self._tasks.values())

    async def _asked(self, key: _Key, upstream: UpstreamConfig, mailbox: str) -> AppToken:
        task = self._tasks.get(key)
        if task is None:
            self._refuse_if_paused(key)
            task = self._begin(key, upstream, mailbox)
        # The request has a deadline of its own, and whoever hangs up must not take it from the others.
        return await asyncio.shield(task)

    def _replace_ahead(self, key: _Key, upstream: UpstreamConfig, mailbox: str) -> None:
        """Ask for the next token in the background; after a failure the next login after the pause tries again."""
        with contextlib.suppress(Refused):
            self._refuse_if_paused(key)
            if key not in self._tasks:
                self._begin(key, upstream, mailbox)

    def _begin(self, key: _Key, upstream: UpstreamConfig, mailbox: str) -> asyncio.Task[AppToken]:
        task = asyncio.create_task(self._ask(key, upstream, mailbox), name=f"token of {upstream.name}")
        self._tasks[key] = task
        task.add_done_callback(lambda done: self._finish(key, done))
        return task

    async def _ask(self, key: _Key, upstream: UpstreamConfig, mailbox: str) -> AppToken:
        asked = self._clock()
        try:
            grant = await self._grant(upstream, mailbox)
        except ProviderError as error:
            refused = Refused(_REFUSAL_OF[error.fault], error.code)
            pause_s = max(random.uniform(*PAUSE_S), error.retry_after_s or 0.0)  # noqa: S311 - jitter, not a secret
            if len(self._failed) >= MAX_PAUSES:
                self._failed.pop(next(iter(self._failed)))
            self._failed[key] = self._clock() + pause_s, refused
            raise refused from None
        self._failed.pop(key, None)
        if len(self._held) >= MAX_HELD:
            self._renewed_at.pop(oldest := next(iter(self._held)), None)
            del self._held[oldest]
        replace_at = asked + grant.expires_in_s * random.uniform(*AHEAD)  # noqa: S311 - jitter, not a secret
        self._held[key] = made = AppToken(grant.access_token, asked, asked + grant.expires_in_s, replace_at)
        return made

    async def _grant(self, upstream: UpstreamConfig, mailbox: str) -> Grant:
        if upstream.oauth2 is not None and upstream.oauth2.grant == "service_account":
            return await self._client.service_account(upstream, mailbox)
        return await self._client.client_credentials(upstream)

    def _refuse_if_paused(self, key: _Key) -> None:
        until, refused = self._failed.get(key, (0.0, None))
        if refused is not None and self._clock() < until:
            raise Refused(refused.refusal, f"left alone after {refused.detail}")

    def _finish(self, key: _Key, task: asyncio.Task[AppToken]) -> None:
        self._tasks.pop(key, None)
        if not task.cancelled():
            task.exception()  # retrieved here too: everybody who waited may have hung up


def _key(upstream: UpstreamConfig, mailbox: str) -> _Key:
    is_by_mailbox = upstream.oauth2 is not None and upstream.oauth2.grant == "service_account"
    return upstream.name, mailbox if is_by_mailbox else ""
