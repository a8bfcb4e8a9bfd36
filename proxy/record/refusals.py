"""Refused logins on their way into the audit: counted by kind, so that an attack makes a few rows and not a million.

The first refusal of a kind is written at the next flush, those that follow are one row at the end of the window. A
window has room for some kinds by name; what an attack from everywhere brings beyond them is counted by cause alone.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from proxy.errors import StoreUnavailable
from proxy.logs import Line
from proxy.store.audit_rows import Refusals

logger = logging.getLogger("gatepost.audit")

WINDOW_S = 300.0
MAX_KINDS = 100  # by name in a window; 30,000 rows a day of each worker at the very most


@dataclass(frozen=True, slots=True)
class Kind:
    """What makes two refusals alike. Empty texts stand for what is not known."""

    account: str
    app_password: str
    name: str
    protocol: str
    address: str
    cause: str


@dataclass(slots=True)
class _Tally:
    at: datetime
    until: datetime
    count: int = 0


class RefusalLedger:
    """What was refused since it was written last. Owned by build(); its run() is a task of the worker."""

    def __init__(
        self,
        write: Callable[[Sequence[Refusals]], Awaitable[None]],
        *,
        interval_s: float,
        clock: Callable[[], float],
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """`clock` gives monotonic seconds."""
        self._write = write
        self._interval_s = interval_s
        self._clock = clock
        self._now = now
        self._tallies: dict[Kind, _Tally] = {}  # not written
        self._known: set[Kind] = set()  # of this window
        self._fresh: set[Kind] = set()  # whose first row is not written
        self._window_ends = clock() + WINDOW_S

    def record(self, kind: Kind) -> None:
        if kind not in self._known:
            if len(self._known) >= MAX_KINDS:
                kind = Kind("", "", "", kind.protocol, "", kind.cause)
            if kind not in self._known:
                self._known.add(kind)
                self._fresh.add(kind)
        now = self._now()
        tally = self._tallies.setdefault(kind, _Tally(now, now))
        tally.count += 1
        tally.until = now

    async def run(self) -> None:
        """Write every interval_s until cancelled; call close() after that."""
        while True:
            await asyncio.sleep(self._interval_s)
            await self.flush()

    async def flush(self) -> None:
        """Write what is new, and at the end of a window all of it; what can't be written stays for the next time."""
        is_over = self._clock() >= self._window_ends
        if is_over:
            self._window_ends = self._clock() + WINDOW_S
            self._known = set()
        due = set(self._tallies) if is_over else self._fresh
        await self._write_out(due)

    async def close(self) -> None:
        """Write all."""
        await self._write_out(set(self._tallies))

    async def _write_out(self, due: set[Kind]) -> None:
        if not due:
            return
        batch = {kind: self._tallies.pop(kind) for kind in due if kind in self._tallies}
        self._fresh = self._fresh - due
        rows = [
            Refusals(
                tally.at,
                tally.until,
                kind.account,
                kind.app_password,
                kind.name,
                kind.protocol,
                kind.address,
                kind.cause,
                tally.count,
            )
            for kind, tally in batch.items()
        ]
        try:
            await self._write(rows)
        except BaseException as error:
            self._take_back(batch)
            if not isinstance(error, StoreUnavailable):
                raise
            logger.info("%s", Line("audit_delayed", error=str(error), pending=len(self._tallies)))

    def _take_back(self, batch: dict[Kind, _Tally]) -> None:
        for kind, tally in batch.items():
            self._fresh.add(kind)
            self._known.add(kind)
            since = self._tallies.get(kind)
            if since is None:
                self._tallies[kind] = tally
            else:
                since.at = tally.at
                since.count += tally.count
