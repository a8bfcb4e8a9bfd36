"""Who is turned away before a login, told without a flood: all are counted, and few have a line of the log."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from dataclasses import dataclass

from proxy.config import Protocol
from proxy.errors import Refusal
from proxy.logs import Line
from proxy.meters import TURNED_AWAY, Meters

logger = logging.getLogger("gatepost.edge")

WINDOW_S = 60.0
MAX_LINES = 20  # in a window: enough to see whether it is one address or many


@dataclass(frozen=True, slots=True)
class Reason:
    """Why somebody is turned away. `limit` is the key of [limits] that is reached, None if there is none."""

    protocol: Protocol
    cause: Refusal
    limit: str | None = None


class Doorman:
    """Tells of those who are turned away. One per process; close() when nobody comes any more."""

    def __init__(self, meters: Meters | None = None, *, window_s: float = WINDOW_S, max_lines: int = MAX_LINES) -> None:
        self._meters = meters or Meters()
        self._window_s = window_s
        self._max_lines = max_lines
        self._told: set[tuple[str, Reason]] = set()  # by address, in this window
        self._left_out: Counter[Reason] = Counter()
        self._window: asyncio.TimerHandle | None = None

    def tell(self, reason: Reason, peer: str, visit_id: str) -> None:
        """Count one. An address has one line for a reason in a window, as long as the window has lines."""
        self._meters.count(TURNED_AWAY, reason.protocol, reason.cause.value, reason.limit or "")
        if self._window is None:
            self._window = asyncio.get_running_loop().call_later(self._window_s, self.close)
        if (peer, reason) in self._told or len(self._told) >= self._max_lines:
            self._left_out[reason] += 1
        else:
            self._told.add((peer, reason))
            self._log(reason, peer=peer, id=visit_id)

    def close(self) -> None:
        """End the window: say how many had no line in it. The next who is turned away begins another."""
        if self._window is not None:
            self._window.cancel()
            self._window = None
        for reason, count in self._left_out.items():
            self._log(reason, left_out=count)
        self._left_out.clear()
        self._told.clear()

    def _log(self, reason: Reason, **more: str | int) -> None:
        line = Line("turned_away", service=reason.protocol, cause=reason.cause.value, limit=reason.limit, **more)
        logger.info("%s", line)
