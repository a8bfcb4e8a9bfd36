"""A Gatepost in front of the lab whose mailboxes sign in there: for tests of `account connect` and of the grants."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from queue import Empty, Queue
from typing import IO, Any

import httpx2

from tests.gate import Gate, GateError, _environment
from tests.lab import Lab
from tests.lab.person import typed_by, walk
from tests.lab.talk import TIMEOUT_S

LINE_S = 20.0
MAX_LINES = 100

# The upstream of tests/gate.py knows a token_url only; this one finds its endpoints by itself.
OAUTH2 = """\
client_id = "{client_id}"
client_secret = "file:client.secret"
issuer = "{issuer}"
scopes = ["openid", "offline_access", "mail"]
authorize_parameters = {{ prompt = "consent" }}
"""


def prepare(lab: Lab, directory: Path, oauth2: str = OAUTH2, **more: str) -> Gate:
    """A set-up without accounts; `oauth2` is the text of [upstream.lab.oauth2]."""
    gate = Gate.prepare(lab, directory)
    text, count = re.subn(
        r"(?s)(?<=\[upstream\.lab\.oauth2\]\n).*?(?=\n\[)",
        lambda _: oauth2.format(client_id=lab.idp.client_id, issuer=lab.idp.issuer, **more),
        gate.config.read_text(),
    )
    assert count == 1
    gate.config.write_text(text)
    return gate


def stored(gate: Gate, email: str) -> Mapping[str, Any]:
    """The token of an account as `account show` tells it: {"state", "since", "detail"}."""
    token: Mapping[str, Any] = json.loads(gate.cli("account", "show", email, "--json"))["token"]
    return token


class Connecting:
    """`gatepost account connect`, or another command that signs in, as a process, which speaks while it runs."""

    def __init__(self, gate: Gate, *words: str, command: tuple[str, ...] = ("account", "connect")) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "proxy", *command, *words, "--config", str(gate.config)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=_environment(),
        )
        self.said = ""
        self.complained = ""
        self._lines: Queue[str | None] = Queue()  # None: stderr has ended
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self._readers = [
            threading.Thread(target=self._read, args=(stream, name), daemon=True)
            for stream, name in ((self.process.stdout, "said"), (self.process.stderr, "complained"))
        ]
        for reader in self._readers:
            reader.start()

    def _read(self, stream: IO[str], name: str) -> None:
        with stream:
            for line in stream:
                setattr(self, name, getattr(self, name) + line)
                self._lines.put(line)
        if stream is self.process.stderr:
            self._lines.put(None)

    def told(self, pattern: str) -> str:
        """The first group of the first line that matches from here on, on stdout or stderr."""
        for _ in range(MAX_LINES):
            try:
                line = self._lines.get(timeout=LINE_S)
            except Empty:
                break
            if line is None:
                break
            if found := re.search(pattern, line):
                return found[1]
        raise GateError(f"it never said {pattern!r}: {self.end()}")

    def url(self) -> str:
        """Where to sign in."""
        return self.told(r"^(https?://\S+/auth\S+)$")

    def end(self, typed: str = "", wait_s: float = LINE_S) -> tuple[int, str, str]:
        """Write the rest of its stdin and wait for its end: exit status, what it said, stderr."""
        assert self.process.stdin is not None
        with self.process.stdin as stdin:
            stdin.write(typed)
        try:
            status = self.process.wait(wait_s)
        except subprocess.TimeoutExpired:
            status = -1
        finally:
            self.process.kill()
            self.process.wait()
        for reader in self._readers:
            reader.join(LINE_S)
        return status, self.said, self.complained


def sign_in(lab: Lab, url: str, user: str, **typed: str) -> str:
    """Walk the provider's pages as a person; returns the address that a browser would be sent to."""
    with httpx2.Client(timeout=TIMEOUT_S, trust_env=False) as http:
        end = walk(http, lab, url, {**typed_by(lab, user), **typed})
        assert end.is_redirect, end.text
        return str(end.headers["location"])


def visit(address: str) -> httpx2.Response:
    """What a browser does at the end: GET, on this machine."""
    with httpx2.Client(timeout=TIMEOUT_S, trust_env=False) as http:
        return http.get(address)
