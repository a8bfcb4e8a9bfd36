"""Print the part of requirements.lock that Gatepost itself needs, with the extra postgresql: hashes and all.

The lock is for developers too. What is needed follows from the metadata of what is installed here, from Gatepost on.
"""

from __future__ import annotations

import re
import sys
from importlib.metadata import requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def needed(name: str, extras: frozenset[str], found: set[str]) -> None:
    """Add to `found` the names of all packages that one needs, on a machine and Python like this one."""
    for line in requires(name) or ():
        requirement = Requirement(line)
        wanted = requirement.marker is None or any(
            requirement.marker.evaluate({"extra": extra}) for extra in ("", *extras)
        )
        if not wanted:
            continue
        one = canonicalize_name(requirement.name)
        is_new = one not in found
        found.add(one)
        if is_new or requirement.extras:
            needed(one, frozenset(requirement.extras), found)


def blocks(lock: str) -> dict[str, str]:
    """The entries of a lock by the names of their packages."""
    entries = re.findall(r"^(?:[A-Za-z0-9].*\\\n(?:    .*\n?)+|[A-Za-z0-9].*\n)", lock, re.MULTILINE)
    return {canonicalize_name(re.split(r"[=\[]", entry)[0]): entry for entry in entries}


def main() -> None:
    names: set[str] = set()
    needed("gatepost", frozenset({"postgresql"}), names)
    entries = blocks(Path("requirements.lock").read_text())
    sys.stdout.write("".join(entries[name] for name in sorted(names)))


if __name__ == "__main__":
    main()
