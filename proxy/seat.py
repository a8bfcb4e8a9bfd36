"""Which worker of which node a process is: what it signs with wherever several write to one store."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Seat:
    """A worker's place in its node. A replacement has the number of the one that died, and an instance of its own."""

    node: str  # [workers] node, or the host's name
    worker: int  # 0 .. workers - 1
    workers: int  # on this node
    instance: str  # random; no other process ever had it

    @property
    def is_first(self) -> bool:
        """Whether it does what one of a node's workers must do for all."""
        return self.worker == 0

    def share_of(self, whole: int) -> int:
        """A worker's part of a bound that is the whole node's, rounded up."""
        return math.ceil(whole / self.workers)
