"""Which lines of the modules that a target is there for its inputs reach."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from tests.fuzz.targets import READS, load

ROOT = Path(__file__).parents[2]


def reached(name: str, inputs: Iterable[bytes]) -> str:
    """Run all inputs, and count: "310/325 (95 %)"."""
    count, total = len(lines(name, inputs)), len(_wanted(name))
    return f"{count}/{total} ({100 * count / total:.0f} %)"


def lines(name: str, inputs: Iterable[bytes]) -> set[tuple[str, int]]:
    """The lines, as file and number. Those within functions count; definitions run at import."""
    one = load(name).one
    files = {file for file, _ in _wanted(name)}
    seen: set[tuple[str, int]] = set()

    def local(frame: FrameType, event: str, _: Any) -> Any:
        if event == "line":
            seen.add((frame.f_code.co_filename, frame.f_lineno))
        return local

    def trace(frame: FrameType, _event: str, _: Any) -> Any:
        return local if frame.f_code.co_filename in files else None

    sys.settrace(trace)
    try:
        for data in inputs:
            one(data)
    finally:
        sys.settrace(None)
    return seen & _wanted(name)


def _wanted(name: str) -> set[tuple[str, int]]:
    files = [str(ROOT / "proxy" / f"{module}.py") for module in READS[name]]
    return {(file, line) for file in files for line in _lines(file)}


def _lines(file: str) -> set[int]:
    return _within(compile(Path(file).read_text(), file, "exec"), is_function=False)


def _within(code: CodeType, *, is_function: bool) -> set[int]:
    lines = {line for _, _, line in code.co_lines() if line and line != code.co_firstlineno} if is_function else set()
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            # A class's body is no function: it runs at import.
            lines |= _within(constant, is_function=bool(constant.co_flags & 1))
    return lines
