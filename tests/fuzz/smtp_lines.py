"""The SMTP front's lines: the same whatever the split, bounded, and what is taken at the end is what was not read."""

from __future__ import annotations

import asyncio

from proxy.edge.smtp_lines import MAX_HELD_BYTES, Lines
from proxy.wire.sasl import MAX_SASL_BYTES
from tests.fuzz.kit import LOOP, alike, demand, read_input

TOKENS = (
    b"\r\n", b"\n", b"\r", b"\r\r\n", b"EHLO x", b"AUTH", b"\0", b".", b"\xfe\xc0A", b"\xfe\x01A", b"\xfe\xc1\r",
    b"\xfe\xc0A\n", b"\xfe\xffA\xfe\xffA",
)  # fmt: skip


class Tap:
    """The reading side of a transport, as Lines uses it."""

    def __init__(self) -> None:
        self.is_open = True

    def pause_reading(self) -> None:
        demand(self.is_open, "paused twice")
        self.is_open = False

    def resume_reading(self) -> None:
        demand(not self.is_open, "resumed twice")
        self.is_open = True

    def is_closing(self) -> bool:
        return False


def one(data: bytes) -> None:
    given = read_input(data)
    stop_after = given.flags % 16
    alike(
        [LOOP.run(lambda pieces=pieces: _read(pieces, stop_after)) for pieces in given.splits],
        "a split changes the lines",
    )


async def _read(pieces: tuple[bytes, ...], stop_after: int) -> tuple[list[bytes], bytes]:
    """The lines, `stop_after` at most, and everything behind them."""
    tap = Tap()
    lines = Lines(tap)
    found: list[bytes] = []
    pieces_left = list(pieces)
    while pieces_left and len(found) < stop_after:
        if tap.is_open:
            piece = pieces_left.pop(0)
            lines.feed(piece)
            demand(len(lines._held) <= MAX_HELD_BYTES + len(piece), "more is held than the bounds allow")
        while len(found) < stop_after and (line := lines._next()) is not None:
            lines._resume_if_empty()
            demand(len(line.rstrip(b"\r\n")) <= MAX_SASL_BYTES + 1, "a line over its bound")
            demand(line.endswith(b"\n") or len(line) == MAX_SASL_BYTES + 1, "a line that is neither whole nor cut")
            demand(b"\n" not in line[:-1], "two lines in one")
            found.append(line)
    await asyncio.sleep(0)
    is_skipping = lines._is_skipping
    rest = lines.take() + b"".join(pieces_left)
    demand(len(lines._held) == 0, "something is kept after take()")
    return found, rest.partition(b"\n")[2] if is_skipping else rest
