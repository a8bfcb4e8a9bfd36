"""The unit files as systemd reads them: without a complaint, and with as little as the service needs."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from proxy.config import LimitsConfig
from proxy.serving.listeners import NAMES
from proxy.serving.succession import MARGIN_S
from tests.needs import needs

UNITS = Path(__file__).parent.parent / "systemd"
SERVICE = UNITS / "gatepost.service"
MOST_EXPOSURE = 1.5
PORTS = {"imaps": 993, "imap": 143, "submissions": 465, "submission": 587}


def settings(file: Path) -> dict[str, str]:
    lines = [line for line in file.read_text().splitlines() if "=" in line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


def test_systemd_has_nothing_to_say_about_the_units(tmp_path: Path) -> None:
    """It exits with 0 even when it ignores a line: what counts is that it is silent."""
    for file in UNITS.glob("gatepost*.s*"):
        if file.suffix in (".service", ".socket"):
            # The program is installed by nobody here.
            text = file.read_text().replace("/usr/local/bin/gatepost", shutil.which("true") or "/bin/true")
            (tmp_path / file.name).write_text(text)
    done = subprocess.run(
        [needs("systemd-analyze", "systemd"), "verify", "--recursive-errors=no", *sorted(tmp_path.iterdir())],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_service_is_hardly_exposed() -> None:
    done = subprocess.run(
        [needs("systemd-analyze", "systemd"), "security", "--offline=true", "--no-pager", SERVICE],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    (level,) = re.findall(r"Overall exposure level for gatepost\.service: ([\d.]+)", done.stdout)
    assert float(level) <= MOST_EXPOSURE


@pytest.mark.parametrize("name", NAMES)
def test_there_is_a_socket_unit_for_each_kind_of_listener(name: str) -> None:
    unit = settings(UNITS / f"gatepost-{name}.socket")
    assert (unit["ListenStream"], unit["FileDescriptorName"]) == (str(PORTS[name]), name)
    assert unit["Service"] == "gatepost.service"


def test_systemd_waits_longer_than_the_service_needs_to_stop() -> None:
    assert int(settings(SERVICE)["TimeoutStopSec"]) > LimitsConfig().drain_s + MARGIN_S


def test_every_restriction_has_its_reason() -> None:
    """A comment stands above each group of lines."""
    hardening = SERVICE.read_text().partition("# --- What it cannot do")[2].partition("# --- What is left out")[0]
    groups = re.split(r"(?m)^#.*\n(?:#.*\n)*", hardening)[1:]
    assert len(groups) >= 8
    assert all(group.strip() for group in groups)
    assert max(len(group.split("\n")) for group in groups) <= 9
