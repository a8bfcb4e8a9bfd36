"""Who of the workers has fallen silent, what is done about it, and what the service manager is told.

A worker beats from inside its event loop. One that was silent for too long gets SIGABRT, on which it logs where it
hangs, and then SIGKILL; the supervisor replaces it as it does any that died. The manager's watchdog is fed only while
this works: as long as nobody was silent for the watchdog's whole time.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Iterable
from time import monotonic

from proxy.logs import Line
from proxy.serving.generation import Generation, Phase, Slot

logger = logging.getLogger("gatepost.workers")

FROZEN_S = 20.0  # without a manager's watchdog; with one, half of its time
START_S = 60.0  # for the first beat: the database may have to be waited for
LAST_WORDS_S = 1.0  # between SIGABRT and SIGKILL; a process that was stopped has no words
NAP_S = 5.0  # a look that comes so late means that we, too, did not run: nobody is judged by that time
STATUS_S = 5.0  # between two status lines
MAX_STATUS = 300


class Vigil:
    """The supervisor's memory of its looks. `is_kept` is asked once a turn."""

    def __init__(self, watchdog_s: float | None, clock: Callable[[], float] = monotonic) -> None:
        self._watchdog_s = watchdog_s
        self._frozen_s = FROZEN_S if watchdog_s is None else watchdog_s / 2
        self._clock = clock
        self._looked_at = clock()
        self._told = ""
        self._told_at = float("-inf")

    def is_kept(self, generations: Iterable[Generation]) -> bool:
        """End those that hang; whether nobody has been silent for the whole of the manager's patience."""
        now = self._clock()
        was_away, self._looked_at = now - self._looked_at > NAP_S, now
        is_kept = True
        for slot in (slot for one in generations if one.kill_at is None for slot in one.living()):
            if was_away:
                slot.heard_at = now
            silent_s = now - slot.heard_at
            if silent_s > (self._frozen_s if slot.is_ready else max(START_S, self._frozen_s)):
                self._end(slot, now, silent_s)
            if self._watchdog_s is not None and silent_s > max(self._watchdog_s, START_S * (not slot.is_ready)):
                is_kept = False
        return is_kept

    @staticmethod
    def _end(slot: Slot, now: float, silent_s: float) -> None:
        if slot.aborted_at is None:
            slot.aborted_at = now
            logger.error("%s", Line("worker_frozen", worker=slot.number, pid=slot.pid, silent_s=round(silent_s)))
            slot.send(signal.SIGABRT)
        elif now - slot.aborted_at >= LAST_WORDS_S:
            slot.send(signal.SIGKILL)

    def is_news(self, status: str) -> bool:
        """Whether to tell this status line now; then it counts as told."""
        now = self._clock()
        if status == self._told or now - self._told_at < STATUS_S:
            return False
        self._told, self._told_at = status, now
        return True


def status(generations: Iterable[Generation], serving: Generation) -> str:
    """The line that `systemctl status` shows."""
    generations = tuple(generations)
    parts = [f"{sum(one.sessions for one in generations)} sessions"]
    first = serving.slots[0].beat
    if first.accounts is not None:
        parts += [f"{first.accounts} accounts", f"{first.needs_consent or 0} need consent"]
    parts.append(f"{sum(slot.is_ready for slot in serving.slots)} of {len(serving.slots)} workers")
    leaving = sum(one.sessions for one in generations if one.phase is Phase.LEAVING)
    if leaving:
        parts.append(f"{leaving} of the sessions under an earlier configuration")
    return ", ".join(parts)
