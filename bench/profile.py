"""Where a Gatepost's time goes: `python -m bench.profile logins|fetches|noops|mails`; py-spy must be installed.

Prints, for the busy samples of all threads, the share of each package by itself, of the heaviest functions by
themselves, and of the heaviest functions of ours with all they call.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.__main__ import USERS, deliver
from bench.driver import generator
from bench.gatepost import gatepost
from bench.measures import BIG
from bench.processes import tree
from tests.lab import Lab

RATE_HZ = 400
SHOWN = 40
WORK: dict[str, dict[str, Any]] = {
    "logins": {"at_once": 16, "each": 100},
    "fetches": {"at_once": 2, "each": 40, "message": BIG},
    "noops": {"at_once": 1, "each": 20_000},
    "mails": {"at_once": 1, "each": 5000, "size": 4096},
    "connected_mails": {"at_once": 8, "each": 100, "size": 4096},
}


def main() -> int:
    """Profile one kind of work."""
    parser = argparse.ArgumentParser(prog="python -m bench.profile", description=__doc__)
    parser.add_argument("kind", choices=WORK)
    parser.add_argument("--native", action="store_true", help="with the frames of C code: uvloop, OpenSSL, SQLite")
    arguments = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="gp-bench-") as name,
        Lab.start(USERS, submission="dovecot", trusting=True, max_user_connections=2000) as lab,
    ):
        deliver(lab)
        with gatepost(lab, USERS, Path(name) / "gate", workers=1) as (target, _gate):
            raw = Path(name) / "raw"
            with generator(target, kind=arguments.kind, **WORK[arguments.kind]) as load:
                spy = [
                    Path(sys.executable).with_name("py-spy"),
                    "record",
                    "--pid",
                    str(tree(target.pid)[-1]),
                    "--format",
                    "raw",
                ]
                spy += ["--output", raw, "--rate", str(RATE_HZ), "--duration", "60", "--nonblocking"]
                spy += ["--native"] if arguments.native else []
                with subprocess.Popen(spy, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
                    did = load.work()
                    process.send_signal(2)
            print(f"{did.items} items, {did.cpu_ms:.2f} CPU ms each, {did.cpu_s:.2f} CPU s in all (py-spy beside it)")
            show(raw.read_text())
    return 0


def show(raw: str) -> None:
    """Print the shares."""
    by_package, by_self, by_total, total = Counter[str](), Counter[str](), Counter[str](), 0
    for stack, count in stacks(raw):
        total += count
        by_package[package(stack[-1])] += count
        by_self[stack[-1]] += count
        for frame in set(stack):
            by_total[frame] += count
    for title, counter in (
        ("by package, itself", by_package),
        ("by function, itself", by_self),
        ("with all below", by_total),
    ):
        print(f"\n{title}")
        for name, count in counter.most_common(SHOWN):
            print(f"  {100 * count / total:5.1f} %  {name}")


def stacks(raw: str) -> Iterator[tuple[list[str], int]]:
    """Each stack, outermost frame first, without line numbers, and how often it was seen."""
    for line in raw.splitlines():
        frames, _, count = line.rpartition(" ")
        yield [re.sub(r":\d+\)$", ")", frame) for frame in frames.split(";")], int(count)


def package(frame: str) -> str:
    """The package that a frame, such as "run (proxy/login/service.py)", belongs to."""
    match = re.search(r"\((?:.*site-packages/)?(?:.*/python3\.\d+/)?([^/)]+(?:/[^/)]+)?)", frame)
    return match[1] if match else frame


if __name__ == "__main__":
    sys.exit(main())
