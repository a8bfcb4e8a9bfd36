"""StorePool: the store's calls from the event loop, each in a thread of the pool's own, each with a deadline.

Knows asyncio and threads, nothing of databases. The loop never waits for a lock that a query holds.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Generic, TypeVar, TypeVarTuple

from proxy.errors import GatepostError, StoreBroken, StoreUnavailable
from proxy.meters import STORE_FAILURES, STORE_SECONDS, Meters
from proxy.store.store import Store

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

DEADLINE_S = 2.0  # a login has 25 s in all; a store that needs this long counts as down
MAX_WAITING = 256  # calls without a thread; beyond them a login is better refused than late
CLOSE_S = 6.0  # for running calls at the end: longer than a lock is waited for

logger = logging.getLogger("gatepost.store")


class _Call(Generic[T]):
    """A call and the place for its result. Both sides drop it by the future being done."""

    def __init__(self, work: Callable[[], T]) -> None:
        self.work = work
        self.is_begun = False  # under the pool's lock
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[T] = self.loop.create_future()

    def run(self) -> None:
        """In a pool thread: do the work and post the result."""
        try:
            result = self.work()
        except BaseException as error:  # noqa: BLE001 - it is the waiter's, whatever it is
            self.post(self._fail, error)
        else:
            self.post(self._finish, result)

    def post(self, deliver: Callable[[*Ts], None], *args: *Ts) -> None:
        try:
            self.loop.call_soon_threadsafe(deliver, *args)
        except RuntimeError:
            logger.debug("event=store_result_dropped cause=loop_closed")

    def fail(self, error: BaseException) -> None:
        self.post(self._fail, error)

    def expire(self, deadline_s: float) -> None:
        """In the loop: its waiter has waited long enough."""
        self._fail(StoreUnavailable(f"no answer in {deadline_s:g} s"))

    def _finish(self, result: T) -> None:
        if not self.future.done():
            self.future.set_result(result)

    def _fail(self, error: BaseException) -> None:
        if not self.future.done():
            self.future.set_exception(error)
        elif not isinstance(error, GatepostError):
            # Its waiter is gone and nobody else would hear of it.
            logger.error("event=store_call_failed_late", exc_info=error)


class StorePool:
    """Runs functions of the store in `threads` threads; at most `waiting` calls stand in line for one.

    A call whose waiter was cancelled, or whose deadline passed, is taken out of the line; if it runs already it ends
    as it ends, and its result is dropped.
    """

    def __init__(
        self, store: Store, threads: int = 4, *, waiting: int = MAX_WAITING, meters: Meters | None = None
    ) -> None:
        self.store = store
        self._meters = meters or Meters()
        self._max_waiting = waiting
        self._line: deque[_Call[object]] = deque()
        self._changed = threading.Condition()
        self._idle = 0
        self._is_closed = False
        self._threads = [
            # Daemons: a query that hangs must not keep a process that was told to end.
            threading.Thread(target=self._serve, name=f"store-{number}", daemon=True)
            for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    async def run(self, fn: Callable[[*Ts], T], *args: *Ts, deadline_s: float = DEADLINE_S) -> T:
        """Call `fn(*args)` in a thread and await its result.

        raises  StoreUnavailable when the line is full, the pool closed, or the deadline (seconds) passed: a write may
                then have happened all the same; also in place of StoreBroken; and what else `fn` raises
        """
        call = _Call(lambda: fn(*args))
        asked = monotonic()
        try:
            result = await self._answer(call, deadline_s)
        except StoreUnavailable:
            self._meters.count(STORE_FAILURES)
            raise
        self._meters.observe(STORE_SECONDS, value=monotonic() - asked)
        return result

    async def _answer(self, call: _Call[T], deadline_s: float) -> T:
        self._enqueue(call)
        timer = call.loop.call_later(deadline_s, call.expire, deadline_s)
        try:
            return await call.future
        except StoreBroken as error:
            # A server outlives this as it outlives a store that is down: sessions go on, and a restore mends it.
            raise StoreUnavailable(str(error)) from None
        finally:
            timer.cancel()
            if not call.is_begun:
                self._withdraw(call)

    def _enqueue(self, call: _Call[T]) -> None:
        with self._changed:
            if self._is_closed:
                raise StoreUnavailable("the store is closed")
            if len(self._line) - self._idle >= self._max_waiting:
                raise StoreUnavailable(f"{len(self._line)} calls wait for the store already")
            self._line.append(call)  # type: ignore[arg-type]
            self._changed.notify()

    def _withdraw(self, call: _Call[T]) -> None:
        with self._changed:
            if call in self._line:
                self._line.remove(call)  # type: ignore[arg-type]

    def _serve(self) -> None:
        while True:
            with self._changed:
                self._idle += 1
                while not self._line and not self._is_closed:
                    self._changed.wait()
                self._idle -= 1
                if not self._line:
                    return
                call = self._line.popleft()
                call.is_begun = True
            call.run()
            del call  # or an idle thread would keep the last result

    def close(self) -> None:
        """End the pool: calls in line fail with StoreUnavailable, running ones get CLOSE_S. The store stays open."""
        with self._changed:
            self._is_closed = True
            dropped = list(self._line)
            self._line.clear()
            self._changed.notify_all()
        for call in dropped:
            call.fail(StoreUnavailable("the store is closed"))
        end = monotonic() + CLOSE_S
        for thread in self._threads:
            thread.join(max(0.0, end - monotonic()))
