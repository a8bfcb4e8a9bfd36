"""IMAP and SMTP clients that cost as little as Python allows: blocking TLS sockets, one thread each."""

from __future__ import annotations

import base64
import socket
import ssl
from dataclasses import dataclass
from typing import Self

TIMEOUT_S = 120.0
CHUNK_BYTES = 65_536
SOURCES = 8  # addresses on loopback to come from: proxies count what one address opens


class Unexpected(Exception):
    """The other side did not say what it should."""


@dataclass(frozen=True, slots=True)
class Login:
    """Who logs in. `is_token`: with XOAUTH2, as one does without a proxy."""

    user: str
    secret: str
    is_token: bool

    @property
    def bearer(self) -> str:
        return base64.b64encode(f"user={self.user}\1auth=Bearer {self.secret}\1\1".encode()).decode()


class Wire:
    """A TLS connection that is read by lines, or thrown away by the megabyte."""

    def __init__(self, port: int, number: int) -> None:
        raw = socket.create_connection(
            ("127.0.0.1", port), TIMEOUT_S, source_address=(f"127.0.0.{2 + number % SOURCES}", 0)
        )
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            self.socket = CONTEXT.wrap_socket(raw, server_hostname="localhost")
        except BaseException:
            raw.close()
            raise
        self._buffer = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def send(self, text: str) -> None:
        self.socket.sendall(text.encode() + b"\r\n")

    def line(self) -> bytes:
        while b"\n" not in self._buffer:
            data = self.socket.recv(CHUNK_BYTES)
            if not data:
                raise Unexpected(f"the end after {self._buffer!r}")
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def skip_to(self, mark: bytes) -> int:
        """Read until what came ends with a line that holds `mark`. Returns the bytes read."""
        chunk = bytearray(CHUNK_BYTES)
        tail, self._buffer = self._buffer, b""
        total = len(tail)
        while not (tail.endswith(b"\r\n") and mark in tail):
            size = self.socket.recv_into(chunk)
            if size == 0:
                raise Unexpected(f"the end after {tail!r}")
            total += size
            tail = (tail + chunk[:size])[-200:]
        return total

    def to_end(self) -> None:
        while self.socket.recv(CHUNK_BYTES):
            pass

    def close(self) -> None:
        self.socket.close()


class Imap(Wire):
    """Logged in on return."""

    def __init__(self, port: int, login: Login, number: int = 0) -> None:
        super().__init__(port, number)
        try:
            self.line()
            if login.is_token:
                self.run(f"AUTHENTICATE XOAUTH2 {login.bearer}")
            else:
                self.run(f'LOGIN {login.user} "{login.secret}"')
        except BaseException:
            self.close()
            raise

    def run(self, command: str) -> None:
        self.send(f"a1 {command}")
        while not (line := self.line()).startswith(b"a1 "):
            if line.startswith(b"* BYE"):
                raise Unexpected(line.decode())
        if not line.startswith(b"a1 OK"):
            raise Unexpected(f"{command.split(maxsplit=1)[0]}: {line!r}")

    def fetch(self, number: int) -> int:
        """One message from the selected mailbox. Returns the bytes that came."""
        self.send(f"a2 FETCH {number} BODY.PEEK[]")
        return self.skip_to(b"\r\na2 OK")

    def logout(self) -> None:
        self.run_logout()
        self.close()

    def run_logout(self) -> None:
        self.send("a3 LOGOUT")
        while not self.line().startswith(b"a3 OK"):
            pass
        self.to_end()


class Smtp(Wire):
    """Logged in on return."""

    def __init__(self, port: int, login: Login, number: int = 0) -> None:
        super().__init__(port, number)
        try:
            self.expect(b"220")
            self.ask("EHLO client.example", b"250")
            if login.is_token:
                self.ask(f"AUTH XOAUTH2 {login.bearer}", b"235")
            else:
                plain = base64.b64encode(f"\0{login.user}\0{login.secret}".encode()).decode()
                self.ask(f"AUTH PLAIN {plain}", b"235")
        except BaseException:
            self.close()
            raise

    def ask(self, command: str, code: bytes) -> None:
        self.send(command)
        self.expect(code)

    def expect(self, code: bytes) -> None:
        while (line := self.line())[3:4] == b"-":
            pass
        if not line.startswith(code):
            raise Unexpected(repr(line))

    def mail(self, message: bytes) -> None:
        """`message` with CRLF and the final dot."""
        self.ask("MAIL FROM:<ann@example.test>", b"250")
        self.ask("RCPT TO:<bob@elsewhere.test>", b"250")
        self.ask("DATA", b"354")
        self.socket.sendall(message)
        self.expect(b"250")

    def quit(self) -> None:
        self.ask("QUIT", b"221")
        self.close()


def _context() -> ssl.SSLContext:
    # It is not the load generator's care who answers on loopback, and what it saves the proxies do not have to share.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context


CONTEXT = _context()
