"""`python -m bench`: starts the upstream, the peers and Gatepost, measures them in turns, writes bench/RESULTS.md."""

from __future__ import annotations

import argparse
import os
import platform
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from datetime import UTC, datetime
from pathlib import Path

from bench import own, report
from bench.driver import LoadError, Target
from bench.gatepost import commit, on_asyncio, only_target
from bench.measures import BIG_BYTES, LONG, MEASURES, MEDIUM_BYTES, ONCE, SHORT, Form, Measure, of_nobody
from bench.peers import direct, dovecot, floor, nginx, oauth2_proxy
from tests.lab import Lab

PEERS = {"direct": direct, "nginx": nginx, "dovecot": dovecot, "email-oauth2-proxy": oauth2_proxy, "floor": floor}
VARIANTS = {"gatepost-asyncio": on_asyncio}
USERS = [f"u{number}@example.test" for number in range(8)]
SESSIONS_PER_USER = 2000
ALL = [*MEASURES, *ONCE, "own", "growth"]

Contestant = Callable[[Lab, list[str], Path], AbstractContextManager[Target]]


def main() -> int:
    """Run what the arguments say."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--short", action="store_true", help="minutes, to judge a change by")
    parser.add_argument("--only", help="measures, by commas: " + ", ".join(ALL))
    parser.add_argument("--peers", default=",".join(PEERS), help=f"by commas; also {', '.join(VARIANTS)}")
    parser.add_argument("--no-write", action="store_true", help="print, and leave RESULTS.md and history alone")
    arguments = parser.parse_args()
    form = SHORT if arguments.short else LONG
    chosen = arguments.only.split(",") if arguments.only else ALL
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gp-bench-")))
        directory.chmod(0o711)  # nginx and Dovecot run as nobody
        lab = stack.enter_context(
            Lab.start(USERS, submission="dovecot", trusting=True, max_user_connections=SESSIONS_PER_USER)
        )
        deliver(lab)
        contestants = [
            *({**PEERS, **VARIANTS}[name] for name in arguments.peers.split(",") if name),
            only_target,
        ]
        bench = Bench(form, lab, directory, contestants)
        bench.in_turns({name: measure for name, measure in MEASURES.items() if name in chosen})
        bench.afresh({name: measure for name, measure in ONCE.items() if name in chosen})
        if "own" in chosen:
            bench.run.own.update(own.figures(lab, USERS, directory))
        bench.note_load()
        if "growth" in chosen:
            bench.run.growth.update(own.growth(lab, USERS, form))
    print(report.tables(bench.run))
    if not arguments.no_write:
        report.write(bench.run)
    return 0


class Bench:
    """A run: who is measured, and what was found."""

    def __init__(self, form: Form, lab: Lab, directory: Path, contestants: Sequence[Contestant]) -> None:
        self.run = report.Run(_conditions(form), {}, {}, {})
        self._form = form
        self._lab = lab
        self._directory = directory
        self._contestants = contestants
        self._loads: list[float] = []

    def in_turns(self, measures: dict[str, Measure]) -> None:
        """Every measure on every target, all running, as often as the form says."""
        if not measures:
            return
        with ExitStack() as stack:
            targets = [stack.enter_context(self._start(each, "turns")) for each in self._contestants]
            for number in range(self._form.rounds):
                self.note_load()
                print(f"round {number + 1} of {self._form.rounds}, load average {self._loads[-1]:.1f}", flush=True)
                for name, measure in measures.items():
                    # Each time another one begins: who comes after a heavy one may find the machine busy.
                    first = number % len(targets)
                    for target in targets[first:] + targets[:first]:
                        if number == 0 or target.pace == 1 or self._form is not SHORT:
                            self._take(name, measure, target)

    def afresh(self, measures: dict[str, Measure]) -> None:
        """Every measure once, each on processes that have done nothing yet: freed memory would hide what is used."""
        for name, measure in measures.items():
            for each in self._contestants:
                self.note_load()
                with self._start(each, name) as target:
                    self._take(name, measure, target)

    def _start(self, contestant: Contestant, name: str) -> AbstractContextManager[Target]:
        return contestant(self._lab, USERS, self._directory / f"{name}-{contestant.__name__}")

    def _take(self, name: str, measure: Measure, target: Target) -> None:
        start = time.monotonic()
        samples = self.run.samples.setdefault(target.name, {})
        self.run.versions[target.name] = target.version
        try:
            figures = measure(target, self._form)
        except LoadError as error:
            print(f"    {name}: {error}", flush=True)
            return
        if target.pid is None:
            figures = of_nobody(figures)
        for key, value in figures.items():
            samples.setdefault(key, []).append(value)
        words = " ".join(f"{key}={value:.3g}" for key, value in figures.items() if key != "failures")
        print(f"  {name} {target.name} ({time.monotonic() - start:.0f} s): {words}", flush=True)

    def note_load(self) -> None:
        self._loads.append(os.getloadavg()[0])
        self.run.conditions["load average"] = f"{min(self._loads):.1f}-{max(self._loads):.1f}"


def deliver(lab: Lab) -> None:
    """In every mailbox the same messages, in this order."""
    line = b"m" * 74 + b"\r\n"
    for size in (BIG_BYTES, MEDIUM_BYTES):
        message = b"From: ann@example.test\r\nSubject: load\r\n\r\n" + line * (size // len(line))
        for user in USERS:
            lab.deliver(user, message)


def _conditions(form: Form) -> dict[str, str]:
    uvloop = subprocess.run(
        [sys.executable, "-c", "import uvloop; print(uvloop.__version__)"], capture_output=True, text=True, check=False
    ).stdout.strip()
    return {
        "commit": commit(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "form": f"{form.name}, {form.rounds} rounds",
        "cores": str(os.cpu_count()),
        "load average": "not known",
        "system": f"Linux {platform.release()}, Python {platform.python_version()}, uvloop {uvloop or 'none'}, "
        f"{ssl.OPENSSL_VERSION}",
        "clients": "TLS 1.3, blocking sockets, one thread each, a process of their own on the same cores",
        "upstream": "one Dovecot (IMAP with TLS, submission that hands on to smtp-sink) for all; takes any password "
        "or token",
    }


if __name__ == "__main__":
    sys.exit(main())
