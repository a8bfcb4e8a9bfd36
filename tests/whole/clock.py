"""A clock that a test sets, for a server alone: Debian's libfaketime, told by a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.gate import Gate

PLACES = ("/usr/lib/*/faketime/libfaketimeMT.so.1", "/usr/local/lib/faketime/libfaketimeMT.so.1")


class Clock:
    """How far the server's clocks are from the machine's."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, directory: Path, *, is_monotonic_too: bool) -> None:
        found = [path for place in PLACES for path in Path("/").glob(place[1:])]
        assert found, "libfaketime is missing: run make lab, or apt-get install faketime"
        self._monkeypatch = monkeypatch
        self._file = directory / "clock"
        self._environment = {
            "LD_PRELOAD": str(found[0]),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "DONT_FAKE_MONOTONIC": "0" if is_monotonic_too else "1",  # up to version 0.9.9
            "FAKETIME_DONT_FAKE_MONOTONIC": "0" if is_monotonic_too else "1",
        }
        self.leap(0)

    def start(self, gate: Gate) -> None:
        """Start a server by this clock."""
        with self._monkeypatch.context() as patch:
            for name, value in self._environment.items():
                patch.setenv(name, value)
            gate.start()

    def leap(self, seconds: int) -> None:
        """From now on it is so much later than it is, or earlier."""
        draft = self._file.with_suffix(".new")
        draft.write_text(f"{seconds:+d}\n")
        draft.rename(self._file)  # whoever reads it finds a whole one
