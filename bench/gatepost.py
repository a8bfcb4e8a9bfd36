"""Gatepost as a target: its set-up, its filled store, app passwords nobody has used, its commands."""

from __future__ import annotations

import os
import re
import resource
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from bench.clients import Login
from bench.driver import ROOT, Target
from proxy.admin import accounts, passwords
from proxy.admin.accounts import AccountRequest
from proxy.admin.desk import opened
from proxy.admin.passwords import PasswordRequest
from proxy.config.reader import load
from proxy.secret import Secret
from proxy.store.rows import Purpose
from tests.gate import Gate
from tests.lab import Lab


@dataclass(frozen=True, slots=True)
class Commands:
    """What a command took."""

    wall_s: float
    cpu_s: float


class PipedGate(Gate):
    """A gate whose lines go through a pipe to a process that keeps them, as they go to the journal under systemd.

    What goes to a file itself is written by a thread of its own, for a disk may be slow: that is not what is measured.
    """

    def _launch(self, log: IO[bytes]) -> None:
        keeper = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=log)
        assert keeper.stdin is not None
        super()._launch(keeper.stdin)
        keeper.stdin.close()
        self._keeper = keeper

    def kill(self) -> None:
        """End the gate, and with it who keeps its lines."""
        super().kill()
        self._keeper.wait()


def prepare(lab: Lab, directory: Path, *, url: str = "", loop: str = "uvloop", workers: int = 0) -> Gate:
    """A set-up with all settings at their defaults, but for the ports. `url`: a database that is not SQLite."""
    gate = PipedGate.prepare(lab, directory, loop=loop)
    text = gate.config.read_text().replace('level = "debug"', 'level = "info"')
    text = re.sub(r"(?m)^count = \d+$", f"count = {workers}", text)
    if url:
        text = text.replace("sqlite:///gatepost.db", url)
    gate.config.write_text(text)
    if url:
        gate.cli("db", "upgrade")
    return gate


def add_users(lab: Lab, gate: Gate, users: list[str]) -> list[Login]:
    """Accounts with a refresh token and one app password each."""
    with opened(load(gate.config), "bench") as desk:
        for user in users:
            token = Secret(lab.refresh_token(user))
            new = accounts.prepare(desk, AccountRequest(user, "lab", purpose=Purpose.REFRESH_TOKEN))
            accounts.add(desk, new, Purpose.REFRESH_TOKEN, token)
    return add_passwords(gate, users)


def add_passwords(gate: Gate, users: list[str]) -> list[Login]:
    """One more app password for each of these; a name may come more than once."""
    logins = []
    with opened(load(gate.config), "bench") as desk:
        for user in users:
            made = passwords.create(desk, passwords.prepare(desk, PasswordRequest(user, secrets.token_hex(8))))
            logins.append(Login(user, made.password, is_token=False))
    return logins


def target_of(gate: Gate, logins: list[Login], name: str = "gatepost") -> Target:
    """A started gate as a target."""
    assert gate.process is not None
    return Target(name, gate.imaps.port, gate.smtps.port, logins, gate.process.pid, commit())


@contextmanager
def gatepost(
    lab: Lab, users: list[str], directory: Path, loop: str = "uvloop", workers: int = 0
) -> Iterator[tuple[Target, Gate]]:
    """A running Gatepost. `workers`: 0 for as many as cores."""
    gate = prepare(lab, directory, loop=loop, workers=workers)
    logins = add_users(lab, gate, users)
    gate.start()
    try:
        yield target_of(gate, logins, "gatepost" if loop == "uvloop" else f"gatepost, {loop}"), gate
    finally:
        gate.kill()


@contextmanager
def only_target(lab: Lab, users: list[str], directory: Path) -> Iterator[Target]:
    """A running Gatepost, as the peers are given."""
    with gatepost(lab, users, directory) as (target, _gate):
        yield target


@contextmanager
def on_asyncio(lab: Lab, users: list[str], directory: Path) -> Iterator[Target]:
    """The same on asyncio's own loop, whose TLS keeps less memory and takes more CPU than uvloop's."""
    with gatepost(lab, users, directory, "asyncio") as (target, _gate):
        yield target


def command(gate: Gate, *words: str) -> Commands:
    """Run a command of Gatepost's as a person does. Raises CalledProcessError."""
    return timed(Path(sys.executable).with_name("gatepost"), *words, "--config", gate.config)


def timed(*words: str | Path) -> Commands:
    """Run a program to its end. Raises CalledProcessError."""
    # What is installed has its bytecode. A checkout gets it by the first run, unless the environment forbids that.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    before, start = _children_cpu_s(), time.perf_counter()
    subprocess.run(words, check=True, capture_output=True, timeout=60, env=environment)
    return Commands(time.perf_counter() - start, _children_cpu_s() - before)


def commit() -> str:
    """The checkout's commit, with a + if something is not committed."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()

    is_changed = bool(git("status", "--porcelain", "--untracked-files=no", "--", "proxy"))
    return git("rev-parse", "--short=10", "HEAD") + ("+" if is_changed else "")


def _children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
