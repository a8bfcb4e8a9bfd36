"""The token broker: one fresh access token per account, one refresh at a time, nothing lost on the way.

Invariants:
1. At most one refresh per account runs anywhere: one task in this process, one lease in the store for all.
2. A rotated refresh token is committed before the access token that came with it is used.
3. No failure deletes a token. Only a person's new consent replaces a grant that the provider has ended.
4. No lock and no transaction is held over HTTP; the lease outlives the longest HTTP exchange.
5. A refresh, once begun, is not cancelled by a client that hangs up.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import random
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from proxy.config import UpstreamConfig
from proxy.errors import GatepostError, ProviderError, ProviderFault, Refusal, Refused, StoreUnavailable
from proxy.logs import Line
from proxy.oauth.client import REQUEST_S, Grant, TokenClient
from proxy.secret import Secret
from proxy.store.pool import StorePool
from proxy.store.rows import Account, Deposit, Purpose, TokenState
from proxy.store.store import Store
from proxy.vault.sealing import MasterPrivate, Recipient, SealBroken, seal, unseal

logger = logging.getLogger("gatepost.oauth")

MARGIN_S = 60.0  # a token with less left is renewed before use
WAIT_S = 10.0  # a login waits this long for a token
LEASE_S = REQUEST_S + 12.0  # longer than the request and its commit, so no second refresh begins beside a living one
LEASE_POLL_S = 0.1
COMMIT_TRIES = 600
COMMIT_PAUSE_S = 0.5
BACKOFF_S = (4.0, 12.0)  # after a failed refresh the endpoint is left alone for a random time between these
MIN_AGE_TO_RENEW_S = 60.0  # a token younger than this that is refused was refused for another reason
RENEW_INTERVAL_S = 300.0  # refused tokens are renewed at most once in this time per account
MAX_HELD = 100_000


@dataclass(frozen=True, slots=True)
class Held:
    """An access token in memory; times are monotonic seconds of this process."""

    token: Secret
    obtained: float
    expires: float
    since: datetime  # the account's token_since then: a new deposit makes it later, and this token an old one

    def is_same(self, token: Secret) -> bool:
        return hmac.compare_digest(self.token.reveal().encode(), token.reveal().encode())


class TokenBroker:
    """Access tokens for accounts. Owned by build(); close() waits for refreshes that are under way."""

    def __init__(
        self,
        *,
        store: Store,
        pool: StorePool,
        master: MasterPrivate,
        client: TokenClient,
        clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._pool = pool
        self._master = master
        self._client = client
        self._clock = clock
        self._owner = secrets.token_hex(8)
        self._held: dict[int, Held] = {}
        self._refreshes: dict[int, asyncio.Task[Held]] = {}
        self._leave_alone_until: dict[int, float] = {}
        self._rejected_until: dict[str, float] = {}  # by upstream: one alarm for all its accounts
        self._renewed_at: dict[int, float] = {}

    async def token(self, account: Account, upstream: UpstreamConfig) -> Held:
        """A token that is valid for at least a moment. Raises Refused or StoreUnavailable."""
        held = self._held.get(account.id)
        if held is not None and held.since != account.token_since:
            held = None
        if held is not None and held.expires - self._clock() > MARGIN_S:
            return held
        try:
            return await self._refreshed(account, upstream, refused=None)
        except Refused as refused:
            # Outcomes E33: while the provider is down, what we hold is used until it really expires.
            if refused.refusal.answer is Refusal.PROVIDER_DOWN.answer and held and held.expires > self._clock():
                return held
            raise

    async def renewed(self, account: Account, upstream: UpstreamConfig, refused: Held) -> Held | None:
        """Another token in place of one that the upstream refused; None when it is too early for that."""
        now = self._clock()
        current = self._held.get(account.id)
        if current is not None and current.obtained > refused.obtained:
            return current  # somebody renewed it meanwhile
        too_young = now - refused.obtained < MIN_AGE_TO_RENEW_S
        if too_young or now - self._renewed_at.get(account.id, -RENEW_INTERVAL_S) < RENEW_INTERVAL_S:
            return None
        self._renewed_at[account.id] = now
        return await self._refreshed(account, upstream, refused=refused)

    def forget(self, account_id: int) -> None:
        """Drop what is held in memory: the account changed."""
        self._held.pop(account_id, None)
        self._leave_alone_until.pop(account_id, None)

    async def password(self, account: Account) -> Secret:
        """The stored password of an upstream without OAuth2. Raises Refused(NEEDS_CONSENT) when there is none."""
        deposit = await self._pool.run(self._store.deposit, account.id, Purpose.PASSWORD)
        if deposit is None:
            raise Refused(Refusal.NEEDS_CONSENT, "no password deposited")
        return self._open(deposit)

    async def close(self) -> None:
        if self._refreshes:
            await asyncio.wait(self._refreshes.values(), timeout=REQUEST_S)
        await self._client.close()

    async def _refreshed(self, account: Account, upstream: UpstreamConfig, refused: Held | None) -> Held:
        task = self._refreshes.get(account.id)
        if task is None:
            task = asyncio.create_task(self._refresh(account, upstream, refused), name=f"refresh {account.id}")
            self._refreshes[account.id] = task
            task.add_done_callback(lambda done: self._finish(account.id, done))
        try:
            return await asyncio.wait_for(asyncio.shield(task), WAIT_S)
        except TimeoutError:
            raise Refused(Refusal.PROVIDER_DOWN, "no token in time") from None

    def _finish(self, account_id: int, task: asyncio.Task[Held]) -> None:
        self._refreshes.pop(account_id, None)
        # Retrieved here too: everybody who waited may have hung up.
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, GatepostError):
            logger.error("%s", Line("refresh_crashed", account_id=account_id), exc_info=error)

    async def _refresh(self, account: Account, upstream: UpstreamConfig, refused: Held | None) -> Held:
        stored = await self._read_stored(account, refused)
        if stored is not None:
            return stored
        self._refuse_if_left_alone(account, upstream)
        fence = await self._lease(account)
        try:
            # Whoever had the lease before us may have done the work.
            stored = await self._read_stored(account, refused)
            if stored is not None:
                return stored
            return await self._refresh_under_lease(account, upstream, fence)
        finally:
            with contextlib.suppress(StoreUnavailable):  # it runs out by itself
                await self._pool.run(self._store.release_lease, account.id, fence)

    async def _refresh_under_lease(self, account: Account, upstream: UpstreamConfig, fence: int) -> Held:
        kept = await self._pool.run(self._store.deposit, account.id, Purpose.REFRESH_TOKEN)
        if kept is None:
            raise Refused(Refusal.NEEDS_CONSENT, "no refresh token deposited")
        asked = self._clock()
        try:
            grant = await self._client.refresh(upstream, self._open(kept))
        except ProviderError as error:
            raise await self._failed(account, upstream, error) from error
        # Counted from the request: the provider's clock starts before its answer reaches us.
        held = Held(grant.access_token, asked, asked + grant.expires_in_s, account.token_since)
        await self._commit(account, fence, kept, grant)
        self._hold(account.id, held)
        self._leave_alone_until.pop(account.id, None)
        if self._rejected_until.pop(upstream.name, None) is not None:
            logger.warning("%s", Line("provider_accepts_client_again", upstream=upstream.name))
        await self.note_state(account, TokenState.FRESH, "")
        logger.info("%s", Line("token_refreshed", user=account.email, rotated=grant.refresh_token is not None))
        return held

    async def _commit(self, account: Account, fence: int, kept: Deposit, grant: Grant) -> None:
        """Keep what the provider gave, before anybody uses it (invariant 2)."""
        recipients = await self._recipients()
        valid_until = datetime.now(UTC) + timedelta(seconds=grant.expires_in_s)
        deposits = [
            seal(Purpose.ACCESS_TOKEN, account.id, grant.access_token, recipients, valid_until=valid_until),
        ]
        if grant.refresh_token is not None:
            deposits.append(seal(Purpose.REFRESH_TOKEN, account.id, grant.refresh_token, recipients, row=kept.row))
        for _ in range(COMMIT_TRIES):
            try:
                is_kept = await self._pool.run(self._store.put_tokens, account.id, fence, deposits, deadline_s=10.0)
            except StoreUnavailable:
                # The old token may be spent already, so this one is tried for as long as nobody else refreshed: the
                # fence sees to that. Logins do not wait for it (WAIT_S).
                logger.warning("%s", Line("token_commit_delayed", user=account.email))
                await asyncio.sleep(COMMIT_PAUSE_S)
                continue
            if not is_kept:
                # Only after a stop longer than the lease (a suspended machine): the other refresh counts.
                logger.warning("%s", Line("lease_lost", user=account.email))
                raise Refused(Refusal.PROVIDER_DOWN, "the refresh lease was lost")
            return
        raise Refused(Refusal.STORE_DOWN, "the store took no token")

    async def _recipients(self) -> list[Recipient]:
        newest = (await self._pool.run(self._store.masters))[:1]
        return [Recipient(master.key_id, master.public) for master in newest]

    async def _read_stored(self, account: Account, refused: Held | None) -> Held | None:
        """The token that another process (or an earlier life of this one) left in the store, if it is of use."""
        deposit = await self._pool.run(self._store.deposit, account.id, Purpose.ACCESS_TOKEN)
        if deposit is None or deposit.valid_until is None:
            return None
        left_s = (deposit.valid_until - datetime.now(UTC)).total_seconds()
        if left_s <= MARGIN_S:
            return None
        token = self._open(deposit)
        if refused is not None and refused.is_same(token):
            return None
        now = self._clock()
        held = Held(token, now, now + left_s, account.token_since)
        self._hold(account.id, held)
        return held

    def _hold(self, account_id: int, held: Held) -> None:
        if len(self._held) >= MAX_HELD:
            self._held.pop(next(iter(self._held)))
        self._held[account_id] = held

    async def _lease(self, account: Account) -> int:
        deadline = self._clock() + WAIT_S
        while True:
            now = datetime.now(UTC)
            until = now + timedelta(seconds=LEASE_S)
            fence = await self._pool.run(self._store.take_lease, account.id, self._owner, now, until)
            if fence is not None:
                return fence
            if self._clock() >= deadline:
                raise Refused(Refusal.PROVIDER_DOWN, "another process holds the refresh lease")
            await asyncio.sleep(LEASE_POLL_S)

    def _refuse_if_left_alone(self, account: Account, upstream: UpstreamConfig) -> None:
        now = self._clock()
        if now < self._rejected_until.get(upstream.name, 0.0):
            raise Refused(Refusal.CLIENT_REJECTED, "left alone after a rejected client")
        if now < self._leave_alone_until.get(account.id, 0.0):
            raise Refused(Refusal.PROVIDER_DOWN, "left alone after a failure")

    async def _failed(self, account: Account, upstream: UpstreamConfig, error: ProviderError) -> Refused:
        """Note a failed refresh and say what it means for the login."""
        low, high = BACKOFF_S
        pause_s = max(random.uniform(low, high), error.retry_after_s or 0.0)  # noqa: S311 - jitter, not a secret
        match error.fault:
            case ProviderFault.GRANT_LOST:
                await self.note_state(account, TokenState.NEEDS_CONSENT, error.code)
                return Refused(Refusal.NEEDS_CONSENT, error.code)
            case ProviderFault.CLIENT_REJECTED:
                if upstream.name not in self._rejected_until:
                    logger.warning("%s", Line("provider_rejects_client", upstream=upstream.name, code=error.code))
                self._rejected_until[upstream.name] = self._clock() + pause_s
                return Refused(Refusal.CLIENT_REJECTED, error.code)
            case ProviderFault.DOWN:
                self._leave_alone_until[account.id] = self._clock() + pause_s
                await self.note_state(account, TokenState.FAILING, error.code)
                return Refused(Refusal.PROVIDER_DOWN, error.code)

    async def note_state(self, account: Account, state: TokenState, detail: str) -> None:
        """Record what is known of the account's token; a change for the worse is worth a human's look."""
        has_changed = await self._pool.run(self._store.set_token_state, account.id, state, detail, datetime.now(UTC))
        if has_changed and state is not TokenState.FRESH:
            logger.warning("%s", Line("token_state", user=account.email, state=state.value, detail=detail))

    def _open(self, deposit: Deposit) -> Secret:
        try:
            return unseal(deposit, self._master)
        except SealBroken as error:
            logger.error("%s", Line("seal_broken", error=str(error)))  # noqa: TRY400 - no trace needed, no secret wanted
            raise Refused(Refusal.NEEDS_CONSENT, "the deposit cannot be opened") from None
