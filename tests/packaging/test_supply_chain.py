"""The bill of materials says what the lock says, for users and not for developers; the audit's own lock is whole."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
LOCK = (ROOT / "requirements.lock").read_text()


@pytest.fixture(scope="module")
def bill(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    output = tmp_path_factory.mktemp("bill") / "sbom.json"
    subprocess.run([sys.executable, ROOT / ".ci" / "sbom.py", output], check=True)
    made: dict[str, Any] = json.loads(output.read_text())
    return made


def test_what_users_install_is_in_it_and_what_developers_need_is_not(bill: dict[str, Any]) -> None:
    scopes = {component["name"]: component["scope"] for component in bill["components"]}
    for name in ("aioimaplib", "aiosmtpd", "argon2-cffi", "cffi", "cryptography", "sqlalchemy", "anyio"):
        assert scopes[name] == "required"
    assert scopes["psycopg"] == scopes["psycopg-binary"] == "optional"
    assert not {"pytest", "hypothesis", "ruff", "mypy", "trustme", "playwright", "hatchling", "uv"} & set(scopes)


def test_each_component_has_its_version_and_every_hash_of_the_lock(bill: dict[str, Any]) -> None:
    for component in bill["components"]:
        entry = re.search(rf"(?ms)^{re.escape(component['name'])}(?:\[\S+\])?==(\S+)(.*?)(?=^\S|\Z)", LOCK)
        assert entry is not None, component["name"]
        assert component["version"] == entry[1]
        hashes = sorted(re.findall(r"sha256:([0-9a-f]{64})", entry[2]))
        assert [each["content"] for each in component["hashes"]] == hashes != []


def test_who_needs_whom_is_whole(bill: dict[str, Any]) -> None:
    root = bill["metadata"]["component"]["bom-ref"]
    needs = {each["ref"]: set(each["dependsOn"]) for each in bill["dependencies"]}
    components = {component["bom-ref"] for component in bill["components"]}
    assert set(needs) == components | {root}
    reached, waiting = {root}, [root]
    while waiting:
        new = needs[waiting.pop()] - reached
        reached |= new
        waiting += new
    assert reached == components | {root}


def test_the_locks_of_the_tools_have_hashes_and_no_address() -> None:
    for lock in (ROOT / ".ci" / "audit.lock", ROOT / "tests" / "fuzz" / "requirements.lock"):
        text = lock.read_text()
        names = re.findall(r"^[A-Za-z0-9_.-]+(?:\[\S+\])?==", text, re.MULTILINE)
        assert len(names) == len(re.findall(r"==\S+[^\\]*\\\n +--hash=sha256:", text)) > 0
        assert not re.search(r"://|@ |--(extra-)?index-url|--find-links", text)
