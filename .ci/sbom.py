"""A bill of materials in CycloneDX 1.6: what is installed with Gatepost, from requirements.lock alone.

`python .ci/sbom.py [OUTPUT]`. The lock says who needs whom in its "via" comments; what only developers need is left
out, what an extra brings is marked optional. Every hash of a package is that of one of its distributions. Licences are
those that installed packages declare (PEP 639). The same lock in the same venv gives the same bytes.
"""

from __future__ import annotations

import json
import re
import sys
import tomllib
import uuid
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).parent.parent
NAMESPACE = uuid.UUID("6f4b1c0e-5e43-4a0e-9b63-0a6d5d9f3b52")  # drawn once
LICENCE = "GPL-3.0-or-later"
_ENTRY = re.compile(r"^([A-Za-z0-9_.-]+)(?:\[[^]]*\])?==([^\s;]+)(?: ; ([^\\\n]+?))?(?: \\)?$")
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")
_NAME = re.compile(r"^[A-Za-z0-9_.-]+")


@dataclass
class Package:
    """One entry of the lock. `needed_by` are names; "" is Gatepost itself, for developers or users."""

    name: str
    version: str
    marker: str
    hashes: list[str] = field(default_factory=list)
    needed_by: set[str] = field(default_factory=set)

    @property
    def purl(self) -> str:
        return f"pkg:pypi/{self.name}@{self.version}"


def read_lock(text: str) -> dict[str, Package]:
    """The packages of a lock that uv made with hashes and annotations, by normal name."""
    packages: dict[str, Package] = {}
    current: Package | None = None
    is_via = False
    for line in text.splitlines():
        if entry := _ENTRY.match(line):
            current = Package(normal(entry[1]), entry[2], (entry[3] or "").strip())
            packages[current.name] = current
            is_via = False
        elif current is not None and (found := _HASH.search(line)):
            current.hashes.append(found[1])
        elif current is not None and line.strip().startswith("#"):
            words = line.strip().removeprefix("#").strip()
            is_via = is_via or words.startswith("via")
            by = words.removeprefix("via").strip().split(" ")[0]
            if is_via and by:
                current.needed_by.add("" if by.startswith("gatepost") else normal(by))
    return packages


def bill(packages: dict[str, Package], project: dict[str, object], version: str) -> dict[str, object]:
    """The document."""
    required = _closure(packages, _names(project["dependencies"]))
    extras: dict[str, list[str]] = project.get("optional-dependencies", {})  # type: ignore[assignment]
    optional = _closure(packages, {name for needs in extras.values() for name in _names(needs)}) - required
    root = f"pkg:pypi/gatepost@{version}"
    chosen = [packages[name] for name in sorted(required | optional)]
    direct = _names(project["dependencies"]) | {name for needs in extras.values() for name in _names(needs)}
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(NAMESPACE, root + ''.join(one.purl for one in chosen))}",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "bom-ref": root,
                "name": "gatepost",
                "version": version,
                "purl": root,
                "licenses": [{"license": {"id": LICENCE}}],
            }
        },
        "components": [_component(one, is_required=one.name in required) for one in chosen],
        "dependencies": [
            {"ref": root, "dependsOn": sorted(packages[name].purl for name in direct if name in packages)},
            *(
                {"ref": one.purl, "dependsOn": sorted(two.purl for two in chosen if one.name in two.needed_by)}
                for one in chosen
            ),
        ],
    }


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _names(needs: object) -> set[str]:
    assert isinstance(needs, list)
    return {normal(found[0]) for need in needs if (found := _NAME.match(str(need).partition("[")[0].strip()))} | {
        # "psycopg[binary]" brings a package of its own.
        normal("-".join(found.groups()))
        for need in needs
        if (found := re.match(r"([A-Za-z0-9_.-]+)\[([A-Za-z0-9_-]+)\]", str(need)))
    }


def _closure(packages: dict[str, Package], names: set[str]) -> set[str]:
    found = {name for name in names if name in packages}
    while more := {one.name for one in packages.values() if one.needed_by & found} - found:
        found |= more
    return found


def _component(package: Package, *, is_required: bool) -> dict[str, object]:
    component: dict[str, object] = {
        "type": "library",
        "bom-ref": package.purl,
        "name": package.name,
        "version": package.version,
        "purl": package.purl,
        "scope": "required" if is_required else "optional",
        "hashes": [{"alg": "SHA-256", "content": each} for each in sorted(package.hashes)],
    }
    if licence := _licence(package.name):
        component["licenses"] = [{"expression": licence}]
    if package.marker:
        component["properties"] = [{"name": "gatepost:marker", "value": package.marker}]
    return component


def _licence(name: str) -> str:
    """The SPDX expression in the installed package's metadata (PEP 639), if there is one."""
    try:
        return metadata.metadata(name).get("License-Expression") or ""
    except metadata.PackageNotFoundError:
        return ""


def main() -> int:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    version = re.search(r'__version__ = "([^"]+)"', (ROOT / "proxy" / "__init__.py").read_text())
    assert version is not None
    text = json.dumps(bill(read_lock((ROOT / "requirements.lock").read_text()), project, version[1]), indent=2) + "\n"
    if len(sys.argv) > 1:
        output = Path(sys.argv[1])
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(text)
    else:
        sys.stdout.write(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
