"""The mixed clients of a soak, in a process of their own, at a modest pace: each thread does one thing again and again.

What goes otherwise than it must is a failure and told whole; only the pace is random.
"""

from __future__ import annotations

import contextlib
import json
import random
import secrets
import smtplib
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from http.client import HTTPConnection
from multiprocessing.connection import Connection
from pathlib import Path

from bench.clients import Imap, Login, Smtp, Unexpected, Wire
from proxy.admin import passwords
from proxy.admin.desk import opened
from proxy.admin.passwords import Created, PasswordRequest
from proxy.config.reader import load

IDLERS = 12
BIG_BYTES = 4_000_000
FELT_S = 8.0  # a revocation must be felt in one second; the machine is shared
PAGE_AWAY_S = 15.0
EXPIRY_S = 35.0  # an app password's own end closes its sessions after at most 30 s
MAIL = b"Subject: soak\r\n\r\n" + b"0123456789abcdef" * 64 + b"\r\n.\r\n"
# Seconds between two of a thread, on average. Every fifth app password is made and revoked by the command.
PACE_S = {
    "login": 1.5,
    "send": 4.0,
    "fetch": 20.0,
    "deliver": 20.0,
    "revoke": 40.0,
    "expire": 90.0,
    "wrong": 90.0,
    "page": 30.0,
}


@dataclass(frozen=True, slots=True)
class Plan:
    """What the clients need to know. `idle_s`: how long a session in IDLE lasts, at least and at most."""

    config: Path
    imaps: int
    smtps: int
    lmtp: int
    page: int
    logins: tuple[Login, ...]
    idle_s: tuple[float, float]
    counts: Path
    failures: Path


class Clients:
    """Runs until told to stop; writes how often what was done, and every failure."""

    def __init__(self, plan: Plan, stop: threading.Event) -> None:
        self._plan = plan
        self._stop = stop
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._random = random.Random(1)
        self._config = load(plan.config)
        self._number = 0

    def run(self) -> None:
        kinds: dict[str, Callable[[], None]] = {
            "login": self._login, "send": self._send, "fetch": self._fetch, "deliver": self._deliver,
            "revoke": self._revoke, "expire": self._expire, "wrong": self._wrong, "page": self._page,
        }  # fmt: skip
        threads = [threading.Thread(target=self._again, args=(kind, act)) for kind, act in kinds.items()]
        threads += [threading.Thread(target=self._again, args=("idle", self._idle)) for _ in range(IDLERS)]
        for thread in threads:
            thread.start()
        while not self._stop.wait(5.0):
            self._write()
        for thread in threads:
            thread.join()
        self._write()

    def _again(self, kind: str, act: Callable[[], None]) -> None:
        pace_s = PACE_S.get(kind, 2.0)
        while not self._stop.wait(self._random.uniform(0.5, 1.5) * pace_s):
            try:
                act()
            except Exception as error:  # noqa: BLE001 - whatever it is, it is told, and the others go on
                self._failed(kind, error)
            else:
                with self._lock:
                    self._counts[kind] += 1

    def _failed(self, kind: str, error: Exception) -> None:
        with self._lock:
            self._counts["failed"] += 1
            with self._plan.failures.open("a") as file:
                file.write(f"{datetime.now(UTC):%H:%M:%S} {kind} {type(error).__name__}: {error}\n")

    def _write(self) -> None:
        with self._lock:
            text = json.dumps(self._counts)
        self._plan.counts.write_text(text)

    def _any(self) -> Login:
        return self._random.choice(self._plan.logins)

    def _next(self) -> int:
        """A number, which is an address to come from."""
        with self._lock:
            self._number += 1
            return self._number

    def _imap(self, login: Login) -> Imap:
        return Imap(self._plan.imaps, login, self._next())

    def _login(self) -> None:
        with self._imap(self._any()) as client:
            client.run("SELECT INBOX")
            client.run("NOOP")
            client.run_logout()

    def _send(self) -> None:
        with Smtp(self._plan.smtps, self._any(), self._next()) as client:
            client.mail(MAIL)
            client.ask("QUIT", b"221")

    def _fetch(self) -> None:
        with self._imap(self._plan.logins[0]) as client:
            client.run("SELECT INBOX")
            if (size := client.fetch(1)) < BIG_BYTES:
                raise Unexpected(f"{size} bytes of the big message")
            client.run_logout()

    def _deliver(self) -> None:
        """What sessions in IDLE hear of; then room is made again."""
        login = self._random.choice(self._plan.logins[1:])
        with smtplib.LMTP("127.0.0.1", self._plan.lmtp, timeout=20) as lmtp:
            lmtp.sendmail("sender@elsewhere.test", [login.user], b"Subject: news\r\n\r\nnew\r\n")
        if self._random.random() < 0.1:
            with self._imap(login) as client:
                client.run("SELECT INBOX")
                client.run("STORE 1:* +FLAGS.SILENT (\\Deleted)")
                client.run("EXPUNGE")
                client.run_logout()

    def _idle(self) -> None:
        with self._imap(self._any()) as client:
            _begin_idle(client)
            until = time.monotonic() + self._random.uniform(*self._plan.idle_s)
            while (left := until - time.monotonic()) > 0 and not self._stop.is_set():
                client.socket.settimeout(min(left + 0.01, 2.0))
                with contextlib.suppress(TimeoutError):
                    client.line()
            client.socket.settimeout(60)
            client.send("DONE")
            while not client.line().startswith(b"a1 OK"):
                pass
            client.run_logout()

    def _revoke(self) -> None:
        """Its sessions end, and it opens nothing any more."""
        user = self._any().user
        if is_command := self._random.random() < 0.2:
            made = json.loads(self._command("create", user, "--name", secrets.token_hex(8), "--json"))
            public_id, login = made["id"], Login(user, made["password"], is_token=False)
        else:
            created = self._create(user)
            public_id, login = created.credential.public_id, Login(user, created.password, is_token=False)
        with self._imap(login) as imap, Smtp(self._plan.smtps, login, self._next()) as smtp:
            _begin_idle(imap)
            if is_command:
                self._command("revoke", public_id)
            else:
                with opened(self._config, "soak") as desk:
                    passwords.revoke(desk, [public_id])
            _ends(imap, FELT_S)
            _ends(smtp, FELT_S)
        self._is_refused(login)

    def _expire(self) -> None:
        end = datetime.now(UTC) + timedelta(seconds=8)
        created = self._create(self._any().user, end.isoformat(timespec="seconds"))
        login = Login(created.account.email, created.password, is_token=False)
        with self._imap(login) as client:
            _begin_idle(client)
            _ends(client, 8 + EXPIRY_S)
        self._is_refused(login)

    def _wrong(self) -> None:
        """The same wrong text each time, as a phone does that nobody has told."""
        self._is_refused(Login(self._plan.logins[0].user, "hunter2", is_token=False))

    def _page(self) -> None:
        """A reload with changes starts the page anew; browsers try again."""
        until = time.monotonic() + PAGE_AWAY_S
        while True:
            try:
                status = _get(self._plan.page)
                break
            except ConnectionError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.2)
        if status != HTTPStatus.OK:
            raise Unexpected(f"the page answers {status}")

    def _create(self, user: str, expires: str | None = None) -> Created:
        with opened(self._config, "soak") as desk:
            return passwords.create(
                desk, passwords.prepare(desk, PasswordRequest(user, secrets.token_hex(8), expires=expires))
            )

    def _command(self, *words: str) -> str:
        command = [Path(sys.executable).with_name("gatepost"), *words, "--config", self._plan.config]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout

    def _is_refused(self, login: Login) -> None:
        try:
            client = self._imap(login)
        except Unexpected as error:
            if "[AUTHENTICATIONFAILED]" not in str(error):
                raise
        else:
            client.close()
            raise Unexpected("it was let in")


def _get(port: int) -> int:
    connection = HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request("GET", "/")
        answer = connection.getresponse()
        answer.read()
        return answer.status
    finally:
        connection.close()


def _begin_idle(client: Imap) -> None:
    client.run("SELECT INBOX")
    client.send("a1 IDLE")
    while not client.line().startswith(b"+"):
        pass


def _ends(client: Wire, within_s: float) -> None:
    """Raises TimeoutError."""
    end = time.monotonic() + within_s
    while (left := end - time.monotonic()) > 0:
        client.socket.settimeout(left)
        if not client.socket.recv(65_536):
            return
    raise TimeoutError(f"a session did not end within {within_s:g} s")


def run(plan: Plan, parent: Connection) -> None:
    """Until the pipe to the parent ends: it wants the clients to stop, or is gone."""
    stop = threading.Event()
    clients = threading.Thread(target=Clients(plan, stop).run)
    clients.start()
    with contextlib.suppress(EOFError):
        parent.recv()
    stop.set()
    clients.join()
