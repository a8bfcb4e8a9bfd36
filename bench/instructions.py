"""How many instructions a login takes: `python -m bench.instructions [logins|connected_mails]`; needs valgrind.

A figure that neither a busy machine nor a cold cache moves. Callgrind counts what all processes of Gatepost, and of
bench.floor, do in user space, by library: the difference of a long run and a short one, for each item more. What the
kernel does is not in it, and neither is waiting. Callgrind shows an older processor, so OpenSSL does some more than it
would; a login takes some fifty times as long, and what happens once a second counts more often than it should.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from bench.__main__ import USERS, deliver
from bench.driver import Target, burst
from bench.gatepost import add_users, prepare, target_of
from bench.peers import floor
from bench.processes import tree
from tests.lab import Lab

ITEMS = (1, 10, 110)  # the first run compiles what is not compiled yet; the others are compared
SHOWN = 6
READY_S = 300.0
END_S = 60.0

Serving = Callable[[Lab, Path, tuple[str, ...]], AbstractContextManager[Target]]


def main() -> int:
    """Count, and print millions for each item."""
    parser = argparse.ArgumentParser(prog="python -m bench.instructions", description=__doc__)
    parser.add_argument("kind", choices=("logins", "connected_mails"), nargs="?", default="logins")
    kind = parser.parse_args().kind
    if shutil.which("valgrind") is None:
        print("valgrind is missing: run apt-get install valgrind", file=sys.stderr)
        return 1
    with (
        tempfile.TemporaryDirectory(prefix="gp-bench-") as name,
        Lab.start(USERS, submission="dovecot", trusting=True, max_user_connections=2000) as lab,
    ):
        deliver(lab)
        for who, serving in (("floor", _floor), ("gatepost", _gatepost)):
            directory = Path(name) / who
            directory.mkdir()
            counts = [_counted(lab, directory / str(items), serving, kind, items) for items in ITEMS]
            each = {
                library: (counts[-1][library] - counts[-2][library]) / (ITEMS[-1] - ITEMS[-2]) for library in counts[-1]
            }
            largest = sorted(each.items(), key=lambda pair: -pair[1])[:SHOWN]
            shares = ", ".join(f"{library} {count / 1e6:.2f}" for library, count in largest)
            print(f"{kind} {who}: {sum(each.values()) / 1e6:.2f} million each ({shares})", flush=True)
    return 0


def _counted(lab: Lab, directory: Path, serving: Serving, kind: str, items: int) -> Counter[str]:
    counts = directory.with_suffix(".counts")
    counts.mkdir()
    # By name, not by number, or two files could not be compared.
    tool = ("--tool=callgrind", "-q", f"--callgrind-out-file={counts}/%p", "--compress-strings=no", "--compress-pos=no")
    with serving(lab, directory, ("valgrind", *tool)) as target:
        more = {"size": 4096} if kind == "connected_mails" else {}
        did = burst(target, kind=kind, at_once=1, each=items, **more)
        if did.failed:
            raise RuntimeError(f"{did.failed} of {kind} failed")
        _end(target.pid)
    total: Counter[str] = Counter()
    for file in counts.iterdir():
        total += _by_library(file)
    return total


@contextmanager
def _floor(lab: Lab, directory: Path, wrapper: tuple[str, ...]) -> Iterator[Target]:
    with floor(lab, USERS[:1], directory, wrapper) as target:
        yield target


@contextmanager
def _gatepost(lab: Lab, directory: Path, wrapper: tuple[str, ...]) -> Iterator[Target]:
    gate = prepare(lab, directory, workers=1)
    gate.wrapper, gate.ready_s = wrapper, READY_S
    logins = add_users(lab, gate, USERS[:1])
    gate.start()
    try:
        yield target_of(gate, logins)
    finally:
        gate.kill()


def _end(pid: int) -> None:
    """Have all of a target's processes end by themselves, so that they write down what they counted."""
    pids = tree(pid)
    for one in pids:
        os.kill(one, signal.SIGTERM)
    deadline = time.monotonic() + END_S
    while any(_lives(one) for one in pids):
        if time.monotonic() > deadline:
            raise RuntimeError("a process does not end")
        time.sleep(0.1)


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _by_library(file: Path) -> Counter[str]:
    """Instructions in each library itself; see Callgrind Format Specification: a line after calls= is the callee's."""
    found: Counter[str] = Counter()
    library, is_callees = "", False
    with file.open(errors="replace") as lines:
        for line in lines:
            if line.startswith("ob="):
                library = Path(line[3:].strip()).name
            elif line.startswith("calls="):
                is_callees = True
            elif line[0] in "0123456789+-*":
                if not is_callees:
                    found[library] += int(line.split()[1])
                is_callees = False
    return found


if __name__ == "__main__":
    raise SystemExit(main())
