"""Logging in upstream over a leg in memory: a hostile mail server, before and behind the TLS handshake.

The server's bytes are parted by TLS_MARK into what comes in clear and what comes through TLS. `%TAG%` stands for the
tag of our last IMAP command, `%ECHO%` for the last line that we sent, and the secret for itself once we have sent it:
before that the server does not know it.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from proxy.config import Endpoint, Mechanism, Tls
from proxy.edge.upstream_leg import MAX_HELD_BYTES, Connection, Leg
from proxy.edge.upstream_memory import UpstreamMemory
from proxy.errors import UpstreamError, UpstreamFault
from proxy.secret import Secret
from proxy.wire.sasl import Bearer, Password, UpstreamCredential
from tests.fuzz.kit import LOOP, SECRET, alike, demand, has_secret, read_input, splits, watched_logs

TLS_MARK = b"\xfcTLS\xfc"
TAG_MARK, ECHO_MARK, SECRET_MARK = MARKS = (b"%TAG%", b"%ECHO%", b"%SECRET%")
USER = "ann@example.org"
MAX_SENT_BYTES = 16_384  # a few commands and two SASL messages
_CREDENTIALS: tuple[UpstreamCredential, ...] = (Bearer(USER, Secret(SECRET)), Password(USER, Secret(SECRET)))
_TAG = re.compile(rb"[A-P]{4}\d+(?= |$)", re.MULTILINE)  # aioimaplib's tags are drawn by lot
_PREFERRED: tuple[Mechanism, ...] = ("", "XOAUTH2", "OAUTHBEARER")

Login = Callable[[Leg, Endpoint, UpstreamCredential, Mechanism], Awaitable[Connection]]


class Pipe(asyncio.Transport):
    """The server's end: gives its pieces while it is read from, one in a turn of the loop, then an end."""

    def __init__(self, leg: Leg) -> None:
        super().__init__()
        self.sent = bytearray()
        self.pieces: list[bytes] = []
        self._leg = leg
        self._is_open = False
        self._is_closing = False
        self._has_ended = False

    def resume_reading(self) -> None:
        self._is_open = True
        asyncio.get_running_loop().call_soon(self._give)

    def pause_reading(self) -> None:
        self._is_open = False

    def _give(self) -> None:
        if not self._is_open or self._is_closing:
            return
        if self.pieces:
            self._leg.data_received(self.filled(self.pieces.pop(0)))
        elif not self._has_ended:
            self._has_ended = True
            self._leg.eof_received()

    def filled(self, piece: bytes) -> bytes:
        """The piece with what the marks stand for by now."""
        if b"%" not in piece:
            return piece
        lines = bytes(self.sent).split(b"\r\n")[:-1]
        commands = [line for line in lines if line.count(b" ") or line.endswith(b"STARTTLS")]
        secret = SECRET.encode() if has_secret(bytes(self.sent)) else b"unknown"
        piece = piece.replace(TAG_MARK, commands[-1].split(b" ")[0][:16] if commands else b"x")
        return piece.replace(ECHO_MARK, lines[-1] if lines else b"").replace(SECRET_MARK, secret)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.sent += data

    def is_closing(self) -> bool:
        return self._is_closing

    def abort(self) -> None:
        self._is_closing = True

    def get_extra_info(self, name: str, default: object = None) -> object:
        return ("127.0.0.1", 40_000) if name == "sockname" else default


class MemoryLeg(Leg):
    """A leg whose handshake takes no sockets: what is left in clear is an attack, what is behind the mark TLS."""

    def __init__(self, clear: tuple[bytes, ...], secured: tuple[bytes, ...]) -> None:
        # Its handshake is our secure(), which looks at no context.
        super().__init__(UpstreamMemory(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)))
        self.pipe = Pipe(self)
        self.pipe.pieces = list(clear)
        self.in_clear = b""
        self._secured = secured
        self.connection_made(self.pipe)

    async def secure(self, host: str) -> None:
        if self._held or self.pipe.pieces:
            raise UpstreamError(UpstreamFault.UNTRUSTED, "bytes before the TLS handshake")
        if self._is_over:
            raise self._end()
        self.in_clear = bytes(self.pipe.sent)
        self.pipe.sent.clear()
        self.pipe.pieces = list(self._secured)


@dataclass(frozen=True)
class Passed:
    """What must not depend on the split."""

    untagged: bytes
    ok_rest: bytes
    extensions: bytes
    leftover: bytes
    sent: bytes


def one(data: bytes, login: Login, max_lines_bytes: int) -> None:
    given = read_input(data, SECRET_MARK)
    is_clear = bool(given.flags & 1)
    clear, _, secured = given.stream.rpartition(TLS_MARK) if is_clear else (b"", b"", given.stream)
    credential = _CREDENTIALS[given.flags >> 1 & 1]
    preferred = _PREFERRED[(given.flags >> 2) % 3]
    endpoint = Endpoint("mail.example.org", 993, Tls.STARTTLS if is_clear else Tls.IMPLICIT)
    ways = zip(_splits(clear, given.flags), _splits(secured, given.flags), strict=False)

    def story(first: tuple[bytes, ...], second: tuple[bytes, ...]) -> Callable[[], Awaitable[Passed | UpstreamFault]]:
        return lambda: _log_in(
            lambda leg: login(leg, endpoint, credential, preferred), endpoint, first, second, max_lines_bytes
        )

    with watched_logs():
        outcomes = [LOOP.run(story(first, second)) for first, second in ways]
    alike(outcomes, "a split changes the outcome of a login")


def _splits(stream: bytes, seed: int) -> tuple[tuple[bytes, ...], ...]:
    """As the kit's, without empty pieces. A stream with marks comes by lines, as answers to what was sent before."""
    if not any(mark in stream for mark in MARKS):
        return tuple(tuple(piece for piece in way if piece) for way in splits(stream, seed))
    lines = [line + b"\n" for line in stream.split(b"\n")]
    lines[-1] = lines[-1][:-1]
    whole = tuple(line for line in lines if line)
    # Only a line end is cut, as any other place may be within a mark.
    halves = (half for line in whole for half in ((line[:-2], b"\r", b"\n") if line.endswith(b"\r\n") else (line,)))
    return whole, tuple(half for half in halves if half)


async def _log_in(
    login: Callable[[Leg], Awaitable[Connection]],
    endpoint: Endpoint,
    clear: tuple[bytes, ...],
    secured: tuple[bytes, ...],
    max_bytes: int,
) -> Passed | UpstreamFault:
    leg = MemoryLeg(clear, secured) if endpoint.tls is Tls.STARTTLS else MemoryLeg((), secured)
    try:
        connection = await login(leg)
    except UpstreamError as error:
        demand(not has_secret(str(error)) and not has_secret(leg.said), "a secret in an error", str(error), leg.said)
        demand(str(error).isprintable() and len(error.said) <= 400, "an error not fit for a log", str(error))
        _check_sent(leg, endpoint)
        return error.fault
    _check_sent(leg, endpoint)
    demand(not has_secret(repr(connection)) or _was_said(connection), "a connection shows a secret", connection)
    demand(len(connection.untagged) <= max_bytes and len(connection.ok_rest) <= max_bytes, "longer than its bound")
    demand(len(leg._held) <= MAX_HELD_BYTES, "more is held than the bounds allow")
    leftover = bytes(leg._held) + b"".join(leg.pipe.filled(piece) for piece in leg.pipe.pieces)
    told = "\n".join(connection.extensions or ()).encode()
    parts = (connection.untagged, connection.ok_rest, told, leftover, leg.in_clear + bytes(leg.pipe.sent))
    return Passed(*(_TAG.sub(b"tag", part) for part in parts))


def _was_said(connection: Connection) -> bool:
    """The server repeats the secret in what it says to the client whose login it is: his to read, as it always was."""
    return has_secret(connection.untagged + connection.ok_rest + " ".join(connection.extensions or ()).encode())


def _check_sent(leg: MemoryLeg, endpoint: Endpoint) -> None:
    sent = bytes(leg.pipe.sent)
    demand(len(leg.in_clear) + len(sent) <= MAX_SENT_BYTES, "too much is sent", sent)
    demand(not has_secret(leg.in_clear), "a secret before TLS", leg.in_clear)
    if endpoint.tls is Tls.STARTTLS and not leg.in_clear:  # the handshake was never reached: `sent` went out in clear
        demand(not has_secret(sent), "a secret without TLS", sent)
    for line in sent.split(b"\r\n"):
        demand(b"\n" not in line and b"\r" not in line, "a line that holds another", line)
