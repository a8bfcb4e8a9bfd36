"""What one worker of each node does for all: it lets go of what is old, and writes the audit into the node's log."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from time import monotonic

from proxy.config import AuditConfig
from proxy.errors import StoreUnavailable
from proxy.logs import Line
from proxy.store.audit_rows import Entry
from proxy.store.pool import StorePool
from proxy.store.store import Store

logger = logging.getLogger("gatepost.audit")

TIDY_S = (45.0, 75.0)  # drawn, so that nodes come apart
BATCHES_PER_ROUND = 20  # of 1,000 rows; what is left waits for the next round
DEADLINE_S = 10.0  # of one batch: nobody waits for it
LOOK_S = 2.0  # how late a command's entry comes into the log
OVERLAP_S = 60.0  # entries may become visible in another order than that of their ids: transactions last a while


class Housekeeper:
    """Deletes old audit entries, dead workers' rows and outlived keys. Its run() is a task of the worker."""

    def __init__(self, *, store: Store, pool: StorePool, audit: AuditConfig) -> None:
        self._store = store
        self._pool = pool
        self._audit = audit

    async def run(self) -> None:
        while True:
            await asyncio.sleep(random.uniform(*TIDY_S))  # noqa: S311 - jitter, not a secret
            try:
                await self.tidy()
            except StoreUnavailable as error:  # the registry's watcher tells the operator
                logger.debug("%s", Line("housekeeping_delayed", error=str(error)))

    async def tidy(self) -> None:
        """One round. Raises StoreUnavailable."""
        run, store = self._pool.run, self._store
        dead = await run(store.roster.forget_dead, deadline_s=DEADLINE_S)
        if dead:
            logger.info("%s", Line("workers_forgotten", count=dead))
        await run(store.trail.drop_outlived_keys, deadline_s=DEADLINE_S)
        keep, keep_refusals = timedelta(days=self._audit.keep_days), timedelta(days=self._audit.keep_refusals_days)
        for _ in range(BATCHES_PER_ROUND):
            if not await run(store.trail.drop_old, keep, keep_refusals, deadline_s=DEADLINE_S):
                return


class AuditLog:
    """Logs what commands, the web page and Gatepost itself did on this node; logins have lines of their own."""

    def __init__(
        self,
        *,
        store: Store,
        pool: StorePool,
        node: str,
        clock: Callable[[], float] = monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """`now` says where the log begins; a clock that is put forward or back later does not matter (outcomes E55)."""
        self._store = store
        self._pool = pool
        self._node = node
        self._start = now()
        self._clock = clock
        self._marks: deque[tuple[float, int]] = deque()  # when looked, and the newest id there was
        self._logged: set[int] = set()  # ids behind the oldest mark

    async def run(self) -> None:
        """Look until cancelled, and then once more: the next generation begins where it was built."""
        try:
            while True:
                await asyncio.sleep(LOOK_S)
                await self._look()
        finally:
            await self._look()

    async def _look(self) -> None:
        try:
            await self.look()
        except StoreUnavailable as error:
            logger.debug("%s", Line("audit_log_delayed", error=str(error)))

    async def look(self) -> None:
        """Log what is new. Raises StoreUnavailable."""
        run, trail = self._pool.run, self._store.trail
        if not self._marks:
            self._marks.append((self._clock(), await run(trail.last_id_before, self._start)))
        newest = self._clock(), await run(trail.last_id)
        after, found = self._marks[0][1], set[int]()
        while page := await run(trail.deeds_on, self._node, after):
            for entry in page:
                if entry.id not in self._logged:
                    self._logged.add(entry.id)
                    logger.info("%s", _line(entry))
                found.add(entry.id)
            after = page[-1].id
        self._logged = found
        self._marks.append(newest)
        while len(self._marks) > 1 and self._marks[1][0] <= newest[0] - OVERLAP_S:
            self._marks.popleft()


def _line(entry: Entry) -> Line:
    return Line(
        "audit",
        act=entry.event.value,
        actor=entry.actor,
        user=entry.account or None,
        app_password=entry.app_password or None,
        name=entry.name or None,
        peer=entry.address or None,
        cause=entry.cause or None,
        detail=entry.detail or None,
    )
