"""What a soak samples, by process and for the node; and the CSV that it lies in."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from http.client import HTTPConnection
from pathlib import Path

from bench.processes import cpu_s, private_kb, pss_kb_of, rss_kb_of, tree

TIMEOUT_S = 20.0


class Phase(StrEnum):
    """Reloads come in the first and the last; between them one generation lives long."""

    REST_BEFORE = "rest before"
    RELOADS = "reloads"
    LONG = "long"
    RELOADS_AGAIN = "reloads again"
    REST_AFTER = "rest after"


@dataclass(frozen=True, slots=True)
class Sample:
    """A process at a moment (`role` supervisor, worker, page), or the node as a whole (`role` node).

    generation, number      of a worker; -1 for others
    age_s                   since it was first seen
    tasks, sessions, connections, cpu_s, acts, failed       the node's alone, -1 for processes
    """

    at_s: float
    phase: Phase
    role: str
    generation: int = -1
    number: int = -1
    pid: int = -1
    age_s: float = 0.0
    pss_kb: int = -1
    rss_kb: int = -1
    private_kb: int = -1
    fds: int = -1
    threads: int = -1
    tasks: int = -1
    sessions: int = -1
    connections: int = -1
    cpu_s: float = -1.0
    acts: int = -1
    failed: int = -1


class Sampler:
    """Looks at the tree of a supervisor. Remembers when it first saw whom."""

    def __init__(self, supervisor: int, monitor_port: int) -> None:
        self._supervisor = supervisor
        self._monitor_port = monitor_port
        self._seen: dict[int, float] = {supervisor: 0.0}

    def samples(self, at_s: float, phase: Phase, log: str, counts: dict[str, int]) -> Iterator[Sample]:
        """`log` is the service's so far, `counts` what the clients did."""
        workers = generations(log)
        for pid in tree(self._supervisor):
            if pid == self._supervisor:
                role, generation, number = "supervisor", -1, -1
            elif pid in workers:
                role, (generation, number) = "worker", workers[pid]
            elif b"--web-only" in _command_line(pid) or b"proxy.serving.page" in _command_line(pid):
                role, generation, number = "page", -1, -1
            else:
                continue  # a worker that is starting
            threads = _count(f"/proc/{pid}/task")
            if threads < 1:
                continue  # gone meanwhile
            yield Sample(
                at_s, phase, role, generation, number, pid, at_s - self._seen.setdefault(pid, at_s),
                pss_kb_of(pid), rss_kb_of(pid), private_kb(pid), _count(f"/proc/{pid}/fd"), threads,
            )  # fmt: skip
        page = _ask(self._monitor_port)
        yield Sample(
            at_s,
            phase,
            "node",
            tasks=_number(page, "gatepost_event_loop_tasks"),
            sessions=_number(page, "gatepost_sessions"),
            connections=_number(page, "gatepost_open_connections"),
            cpu_s=cpu_s(self._supervisor),
            acts=sum(count for kind, count in counts.items() if kind != "failed"),
            failed=counts.get("failed", 0),
        )


def generations(log: str) -> dict[int, tuple[int, int]]:
    """The workers that were ever ready: pid to (generation, number). A replacement of a dead one counts as the next."""
    found: dict[int, tuple[int, int]] = {}
    times: dict[int, int] = {}
    for number, pid in re.findall(r"event=worker_ready worker=(\d+) pid=(\d+)", log):
        generation = times.get(int(number), 0)
        times[int(number)] = generation + 1
        found[int(pid)] = generation, int(number)
    return found


def write_header(file: Path) -> None:
    with file.open("w", newline="") as out:
        csv.writer(out).writerow([field.name for field in fields(Sample)])


def append(file: Path, samples: Iterable[Sample]) -> None:
    with file.open("a", newline="") as out:
        csv.DictWriter(out, [field.name for field in fields(Sample)]).writerows(asdict(sample) for sample in samples)


def read(file: Path) -> list[Sample]:
    """What `append` wrote; a last line that was cut short is left out."""
    found = []
    kinds = {"phase": Phase, "role": str, "at_s": float, "age_s": float, "cpu_s": float}
    with file.open(newline="") as data:
        for row in csv.DictReader(data):
            if None in row.values():
                continue
            found.append(Sample(**{name: kinds.get(name, int)(value) for name, value in row.items()}))  # type: ignore[arg-type]
    return found


def _ask(port: int) -> str:
    connection = HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", "/metrics")
        return connection.getresponse().read().decode()
    finally:
        connection.close()


def _number(page: str, name: str) -> int:
    """The sum over all labels."""
    return round(sum(float(value) for value in re.findall(rf"^{name}(?:{{.*}})? (\S+)$", page, re.MULTILINE)))


def _count(directory: str) -> int:
    try:
        return sum(1 for _ in Path(directory).iterdir())
    except OSError:
        return -1


def _command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
