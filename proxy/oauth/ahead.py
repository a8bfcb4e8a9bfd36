"""Background renewal: tokens in use get new before a login needs them, and no refresh token dies of old age.

It looks after three kinds of accounts, never sealed ones (nobody but a login opens them) and never disabled ones:
- those that somebody logged in to with the present token, when it has come to the last fifth of its life;
- those whose last refresh failed, until one succeeds: so "failing" is about now, and ends without a login;
- those whose refresh token nobody used for a week: providers forget such tokens (Entra after 90 days, Google after
  six months, others sooner).
The latter two by one worker of each node alone: its search finds what the others failed with.
Every renewal goes through the broker: one at a time per account in all processes, with its lease and its back-off.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta

from proxy.config import UpstreamConfig
from proxy.errors import GatepostError, StoreUnavailable
from proxy.logs import Line
from proxy.oauth.broker import TokenBroker
from proxy.store.pool import StorePool
from proxy.store.rows import Account
from proxy.store.store import Store

logger = logging.getLogger("gatepost.oauth")

SOON_S = (0.2, 1.0)  # to the first round
TICK_S = (4.0, 6.0)  # between two rounds; drawn, so that processes come apart
AT_ONCE = 4  # renewals under way: what logins need goes beside them
PER_ROUND = 64  # a round takes PER_ROUND / AT_ONCE * 10 s at the very worst
IDLE_FOR = timedelta(days=7)
SWEEP_S = 60.0  # how often the store is searched for failing accounts
IDLE_SWEEP_S = 3600.0  # and for idle ones
RETRY_S = (20.0, 900.0)  # after a failure: at first, doubled each time, at last; each time up to half as much again


class Ahead:
    """Renews what is due. One per process, its run() a task of the worker."""

    def __init__(
        self,
        *,
        broker: TokenBroker,
        store: Store,
        pool: StorePool,
        upstreams: Callable[[str], UpstreamConfig | None],
        clock: Callable[[], float],
        is_searching: bool = True,
    ) -> None:
        """How to look after them.

        clock           monotonic seconds, the same as the broker's
        is_searching    whether it also renews what nobody uses here: not every worker must ask a provider in trouble
        """
        self._is_searching = is_searching
        self._broker = broker
        self._store = store
        self._pool = pool
        self._upstreams = upstreams
        self._clock = clock
        self._failures: dict[int, tuple[int, float]] = {}  # by account: how many in a row, and when to try again
        self._sweep_at = 0.0
        self._idle_sweep_at = 0.0
        self._gate = asyncio.Semaphore(AT_ONCE)

    def stop_searching(self) -> None:
        """From now on renew only what is in use here."""
        self._is_searching = False

    async def run(self) -> None:
        """Renew until cancelled."""
        pause_s = random.uniform(*SOON_S)  # noqa: S311 - jitter, not a secret
        while True:
            await asyncio.sleep(pause_s)
            pause_s = random.uniform(*TICK_S)  # noqa: S311
            try:
                await self.renew_due()
            except StoreUnavailable as error:  # the registry's watcher tells the operator
                logger.debug("%s", Line("renewal_delayed", error=str(error)))

    async def renew_due(self) -> None:
        """One round; returns when all of it is done. Raises StoreUnavailable."""
        accounts = {account.id: account for account in await self._due()}
        await asyncio.gather(*(self._renew(account) for account in accounts.values()))

    async def _due(self) -> list[Account]:
        now = self._clock()
        waiting = {account_id for account_id, (_, again_at) in self._failures.items() if again_at > now}
        found: list[Account] = []
        if in_use := [account_id for account_id in self._broker.due() if account_id not in waiting]:
            found += await self._pool.run(self._store.upkeep.upheld_accounts, in_use[:PER_ROUND])
            for account_id in set(in_use[:PER_ROUND]) - {account.id for account in found}:
                self._broker.forget(account_id)  # removed, disabled, or no token will help it
        if now >= self._sweep_at:
            # Also for those that other processes failed with; what fails here has its own time to be tried again.
            failing = await self._pool.run(self._store.upkeep.failing_accounts, 10 * PER_ROUND)
            self._forget_all_but(account.id for account in failing)
            if self._is_searching:
                found += [account for account in failing if account.id not in waiting][:PER_ROUND]
            self._sweep_at = now + SWEEP_S
        if self._is_searching and now >= self._idle_sweep_at:
            before = datetime.now(UTC) - IDLE_FOR
            found += await self._pool.run(self._store.upkeep.idle_accounts, before, PER_ROUND)
            is_whole = len(found) < PER_ROUND
            self._idle_sweep_at = now + (IDLE_SWEEP_S if is_whole else SWEEP_S)
        return found[:PER_ROUND]

    async def _renew(self, account: Account) -> None:
        upstream = self._upstreams(account.upstream)
        if upstream is None or upstream.oauth2 is None:
            return
        async with self._gate:
            try:
                await self._broker.renew_ahead(account, upstream)
            except GatepostError as error:
                self._failed(account, str(error))
            except Exception:
                # A bug that one account brings out must not end the mail of all.
                logger.exception("%s", Line("renewal_crashed", user=account.email))
                self._failed(account, "crashed")
            else:
                self._failures.pop(account.id, None)

    def _failed(self, account: Account, cause: str) -> None:
        count, _ = self._failures.get(account.id, (0, 0.0))
        first_s, last_s = RETRY_S
        pause_s = min(first_s * 2 ** min(count, 16), last_s) * random.uniform(1.0, 1.5)  # noqa: S311 - jitter
        self._failures[account.id] = count + 1, self._clock() + pause_s
        logger.debug("%s", Line("renewal_failed", user=account.email, cause=cause))

    def _forget_all_but(self, failing: Iterable[int]) -> None:
        """What failed here and is well again, by a login or another process, begins anew."""
        kept = set(failing)
        now = self._clock()
        self._failures = {
            account_id: failure
            for account_id, failure in self._failures.items()
            if account_id in kept or failure[1] > now
        }
