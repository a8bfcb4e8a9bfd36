"""The generated pages are those of this code, and the manual pages render without a warning."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from docs.generate.examples import EXAMPLES
from docs.generate.keys import tables
from docs.generate.pages import ROOT, pages
from proxy.cli.grammar import commands, grammar
from tests.needs import needs

MANUAL = sorted((ROOT / "docs" / "man").iterdir())


@pytest.mark.parametrize("name", pages())
def test_generated_page_is_current(name) -> None:
    assert (ROOT / name).read_text() == pages()[name], "run: make docs"


def test_every_command_stands_in_the_manual_with_an_example_of_its_own() -> None:
    page, manual = (ROOT / "docs" / "cli.md").read_text(), (ROOT / "docs" / "man" / "gatepost.1").read_text()
    for command in commands(grammar()):
        if command.words and command.runs_alone:
            assert f"\n## {command.name}\n" in page
            assert all(line.split("|")[0].startswith(command.name) for line in EXAMPLES[" ".join(command.words)])
            for option in command.options:
                assert option.flags[-1].replace("-", "\\-") in manual


def test_no_key_of_the_example_is_lost_on_the_way() -> None:
    example = (ROOT / "config" / "gatepost.example.toml").read_text()
    read = {(table.title, key) for table in tables(example) for key in table.keys}
    page = (ROOT / "docs" / "configuration.md").read_text()
    assert ("[limits]", "drain_s") in read
    assert ("[upstream.NAME.oauth2]", "device_url") in read
    for _, key in read:
        assert f"**`{key}`**" in page
    lines = {line.partition(" = ")[0] for line in example.splitlines() if " = " in line and not line.startswith("#")}
    assert lines == {key for _, key in read}


def test_defaults_are_those_of_the_program() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text()
    assert "**`drain_s`**, default `25`" in page
    assert "**`node`**, for example `" in page  # its default is the host's name, not what the example says


@pytest.mark.parametrize("page", MANUAL, ids=lambda page: page.name)
def test_man_renders_without_a_warning(page: Path) -> None:
    done = subprocess.run(
        [needs("man", "man-db"), "--warnings", "--encoding=UTF-8", "--local-file", page],
        check=False, capture_output=True, text=True, timeout=30, env={"PATH": "/usr/bin:/bin", "MANWIDTH": "80"},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert "gatepost" in done.stdout


@pytest.mark.parametrize("page", MANUAL, ids=lambda page: page.name)
def test_mandoc_has_nothing_to_say(page: Path) -> None:
    done = subprocess.run([needs("mandoc"), "-Tlint", page], check=False, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout) == (0, "")
