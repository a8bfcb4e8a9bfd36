"""A real Gatepost in front of a lab: made by the CLI, run as its own process. For tests, demo and benchmarks."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Self

from proxy.config.reader import load
from proxy.secret import SecretSource
from proxy.store.rows import Purpose
from proxy.store.store import Store
from proxy.vault.sealing import load_master, unseal
from tests.lab import Endpoint, Lab
from tests.leaks import leaked

READY_S = 20.0
STOP_S = 40.0
COMMAND_S = 60.0
POLL_S = 0.02

CONFIG = """\
[store]
url = "sqlite:///gatepost.db"

[keys]
master = "file:master.key"

[tls]
certificate = "{certificate}"
key = "{key}"

[[listen]]
protocol = "imap"
address = "127.0.0.1:0"
tls = "implicit"

[[listen]]
protocol = "imap"
address = "127.0.0.1:0"
tls = "starttls"

[[listen]]
protocol = "smtp"
address = "127.0.0.1:0"
tls = "implicit"

[[listen]]
protocol = "smtp"
address = "127.0.0.1:0"
tls = "starttls"

[upstream.lab]
imap = "{imap}"
smtp = "{smtp}"
tls_ca = "{ca}"

[upstream.lab.oauth2]
client_id = "{client_id}"
client_secret = "file:client.secret"
token_url = "{token_url}"

[log]
level = "debug"

[workers]
count = {workers}
loop = "{loop}"

[limits]
{limits}
"""


class GateError(Exception):
    """Gatepost did not do what was asked; says what it printed."""


@dataclass(frozen=True, slots=True)
class Done:
    """A finished command. `password` of a `create` is in `out`, so this never goes into a failure message whole."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Gate:
    """Gatepost's directory, process and listeners; `imap` and `smtp` are those with STARTTLS."""

    serve_words: tuple[str, ...] = ()  # options of `gatepost serve`
    wrapper: tuple[str, ...] = ()  # a program that runs it, with its options
    ready_s = READY_S

    def __init__(self, lab: Lab, directory: Path) -> None:
        self.lab = lab
        self.directory = directory
        self.config = directory / "gatepost.toml"
        self.log_file = directory / "gatepost.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.secrets = [lab.idp.client_secret]  # whatever must never be in the log
        self.imaps = self.imap = self.smtps = self.smtp = Endpoint("localhost", 0)

    @classmethod
    def prepare(
        cls,
        lab: Lab,
        directory: Path,
        *,
        loop: str = "uvloop",
        starttls: bool = False,
        limits: str = "",
        workers: int = 1,
    ) -> Self:
        """Make the set-up by `gatepost init` and write its configuration; nothing runs yet.

        starttls    towards the upstream, in place of implicit TLS
        limits      lines for [limits]
        """
        gate = cls(lab, directory)
        gate.cli("init", str(directory), needs_config=False)
        (directory / "client.secret").write_text(lab.idp.client_secret)
        gate.config.write_text(
            CONFIG.format(
                certificate=lab.certificates.server.chain_file,
                key=lab.certificates.server.key_file,
                imap=f"imap://{lab.imap}" if starttls else f"imaps://{lab.imaps}",
                smtp=f"smtp://{lab.submission}" if starttls else f"smtps://{lab.submissions}",
                ca=lab.ca_file,
                client_id=lab.idp.client_id,
                token_url=lab.idp.token_url,
                loop=loop,
                workers=workers,
                limits=limits,
            )
        )
        return gate

    def start(self) -> None:
        """Start `gatepost serve` and wait until it is ready. Raises GateError with its log."""
        begin = len(self.log())
        self.launch()
        assert self.process is not None
        deadline = time.monotonic() + self.ready_s
        while "event=ready" not in (text := self.log()[begin:]):
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise GateError(f"gatepost serve did not get ready:\n{text}")
            time.sleep(POLL_S)
        ports = re.findall(r"event=listening on=(imap|smtp)://127\.0\.0\.1:(\d+) tls=(implicit|starttls)", text)
        found = {(protocol, tls): Endpoint("localhost", int(port)) for protocol, port, tls in ports}
        self.imaps, self.imap = found["imap", "implicit"], found["imap", "starttls"]
        self.smtps, self.smtp = found["smtp", "implicit"], found["smtp", "starttls"]

    def launch(self) -> None:
        """Start `gatepost serve`, and wait for nothing."""
        with self.log_file.open("ab") as log:
            self._launch(log)

    def _launch(self, log: IO[bytes]) -> None:
        self.process = subprocess.Popen(
            [*self.wrapper, sys.executable, "-m", "proxy", "serve", *self.serve_words, "--config", self.config],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=_environment(),
            process_group=0,  # so that kill() can reach the workers of a supervisor that is gone
        )

    def stop(self) -> int:
        """SIGTERM, and its exit status. Raises GateError if it does not end."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise GateError(f"gatepost serve did not end:\n{self.log()[-2000:]}") from None

    def kill(self) -> None:
        """End it at once, if it runs; for the end of a test."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def workers(self) -> dict[int, int]:
        """The process ids of the workers that were ready, by their numbers."""
        ready = re.findall(r"event=worker_ready worker=(\d+) pid=(\d+)", self.log())
        return {int(number): int(pid) for number, pid in ready}

    def log(self) -> str:
        return self.log_file.read_text() if self.log_file.exists() else ""

    def await_log(self, pattern: str, *, after: int = 0) -> str:
        """Wait until a line of the log matches; returns the line. `after` is a position in the log."""
        deadline = time.monotonic() + self.ready_s
        while True:
            for line in self.log()[after:].splitlines():
                if re.search(pattern, line):
                    return line
            if time.monotonic() > deadline:
                raise GateError(f"no line matches {pattern!r}:\n{self.log()[after:][-3000:]}")
            time.sleep(POLL_S)

    def run(self, *words: str, stdin: str = "", needs_config: bool = True) -> Done:
        """Run a gatepost command, whatever its exit status."""
        config = ("--config", str(self.config)) if needs_config else ()
        done = subprocess.run(
            [sys.executable, "-m", "proxy", *words, *config],
            check=False,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=COMMAND_S,
            env=_environment(),
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def cli(self, *words: str, stdin: str = "", needs_config: bool = True) -> str:
        """Run a gatepost command that must succeed. Returns what it printed."""
        done = self.run(*words, stdin=stdin, needs_config=needs_config)
        if done.code != 0:
            raise GateError(f"gatepost {' '.join(words)}: exit {done.code}: {done.err}")
        return done.out

    def add_account(self, email: str, *words: str) -> None:
        token = self.lab.refresh_token(email)
        self.secrets.append(token)
        self.cli("account", "add", email, "--upstream", "lab", "--refresh-token-stdin", *words, stdin=token + "\n")

    def create(self, email: str, name: str, *words: str) -> dict[str, Any]:
        """`gatepost create --json`: {"id", "password", ...}."""
        made: dict[str, Any] = json.loads(self.cli("create", email, "--name", name, "--json", *words))
        self.secrets.append(made["password"])
        return made

    def leaked(self) -> list[str]:
        """Secrets that the log holds: app passwords, the master key, and every token the store has right now."""
        key = (self.directory / "master.key").read_text().strip()
        return leaked(self.log(), [*self.secrets, *self.stored_tokens(), key])

    def stored_tokens(self) -> list[str]:
        """What the store has for upstreams, opened. What is sealed opens with app passwords only, and is left out."""
        master = load_master(SecretSource("file", str(self.directory / "master.key")).read())
        store = Store.open(load(self.config).store.url, migrate=False)
        try:
            accounts = [account for account in store.accounts() if not account.sealed]
            deposits = [store.deposit(account.id, purpose) for account in accounts for purpose in Purpose]
        finally:
            store.close()
        return [unseal(deposit, master).reveal() for deposit in deposits if deposit is not None]


def _environment() -> dict[str, str]:
    root = str(Path(__file__).parent.parent)
    return {**os.environ, "PYTHONPATH": root, "PYTHONWARNINGS": "error::ResourceWarning"}
