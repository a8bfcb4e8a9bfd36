"""A transcript with an ImapGate: what the client sends, what the server must answer, line by line.

Every line of a Send is kept in order with the other actions, so that a test also says when a login was asked for.
"""

from __future__ import annotations

import base64
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from proxy.errors import Answer
from proxy.wire.imap import Action, ImapGate, Login, Send
from proxy.wire.sasl import Credentials

EXTENSIONS = ("IDLE", "LITERAL+", "ID")


def b64(text: str | bytes) -> str:
    return base64.b64encode(text.encode() if isinstance(text, str) else text).decode()


@dataclass(frozen=True)
class Shown:
    """Credentials in the open, for comparing: a Secret compares with nothing."""

    login: str
    password: str
    authzid: str = ""


def shown(credentials: Credentials | None) -> Shown | None:
    if credentials is None:
        return None
    return Shown(credentials.login, credentials.password.reveal(), credentials.authzid)


class ImapPlaybook:
    """Talks to a gate. `feed` decides how the client's bytes are split."""

    def __init__(self, feed: Callable[[bytes], list[bytes]]) -> None:
        self._feed = feed
        self._heard: deque[str] = deque()
        self.attempts: list[Login] = []
        self.gate = ImapGate(extensions=(), secured=True, starttls=False, clear_ok=False)

    def start(
        self,
        *,
        secured: bool = True,
        starttls: bool = False,
        clear_ok: bool = False,
        extensions: tuple[str, ...] = EXTENSIONS,
    ) -> None:
        """Begin anew with another listener; without it the gate is under implicit TLS and has greeted."""
        self.gate = ImapGate(extensions=extensions, secured=secured, starttls=starttls, clear_ok=clear_ok)
        self.attempts.clear()
        self.take(self.gate.greet())

    def take(self, actions: list[Action]) -> None:
        for action in actions:
            if isinstance(action, Send):
                assert action.data.endswith(b"\r\n")
                self._heard += action.data[:-2].decode().split("\r\n")
            elif isinstance(action, Login):
                self.attempts.append(action)
                self._heard.append("LOGIN?")
            else:
                self._heard.append(f"[{type(action).__name__}]")

    def client(self, *lines: str) -> None:
        """The client sends these lines in one segment."""
        self.octets("".join(f"{line}\r\n" for line in lines).encode())

    def octets(self, data: bytes) -> None:
        for piece in self._feed(data):
            self.take(self.gate.receive(piece))

    def server(self, *expected: str) -> None:
        """The next lines, exactly; a " *" at the end of one stands for any words."""
        for want in expected:
            heard = self._heard.popleft() if self._heard else "(nothing)"
            if want.endswith(" *") and want != "* *":
                assert heard.startswith(want[:-1]), f"expected {want!r}, heard {heard!r}"
                assert len(heard) > len(want) - 1
            else:
                assert heard == want

    def attempt(self) -> Shown | None:
        """A login is asked for next: with these credentials."""
        self.server("LOGIN?")
        return shown(self.attempts[-1].credentials)

    def refuse(self, answer: Answer = Answer.CREDENTIALS) -> None:
        self.take(self.gate.refuse(answer))

    def handshake(self) -> None:
        self.server("[StartTls]")
        self.take(self.gate.secured())

    def is_busy(self) -> bool:
        return self.gate.is_busy

    def closed(self) -> None:
        self.server("[Close]")
        self.silent()
        assert self.gate.receive(b"late NOOP\r\n") == []

    def silent(self) -> None:
        assert not self._heard, f"not expected: {list(self._heard)}"


def whole(data: bytes) -> list[bytes]:
    return [data]


def bytewise(data: bytes) -> list[bytes]:
    return [data[index : index + 1] for index in range(len(data))]
