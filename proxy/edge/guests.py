"""Who is here: every client connection of this process, counted for the caps, and closed when the house closes."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Protocol

from proxy.errors import Answer, Refusal


class Front(Protocol):
    """What a front can be asked before login, from outside."""

    def close(self, answer: Answer) -> None: ...

    def abort(self) -> None: ...


class Guests:
    """Counts and finds connections. `connections` is the soft cap for all, `waiting` for one address before login."""

    def __init__(self, *, connections: int, waiting_per_address: int) -> None:
        self._connections = connections
        self._waiting_per_address = waiting_per_address
        self._waiting: dict[str, tuple[str | None, Front | None]] = {}  # peer, None as long as it is not known
        self._by_address: Counter[str] = Counter()
        self._total = 0
        self.is_closing = False
        self.nobody_waits = asyncio.Event()
        self.nobody_waits.set()

    @property
    def are_too_many(self) -> bool:
        """More than the soft cap: who arrived last is refused for that, whatever his address."""
        return self._total > self._connections

    @property
    def is_overfull(self) -> bool:
        """Twice the soft cap: even saying no to more of them would cost too much."""
        return self._total >= 2 * self._connections

    def __len__(self) -> int:
        return self._total

    def knock(self, visit_id: str) -> None:
        """Count a connection whose client is not known yet: it is among all, and waits. Then it arrives, or leaves."""
        self._total += 1
        self._waiting[visit_id] = (None, None)
        self.nobody_waits.clear()

    def arrive(self, visit_id: str, peer: str) -> Refusal | None:
        """Count a connection in. Returns why it must be refused, though it is counted all the same."""
        if self._waiting.pop(visit_id, None) is not None:  # it knocked
            self._total -= 1
        refusal = None
        if self.is_closing:
            refusal = Refusal.SHUTTING_DOWN
        elif self._total >= self._connections or self._by_address[peer] >= self._waiting_per_address:
            refusal = Refusal.CONNECTION_CAP
        self._total += 1
        self._by_address[peer] += 1
        self._waiting[visit_id] = (peer, None)
        self.nobody_waits.clear()
        return refusal

    def greet(self, visit_id: str, front: Front) -> None:
        """Its front stands: from now on it can be asked to close."""
        if visit_id in self._waiting:
            self._waiting[visit_id] = (self._waiting[visit_id][0], front)

    def let_in(self, visit_id: str) -> None:
        """It is logged in: no longer waiting, still a connection."""
        self._stop_waiting(visit_id)

    def leave(self, visit_id: str) -> None:
        self._stop_waiting(visit_id)
        self._total -= 1

    def close_waiting(self, answer: Answer) -> None:
        """Ask everybody who is not logged in to go; newcomers are refused from now on."""
        self.is_closing = True
        for _, front in tuple(self._waiting.values()):
            if front is not None:
                front.close(answer)

    def cut_off_waiting(self) -> None:
        """End the connections of all who are not logged in, without a word; they are gone a moment later."""
        for _, front in tuple(self._waiting.values()):
            if front is not None:
                front.abort()

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def _stop_waiting(self, visit_id: str) -> None:
        peer, _ = self._waiting.pop(visit_id, (None, None))
        if peer is not None:
            self._by_address[peer] -= 1
            if self._by_address[peer] <= 0:
                del self._by_address[peer]
        if not self._waiting:
            self.nobody_waits.set()
