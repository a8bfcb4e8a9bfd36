"""What the tests of real mail clients share: running a program, a look past Gatepost, a message with a mark."""

from __future__ import annotations

import base64
import imaplib
import os
import pty
import random
import select
import signal
import subprocess
import termios
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.gate import Gate
from tests.lab import Endpoint, Lab
from tests.lab.talk import Bearer, open_imap
from tests.leaks import forms

TIMEOUT_S = 20.0  # of a client that works; one that hangs is killed then
STOP_S = 5.0
POLL_S = 0.02
SCREEN = (24, 80)
BIG_BYTES = 7_300_000  # 10 MB as base64 with CRLF, and within Postfix's 10,240,000
LETTERBOX = "letterbox@example.test"  # nobody logs in here; what arrives is looked for by its mark


@dataclass(frozen=True, slots=True)
class Login:
    """A mailbox and an app password for it, which also lies in a file (and a line end) for clients to read."""

    user: str
    password: str = field(repr=False)
    password_file: Path

    def redact(self, text: str) -> str:
        return redact(text, [self.password])


def redact(text: str, secrets: Iterable[str]) -> str:
    """The text without the secrets, in whatever form they got there."""
    # The longest first: a part of base64 is left over where a shorter form was cut out before.
    for form in sorted({form for secret in secrets for form in forms(secret)}, key=len, reverse=True):
        text = text.replace(form, "*****")
    return text


@dataclass(frozen=True, slots=True)
class Ran:
    """A client that ended: its exit status, and all it said, without the password."""

    status: int
    text: str


class Desk:
    """Where one test runs its clients against a gate: an empty home, a clean environment, a deadline for each."""

    def __init__(self, gate: Gate, home: Path) -> None:
        self.gate, self.lab = gate, gate.lab
        self.home = home
        self._environment = {
            "HOME": str(home),
            "PATH": os.environ["PATH"],
            "LANG": "C.UTF-8",
            "TERM": "xterm",
        }

    def write(self, name: str, text: str) -> Path:
        """Write a file that only its owner may read: some clients refuse others once a password is in it."""
        path = self.home / name
        path.touch(mode=0o600)
        path.write_text(text, newline="")
        return path

    def run(self, words: Sequence[str | Path], login: Login, stdin: str = "") -> Ran:
        """Run a client to its end. A password may be in `stdin`, never in `words`, which any user of a machine sees."""
        try:
            done = subprocess.run(
                words,
                input=stdin.encode(),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=self._environment,
                cwd=self.home,
                timeout=TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired as late:
            said = login.redact((late.stdout or b"").decode(errors="replace"))
        else:
            return Ran(done.returncode, login.redact(done.stdout.decode(errors="replace")))
        pytest.fail(f"{words[0]} did not end:\n{said}")

    def run_on_terminal(self, words: Sequence[str | Path], login: Login) -> Ran:
        """Run a client that draws on a terminal to its end; its text is what it drew, escape sequences and all."""
        ours, theirs = pty.openpty()
        termios.tcsetwinsize(theirs, SCREEN)
        with os.fdopen(ours, "rb", buffering=0) as screen:
            try:
                process = subprocess.Popen(
                    words,
                    stdin=theirs,
                    stdout=theirs,
                    stderr=theirs,
                    env=self._environment,
                    cwd=self.home,
                    start_new_session=True,
                )
            finally:
                os.close(theirs)
            drawn = _read_screen(screen.fileno(), time.monotonic() + TIMEOUT_S)
            text = login.redact(drawn.decode(errors="replace"))
            with _ending(process):
                try:
                    return Ran(process.wait(STOP_S), text)
                except subprocess.TimeoutExpired:
                    pytest.fail(f"{words[0]} did not end:\n{text}")

    @contextmanager
    def running(self, words: Sequence[str | Path]) -> Iterator[subprocess.Popen[bytes]]:
        """A client that stays until the block ends; what it says goes to the file `said`."""
        with (self.home / "said").open("wb") as said:
            process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
                env=self._environment,
                cwd=self.home,
            )
        with _ending(process):
            yield process


@contextmanager
def _ending(process: subprocess.Popen[bytes]) -> Iterator[None]:
    try:
        yield
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _read_screen(descriptor: int, deadline: float) -> bytes:
    drawn = bytearray()
    while (left := deadline - time.monotonic()) > 0:
        if select.select([descriptor], [], [], left)[0]:
            try:
                drawn += os.read(descriptor, 65_536)
            except OSError:  # EIO: the client closed its side of the terminal
                break
    return bytes(drawn)


def until(claim: Callable[[], bool], words: str) -> None:
    """Wait for something that must happen outside of this process."""
    deadline = time.monotonic() + TIMEOUT_S
    while not claim():
        if time.monotonic() > deadline:
            pytest.fail(f"waited in vain: {words}")
        time.sleep(POLL_S)


def message(mark: str, body: str = "Twelve, at the harbour.\r\n", sender: str = LETTERBOX) -> str:
    """A message to be found again by its mark, with CRLF line ends."""
    return f"From: {sender}\r\nTo: {LETTERBOX}\r\nSubject: {mark}\r\nMessage-ID: <{mark}@example.test>\r\n\r\n{body}"


def big_text() -> str:
    """10 MB of lines that no compression and no guess gets right, a dot at the head of some."""
    lines = base64.encodebytes(random.Random(BIG_BYTES).randbytes(BIG_BYTES)).decode().splitlines()
    return "".join(f".{line}\r\n" if number % 100 == 0 else f"{line}\r\n" for number, line in enumerate(lines))


def marked(lab: Lab, mark: str, user: str = LETTERBOX) -> str:
    """The one message with this mark that arrives in the user's INBOX, with LF line ends."""
    found = lab.await_mail(lambda: [mail for mail in lab.inbox(user) if f"Subject: {mark}".encode() in mail])
    assert len(found) == 1
    return found[0].replace(b"\r\n", b"\n").decode()


@contextmanager
def beyond(lab: Lab, user: str) -> Iterator[imaplib.IMAP4]:
    """A session at the real server, past Gatepost: to see what a client did there, or to be another client."""
    with open_imap(lab, lab.imaps) as imap:
        imap.authenticate("XOAUTH2", Bearer("XOAUTH2", user, lab.access_token(user)).answer)
        yield imap


def append(imap: imaplib.IMAP4, folder: str, mark: str) -> None:
    assert imap.append(folder, None, None, message(mark).encode())[0] == "OK"


def folder(imap: imaplib.IMAP4, name: str) -> dict[str, set[str]]:
    """The subjects in a folder, each with its message's flags, less \\Recent."""
    status, _ = imap.select(name, readonly=True)
    assert status == "OK"
    _, data = imap.fetch("1:*", "(FLAGS BODY.PEEK[HEADER.FIELDS (SUBJECT)])")
    found = {}
    for part in data:
        if isinstance(part, tuple):
            flags = {flag.decode() for flag in imaplib.ParseFlags(part[0])}
            found[part[1].decode().removeprefix("Subject: ").strip()] = flags - {"\\Recent"}
    return found


def fetch(imap: imaplib.IMAP4, number: int, what: str) -> bytes:
    """One body part of a message."""
    _, data = imap.fetch(str(number), f"({what})")
    assert isinstance(data[0], tuple)
    return data[0][1]


def url(scheme: str, endpoint: Endpoint) -> str:
    return f"{scheme}://{endpoint}"
