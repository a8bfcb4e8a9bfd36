"""requirements.lock: every package with hashes, none with an address."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
LOCK = (ROOT / "requirements.lock").read_text()
PACKAGES = re.findall(r"^([A-Za-z0-9_.-]+)(?:\[[^]]*\])?==\S+((?:.*\\\n)*.*)", LOCK, re.MULTILINE)


def test_every_package_is_pinned_with_a_hash() -> None:
    pinned = [line for line in LOCK.splitlines() if line and not line.startswith((" ", "#", "\t"))]
    assert len(pinned) == len(PACKAGES) > 20
    assert [name for name, rest in PACKAGES if "--hash=sha256:" not in rest] == []


def test_no_address_stands_in_it() -> None:
    assert not re.search(r"://|@ |--(extra-)?index-url|--find-links", LOCK)


def test_what_the_project_needs_is_in_it() -> None:
    needs = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    names = {re.split(r"[^A-Za-z0-9-]", need)[0].lower() for need in needs}
    assert names <= {name.lower() for name, _ in PACKAGES}
