"""When a refusal is answered: at a point of the time grid that shows neither its cause nor what it cost.

On a machine that is not busy every cause is known long before the first point. On one that is, a hash may take longer,
and who is answered at the second point would know that his password was hashed: that its selector exists. So no refusal
comes sooner than the slowest of late.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable

GRID_S = 0.5
WINDOW_S = 60.0  # how long a slow one holds up the others
MAX_POINTS = 10  # 5 s, as long as a login waits for its hash; what takes longer is a fault and holds up nobody


class Pace:
    """The latest grid point of late that a refusal needed, for one process. `clock` is monotonic seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._slow: deque[tuple[float, int]] = deque()  # when, and which point: later ones are lower, so at most ten

    def due_s(self, elapsed_s: float) -> float:
        """Seconds after its start at which a refusal that is known after `elapsed_s` shall be answered."""
        own = next_point(elapsed_s)
        if own > MAX_POINTS:
            return own * GRID_S
        now = self._clock()
        while self._slow and self._slow[0][0] <= now - WINDOW_S:
            self._slow.popleft()
        while self._slow and self._slow[-1][1] <= own:
            self._slow.pop()
        self._slow.append((now, own))
        return self._slow[0][1] * GRID_S


def next_point(elapsed_s: float) -> int:
    """The number of the first point of the grid after `elapsed_s`, from 1 on."""
    return math.floor(elapsed_s / GRID_S) + 1
