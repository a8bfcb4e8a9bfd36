"""The wheel: the same bytes each time, all data inside, and a `gatepost` that works where nothing else is of ours."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from docs.generate.pages import ROOT
from proxy import __version__

TIMEOUT_S = 120
EPOCH = "1700000000"
NOBODY = """
[upstream.main]
imap = "imaps://127.0.0.1:1"
smtp = "smtps://127.0.0.1:1"
auth = "password"
"""


def build(directory: Path, target: str) -> Path:
    """Built by the backend that pyproject.toml names, from this environment: nothing is downloaded."""
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", directory],
        check=True, cwd=ROOT, capture_output=True, timeout=TIMEOUT_S,
        env={**os.environ, "SOURCE_DATE_EPOCH": EPOCH},
    )  # fmt: skip
    (built,) = directory.iterdir()
    return built


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("wheel"), "wheel")


@dataclass(frozen=True)
class Installed:
    """An environment of its own with the wheel; the packages that it needs are those of the tests."""

    directory: Path

    def run(self, *words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "GATEPOST"))}
        return subprocess.run(
            [self.directory / "bin" / "gatepost", *words],
            check=False, cwd=cwd, capture_output=True, text=True, timeout=TIMEOUT_S, env=environment,
        )  # fmt: skip


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    directory = tmp_path_factory.mktemp("installed") / "venv"
    python = directory / "bin" / "python"
    # What `pipx install` and `uv tool install` do, but for the packages that it needs: those come from here.
    for command in (
        ["venv", "--without-pip", directory],
        ["uv", "pip", "install", "--offline", "--no-deps", "--python", python, wheel],
    ):
        subprocess.run([sys.executable, "-m", *command], check=True, capture_output=True, timeout=TIMEOUT_S)
    (site,) = directory.glob("lib/python*/site-packages")
    (site / "rest.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return Installed(directory)


def test_the_same_source_gives_the_same_bytes(wheel, tmp_path) -> None:
    assert build(tmp_path, "wheel").read_bytes() == wheel.read_bytes()


def test_data_and_manual_are_inside(wheel) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    share = f"gatepost-{__version__}.data/data/share/man"
    assert {f"{share}/man1/gatepost.1", f"{share}/man5/gatepost.toml.5", "proxy/config/gatepost.example.toml"} <= names
    for file in (ROOT / "config" / "providers").iterdir():
        assert f"proxy/config/providers/{file.name}" in names
    in_checkout = {str(path.relative_to(ROOT)) for path in (ROOT / "proxy").rglob("*") if path.is_file()}
    assert {name for name in in_checkout if "__pycache__" not in name} <= names
    assert not [name for name in names if name.startswith(("tests/", "docs/", "bench/"))]


def test_the_source_archive_can_be_built_and_tested_from(tmp_path) -> None:
    with tarfile.open(build(tmp_path, "sdist")) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = ("proxy/__init__.py", "tests/conftest.py", "config/gatepost.example.toml", "Makefile", "requirements.lock")
    assert {*wanted, "LICENSE", "docs/README.md", "systemd/gatepost.service", "pyproject.toml"} <= names
    assert not [name for name in names if "node_modules" in name or "__pycache__" in name or ".venv" in name]


def test_the_command_runs_from_the_wheel_alone(installed, tmp_path) -> None:
    where = subprocess.run(
        [installed.directory / "bin" / "python", "-c", "import proxy; print(proxy.__file__)"],
        check=True, cwd=tmp_path, capture_output=True, text=True, timeout=TIMEOUT_S,
    )  # fmt: skip
    assert Path(where.stdout.strip()).is_relative_to(installed.directory)
    shown = installed.run("--help", cwd=tmp_path)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert installed.run("--version", cwd=tmp_path).stdout == f"gatepost {__version__}\n"


def test_init_and_check_work_from_the_wheel_alone(installed, tmp_path) -> None:
    made = installed.run("init", "etc", cwd=tmp_path)
    assert (made.returncode, made.stderr) == (0, "")
    (example,) = [Path(line.partition(": ")[2]) for line in made.stdout.splitlines() if line.startswith("Every key")]
    assert example.is_relative_to(installed.directory)
    assert example.is_file()
    # A server that nobody runs, so that the test asks nobody on the network.
    config = tmp_path / "etc" / "gatepost.toml"
    kept = config.read_text().partition("[upstream.main]")[0]
    config.write_text(kept + NOBODY)
    checked = installed.run("check", "--config", str(config), cwd=tmp_path)
    assert checked.returncode == 1  # the upstream is not there, and a self-signed certificate is told
    rows = {line.split("  ")[0]: line for line in checked.stdout.splitlines() if "  " in line}
    assert "ok" in rows["configuration"]
    assert "ok" in rows["store"]
    assert "ok" in rows["master key"]


def test_presets_and_migrations_are_found_in_the_wheel(installed, tmp_path) -> None:
    """Both are data files or modules that are looked up by name at run time."""
    assert installed.run("init", "etc", cwd=tmp_path).returncode == 0
    config = str(tmp_path / "etc" / "gatepost.toml")
    assert installed.run("db", "upgrade", "--config", config, cwd=tmp_path).returncode == 0
    added = installed.run("account", "add", "ann@example.com", "--upstream", "main", "--config", config, cwd=tmp_path)
    assert (added.returncode, added.stderr) == (0, "")


def test_the_manual_of_the_wheel_is_where_man_looks_beside_the_command(installed) -> None:
    assert (installed.directory / "share" / "man" / "man1" / "gatepost.1").is_file()
