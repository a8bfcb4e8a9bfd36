"""What the targets share: an input's form, its splits, the secret that must not turn up, a loop that forgives nothing.

An input is HEAD octets that choose set-up and split, then what the peer sends. In the latter \\xfe N C stands for
64 * N times C, so that small inputs reach the bounds, and \\xfd for SECRET.
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeVar

from tests.leaks import forms

T = TypeVar("T")

SECRET = "Marked-0-secret-1-Word"
FORMS = tuple(form.encode() for form in sorted(forms(SECRET)))
HEAD = 2
MAX_STREAM_BYTES = 65_536  # an input may say more by \xfe; the rest is cut off, so that each run stays quick
BYTEWISE_BYTES = 256  # longer streams are not fed octet by octet: that is for the tests of the bounds
PATIENCE_S = 20.0

_REPEAT = re.compile(rb"\xfe(.)(.)", re.DOTALL)


class Broken(AssertionError):
    """An invariant that does not hold. Its text may hold input; none of it is anybody's secret."""


def demand(claim: bool, text: str, *details: object) -> None:
    """Raise Broken unless the claim is true. An assert would vanish under -O, and `details` cost nothing here."""
    if not claim:
        raise Broken(f"{text}: {details!r:.2000}")


@dataclass(frozen=True)
class Input:
    """flags     for the set-up
    stream    what the peer sends
    splits    ways of sending it in pieces, whole first
    """

    flags: int
    stream: bytes
    splits: tuple[tuple[bytes, ...], ...]


def read_input(data: bytes, secret: bytes = SECRET.encode()) -> Input:
    """`secret` is what stands for \\xfd."""
    head = data[:HEAD].ljust(HEAD, b"\0")
    stream = expand(data[HEAD:], secret)
    return Input(head[0], stream, splits(stream, head[1]))


def expand(data: bytes, secret: bytes) -> bytes:
    longer = _REPEAT.sub(lambda match: match[2] * (64 * match[1][0]), data[:MAX_STREAM_BYTES])
    return longer.replace(b"\xfd", secret)[:MAX_STREAM_BYTES]


def splits(stream: bytes, seed: int) -> tuple[tuple[bytes, ...], ...]:
    """Whole, then at some random places (the same for a seed and length), then octet by octet if it is short."""
    dice = random.Random(seed * 65_537 + len(stream))
    marks = sorted({dice.randrange(len(stream) + 1) for _ in range(dice.randrange(1, 9))} | {0, len(stream)})
    cut = tuple(stream[start:end] for start, end in pairwise(marks))
    bytewise = (tuple(stream[at : at + 1] for at in range(len(stream))),) if len(stream) <= BYTEWISE_BYTES else ()
    return ((stream,), cut, *bytewise)


def has_secret(text: bytes | str) -> bool:
    octets = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    return any(form in octets for form in FORMS)


def alike(results: Sequence[object], text: str) -> None:
    """Demand that all results are the first one."""
    for result in results[1:]:
        demand(result == results[0], text, results[0], result)


class _Keeper(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: list[tuple[int, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append((record.levelno, self.format(record)))


@contextmanager
def watched_logs() -> Iterator[list[tuple[int, str]]]:
    """All that is logged at any level meanwhile: no line may hold SECRET, and none may be a warning."""
    root = logging.getLogger()
    keeper = _Keeper()
    level = root.level
    root.addHandler(keeper)
    root.setLevel(logging.DEBUG)
    try:
        yield keeper.lines
    finally:
        root.removeHandler(keeper)
        root.setLevel(level)
    for number, line in keeper.lines:
        demand(not has_secret(line), "a secret in the log", line)
        demand(number < logging.WARNING, "an unexpected log line", line)


class Loop:
    """One event loop for all runs of a process: making one for each costs more than most inputs."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._complaints: list[object] = []

    def run(self, story: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run to its end; what asyncio would only log, and tasks left over, are broken invariants."""
        if self._loop is None or self._loop.is_closed():
            self._loop = asyncio.new_event_loop()
            self._loop.set_exception_handler(lambda _, context: self._complaints.append(context))
        self._complaints.clear()
        result = self._loop.run_until_complete(asyncio.wait_for(story(), PATIENCE_S))
        left = asyncio.all_tasks(self._loop)
        if left:
            self._loop.run_until_complete(asyncio.wait(left, timeout=PATIENCE_S))
        demand(not asyncio.all_tasks(self._loop), "tasks left over")
        demand(not self._complaints, "asyncio complains", self._complaints)
        return result

    def close(self) -> None:
        if self._loop is not None and not self._loop.is_closed():
            self._loop.close()


LOOP = Loop()
