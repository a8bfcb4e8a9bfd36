"""A set-up of its own for every test, made once by `gatepost init` and copied; the command line run in this process."""

from __future__ import annotations

import io
import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from proxy.admin.first_config import UNEDITED_CLIENT_ID
from proxy.cli import main

# The first configuration, with a second upstream that takes passwords and has IMAP only.
SECOND = '\n[upstream.imaponly]\nimap = "imaps://imap.example.com"\nauth = "password"\n'
QUICK = "\n[limits]\nargon2_memory_kib = 8\nargon2_time = 1\n"


@dataclass
class Result:
    status: int
    out: str
    err: str

    @property
    def json(self):
        return json.loads(self.out)


@dataclass
class Gatepost:
    """Runs commands against one set-up; a terminal is never asked."""

    directory: Path
    capsys: pytest.CaptureFixture[str]
    monkeypatch: pytest.MonkeyPatch
    ran: list[Result] = field(default_factory=list)

    @property
    def config(self) -> Path:
        return self.directory / "gatepost.toml"

    def __call__(self, *words: str, stdin: bytes = b"") -> Result:
        self.monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        self.capsys.readouterr()
        status = main(words)
        out, err = self.capsys.readouterr()
        self.ran.append(Result(status, out, err))
        return self.ran[-1]

    def done(self, *words: str, stdin: bytes = b"") -> Result:
        result = self(*words, stdin=stdin)
        assert (result.status, result.err) == (0, "")
        return result

    def refused(self, *words: str, stdin: bytes = b"") -> str:
        """The one line that a refused command leaves; it says what to do after its last semicolon."""
        result = self(*words, stdin=stdin)
        assert (result.status, result.out) == (1, "")
        assert result.err.startswith("gatepost: ")
        assert result.err.count("\n") == 1
        line = result.err.removesuffix("\n")
        assert line.isprintable()
        problem, semicolon, remedy = line.rpartition("; ")
        assert problem
        assert semicolon
        assert remedy
        return line

    def add_ann(self, *words: str) -> None:
        self.done("account", "add", "ann@example.com", "--upstream", "main", *words)


@pytest.fixture(scope="session")
def template(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("template") / "gatepost"
    assert main(["init", str(directory)]) == 0
    config = directory / "gatepost.toml"
    first = config.read_text(encoding="utf-8").replace(UNEDITED_CLIENT_ID, "the-app")
    config.write_text(first + SECOND + QUICK, encoding="utf-8")
    return directory


@pytest.fixture
def gatepost(template: Path, tmp_path: Path, capsys, monkeypatch) -> Gatepost:
    directory = tmp_path / "setup"
    shutil.copytree(template, directory)
    monkeypatch.setenv("GATEPOST_CONFIG", str(directory / "gatepost.toml"))
    monkeypatch.setenv("COLUMNS", "80")
    return Gatepost(directory, capsys, monkeypatch)


@pytest.fixture
def snapshot(gatepost: Gatepost) -> Callable[[], str]:
    """Everything that the store says of accounts and app passwords: equal before and after means nothing was done."""

    def take() -> str:
        return gatepost.done("account", "list", "--json").out + gatepost.done("list", "--json").out

    return take
