"""A soak: `gatepost serve` under mixed clients for hours. Memory, descriptors and tasks stay flat, the log clean.

Run it by `make soak`, `MINUTES=120`. In front of the lab (Dovecot, Postfix, an OpenID provider whose tokens live for
two minutes) run two workers on SQLite and the page; the clients are soak_clients. Reloads come in the first 45 % of the
time and in the last tenth; between them one generation lives long. Everything lies in bench/.soak: samples.csv, the
service's log, what the clients did and what failed.

    python -m bench.soak [--minutes N]
    python -m bench.soak --report bench/.soak/samples.csv     writes the section of a run that was cut short
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.gatepost import add_users
from bench.results import put_section
from bench.soak_clients import Plan, run
from bench.soak_report import judge
from bench.soak_samples import Phase, Sampler, append, write_header
from tests.lab import Lab
from tests.lab.ports import PortReservation
from tests.web.kit import WebGate

OUT = Path(__file__).parent / ".soak"
USERS = tuple(f"{name}@example.test" for name in ("ann", "bob", "carol", "dave"))
TOKEN_S = 120
WORKERS = 2
BIG = b"Subject: big\r\n\r\n" + (b"0123456789abcdef" * 4 + b"\r\n") * 61_000  # 4 MB
METRICS = '[metrics]\naddress = "127.0.0.1:{}"\n'


@dataclass(frozen=True, slots=True)
class Pace:
    """The times of a run of so many minutes, in seconds."""

    total: float
    sample: float
    reload: float
    rest: float
    idle: tuple[float, float]

    @classmethod
    def of(cls, minutes: float) -> Pace:
        total = minutes * 60
        reload = min(300.0, max(total / 12, 20.0))
        # At most three generations leave at one time, so no session in IDLE is ended by a reload.
        return cls(total, min(60.0, total / 24), reload, min(40.0, total / 6), (min(20.0, reload / 4), 1.6 * reload))

    def phase(self, at_s: float) -> Phase:
        share = at_s / self.total
        return Phase.RELOADS if share < 0.45 else Phase.LONG if share < 0.9 else Phase.RELOADS_AGAIN


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=120.0)
    parser.add_argument("--report", type=Path, metavar="CSV", help="judge what is there")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    file: Path = arguments.report or OUT / "samples.csv"
    if arguments.report is None:
        soak(Pace.of(arguments.minutes))
    text, is_good = judge(file)
    put_section("soak", text)
    sys.stdout.write(text)
    return 0 if is_good else 1


def soak(pace: Pace) -> None:
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir()
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gatepost-soak-")))
        lab = stack.enter_context(Lab.start(USERS, access_token_ttl_s=TOKEN_S))
        ports = PortReservation()
        stack.callback(ports.release)
        monitor = ports.take()
        gate = WebGate.made(lab, directory, METRICS.format(monitor), is_https=False)
        stack.callback(gate.kill)
        gate.serve_words = ()  # the page runs beside the workers
        gate.log_file = OUT / "gatepost.log"
        text = gate.config.read_text().replace('level = "debug"', 'level = "info"')
        text = re.sub(r"(?m)^count = \d+$", f"count = {WORKERS}", text)
        gate.config.write_text(text.replace("[limits]\n", "[limits]\nimap_idle_s = 1860\n"))
        logins = add_users(lab, gate, list(USERS))
        lab.deliver(USERS[0], BIG)
        gate.start()
        gate.await_log("event=web_ready")
        assert gate.process is not None
        sampler = Sampler(gate.process.pid, monitor)
        page = int(gate.web.rpartition(":")[2])
        plan = Plan(
            gate.config, gate.imaps.port, gate.smtps.port, lab.lmtp.port, page, tuple(logins), pace.idle,
            OUT / "counts.json", OUT / "failures.txt",
        )  # fmt: skip
        plan.failures.touch()
        write_header(OUT / "samples.csv")
        _drive(gate, sampler, plan, pace)
        if gate.stop() != 0:
            with plan.failures.open("a") as failures:
                failures.write("gatepost serve ended with an error\n")


def _drive(gate: WebGate, sampler: Sampler, plan: Plan, pace: Pace) -> None:
    begin = time.monotonic()

    def look(phase: Phase) -> None:
        counts = json.loads(plan.counts.read_text()) if plan.counts.exists() else {}
        found = sampler.samples(time.monotonic() - begin, phase, gate.log(), counts)
        append(OUT / "samples.csv", found)

    time.sleep(pace.rest)
    look(Phase.REST_BEFORE)
    with _clients(plan) as clients:
        start = time.monotonic()
        next_sample, next_reload = pace.sample, pace.reload
        while (at_s := time.monotonic() - start) < pace.total:
            assert gate.process is not None
            if gate.process.poll() is not None or not clients.is_alive():
                raise SystemExit("soak: gatepost or its clients ended")
            if at_s >= next_sample:
                next_sample += pace.sample
                look(pace.phase(at_s))
            if at_s >= next_reload:
                next_reload += pace.reload
                if pace.phase(at_s) is not Phase.LONG:
                    _reload(gate)
            time.sleep(0.5)
    # One more generation, young as the first was, that nobody has used.
    mark = len(gate.log())
    _reload(gate)
    gate.await_log("event=reloaded .*sessions_before", after=mark)
    gate.await_log("event=web_ready", after=mark)
    time.sleep(pace.rest)
    look(Phase.REST_AFTER)


def _reload(gate: WebGate) -> None:
    """SIGHUP with something changed: else no new generation comes."""
    text = gate.config.read_text()
    is_odd = "imap_idle_s = 1861" in text
    gate.config.write_text(re.sub(r"imap_idle_s = \d+", f"imap_idle_s = {1860 if is_odd else 1861}", text))
    assert gate.process is not None
    gate.process.send_signal(signal.SIGHUP)


@contextlib.contextmanager
def _clients(plan: Plan) -> Iterator[multiprocessing.process.BaseProcess]:
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=run, args=(plan, receiver))
    process.start()
    receiver.close()
    try:
        yield process
    finally:
        sender.close()  # they stop
        process.join(120)
        if process.is_alive():
            process.kill()
            process.join()


if __name__ == "__main__":
    os.nice(10)
    raise SystemExit(main())
