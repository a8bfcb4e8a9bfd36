"""How many accounts there are and how many need their owner's consent: for the service's status line."""

from __future__ import annotations

import asyncio
import contextlib

from proxy.errors import StoreUnavailable
from proxy.store.pool import StorePool
from proxy.store.store import Store

COUNT_S = 10.0


class Census:
    """Counts now and then. One per worker, its run() a task of the node's first."""

    def __init__(self, *, store: Store, pool: StorePool) -> None:
        self._store = store
        self._pool = pool
        self.accounts: int | None = None  # None until the store has answered
        self.needs_consent: int | None = None

    async def run(self) -> None:
        """Count until cancelled. While the store is down the last numbers stand: the log tells that it is."""
        while True:
            with contextlib.suppress(StoreUnavailable):
                self.accounts, self.needs_consent = await self._pool.run(self._store.upkeep.census)
            await asyncio.sleep(COUNT_S)
