"""What a worker tells its supervisor, again and again from inside its event loop: that it lives, and whom it serves.

The first beat means that it accepts. A loop that hangs tells nothing, and its silence is what the supervisor acts on.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass

TICK_S = 1.0
READ_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Beat:
    """`accounts` and `needs_consent` are the whole store's, or None if this worker does not know."""

    sessions: int = 0
    accounts: int | None = None
    needs_consent: int | None = None

    def line(self) -> bytes:
        """Far below PIPE_BUF: a pipe takes it whole or not at all."""
        numbers = (self.sessions, self.accounts, self.needs_consent)
        return b" ".join(b"-" if number is None else b"%d" % number for number in numbers) + b"\n"


async def beat(pipe: int, tell: Callable[[], Beat]) -> None:
    """Beat until cancelled. A supervisor that does not read loses beats; one that is gone is noticed elsewhere."""
    os.set_blocking(pipe, False)
    while True:
        with contextlib.suppress(BlockingIOError, BrokenPipeError):
            os.write(pipe, tell().line())
        await asyncio.sleep(TICK_S)


def last_beat(data: bytes) -> Beat | None:
    """The newest whole beat in what a pipe held; None if there is none."""
    whole, separator, _ = data.rpartition(b"\n")
    words = whole.rpartition(b"\n")[2].split(b" ")
    if not separator or len(words) != 3:
        return None
    sessions, accounts, needs_consent = (int(word) if word.isdigit() else None for word in words)
    return Beat(sessions or 0, accounts, needs_consent)
