"""A mail server that follows a script, on loopback, over real sockets and TLS: for faults and hostile answers.

It runs in a thread with blocking sockets, so that it shares nothing with the loop under test. A script is a function of
one Peer; what it raises fails the test when the server is left.
"""

from __future__ import annotations

import asyncio
import base64
import gc
import inspect
import socket
import ssl
import struct
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

import pytest
import trustme
import uvloop

from proxy.config import Endpoint, Protocol, Tls, UpstreamConfig
from proxy.secret import Secret
from proxy.wire.sasl import Bearer, Password

HOST = "localhost"
TOKEN = "eyJ0.very-Secret_token~0123456789"
PASSWORD = 'pass "w\\ord" 99'
BEARER = Bearer("ann@example.org", Secret(TOKEN))
BY_PASSWORD = Password("ann@example.org", Secret(PASSWORD))
XOAUTH2 = base64.b64encode(b"user=ann@example.org\x01auth=Bearer " + TOKEN.encode() + b"\x01\x01")
PLAIN = base64.b64encode(b"\0ann@example.org\0" + PASSWORD.encode())
FAILURE = base64.b64encode(b'{"status":"401","schemes":"bearer"}')

PATIENCE_S = 10.0  # a script or a client that takes longer hangs


@dataclass(frozen=True)
class Certificates:
    """Contexts of servers that a client with `ca_file` trusts, or not."""

    ca_file: Path
    good: ssl.SSLContext
    twin: ssl.SSLContext  # as good: the same server after a restart, or the next of its farm
    other_name: ssl.SSLContext
    unknown_ca: ssl.SSLContext
    expired: ssl.SSLContext


def make_certificates(folder: Path) -> Certificates:
    ca = trustme.CA()
    ca_file = folder / "ca.pem"
    ca.cert_pem.write_to_path(str(ca_file))
    past = datetime(2020, 1, 1, tzinfo=UTC)
    return Certificates(
        ca_file,
        *(_context(ca.issue_cert(HOST, "127.0.0.1")) for _ in range(2)),
        _context(ca.issue_cert("elsewhere.example.org")),
        _context(trustme.CA().issue_cert(HOST)),
        _context(ca.issue_cert(HOST, not_before=past, not_after=past.replace(year=2021))),
    )


def _context(leaf: trustme.LeafCert) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    leaf.configure_cert(context)
    return context


class Peer:
    """The server's end of one connection."""

    def __init__(self, connection: socket.socket, certificates: Certificates) -> None:
        self._socket = connection
        self._certificates = certificates
        self._buffer = b""
        self.heard = b""  # all that was received in this layer, clear or TLS
        self._socket.settimeout(PATIENCE_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, data: bytes, *, bytewise: bool = False) -> None:
        """In one write (so in one TLS record, up to 16 kB), or every byte in its own."""
        for piece in (data[i : i + 1] for i in range(len(data))) if bytewise else (data,):
            self._socket.sendall(piece)

    def flood(self, data: bytes) -> None:
        """Send it again and again, 100 MB and more, until the client hangs up: as it must, long before."""
        with suppress(OSError):
            for _ in range(100_000_000 // len(data)):
                self._socket.sendall(data)
            raise AssertionError("the client took it all")

    def line(self) -> bytes:
        """The client's next line, without CRLF."""
        while b"\r\n" not in self._buffer:
            data = self._socket.recv(65_536)
            assert data, f"the client closed after {self.heard!r}"
            self.heard += data
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\r\n")
        return line

    def expect(self, wanted: bytes) -> None:
        line = self.line()
        assert line == wanted, f"{line!r} is not {wanted!r}"

    def tag(self, wanted: bytes) -> bytes:
        """The tag of an IMAP command that must be `wanted`."""
        tag, _, command = self.line().partition(b" ")
        assert command == wanted, f"{command!r} is not {wanted!r}"
        return tag

    def start_tls(self, context: ssl.SSLContext | None = None) -> None:
        assert not self._buffer, f"sent before TLS: {self._buffer!r}"
        self._socket = (context or self._certificates.good).wrap_socket(self._socket, server_side=True)
        self.heard = b""

    def ends(self) -> bytes:
        """Wait until the client is gone; what it still sent."""
        rest = self._buffer
        with suppress(ConnectionError, ssl.SSLError):
            while data := self._socket.recv(65_536):
                rest += data
        return rest

    def reset(self) -> None:
        """RST in place of FIN."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def say_goodbye(self) -> None:
        """A clean TLS close."""
        with suppress(OSError, ValueError):
            assert isinstance(self._socket, ssl.SSLSocket)
            self._socket.unwrap()
        self.close()

    def say_goodbye_and_go(self) -> None:
        """The same, without waiting for the other's."""
        self._socket.setblocking(False)
        self.say_goodbye()

    def close(self) -> None:
        self._socket.close()


Script = Callable[[Peer], None]


@dataclass
class Server:
    """A running script and how to reach it."""

    upstream: UpstreamConfig
    certificates: Certificates
    connections: int = 0

    def at(self, host: str) -> UpstreamConfig:
        """The same, under another name."""
        both = [replace(end, host=host) if end else None for end in (self.upstream.imap, self.upstream.smtp)]
        return replace(self.upstream, imap=both[0], smtp=both[1])


@asynccontextmanager
async def serving(
    script: Script, certificates: Certificates, protocol: Protocol, tls: Tls, context: ssl.SSLContext | None = None
) -> AsyncIterator[Server]:
    """Follow the script for each connection, one after the other. With Tls.IMPLICIT it begins behind the handshake.

    context     of the server's implicit TLS; None is certificates.good
    """
    listener = socket.create_server(("127.0.0.1", 0))
    endpoint = Endpoint(HOST, listener.getsockname()[1], tls)
    upstream = UpstreamConfig(name="scripted", tls_ca=certificates.ca_file)
    upstream = replace(upstream, imap=endpoint) if protocol == "imap" else replace(upstream, smtp=endpoint)
    server = Server(upstream, certificates)
    errors: list[BaseException] = []

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            server.connections += 1
            peer = Peer(connection, certificates)
            try:
                if tls is Tls.IMPLICIT:
                    peer.start_tls(context)
                script(peer)
            except (ssl.SSLError, ConnectionError) as error:
                if context is None:
                    errors.append(error)
            except BaseException as error:
                errors.append(error)
            finally:
                peer.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield server
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        await asyncio.to_thread(thread.join, PATIENCE_S)  # the loop goes on: it may have a socket to close
    assert not thread.is_alive(), "the script hangs"
    if errors:
        raise errors[0]


async def happened(event: threading.Event) -> None:
    """Wait for the script to say so; the loop has turns meanwhile."""
    assert await asyncio.to_thread(event.wait, PATIENCE_S), "the script did not get there"


class Recorder(asyncio.Protocol):
    """What a relay would be told, in order: "made", bytes (joined), "eof", "lost"."""

    def __init__(self) -> None:
        self.events: list[str | bytes] = []
        self.transport: asyncio.Transport | None = None
        self._changed = asyncio.Event()

    @property
    def data(self) -> bytes:
        return b"".join(event for event in self.events if isinstance(event, bytes))

    async def until(self, is_reached: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not is_reached():
                self._changed.clear()
                await self._changed.wait()

    async def until_lost(self) -> None:
        await self.until(lambda: "lost" in self.events)

    def _note(self, event: str | bytes) -> None:
        self.events.append(event)
        self._changed.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's are none by isinstance()
        self._note("made")

    def data_received(self, data: bytes) -> None:
        self._note(bytes(data))

    def eof_received(self) -> bool:
        self._note("eof")
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._note("lost")


def on_both_loops(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Make a test coroutine a test that runs on asyncio's loop and on uvloop, in debug mode, with nothing left over."""

    @pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
    def run(new_loop: Callable[[], asyncio.AbstractEventLoop], **arguments: object) -> None:
        complaints: list[dict[str, object]] = []

        async def story() -> None:
            asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
            await test(**arguments)
            leftover = asyncio.all_tasks() - {asyncio.current_task()}
            if leftover:  # cancelled ones may need a turn
                await asyncio.wait(leftover, timeout=PATIENCE_S)

        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(story())
            gc.collect()  # a future's exception that nobody retrieved is told now
        gc.collect()
        assert not complaints, [repr(complaint) for complaint in complaints]

    parameters = [inspect.Parameter("new_loop", inspect.Parameter.POSITIONAL_OR_KEYWORD)]
    run.__signature__ = inspect.Signature(parameters + list(inspect.signature(test).parameters.values()))  # type: ignore[attr-defined]
    run.__name__, run.__doc__ = test.__name__, test.__doc__  # type: ignore[attr-defined]
    return run
