"""bench/RESULTS.md: each measurement owns a section, and writes it without touching the others'."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from pathlib import Path

FILE = Path(__file__).parent / "RESULTS.md"
HEAD = """\
# Measured

Figures of this tree, each section by the command that it names, with its conditions. Machines differ and are shared:
compare the ratios of one run, not figures of two.
"""


def put_section(name: str, text: str, file: Path = FILE) -> None:
    """Put `text`, which begins with a heading of level two, in the place of the section `name`, or at the end."""
    begin, end = f"<!-- begin {name} -->\n", f"<!-- end {name} -->\n"
    whole = file.read_text() if file.exists() else HEAD
    section = f"{begin}{text.strip()}\n{end}"
    before, found, rest = whole.partition(begin)
    if found:
        _, found, after = rest.partition(end)
        assert found, f"{file.name}: section {name} has no end"
        whole = before + section + after
    else:
        whole = f"{whole.rstrip()}\n\n{section}"
    file.write_text(whole)


def conditions() -> str:
    """The machine and the moment, in one line."""
    load = " ".join(f"{one:.1f}" for one in os.getloadavg())
    version = platform.python_version()
    return f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, load average {load} at the end, CPython {version}"
