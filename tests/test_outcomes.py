"""docs/outcomes.md names tests that exist, and each row of the two issues' lists once at least."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from docs.generate.shown import security_page

TESTS = Path(__file__).parent
DOCS = TESTS.parent / "docs"
PAGE = (DOCS / "outcomes.md").read_text()
NAMED = sorted(set(re.findall(r"`([\w/]+\.py)(?:::(\w+))?`", PAGE)))
ROWS = set(range(1, 65))


def names_in(file: str) -> set[str]:
    return {
        node.name
        for node in ast.walk(ast.parse((TESTS / file).read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    }


@pytest.mark.parametrize("file", sorted({file.removeprefix("tests/") for file, _ in NAMED}))
def test_every_test_that_is_named_exists(file: str) -> None:
    assert (TESTS / file).is_file()
    named = {name for one, name in NAMED if one.removeprefix("tests/") == file and name}
    assert named <= names_in(file)


def test_every_row_has_tests() -> None:
    shown = PAGE[: PAGE.index("## Not shown")]
    lines = [line.split("|") for line in shown.splitlines() if line.startswith("| E")]
    assert all("::test_" in "".join(cells[2:]) for cells in lines)
    firsts = [cells[1].partition("(")[0] for cells in lines]
    assert {int(number) for first in firsts for number in re.findall(r"E(\d+)\b", first)} == ROWS
    assert any("E49b" in first for first in firsts)


def test_the_security_page_names_a_test_of_every_row() -> None:
    page = (DOCS / "security-tests.md").read_text()
    assert security_page(page, PAGE) == page, "make docs"
    rows = {
        int(number) for number, count in re.findall(r"^\| E(\d+) \| (\d+) \| `", page, re.MULTILINE) if int(count) > 0
    }
    assert rows == ROWS
