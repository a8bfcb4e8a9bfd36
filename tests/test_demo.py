"""The demo tells its story where Debian's servers can't be installed, too: in front of the practice upstream."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.talk import ANN, BOB
from tests.practice import Practice
from tests.web.kit import Visitor, WebGate

ROOT = Path(__file__).parent.parent
STORY_S = 120
PACKAGE_TOOLS = {"apt-get", "dpkg-query"}


@pytest.fixture
def elsewhere(tmp_path: Path) -> str:
    """A PATH like this machine's own, but of a system without Debian's packages."""
    directory = tmp_path / "bin"
    directory.mkdir()
    for folder in os.environ["PATH"].split(":"):
        for program in Path(folder).iterdir() if Path(folder).is_dir() else ():
            link = directory / program.name
            if program.name not in PACKAGE_TOOLS and not link.is_symlink():
                link.symlink_to(program)
    return str(directory)


def test_the_story_is_told_where_there_is_no_apt(elsewhere: str) -> None:
    done = subprocess.run(
        ["make", "--old-file", f"{os.environ.get('VENV', '.venv')}/.installed", "demo", "ONCE=1"],
        check=False, cwd=ROOT, env={**os.environ, "PATH": elsewhere, "MAKELEVEL": "", "MAKEFLAGS": ""},
        capture_output=True, text=True, timeout=STORY_S,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "This machine has no apt-get" in done.stderr
    assert "a practice upstream of PyPI parts stands in" in done.stdout
    for told in ("LOGIN is disabled", "the message arrived whole", "Bob has it in his INBOX", "the live session ended"):
        assert told in done.stdout
    assert done.stdout.rstrip().endswith("Nothing is left running.")


def test_the_practice_upstream_is_asked_for_by_a_word() -> None:
    done = subprocess.run(
        ["make", "--dry-run", "--old-file", f"{os.environ.get('VENV', '.venv')}/.installed", "demo", "PRACTICE=1"],
        check=True, cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert "practice=1;" in done.stdout


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[WebGate]:
    with Practice.start((ANN, BOB)) as practice:
        made = WebGate.made(practice, tmp_path)
        try:
            yield made
        finally:
            made.kill()


def test_a_reader_signs_in_at_the_practice_provider_and_gets_an_app_password(gate: WebGate) -> None:
    gate.add(ANN)
    gate.start_page()
    with Visitor(gate) as ann:
        assert ann.sign_in(ANN).status_code < 400
        assert ann.mailbox()
    assert gate.stop_page() == 0
