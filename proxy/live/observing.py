"""What a worker looks at by itself, so that it can be seen from outside: its loop, its sessions, the tokens' states.

And whether the node can serve: /readyz asks here. Says nothing that is about one person.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from time import monotonic

from proxy.errors import StoreUnavailable
from proxy.live.sessions import Registry
from proxy.meters import (
    ACCEPTING,
    ACCOUNTS,
    CERTIFICATE_ENDS,
    HEARTBEAT,
    LINES_LOST,
    LOOP_LAG,
    MEMORY,
    OPEN_CONNECTIONS,
    SESSIONS,
    TASKS,
    TOKEN_AGE,
    WORKER_STARTS,
    Board,
    Meters,
)
from proxy.store.pool import StorePool
from proxy.store.rows import TokenState
from proxy.store.store import Store

TICK_S = 0.5
ACCOUNTS_EVERY = 30  # ticks: a query over all accounts
SLOW_EVERY = 10  # ticks: the tasks, which with many sessions are a long list, and the memory, by a file of the kernel's
ANSWER_HOLDS_S = 1.0  # of the store, for whoever asks in this time: many who ask must not be many queries
DAY_S = 86_400.0
_STATM = Path("/proc/self/statm")  # proc(5): the second field is resident pages

Json = Mapping[str, "bool | int | str | Json | None"]


class Observer:
    """Writes a worker's gauges. Its run() is a task of the worker, which also tells it when the worker accepts."""

    def __init__(
        self,
        *,
        meters: Meters,
        registry: Registry,
        connections: Callable[[], int],
        store: Store,
        pool: StorePool,
        is_first: bool,
        certificate_ends: Callable[[], datetime | None] = lambda: None,
        lines_lost: Callable[[], int] = lambda: 0,
    ) -> None:
        """`is_first` is true for the one worker of a node that counts what is the same for all."""
        self._meters = meters
        self._registry = registry
        self._connections = connections
        self._store = store
        self._pool = pool
        self._is_first = is_first
        self._certificate_ends = certificate_ends
        self._lines_lost = lines_lost
        self._lost = 0  # of them, counted

    async def run(self) -> None:
        tick = 0
        while True:
            self.look()
            if tick % SLOW_EVERY == 0:
                self._meters.put(TASKS, value=len(asyncio.all_tasks()))
                self._meters.put(MEMORY, value=_resident_bytes())
            if self._is_first and tick % ACCOUNTS_EVERY == 0:
                with contextlib.suppress(StoreUnavailable):  # the pool has counted that
                    await self.look_at_accounts()
            tick += 1
            due = monotonic() + TICK_S
            await asyncio.sleep(TICK_S)
            self._meters.observe(LOOP_LAG, value=max(0.0, monotonic() - due))

    def look(self) -> None:
        meters = self._meters
        meters.put(HEARTBEAT, value=monotonic())
        meters.put(OPEN_CONNECTIONS, value=self._connections())
        lost = self._lines_lost()
        meters.count(LINES_LOST, amount=lost - self._lost)
        self._lost = lost
        live = Counter({"imap": 0, "smtp": 0}) + Counter(session.protocol for session in self._registry)
        for protocol in ("imap", "smtp"):
            meters.put(SESSIONS, protocol, value=live[protocol])
        if self._is_first and (ends := self._certificate_ends()) is not None:
            meters.put(CERTIFICATE_ENDS, value=ends.timestamp())

    async def look_at_accounts(self) -> None:
        """Raises StoreUnavailable."""
        found = await self._pool.run(self._store.upkeep.token_states)
        now = datetime.now(UTC)
        for state in TokenState:
            count, since = found.get(state, (0, now))
            self._meters.put(ACCOUNTS, state.value, value=count)
            self._meters.put(TOKEN_AGE, state.value, value=max(0.0, (now - since).total_seconds()))

    def accepts(self) -> None:
        """The worker accepts from now on."""
        self._meters.count(WORKER_STARTS)
        self._meters.put(HEARTBEAT, value=monotonic())
        self._meters.put(ACCEPTING, value=1.0)

    def leaves(self) -> None:
        """It accepts no more, and what it said for the whole node is another's to say."""
        self._meters.put(ACCEPTING, value=0.0)
        if self._is_first:
            self._is_first = False
            self._meters.put(CERTIFICATE_ENDS, value=math.nan)
            for meter, state in product((ACCOUNTS, TOKEN_AGE), TokenState):
                self._meters.put(meter, state.value, value=math.nan)


class Readiness:
    """Whether logins can succeed here, as far as that is this node's to say."""

    def __init__(
        self,
        *,
        store: Store,
        pool: StorePool,
        board: Board,
        workers: int,
        certificate_days: int,
        certificate_ends: Callable[[], datetime | None] = lambda: None,
        clock: Callable[[], float] = monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.is_draining = False
        self._store = store
        self._pool = pool
        self._board = board
        self._workers = workers
        self._certificate_days = certificate_days
        self._certificate_ends = certificate_ends
        self._clock = clock
        self._now = now
        self._asked: asyncio.Task[bool] | None = None
        self._asked_at = 0.0

    async def report(self) -> tuple[bool, Json]:
        """Whether it is ready, and the parts of the answer."""
        answers = await self._store_answers()
        accepting = self._board.accepting(self._clock())
        days = self._days_left()
        is_valid = days is None or days >= self._certificate_days
        is_ready = answers and accepting > 0 and is_valid and not self.is_draining
        return is_ready, {
            "ready": is_ready,
            "draining": self.is_draining,
            "store": "ok" if answers else "down",
            "workers": {"accepting": accepting, "configured": self._workers},
            "certificate_days_left": days,
        }

    def _days_left(self) -> int | None:
        """Whole days; negative once it has ended."""
        ends = self._certificate_ends()
        if ends is None:
            return None
        return int((ends - self._now()).total_seconds() // DAY_S)

    async def _store_answers(self) -> bool:
        if self._asked is None or (self._asked.done() and self._clock() - self._asked_at > ANSWER_HOLDS_S):
            self._asked_at = self._clock()
            self._asked = asyncio.create_task(self._ask())
        return await asyncio.shield(self._asked)

    async def _ask(self) -> bool:
        try:
            await self._pool.run(self._store.check)
        except StoreUnavailable:
            return False
        return True


def _resident_bytes() -> float:
    try:
        return float(int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"))
    except (OSError, ValueError, IndexError):  # not Linux
        return math.nan
