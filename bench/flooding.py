"""What a flood of wrong logins does to those who are in, to the owner, and to the memory of the workers."""

from __future__ import annotations

import json
import random
import re
import socket
import ssl
import statistics
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field

from bench.driver import ROOT
from bench.processes import cpu_s, pss_kb
from bench.results import conditions
from tests.edge.scripted import PATIENCE_S, Certificates
from tests.service.house import wrong_password
from tests.whole.kit import USER, House, Line, mail_server, write_config

RATE = 1_000  # wrong logins a second, asked for
SESSIONS = 20
LISTENERS = (("imap", 0, "implicit"), ("imap", 0, "starttls"), ("smtp", 0, "implicit"), ("smtp", 0, "starttls"),
             ("imap", 0, "none"))  # fmt: skip
KNOWN, STRANGE = "an address with a success of late", "a new address each time"
OWNER_EVERY_S = 2.0


@dataclass
class Phase:
    """One stretch of time: NOOP round trips in ms, the owner's logins from both addresses, memory."""

    name: str
    noops_ms: list[float] = field(default_factory=list)
    logins: dict[str, list[str]] = field(default_factory=lambda: {KNOWN: [], STRANGE: []})
    login_ms: dict[str, list[float]] = field(default_factory=lambda: {KNOWN: [], STRANGE: []})
    pss_mb: list[float] = field(default_factory=list)
    cpu_s: float = 0.0
    seconds: float = 0.0


@dataclass
class Flooded:
    """A phase, and what the guessers were answered; None without any."""

    phase: Phase
    guessers: dict[str, object] | None = None


def flooded(house: House, certificates: Certificates, seconds: int) -> list[Flooded]:
    """A quiet phase, one flood for each kind of wrong password, and a quiet one after them."""
    with mail_server(certificates, "imap", _talk) as imap:
        write_config(house, certificates, imap=imap.port, workers=2, listeners=LISTENERS)
        text = house.config.read_text().replace('level = "debug"', 'level = "info"')
        house.config.write_text(text.replace("argon2_memory_kib = 8\nargon2_time = 1\n", ""))
        right = str(house.create(USER, "right")["password"])
        house.password = str(house.create(USER, "owner")["password"])
        hashed = house.directory / "hashed"
        hashed.write_text("\n".join(wrong_password(like=right) for _ in range(2_000)))
        house.start()
        try:
            sessions = [house.imap_session() for _ in range(SESSIONS)]
            quiet = Flooded(_phase("before", house, sessions, seconds))
            unknown = _under("selector unknown", "unknown", house, sessions, seconds)
            right_selector = _under("selector right, so hashed", str(hashed), house, sessions, seconds)
            after = Flooded(_phase("after", house, sessions, seconds))
            for session in sessions:
                session.close()
            return [quiet, unknown, right_selector, after]
        finally:
            house.kill()


def _under(name: str, kind: str, house: House, sessions: list[Line], seconds: int) -> Flooded:
    port = re.findall(r"on=imap://127\.0\.0\.1:(\d+) tls=none", house.log())[-1]
    command = [sys.executable, "-m", "bench.guessers", port, str(RATE), str(seconds + 3), kind]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, text=True) as guessers:
        time.sleep(2)  # it begins
        phase = _phase(name, house, sessions, seconds)
        said, _ = guessers.communicate(timeout=120)
    found: dict[str, object] = json.loads(said)
    return Flooded(phase, found)


def _phase(name: str, house: House, sessions: list[Line], seconds: int) -> Phase:
    assert house.process is not None
    phase, pid = Phase(name), house.process.pid
    owner = threading.Thread(target=_owner, args=(house, phase, time.monotonic() + seconds))
    begin, cpu_before = time.monotonic(), cpu_s(pid)
    owner.start()
    looked_at = 0.0
    while time.monotonic() - begin < seconds:
        for session in sessions:
            start = time.perf_counter()
            assert session.ask(b"n NOOP") == b"n OK"
            phase.noops_ms.append((time.perf_counter() - start) * 1000)
            time.sleep(0.005)
        if time.monotonic() - looked_at > 1:
            looked_at = time.monotonic()
            phase.pss_mb.append(pss_kb(pid) / 1024)
    phase.seconds, phase.cpu_s = time.monotonic() - begin, cpu_s(pid) - cpu_before
    owner.join(PATIENCE_S + 30)
    return phase


def _owner(house: House, phase: Phase, until: float) -> None:
    """Log in with the right password every other second, from each address in turn."""
    context = ssl.create_default_context(cafile=str(house.directory / "cert.pem"))
    number = random.randrange(4_000)
    while time.monotonic() < until:
        for address in (KNOWN, STRANGE):
            start = time.perf_counter()
            number += 1
            source = "127.0.0.1" if address == KNOWN else f"127.{210 + number % 40}.{number // 40}.1"
            phase.logins[address].append(_log_in(house, context, source))
            phase.login_ms[address].append((time.perf_counter() - start) * 1000)
        time.sleep(OWNER_EVERY_S)


def _log_in(house: House, context: ssl.SSLContext, address: str) -> str:
    try:
        sock = socket.create_connection(tuple(house.imaps), timeout=30, source_address=(address, 0))
        with sock, context.wrap_socket(sock, server_hostname="localhost") as tls:
            line = Line(tls)
            tls.settimeout(30)
            line.line()
            answer = line.ask(b"o LOGIN %b %b" % (USER.encode(), house.password.encode()))
    except (OSError, AssertionError) as error:
        return type(error).__name__
    return "in" if answer.startswith(b"o OK") else " ".join(answer.decode().split()[1:3])


def _talk(line: Line) -> None:
    line.sock.settimeout(600)  # nobody asks while the last guessers are waited for
    while said := line.sock.recv(1000):
        line.send(said.split(b" ", 1)[0] + b" OK\r\n")


def report_of_flood(floods: list[Flooded]) -> str:
    """The second half of the section."""
    lines = [
        f"## {RATE} wrong logins a second\n",
        f"{conditions()}. By `make bench-guessing`.\n",
        "Asked for from 20,000 addresses of 127.0.0.0/8, two on each connection, in clear on loopback (so that",
        f"their own TLS is not measured); {SESSIONS} live sessions, two workers, all on the cores of",
        "one machine together with the guessers, the mail server and this measurement. The owner logs in every other",
        "second with the right password, over TLS: from an address with a success of late, and from a new one each",
        "time.\n",
        (
            "| phase | wrong logins begun /s | answered /s, by answer | NOOP ms: median, 99 % | owner, known address "
            "| owner, new address | PSS MB: first, at each quarter, most | CPU s/s |"
        ),
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    quiet = statistics.median(floods[0].phase.noops_ms)
    for flood in floods:
        phase, cuts = flood.phase, statistics.quantiles(flood.phase.noops_ms, n=100)
        begun, answered = "-", "-"
        if flood.guessers is not None:
            took_s = float(str(flood.guessers["seconds"]))
            begun = f"{int(str(flood.guessers['begun'])) / took_s:.0f}"
            answers = flood.guessers["answers"] | flood.guessers["failed"]  # type: ignore[operator]
            answered = ", ".join(f"{count / took_s:.0f} {answer}" for answer, count in sorted(answers.items()))
        median = statistics.median(phase.noops_ms)
        lines.append(
            f"| {phase.name} | {begun} | {answered} | {median:.1f} ({median / quiet:.1f} x), {cuts[-1]:.1f} "
            f"| {_logins(phase, KNOWN)} | {_logins(phase, STRANGE)} "
            f"| {_by_quarters(phase.pss_mb)}, {max(phase.pss_mb):.0f} "
            f"| {phase.cpu_s / phase.seconds:.2f} |"
        )
    return "\n".join(lines) + "\n"


def _by_quarters(samples: list[float]) -> str:
    last = len(samples) - 1
    return ", ".join(f"{samples[last * quarter // 4]:.0f}" for quarter in range(5))


def _logins(phase: Phase, address: str) -> str:
    told = phase.logins[address]
    others = sorted({answer for answer in told if answer != "in"})
    median = statistics.median(phase.login_ms[address]) if told else 0.0
    return f"{told.count('in')} of {len(told)}, {median:.0f} ms{': ' if others else ''}{', '.join(others)}"
