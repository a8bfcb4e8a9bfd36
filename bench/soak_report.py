"""What a soak showed: is it flat, is the log clean. From the files that the run wrote, also if it was cut short."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from bench.results import conditions
from bench.soak_samples import Phase, Sample, read

WARM_UP = 0.1  # of a phase: caches and threads come to be
MAX_SHOWN = 20
# What a line of the log may be, and why it comes. Anything else is unexpected: all warnings, errors and tracebacks.
EXPECTED = (
    (r"event=login .*result=ok", "a login"),
    (r"event=login .*result=refused cause=(revoked|expired|not_an_app_password) ", "the clients try these"),
    (r"event=session_end .*reason=(client|upstream)_left ", "a session's end"),
    (r"event=session_end .*reason=revoked ", "the clients wait for it"),
    (r"event=audit act=(created|revoked) ", "what the clients did"),
    (r"event=(ready|listening|monitoring|probe|worker_ready|web_listening|web_ready|web_stopped)\b", "a start"),
    (r"event=(reloaded|leaving)\b", "a reload"),
    (r"event=web method=GET path=/ status=200", "the page is asked for"),
    (r"event=worker_died .*status=0", "a worker of an earlier generation"),
    (r"event=(draining|stopped)\b", "the end"),
    (r"event=token_refreshed", "tokens live for two minutes"),
    (r"event=workers_forgotten", "rows of workers that a reload replaced"),
)


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that was measured early and late. `bound` is how much it may rise."""

    what: str
    unit: str
    first: float
    last: float
    bound: float

    @property
    def is_flat(self) -> bool:
        return self.last - self.first <= self.bound

    def row(self) -> str:
        word = "flat" if self.is_flat else "**grew**"
        change = self.last - self.first
        return (
            f"| {self.what} | {self.first:,.1f} {self.unit} | {self.last:,.1f} {self.unit} "
            f"| {change:+,.1f} | {self.bound:+g} | {word} |"
        )


@dataclass(frozen=True, slots=True)
class Measure:
    """A column of the samples. The bounds are of a live worker, of one at rest, and of supervisor and page."""

    name: str
    unit: str
    get: Callable[[Sample], float]
    worker: float
    rest: float
    other: float


MIB = 1024
# A worker's second hashing thread begins whenever two logins first need a hash at once, and keeps argon2's memory.
HASH_MIB = 20
MEASURES = (
    Measure("RSS", "MiB", lambda one: one.rss_kb / MIB, 4 + HASH_MIB, 4, 4),
    Measure("private memory", "MiB", lambda one: one.private_kb / MIB, 4 + HASH_MIB, 4, 4),
    # Sessions come and go by chance, each with two: the means of a quarter differ by what the means of sessions do.
    Measure("descriptors", "", lambda one: one.fds, 8, 2, 2),
    Measure("threads", "", lambda one: one.threads, 1, 1, 1),
)


def judge(file: Path) -> tuple[str, bool]:
    """The section for RESULTS.md, and whether all was well. `file` lies beside the other files of the run."""
    samples = read(file)
    findings = [*_processes(samples), *_node(samples)]
    lines, unexpected = _log(file.with_name("gatepost.log"))
    failures = file.with_name("failures.txt").read_text().splitlines()
    counts = json.loads(file.with_name("counts.json").read_text())
    is_good = all(one.is_flat for one in findings) and not unexpected and not failures
    shown = _shown(unexpected) + _shown(failures)
    return _heading(samples, counts) + _told(lines, unexpected) + shown + _table(findings), is_good


def _processes(samples: Sequence[Sample]) -> Iterable[Finding]:
    busy = [one for one in samples if one.phase not in (Phase.REST_BEFORE, Phase.REST_AFTER)]
    mine = [one for one in busy if one.role == "supervisor"]
    yield from _early_and_late("supervisor, the whole run", mine, lambda measure: measure.other)
    pages = [one for one in busy if one.role == "page" and one.phase is Phase.LONG]
    mine = [one for one in pages if one.pid == pages[-1].pid]
    yield from _early_and_late("page that lived long", mine, lambda measure: measure.other)
    long = [one for one in busy if one.phase is Phase.LONG and one.role == "worker"]
    last_of_all = max((one.generation for one in long), default=-1)
    for number in sorted({one.number for one in long}):
        mine = [one for one in long if one.number == number and one.generation == last_of_all]
        yield from _early_and_late(
            f"worker {number} of the generation that lived long", mine, lambda measure: measure.worker
        )
    yield from _between_phases(
        "a worker one or two samples old, by reloads early and late",
        [[one for one in _young(busy) if one.phase is phase] for phase in (Phase.RELOADS, Phase.RELOADS_AGAIN)],
        lambda measure: measure.worker,
    )
    for role, words in (("worker", "a new worker that nobody has used yet"), ("supervisor", "supervisor at rest")):
        sets = [
            _newest([one for one in samples if one.phase is phase and one.role == role])
            for phase in (Phase.REST_BEFORE, Phase.REST_AFTER)
        ]
        yield from _between_phases(f"{words}, before and after", sets, lambda measure: measure.rest)


def _node(samples: Sequence[Sample]) -> Iterable[Finding]:
    long = [one for one in samples if one.role == "node" and one.phase is Phase.LONG]
    first, last = _quarters(long)
    if first and last:
        for words, get in (
            ("tasks of both workers", lambda one: one.tasks),
            ("live sessions (for comparison)", lambda one: one.sessions),
        ):
            yield Finding(f"{words}, of the generation that lived long", "", _mean(first, get), _mean(last, get), 6)
    rests = [
        [one for one in samples if one.role == "node" and one.phase is p] for p in (Phase.REST_BEFORE, Phase.REST_AFTER)
    ]
    if all(rests):
        for words, get, bound in (
            ("tasks at rest", lambda one: one.tasks, 1),
            ("live sessions at rest", lambda one: one.sessions, 0),
            ("open connections at rest", lambda one: one.connections, 0),
        ):
            yield Finding(f"{words}, before and after", "", _mean(rests[0], get), _mean(rests[1], get), bound)
    counts = [
        sum(one.role == "worker" and one.phase is phase for one in samples)
        for phase in (Phase.REST_BEFORE, Phase.REST_AFTER)
    ]
    if all(counts):
        yield Finding("processes that are workers, before and after", "", counts[0], counts[1], 0)


def _young(samples: Sequence[Sample]) -> list[Sample]:
    """The second look at each worker: it has worked for one sample's time, and serves still."""
    looks: Counter[int] = Counter()
    found = []
    for one in samples:
        if one.role == "worker":
            looks[one.pid] += 1
            if looks[one.pid] == 2:
                found.append(one)
    return found


def _newest(samples: Sequence[Sample]) -> list[Sample]:
    newest = max((one.generation for one in samples), default=-1)
    return [one for one in samples if one.generation == newest]


def _early_and_late(what: str, samples: Sequence[Sample], bound: Callable[[Measure], float]) -> Iterable[Finding]:
    first, last = _quarters(samples)
    return _between_phases(f"{what}, first and last quarter", [first, last], bound)


def _between_phases(what: str, sets: Sequence[list[Sample]], bound: Callable[[Measure], float]) -> Iterable[Finding]:
    if not all(sets):
        return []
    return [
        Finding(f"{what}: {one.name}", one.unit, _mean(sets[0], one.get), _mean(sets[1], one.get), bound(one))
        for one in MEASURES
    ]


def _quarters(samples: Sequence[Sample]) -> tuple[list[Sample], list[Sample]]:
    """The first quarter behind the warm-up, and the last."""
    if not samples:
        return [], []
    begin, end = samples[0].at_s, samples[-1].at_s
    begin += (end - begin) * WARM_UP
    quarter = (end - begin) / 4
    return (
        [one for one in samples if begin <= one.at_s <= begin + quarter],
        [one for one in samples if one.at_s >= end - quarter],
    )


def _mean(samples: Sequence[Sample], get: Callable[[Sample], float]) -> float:
    return fmean(get(one) for one in samples)


def _log(file: Path) -> tuple[Counter[str], list[str]]:
    """How many lines of each expected kind there are; and what is none of them."""
    counts: Counter[str] = Counter()
    unexpected = []
    for line in file.read_text(errors="replace").splitlines():
        for pattern, reason in EXPECTED:
            if re.search(pattern, line) and " warning " not in line and " error " not in line:
                counts[reason] += 1
                break
        else:
            unexpected.append(line)
    return counts, unexpected


def _heading(samples: Sequence[Sample], counts: dict[str, int]) -> str:
    node = [one for one in samples if one.role == "node"]
    lasted_s = node[-1].at_s - node[0].at_s
    generations = len({one.generation for one in samples if one.role == "worker"})
    acts = ", ".join(f"{count:,} {kind}" for kind, count in sorted(counts.items()) if kind != "failed")
    is_whole = any(one.phase is Phase.REST_AFTER for one in samples)
    return f"""\
## Endurance

{conditions()}. By `make soak`{"" if is_whole else "; **cut short**, so without the comparison at rest"}.

{lasted_s / 60:.0f} minutes of two workers on SQLite and the page before the lab's Dovecot, Postfix and OpenID provider,
whose tokens live for two minutes; {generations} generations of workers by SIGHUP, one of which lived for nearly half of
the time. Clients did: {acts}; **{counts.get("failed", 0)} failed**. Up to {max(one.sessions for one in node)} sessions
at a sample. Gatepost took {(node[-1].cpu_s - node[0].cpu_s) / lasted_s:.1%} of a core.
"""


def _told(lines: Counter[str], unexpected: Sequence[str]) -> str:
    kinds = "; ".join(f"{count:,} of {reason}" for reason, count in lines.most_common())
    return f"""
The log has {sum(lines.values()) + len(unexpected):,} lines: {kinds}. **Unexpected lines: {len(unexpected)}.**
"""


def _table(findings: Sequence[Finding]) -> str:
    return f"""
A process may hold as much late as early, plus the bound. Quarters are those behind a warm-up of a tenth; a generation
is compared with itself, and young workers with young workers. Of a worker's bound 20 MiB are argon2's memory of a
second hashing thread, which begins when two logins first need a hash at once.

| what | early | late | change | bound | |
| --- | --- | --- | --- | --- | --- |
{chr(10).join(one.row() for one in findings)}
"""


def _shown(lines: Sequence[str]) -> str:
    if not lines:
        return ""
    return "\n```\n" + "\n".join(line[:300] for line in lines[:MAX_SHOWN]) + "\n```\n"
