"""kill -9 of anything under load (bench/killing), in short: `make kill9` does a thousand cycles of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.killing import run
from bench.killing_model import State

VICTIMS = ("worker", "refresh", "command", "supervisor", "page", "command", "refresh", "worker", "command", "refresh")


# Python's client leaves a socket open when its peer is killed amid the set-up of TLS (CPython 3.11, SSLSocket._create).
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_what_was_acknowledged_outlives_kill_9_of_anything(tmp_path: Path) -> None:
    result = run(tmp_path, VICTIMS, seed=7)
    assert result.model.violations == []
    assert result.odd_lines == []
    assert result.cycles == len(VICTIMS)
    # Else it has shown nothing.
    assert sum(result.kills.values()) >= len(VICTIMS) - 2, result.kills
    assert result.model.of(State.REVOKED)
    assert result.model.sent
    assert result.refreshes > 0
