"""What only Gatepost has: cold logins, a worker's size, commands, and a store that grows."""

from __future__ import annotations

import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from statistics import median

from bench import filling
from bench.driver import burst, generator
from bench.gatepost import Commands, add_passwords, add_users, command, gatepost, prepare, target_of, timed
from bench.measures import MEDIUM, Figures, Form
from bench.processes import pss_kb, rss_kb, rss_kb_of
from tests.gate import Gate
from tests.lab import Lab
from tests.postgresql import running_cluster

COLD = 64
IDLE_IN_GROWN = 200
COMMAND_RUNS = 7
# As little garbage collection as in the command (proxy/__main__).
IMPORT = "import gc; gc.set_threshold(200_000); import sqlalchemy.dialects.sqlite; gc.freeze()"


def figures(lab: Lab, users: list[str], directory: Path) -> Figures:
    """All but the growth."""
    with gatepost(lab, users, directory / "own") as (_target, gate):
        found = {**worker(lab, users, directory / "worker"), **commands(gate, users), **cold(gate, users)}
    print(f"  own: {found}", flush=True)
    return found


def cold(gate: Gate, users: list[str]) -> Figures:
    """The first login of app passwords: argon2 is in it."""
    fresh = add_passwords(gate, [users[number % len(users)] for number in range(COLD)])
    target = target_of(gate, fresh)
    did = burst(target, kind="logins", at_once=4, each=COLD // 4, is_cold=True)
    return {"cold_cpu_ms": did.cpu_ms}


def worker(lab: Lab, users: list[str], directory: Path) -> Figures:
    """The size of processes that have just started, and after a few logins."""
    gate = prepare(lab, directory)
    logins = add_users(lab, gate, users[:2])
    gate.start()
    try:
        target = target_of(gate, logins)
        assert target.pid is not None
        fresh = {
            "worker_rss_mb": largest_worker_kb(gate) / 1000,
            "supervisor_rss_mb": rss_kb_of(target.pid) / 1000,
            "worker_pss_mb": pss_kb(target.pid) / 1000,
        }
        burst(target, kind="logins", at_once=8, each=8)
        return {**fresh, "worker_used_rss_mb": largest_worker_kb(gate) / 1000}
    finally:
        gate.kill()


def largest_worker_kb(gate: Gate) -> int:
    """The resident size of the largest worker. The supervisor, which none is, has touched more pages of libraries."""
    return max(rss_kb_of(pid) for pid in gate.workers().values())


def commands(gate: Gate, users: list[str]) -> Figures:
    """In turns, with the least that a command can take which opens the store: its library's import."""
    runs: dict[str, list[Commands]] = {"create": [], "list": [], "import": []}
    for number in range(COMMAND_RUNS):
        runs["create"].append(command(gate, "create", users[0], "--name", f"bench {number}"))
        runs["list"].append(command(gate, "list"))
        runs["import"].append(timed(sys.executable, "-c", IMPORT))
    figures: Figures = {}
    for name, timings in runs.items():
        figures[f"{name}_s"] = median(timing.wall_s for timing in timings)
        figures[f"{name}_cpu_s"] = median(timing.cpu_s for timing in timings)
    return figures


def growth(lab: Lab, users: list[str], form: Form) -> dict[str, Figures]:
    """Warm logins and idle sessions by size of the store. Keys such as "sqlite, 10 accounts"."""
    found: dict[str, Figures] = {}
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gp-bench-grown-")))
        cluster = stack.enter_context(running_cluster()) if form.has_postgresql else None
        gates = []
        for backend in ("sqlite", "postgresql")[: 2 if cluster else 1]:
            for accounts, passwords in form.accounts:
                name = f"{backend}, {accounts:,} accounts, {passwords:,} app passwords"
                url = cluster.database() if cluster and backend == "postgresql" else ""
                gate = prepare(lab, directory / f"{backend}{accounts}", url=url)
                logins = add_users(lab, gate, users)
                filling.fill(gate, accounts - len(users), passwords - len(users))
                print(f"  filled: {name}", flush=True)
                gate.start()
                stack.callback(gate.kill)
                gates.append((name, target_of(gate, logins)))
        rounds: dict[str, list[float]] = {}
        for _ in range(form.rounds):
            for name, target in gates:
                rounds.setdefault(name, []).append(burst(target, kind="logins", at_once=16, each=16).cpu_ms)
        for name, target in gates:
            assert target.pid is not None
            before = pss_kb(target.pid)
            with generator(target, kind="idle", at_once=IDLE_IN_GROWN, message=MEDIUM):
                held = (pss_kb(target.pid) - before) / IDLE_IN_GROWN
            found[name] = {
                "login_cpu_ms": median(rounds[name]),
                "login_least": min(rounds[name]),
                "login_most": max(rounds[name]),
                "idle_kb": held,
                "rss_mb": rss_kb(target.pid)[0] / 1000,
            }
            print(f"  {name}: {found[name]}", flush=True)
    return found
