"""The table of outcomes in docs/security-tests.md: made from docs/outcomes.md, which names every test."""

from __future__ import annotations

import re

BEGIN, END = "<!-- begin outcomes: by `make docs` -->\n", "<!-- end outcomes -->\n"
ROWS = (*(f"E{number}" for number in range(1, 50)), "E49b", *(f"E{number}" for number in range(50, 65)))
_TEST = re.compile(r"`([\w/]+\.py)::(\w+)`")


def security_page(page: str, outcomes: str) -> str:
    """`page` with its table made anew from the text of docs/outcomes.md."""
    before, _, rest = page.partition(BEGIN)
    after = rest.partition(END)[2]
    return f"{before}{BEGIN}{table(outcomes)}{END}{after}"


def table(outcomes: str) -> str:
    """A row for each outcome: how many tests show it, and the first of them; "not yet" where there is none."""
    found: dict[str, list[tuple[str, str]]] = {}
    shown = outcomes[: outcomes.index("## Not shown")]
    for line in shown.splitlines():
        cells = line.split("|")
        if line.startswith("| E"):
            for row in re.findall(r"E\d+b?", cells[1]):
                found.setdefault(row, []).extend(_TEST.findall("".join(cells[2:])))
    lines = ["| outcome | tests | the first of them |", "| --- | --- | --- |"]
    for row in ROWS:
        tests = found.get(row, [])
        first = f"`{tests[0][0]}::{tests[0][1]}`" if tests else "not yet: see the end of [outcomes](outcomes.md)"
        lines.append(f"| {row} | {len(tests)} | {first} |")
    return "\n".join(lines) + "\n"
