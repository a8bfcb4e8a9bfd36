"""How answers are printed: tables that fit the terminal, one JSON document, errors of one line."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import unicodedata
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from proxy.errors import OperatorError

Json = None | bool | int | str | Sequence["Json"] | Mapping[str, "Json"]

GAP = "  "
MIN_COLUMN = 8  # cells; a column is not cut shorter, the line wraps instead
CUT = ".."


def say(text: str) -> None:
    """Print to stdout, through to its reader.

    raises  OperatorError if it can't be written; BrokenPipeError if nobody reads
    """
    if sys.stdout is None:  # started with it closed
        raise OperatorError("there is no stdout", "run it without >&-")
    try:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
    except OSError as error:
        _discard()
        if isinstance(error, BrokenPipeError):
            raise
        raise OperatorError(f"cannot write the answer: {error.strerror}", "look at where stdout goes") from None


def _discard() -> None:
    """Let what stdout could not take vanish: else the interpreter tries again at its end, and complains."""
    with contextlib.suppress(OSError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def complain(text: str) -> None:
    """Print one line to stderr, in Gatepost's name."""
    if sys.stderr is not None:  # print() would take stdout in its place
        print(f"gatepost: {plain(text)}", file=sys.stderr, flush=True)


def plain(text: str) -> str:
    """Text on one line without control characters: what it repeats may come from a file or an argument."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape", "backslashreplace").decode("ascii")
        for char in text
    )


def document(value: Json) -> str:
    """One JSON document, in ASCII, so that every terminal and every pipe takes it."""
    import json  # noqa: PLC0415 - only with --json

    return json.dumps(value, indent=2)


def moment(at: datetime | None) -> str | None:
    """RFC 3339 in UTC, to the second."""
    return None if at is None else at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def day_and_time(at: datetime | None, otherwise: str) -> str:
    """A moment for tables, in UTC."""
    return otherwise if at is None else at.astimezone(UTC).strftime("%Y-%m-%d %H:%MZ")


def table(headings: Sequence[str], rows: Sequence[Sequence[str]], width: int | None = None) -> str:
    """Columns under headings, cut where the terminal is too narrow.

    width   cells of a line; None: the terminal's, and no limit where stdout is none
    """
    if width is None and sys.stdout.isatty():
        width = shutil.get_terminal_size().columns
    lines = [list(headings), *([plain(cell) for cell in row] for row in rows)]
    widths = [max(width_of(line[column]) for line in lines) for column in range(len(headings))]
    if width is not None:
        shrink(widths, width - len(GAP) * (len(widths) - 1))
    return "\n".join(
        GAP.join(fit(cell, cells) for cell, cells in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def pairs(rows: Sequence[tuple[str, str]]) -> str:
    """Names and values below each other."""
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}{GAP}{plain(value)}".rstrip() for name, value in rows)


def shrink(widths: list[int], room: int) -> None:
    """Make the widest columns narrower until all fit into so many cells, or can't."""
    while sum(widths) > room and max(widths) > MIN_COLUMN:
        widths[widths.index(max(widths))] -= 1


def fit(text: str, cells: int) -> str:
    """Text in exactly so many cells: filled up, or cut."""
    if width_of(text) <= cells:
        return text + " " * (cells - width_of(text))
    while width_of(text) > cells - len(CUT):
        text = text[:-1]
    return text + CUT + " " * (cells - len(CUT) - width_of(text))


def width_of(text: str) -> int:
    """How many cells of a terminal it takes."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text
    )
