"""The Gatepost that is killed: four workers and the page on SQLite, its processes found from outside, its commands."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from bench.clients import Login
from bench.killing_model import Known, Model, State
from bench.killing_world import World
from proxy.admin import accounts, passwords
from proxy.admin.accounts import AccountRequest
from proxy.admin.desk import opened
from proxy.admin.passwords import PasswordRequest
from proxy.config import Config
from proxy.config.reader import load
from proxy.secret import Secret
from proxy.store.rows import Purpose
from tests.edge.scripted import Certificates
from tests.gate import _environment
from tests.lab.ports import PortReservation
from tests.leaks import leaked
from tests.whole.kit import USER, House, make_house, make_template, write_config

WORKERS = 4
MAILBOXES = tuple(f"box{number}@example.org" for number in range(8))  # with tokens; USER has a password
GONE_S = 20.0
LOOKED_FOR = 50
LIMITS = "throttle_wrong = 1000000\nthrottle_wrong_network = 10000000\ndrain_s = 1\nwaiting_per_address = 1000"
MORE = """\
[metrics]
address = "127.0.0.1:0"
[web]
address = "127.0.0.1:{page}"
public_url = "http://127.0.0.1:{page}"
mail_host = "localhost"
upstream = "cloud"
[upstream.cloud]
imap = "imaps://localhost:{imap}"
smtp = "smtps://localhost:{smtp}"
tls_ca = "{ca}"
[upstream.cloud.oauth2]
client_id = "gatepost"
client_secret = "file:client.secret"
token_url = "{token_url}"
authorize_url = "{token_url}/authorize"
issuer = "http://127.0.0.1:1"
"""


class Killed:
    """A set-up in `directory`, its server, and what is known of it."""

    def __init__(self, world: World, certificates: Certificates, directory: Path, ports: PortReservation) -> None:
        self.house: House = make_house(make_template(directory / "template", certificates), directory / "gate")
        self._world = world
        self._starts = 0
        self._groups: list[int] = []
        (self.house.directory / "client.secret").write_text("not checked")
        mail = world.mail
        more = MORE.format(
            page=ports.take(), imap=mail.imap, smtp=mail.smtp, ca=certificates.ca_file, token_url=world.tokens.url
        )
        write_config(
            self.house, certificates, imap=mail.imap, smtp=mail.smtp, workers=WORKERS, limits=LIMITS, more=more
        )
        self.house.config.write_text(self.house.config.read_text().replace('"debug"', '"info"'))
        self.config: Config = load(self.house.config)
        self.model = Model(world.grants)
        with opened(self.config, "bench") as desk:
            for email in MAILBOXES:
                token = Secret(self._new_grant(email, email.partition("@")[0]))
                new = accounts.prepare(desk, AccountRequest(email, "cloud", purpose=Purpose.REFRESH_TOKEN))
                accounts.add(desk, new, Purpose.REFRESH_TOKEN, token)
        for email in (*MAILBOXES, USER, USER):
            self.create(email)

    # -- the server --------------------------------------------------------------------------------------------------

    def start(self) -> tuple[int, int]:
        """Where it listens: IMAP and SMTP."""
        self._starts += 1
        self.house.log_file = self.house.directory / f"log.{self._starts}"
        self.house.start()
        assert self.house.process is not None
        self._groups.append(self.house.process.pid)
        return self.house.imaps.port, self.house.smtps.port

    def children(self) -> list[tuple[int, bool]]:
        """The supervisor's children from the eldest on, and whether each is the page."""
        assert self.house.process is not None
        pid, found = self.house.process.pid, []
        with suppress(OSError):
            for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
                with suppress(OSError):
                    found.append((int(word), b"--web-only" in Path(f"/proc/{word}/cmdline").read_bytes()))
        return sorted(found, key=lambda child: _started(child[0]))

    def kill_supervisor(self) -> None:
        """Nobody but it: what it leaves behind has to see to itself."""
        assert self.house.process is not None
        self.house.process.kill()
        self.house.process.wait()

    def leftovers(self) -> list[int]:
        """Process groups of servers that were killed and are still there after a while."""
        assert self.house.process is not None
        former = [group for group in self._groups if group != self.house.process.pid]
        end = time.monotonic() + GONE_S
        while (left := [group for group in former if _is_there(group)]) and time.monotonic() < end:
            time.sleep(0.1)
        return left

    def end(self) -> None:
        for group in self._groups:
            with suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)
        self.house.kill()

    def logs(self) -> str:
        files = sorted(self.house.directory.glob("log.*"), key=lambda file: int(file.suffix[1:]))
        return "".join(file.read_text(errors="replace") for file in files)

    def leaked(self) -> list[str]:
        """The newest app passwords, and the tokens of now, that a log holds; all would take hours to look for."""
        return leaked(self.logs(), [*self.house.secrets[-LOOKED_FOR:], *self.house.stored_tokens()])

    def asker(self, address: tuple[str, int]) -> int | None:
        """Which worker has the connection from this address to the token endpoint."""
        ends = [f"0100007F:{port:04X}" for port in (address[1], self._world.tokens.server_port)]
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[1:3] == ends:
                name = f"socket:[{fields[9]}]"
                return next((pid for pid, is_page in self.children() if not is_page and name in _open(pid)), None)
        return None

    # -- verbs -------------------------------------------------------------------------------------------------------

    def create(self, email: str) -> Known:
        with opened(self.config, "bench") as desk:
            made = passwords.create(desk, passwords.prepare(desk, PasswordRequest(email, secrets.token_hex(8))))
        return self._made(made.credential.public_id, email, made.password)

    def revoke(self, one: Known) -> None:
        self.model.put(one, State.ENDING)
        with opened(self.config, "bench") as desk:
            passwords.revoke(desk, [one.public_id])
        self.model.put(one, State.REVOKED)

    def command_create(self, email: str, kill_after_s: float | None) -> None:
        """By the command line. What was printed whole was acknowledged, even by one that was killed."""
        _, out = self._command(kill_after_s, "create", email, "--name", secrets.token_hex(8), "--json")
        with suppress(ValueError):
            made = json.loads(out)
            self._made(made["id"], email, made["password"])

    def command_revoke(self, one: Known, kill_after_s: float | None) -> None:
        self.model.put(one, State.ENDING)
        status, _ = self._command(kill_after_s, "revoke", one.public_id)
        self.model.put(one, State.REVOKED if status == 0 else State.UNSURE)

    def command_rotate(self, one: Known, kill_after_s: float | None) -> None:
        """Without overlap: the former text ends with the command, as if it were revoked."""
        self.model.put(one, State.ENDING)
        status, out = self._command(kill_after_s, "rotate", one.public_id, "--overlap", "0h", "--json")
        with suppress(ValueError):
            made = json.loads(out)
            self._made(made["id"], one.login.user, made["password"])
        self.model.put(one, State.REVOKED if status == 0 else State.UNSURE)

    def command_connect(self, email: str, kill_after_s: float | None) -> bool:
        """A new grant. Returns whether it was acknowledged: then the account has it, and no other."""
        family = f"{email.partition('@')[0]}-{secrets.token_hex(4)}"
        token = self._new_grant(email, family)
        words = ("account", "connect", email, "--refresh-token-stdin")
        status, _ = self._command(kill_after_s, *words, stdin=token + "\n")
        if status == 0:
            with self.model.lock:
                self.model.families[email] = {family}
                self.model.needs_consent.discard(email)
                self.model.away_since.pop(email, None)
        return status == 0

    def _made(self, public_id: str, email: str, password: str) -> Known:
        one = Known(public_id, Login(email, password, is_token=False))
        self.house.secrets.append(password)
        with self.model.lock:
            self.model.known.append(one)
        return one

    def _new_grant(self, email: str, family: str) -> str:
        with self.model.lock:
            self.model.families.setdefault(email, set()).add(family)
        return self._world.grants.new_family(family)

    def _command(self, kill_after_s: float | None, *words: str, stdin: str = "") -> tuple[int, str]:
        """Its exit status and what it printed; `kill_after_s` after its start it is killed."""
        process = subprocess.Popen(
            [sys.executable, "-m", "proxy", *words, "--config", self.house.config],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=_environment(),
        )
        try:
            out, _ = process.communicate(stdin, timeout=kill_after_s if kill_after_s is not None else 60)
        except subprocess.TimeoutExpired:
            process.kill()
            out, _ = process.communicate()
        return process.returncode, out or ""


def _started(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except OSError:
        return 0


def _open(pid: int) -> set[str]:
    found = set()
    with suppress(OSError):
        for file in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                found.add(str(file.readlink()))
    return found


def _is_there(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
