"""Starts load generators and says what a proxy used while they worked."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.clients import Login
from bench.load import Job, job_text
from bench.processes import cpu_s

ROOT = Path(__file__).parent.parent
SETTLE_S = 0.3  # what a proxy still does for sessions that have ended belongs to them


class LoadError(Exception):
    """A load generator ended early, or could not do its job."""


@dataclass(frozen=True, slots=True)
class Target:
    """A proxy to measure. `pid` is the root of its processes; None for *direct*: there is none.

    pace    the part of a burst it gets, 1 or less: a login may cost it a hundred times what it costs others
    """

    name: str
    imaps: int
    smtps: int
    logins: list[Login] = field(repr=False)
    pid: int | None
    version: str
    pace: float = 1.0

    def cpu_s(self) -> float:
        return cpu_s(self.pid) if self.pid is not None else 0.0


@dataclass(frozen=True, slots=True)
class Burst:
    """What a burst did and what the proxy used meanwhile."""

    seconds: float
    items: int
    bytes: int
    failed: int
    first_error: str
    cpu_s: float
    load_cpu_s: float

    @property
    def cpu_ms(self) -> float:
        return 1000 * self.cpu_s / max(1, self.items)

    @property
    def cpu_s_per_gb(self) -> float:
        return self.cpu_s / max(1, self.bytes) * 1e9

    @property
    def mb_per_s(self) -> float:
        return self.bytes / 1e6 / self.seconds


@dataclass(slots=True)
class Generator:
    """A load generator that is ready."""

    target: Target
    process: subprocess.Popen[str]

    def work(self) -> Burst:
        """Let it work, once. Raises LoadError if nothing worked."""
        before = self.target.cpu_s()
        did = self._go()
        time.sleep(SETTLE_S)
        used = self.target.cpu_s() - before
        if did["failed"] and not did["items"]:
            raise LoadError(f"{self.target.name}: {did['first_error']}")
        return Burst(
            seconds=did["seconds"],
            items=did["items"],
            bytes=did["bytes"],
            failed=did["failed"],
            first_error=did["first_error"],
            cpu_s=used,
            load_cpu_s=did["cpu_s"],
        )

    def _go(self) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        return hear(self.process, self.target)


@contextmanager
def generator(target: Target, **job: Any) -> Iterator[Generator]:
    """A load generator that has done what comes before the work; ended at the end."""
    logins = job.pop("logins", target.logins)
    if target.pace < 1:
        job["warm_ups"] = 1
    text = job_text(Job(imaps=target.imaps, smtps=target.smtps, logins=logins, **job))
    with subprocess.Popen(
        [sys.executable, "-m", "bench.load"], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdin is not None
            process.stdin.write(text + "\n")
            process.stdin.flush()
            hear(process, target)
            yield Generator(target, process)
        finally:
            process.kill()


def burst(target: Target, **job: Any) -> Burst:
    with generator(target, **job) as ready:
        return ready.work()


def hear(process: subprocess.Popen[str], target: Target) -> dict[str, Any]:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise LoadError(f"{target.name}: the load generator ended")
    heard: dict[str, Any] = json.loads(line)
    return heard
