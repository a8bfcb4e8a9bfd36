"""The page beside the workers: started, replaced and ended by `gatepost serve`, and it never outlives it."""

from __future__ import annotations

import os
import re
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.config.reader import load
from proxy.serving.page import SUPERVISED, given
from tests.gate import POLL_S, READY_S
from tests.lab import Lab
from tests.web.kit import WebGate


@pytest.fixture
def gate(lab: Lab, tmp_path: Path) -> Iterator[WebGate]:
    gate = WebGate.made(lab, tmp_path / "gate")
    gate.serve_words = ()
    gate.start()
    gate.await_log("event=web_ready")
    yield gate
    gate.kill()


def pages(gate: WebGate) -> list[int]:
    """Processes of this gate's page."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = entry.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"--web-only" in words and str(gate.config).encode() in words:
            found.append(int(entry.parent.name))
    return found


def until_no_page(gate: WebGate) -> None:
    deadline = time.monotonic() + READY_S
    while pages(gate):
        assert time.monotonic() < deadline, "the page lives on"
        time.sleep(POLL_S)


def answers(gate: WebGate) -> bool:
    port = int(gate.web.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=5):
        return True


def test_the_page_comes_with_the_workers_is_replaced_when_it_dies_and_ends_with_them(gate: WebGate) -> None:
    (first,) = pages(gate)
    assert answers(gate)
    begin = len(gate.log())
    os.kill(first, signal.SIGKILL)
    gate.await_log("event=web_died status=-9", after=begin)
    gate.await_log("event=web_ready", after=begin)
    (second,) = pages(gate)
    assert second != first
    assert answers(gate)
    assert gate.stop() == 0
    assert pages(gate) == []
    assert "event=web_stopped" in gate.log()


def test_a_page_that_is_replaced_has_the_configuration_that_was_checked(gate: WebGate) -> None:
    """As the workers do: what stands in the file meanwhile counts at the next reload."""
    (first,) = pages(gate)
    gate.config.write_text("[nonsense]\n")
    begin = len(gate.log())
    os.kill(first, signal.SIGKILL)
    gate.await_log("event=web_ready", after=begin)
    assert answers(gate)
    assert gate.stop() == 0


def test_the_page_does_not_outlive_its_supervisor(gate: WebGate) -> None:
    assert gate.process is not None
    gate.process.kill()
    gate.process.wait()
    until_no_page(gate)


def test_the_page_has_nothing_of_the_supervisors_own(gate: WebGate) -> None:
    (page,) = pages(gate)
    assert gate.process is not None
    key = (gate.directory / "master.key").read_text().strip()
    environment = Path(f"/proc/{page}/environ").read_bytes()
    assert not re.search(rb"NOTIFY_SOCKET|LISTEN_FDS|WATCHDOG_", environment)
    assert key.encode() not in environment
    mine = {str(one.readlink()) for one in Path(f"/proc/{gate.process.pid}/fd").iterdir() if one.exists()}
    its = {str(one.readlink()) for one in Path(f"/proc/{page}/fd").iterdir() if one.exists()}
    listening = {inode for inode in mine if inode.startswith("socket:")}
    assert not listening & its, "a listener or bus of the workers"


def test_a_page_of_a_supervisor_that_passes_no_text_reads_the_file(
    gate: WebGate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of an older release, still running when its code was replaced: it says 1, which is standard output."""
    monkeypatch.setenv(SUPERVISED, "1")
    assert given(gate.config) == load(gate.config)
