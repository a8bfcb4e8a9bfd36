"""The token broker: one fresh access token per account, one refresh at a time, nothing lost on the way.

Invariants:
1. At most one refresh per account runs anywhere: one task in this process, one lease in the store for all.
2. A rotated refresh token is committed before the access token that came with it is used.
3. No failure deletes a token. Only a person's new consent replaces a grant that the provider has ended.
4. No lock and no transaction is held over HTTP; the lease outlives the longest HTTP exchange.
5. A refresh, once begun, is not cancelled by a client that hangs up.
6. Of a sealed account nothing is kept in the clear between logins: each brings the app key that opens what there is,
   its access token in memory too. So nobody refreshes it in the background.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import random
import secrets
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from proxy.config import UpstreamConfig
from proxy.errors import (
    Answer,
    GatepostError,
    ProviderError,
    ProviderFault,
    Refusal,
    Refused,
    StoreError,
    StoreUnavailable,
)
from proxy.logs import Line
from proxy.oauth.app_only import AppTokens
from proxy.oauth.client import REQUEST_S, Grant, TokenClient
from proxy.oauth.held import Held, HeldTokens
from proxy.oauth.rejections import Rejections
from proxy.record.alerts import Ear, Nobody
from proxy.secret import Secret
from proxy.store.pool import StorePool
from proxy.store.rows import Account, AppKey, Deposit, Purpose, Recipient, RecipientsChanged, TokenState
from proxy.store.store import Store
from proxy.vault.sealed import Locked, OpenKey, unwrapped
from proxy.vault.sealing import Keys, MasterPrivate, SealBroken, seal, unseal

logger = logging.getLogger("gatepost.oauth")

MARGIN_S = 60.0  # a token with less left is renewed before use
WAIT_S = 10.0  # a login waits this long for a token
LEASE_S = REQUEST_S + 12.0  # longer than the request and its commit, so no second refresh begins beside a living one
LEASE_POLL_S = 0.1
COMMIT_TRIES = 600
COMMIT_PAUSE_S = 0.5
CLOSE_S = 1.0  # for the commit of the last refresh, within what a supervisor waits (serving/succession's MARGIN_S)
BACKOFF_S = (4.0, 12.0)  # after a failed refresh the endpoint is left alone for a random time between these
MIN_AGE_TO_RENEW_S = 60.0  # a token younger than this that is refused was refused for another reason
RENEW_INTERVAL_S = 300.0  # refused tokens are renewed at most once in this time per account


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
        ear: Ear | None = None,
    ) -> None:
        self._store = store
        self._pool = pool
        self._master = master
        self._client = client
        self._apps = AppTokens(client, clock)
        self._clock = clock
        self._owner = secrets.token_hex(8)
        self._held = HeldTokens()
        self._refreshes: dict[int, asyncio.Task[Held]] = {}
        self._leave_alone_until: dict[int, float] = {}
        self._ear = ear or Nobody()
        self._rejections = Rejections(clock, self._ear)
        self._renewed_at: dict[int, float] = {}
        self._is_closing = False

    async def token(self, account: Account, upstream: UpstreamConfig, key: OpenKey | None = None) -> Held:
        """A token that is valid for at least a moment. Raises Refused or StoreUnavailable.

        key     of the app password that logs in, for a sealed account
        """
        if upstream.is_app_only:
            return await self._app_token(account, upstream)
        keys = self._keys_for(account, key)
        held = self._held.find(account, keys)
        self._held.note_use(account)
        if held and held.since == account.token_since and held.expires - self._clock() > MARGIN_S:
            return held
        try:
            return await self._refreshed(account, upstream, keys, refused=None)
        except (Refused, StoreUnavailable) as error:
            # Outcomes E33: while the provider is down, what there is is used until it really expires.
            if isinstance(error, StoreUnavailable) or error.refusal.answer is Answer.UNAVAILABLE:
                last = await self._last_resort(account, keys)
                if last is not None:
                    return last
            raise

    async def _last_resort(self, account: Account, keys: Keys) -> Held | None:
        """A token that has not expired yet, however little is left of it."""
        held = self._held.find(account, keys)
        if held is None:
            with contextlib.suppress(StoreUnavailable):
                held = await self._read_stored(account, keys, None, margin_s=0.0)
        return held if held is not None and held.expires > self._clock() else None

    async def renewed(
        self, account: Account, upstream: UpstreamConfig, refused: Held, key: OpenKey | None = None
    ) -> Held | None:
        """Another token in place of one that the upstream refused; None when it is too early for that."""
        if upstream.is_app_only:
            token = await self._apps.renewed(upstream, account.upstream_user, refused.token)
            return None if token is None else Held(token.token, token.obtained, token.expires, account.token_since)
        keys = self._keys_for(account, key)
        if account.id in self._refreshes:
            await self._refreshed(account, upstream, keys, refused)
        current = self._held.find(account, keys)
        if current is not None and not current.is_same(refused.token):
            return current  # somebody renewed it meanwhile
        now = self._clock()
        is_young = refused.obtained is not None and now - refused.obtained < MIN_AGE_TO_RENEW_S
        if is_young or now - self._renewed_at.get(account.id, -math.inf) < RENEW_INTERVAL_S:
            return None
        return await self._refreshed(account, upstream, keys, refused)

    def latest(self, account: Account, held: Held, key: OpenKey | None = None) -> Held:
        """What is held by now in place of a token got a moment ago; asks nobody."""
        return self._held.find(account, self._keys_for(account, key)) or held

    def due(self) -> list[int]:
        """Accounts whose tokens should be renewed before somebody needs them: see HeldTokens."""
        return self._held.due(self._clock())

    async def renew_ahead(self, account: Account, upstream: UpstreamConfig) -> None:
        """Renew the token of an account that is not sealed, though the one it has may be good for a while.

        What another process renewed meanwhile counts. Raises Refused or StoreUnavailable.
        """
        if upstream.is_app_only:
            await self._app_token(account, upstream)
            return
        was_used = self._held.rest(account.id)
        try:
            former = self._held.find(account, self._master)
            former = former or await self._read_stored(account, self._master, None, margin_s=0.0)
            await self._refreshed(account, upstream, self._master, former, is_ahead=True)
        except GatepostError:
            if was_used:
                self._held.note_use(account)
            raise

    def forget(self, account_id: int) -> None:
        """Drop what is held in memory: the account changed."""
        self._held.drop(account_id)
        self._leave_alone_until.pop(account_id, None)

    async def password(self, account: Account, key: OpenKey | None = None) -> Secret:
        """The stored password of an upstream without OAuth2. Raises Refused(NEEDS_CONSENT) when there is none."""
        keys = self._keys_for(account, key)
        deposit = await self._pool.run(self._store.deposit, account.id, Purpose.PASSWORD)
        if deposit is None:
            raise Refused(Refusal.NEEDS_CONSENT, "no password deposited")
        return self._open(deposit, keys)

    def unwrapped(self, key: AppKey) -> Locked:
        """A sealed account's app key without the master's lock. Raises SealBroken."""
        return unwrapped(key, self._master)

    def _keys_for(self, account: Account, key: OpenKey | None) -> Keys:
        if not account.sealed:
            return self._master
        if key is None:
            raise Refused(Refusal.NEEDS_CONSENT, "sealed: only a login with its app password opens it")
        return key

    async def close(self) -> None:
        """Begin no request any more, and let those end that have begun: the answer may be the only copy of a token."""
        self._is_closing = True
        if self._refreshes:
            await asyncio.wait(self._refreshes.values(), timeout=REQUEST_S + CLOSE_S)
        await self._apps.close()
        await self._client.close()

    async def _app_token(self, account: Account, upstream: UpstreamConfig) -> Held:
        """A token that nobody signed in for; what was learned on the way is noted for people, and decides nothing."""
        try:
            token = await self._apps.token(upstream, account.upstream_user)
        except Refused as refused:
            # A service account is asked for each mailbox, and may be rejected for one alone.
            is_for_all = upstream.oauth2 is not None and upstream.oauth2.grant == "client_credentials"
            if is_for_all and refused.refusal is Refusal.CLIENT_REJECTED:
                self._rejections.begin(upstream.name, refused.detail, 0.0)
            elif account.token_state is not TokenState.FAILING:
                with contextlib.suppress(StoreUnavailable):
                    await self.note_state(account, TokenState.FAILING, refused.detail)
            raise
        self._rejections.end(upstream.name)
        if account.token_state not in (TokenState.FRESH, TokenState.UPSTREAM_REFUSES):
            with contextlib.suppress(StoreUnavailable):
                await self.note_state(account, TokenState.FRESH, "")
        return Held(token.token, token.obtained, token.expires, account.token_since)

    async def _refreshed(
        self, account: Account, upstream: UpstreamConfig, keys: Keys, refused: Held | None, *, is_ahead: bool = False
    ) -> Held:
        task = self._refreshes.get(account.id)
        if task is None:
            work = self._refresh(account, upstream, keys, refused, is_ahead)
            task = asyncio.create_task(work, name=f"refresh {account.id}")
            self._refreshes[account.id] = task
            task.add_done_callback(lambda done: self._finish(account.id, done))
        try:
            # Not wait_for: on Python 3.11 it swallows a cancellation that comes together with the result.
            async with asyncio.timeout(WAIT_S):
                return await asyncio.shield(task)
        except TimeoutError:
            raise Refused(Refusal.PROVIDER_DOWN, "no token in time") from None

    def _finish(self, account_id: int, task: asyncio.Task[Held]) -> None:
        self._refreshes.pop(account_id, None)
        # Retrieved here too: everybody who waited may have hung up.
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, GatepostError):
            logger.error("%s", Line("refresh_crashed", account_id=account_id), exc_info=error)

    async def _refresh(
        self, account: Account, upstream: UpstreamConfig, keys: Keys, refused: Held | None, is_ahead: bool
    ) -> Held:
        stored = await self._read_stored(account, keys, refused)
        if stored is not None:
            return stored
        self._refuse_if_left_alone(account, upstream)
        fence = await self._lease(account)
        try:
            # Whoever had the lease before us may have done the work.
            stored = await self._read_stored(account, keys, refused)
            if stored is not None:
                return stored
            held = await self._refresh_under_lease(account, upstream, keys, fence)
            # A failure does not count: it leaves the endpoint alone in its own way.
            if refused is not None and not is_ahead:
                self._renewed_at[account.id] = self._clock()
            return held
        finally:
            with contextlib.suppress(StoreUnavailable):  # it runs out by itself
                await self._pool.run(self._store.release_lease, account.id, fence)

    async def _refresh_under_lease(self, account: Account, upstream: UpstreamConfig, keys: Keys, fence: int) -> Held:
        kept = await self._pool.run(self._store.deposit, account.id, Purpose.REFRESH_TOKEN)
        if kept is None:
            raise Refused(Refusal.NEEDS_CONSENT, "no refresh token deposited")
        # Before the request: after it nothing may fail between the provider's answer and its commit.
        recipients = await self._recipients(account)
        if self._is_closing:
            raise Refused(Refusal.PROVIDER_DOWN, "this process ends")
        asked = self._clock()
        try:
            grant = await self._client.refresh(upstream, self._open(kept, keys))
        except ProviderError as error:
            raise await self._failed(account, upstream, error, fence) from error
        # Counted from the request: the provider's clock starts before its answer reaches us.
        held = Held(grant.access_token, asked, asked + grant.expires_in_s, account.token_since)
        self._held.keep(account, held, await self._commit(account, fence, kept, grant, recipients))
        self._leave_alone_until.pop(account.id, None)
        self._rejections.end(upstream.name)
        # That the upstream refuses this account is for the upstream to take back, not for a new token.
        if account.token_state is not TokenState.UPSTREAM_REFUSES:
            with contextlib.suppress(StoreUnavailable):  # the token is kept; the next refresh notes it again
                await self.note_state(account, TokenState.FRESH, "", fence=fence)
        logger.info("%s", Line("token_refreshed", user=account.email, rotated=grant.refresh_token is not None))
        return held

    async def _commit(
        self, account: Account, fence: int, kept: Deposit, grant: Grant, recipients: list[Recipient]
    ) -> Deposit:
        """Keep what the provider gave, before anybody uses it (invariant 2). Returns the access token's deposit."""
        valid_until = datetime.now(UTC) + timedelta(seconds=grant.expires_in_s)
        for attempt in range(COMMIT_TRIES):
            try:
                recipients = recipients or await self._recipients(account)
                access = seal(Purpose.ACCESS_TOKEN, account.id, grant.access_token, recipients, valid_until=valid_until)
                tokens = [access]
                if grant.refresh_token is not None:
                    tokens.append(
                        seal(Purpose.REFRESH_TOKEN, account.id, grant.refresh_token, recipients, row=kept.row)
                    )
                is_kept = await self._pool.run(self._store.put_tokens, account.id, fence, tokens, deadline_s=10.0)
            except RecipientsChanged:
                recipients = []  # `create`, `revoke` or `key rotate` meanwhile
                continue
            except StoreUnavailable:
                # The old token may be spent already, so this one is tried for as long as nobody else refreshed: the
                # fence sees to that. Logins do not wait for it (WAIT_S).
                if attempt == 0:
                    logger.warning("%s", Line("token_commit_delayed", user=account.email))
                await asyncio.sleep(COMMIT_PAUSE_S)
                continue
            if not is_kept:
                # Only after a stop longer than the lease (a suspended machine): the other refresh counts.
                logger.warning("%s", Line("lease_lost", user=account.email))
                raise Refused(Refusal.PROVIDER_DOWN, "the refresh lease was lost")
            return access
        raise Refused(Refusal.STORE_DOWN, "the store took no token")

    async def _recipients(self, account: Account) -> list[Recipient]:
        """Whom to seal to. Raises Refused if there is nobody, or StoreUnavailable."""
        try:
            found = await self._pool.run(self._store.recipients, account.id)
        except StoreError as error:  # the account was removed
            raise Refused(Refusal.NEEDS_CONSENT, error.problem) from error
        if not found:
            raise Refused(Refusal.NEEDS_CONSENT, "no app password is left to seal to")
        return found

    async def _read_stored(
        self, account: Account, keys: Keys, refused: Held | None, *, margin_s: float = MARGIN_S
    ) -> Held | None:
        """The token that another process (or an earlier life of this one) left in the store, if it is of use."""
        deposit = await self._pool.run(self._store.deposit, account.id, Purpose.ACCESS_TOKEN)
        if deposit is None or deposit.valid_until is None:
            return None
        left_s = (deposit.valid_until - datetime.now(UTC)).total_seconds()
        if left_s <= margin_s:
            return None
        try:
            token = unseal(deposit, keys)
        except SealBroken as error:
            logger.warning("%s", Line("seal_broken", user=account.email, error=str(error)))
            return None  # a refresh gives another
        if refused is not None and refused.is_same(token):
            return None
        now = self._clock()
        held = Held(token, None, now + left_s, account.token_since)
        self._held.keep(account, held, deposit)
        return held

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
        self._rejections.refuse_if_left_alone(upstream.name)
        if self._clock() < self._leave_alone_until.get(account.id, 0.0):
            raise Refused(Refusal.PROVIDER_DOWN, "left alone after a failure")

    async def _failed(self, account: Account, upstream: UpstreamConfig, error: ProviderError, fence: int) -> Refused:
        """Note a failed refresh and say what it means for the login."""
        low, high = BACKOFF_S
        pause_s = max(random.uniform(low, high), error.retry_after_s or 0.0)  # noqa: S311 - jitter, not a secret
        match error.fault:
            case ProviderFault.GRANT_LOST:
                await self.note_state(account, TokenState.NEEDS_CONSENT, error.code, fence=fence)
                return Refused(Refusal.NEEDS_CONSENT, error.code)
            case ProviderFault.CLIENT_REJECTED:
                self._rejections.begin(upstream.name, error.code, pause_s)
                return Refused(Refusal.CLIENT_REJECTED, error.code)
            case ProviderFault.DOWN:
                self._leave_alone_until[account.id] = self._clock() + pause_s
                await self.note_state(account, TokenState.FAILING, error.code, fence=fence)
                return Refused(Refusal.PROVIDER_DOWN, error.code)

    async def note_state(self, account: Account, state: TokenState, detail: str, *, fence: int | None = None) -> None:
        """Record what is known of the account's token; a change for the worse is worth a human's look.

        fence   the refresh that learned it: if a new deposit came meanwhile, it is not recorded
        """
        has_changed = await self._pool.run(
            lambda: self._store.set_token_state(account.id, state, detail, datetime.now(UTC), fence=fence)
        )
        self._ear.noted(account, state, has_changed=has_changed)
        if has_changed and state is not TokenState.FRESH:
            logger.warning("%s", Line("token_state", user=account.email, state=state.value, detail=detail))

    def _open(self, deposit: Deposit, keys: Keys) -> Secret:
        try:
            return unseal(deposit, keys)
        except SealBroken as error:
            logger.error("%s", Line("seal_broken", error=str(error)))  # noqa: TRY400 - no trace needed, no secret wanted
            raise Refused(Refusal.NEEDS_CONSENT, "the deposit cannot be opened") from None
