"""What this worker tells all others of its live sessions: a batch a second at most, under a lease.

Nothing is lost by a store that is down: the difference to what it knows is told when it answers again, and a store
that has forgotten this worker meanwhile is told all.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from functools import partial

from proxy.errors import StoreUnavailable
from proxy.live.sessions import Registry, Session
from proxy.logs import Line
from proxy.store.pool import StorePool
from proxy.store.rows import LiveSession, Seat
from proxy.store.store import Store

logger = logging.getLogger("gatepost.sessions")

INTERVAL_S = 1.0  # between two batches
DOUBT_S = 30.0  # how late a call can be that had no answer: far longer than a lock or a statement may take
RENEW_S = 5.0  # the lease, if nothing changed: a third of store.roster.LEASE


class Publisher:
    """Keeps the store's list of this worker's sessions. One per worker, its run() a task of the worker."""

    def __init__(
        self, *, seat: Seat, registry: Registry, store: Store, pool: StorePool, clock: Callable[[], float]
    ) -> None:
        """`clock` gives monotonic seconds."""
        self._seat = seat
        self._registry = registry
        self._roster = store.roster
        self._pool = pool
        self._clock = clock
        self._published: set[str] = set()
        self._doubtful: dict[str, float] = {}  # told by a call without an answer: until when it may still be written
        self._renew_at = 0.0

    async def run(self) -> None:
        """Publish until cancelled; retire() follows."""
        while True:
            try:
                await self.publish()
            except StoreUnavailable as error:  # the registry's watcher tells the operator
                logger.debug("%s", Line("publishing_delayed", error=str(error)))
            await asyncio.sleep(INTERVAL_S)

    async def publish(self) -> None:
        """Tell what has changed, or renew the lease if that is due. Raises StoreUnavailable."""
        now = self._clock()
        sessions = {session.id: session for session in self._registry}
        started, ended = sessions.keys() - self._published, self._published - sessions.keys()
        if not (started or ended) and now < self._renew_at:
            return
        over = ended | self._doubtful.keys() - sessions
        if not await self._publish((sessions[one] for one in started), over, is_all=False):
            await self._publish(sessions.values(), over, is_all=True)
        self._published = set(sessions)
        self._doubtful = {one: until for one, until in self._doubtful.items() if until > now}
        self._renew_at = now + RENEW_S

    async def _publish(self, started: Iterable[Session], ended: Iterable[str], *, is_all: bool) -> bool:
        rows = [_row(session) for session in started]
        try:
            publish = partial(self._roster.publish, is_all=is_all)
            return await self._pool.run(publish, self._seat, rows, tuple(ended))
        except BaseException:
            # A deadline ends the waiting, not the writing: what has ended meanwhile would be listed, and counted by
            # the caps, for as long as this worker lives.
            until = self._clock() + DOUBT_S
            self._doubtful |= {row.id: until for row in rows}
            raise

    async def retire(self) -> None:
        """The sessions have ended. A store that is down forgets them by itself."""
        try:
            await self._pool.run(self._roster.retire, self._seat)
        except StoreUnavailable as error:
            logger.debug("%s", Line("publishing_delayed", error=str(error)))


def _row(session: Session) -> LiveSession:
    return LiveSession(
        id=session.id,
        account_id=session.account_id,
        email=session.email,
        public_id=session.public_id,
        name=session.name,
        protocol=session.protocol,
        upstream=session.upstream,
        upstream_user=session.upstream_user,
        address=session.peer,
        client=session.client,
        since=session.since,
    )
