"""What the tests of the SMTP front share: a visit in memory, a transport in memory, and a client that talks over it."""

from __future__ import annotations

import asyncio
import base64
import gc
import socket
import ssl
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from functools import cache
from typing import Any, TypeVar

import pytest
import trustme
import uvloop

from proxy.config import ListenConfig, Tls
from proxy.edge.smtp import SmtpFront
from proxy.edge.transport import Transport
from proxy.errors import Refusal, Refused

T = TypeVar("T")

PATIENCE_S = 10.0  # for what must happen; a test that waits as long has failed
PASSWORD = "mark-of-the-password"


def b64(text: str | bytes) -> str:
    return base64.b64encode(text.encode() if isinstance(text, str) else text).decode()


PLAIN = b64(f"\0ann@example.org\0{PASSWORD}")


async def soon(awaitable: Coroutine[Any, Any, T] | asyncio.Future[T]) -> T:
    return await asyncio.wait_for(awaitable, PATIENCE_S)


@cache
def tls_contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's context for localhost, and a client's that trusts it."""
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    return server, client


class Door:
    """An upstream connection, as far as a front knows one."""

    def __init__(self) -> None:
        self.connection = self
        self.is_aborted = False

    def abort(self) -> None:
        self.is_aborted = True


class Visit:
    """The visit's interface over a login by script: a Refusal refuses, a callable is awaited, None lets in."""

    def __init__(
        self,
        tls: Tls = Tls.NONE,
        *,
        script: tuple[Any, ...] = (),
        extensions: tuple[str, ...] = (),
        refusing: Refusal | None = None,
        tls_context: ssl.SSLContext | None = None,
        age_s: float = 0.0,
    ) -> None:
        self.id = "visit"
        self.peer = "192.0.2.1"
        self.listener = ListenConfig("smtp", "127.0.0.1", 0, tls, ("up",))
        self.refusing = refusing
        self.extensions = extensions
        self.hostname = "gate.example"
        self.started = asyncio.get_running_loop().time() - age_s
        self.tls_context = tls_context
        self.script = deque(script)
        self.attempts: list[tuple[str, str, str] | None] = []
        self.in_clear: list[str] = []
        self.mechanisms: list[str] = []
        self.clients: list[str] = []
        self.relayed: list[tuple[asyncio.Transport, Any, bytes]] = []
        self.abandoned: list[Any] = []
        self.reasons: list[str] = []
        self.over = asyncio.Event()
        self.entered = asyncio.Event()

    async def enter(self, credentials: Any, mechanism: str, client: str) -> Any:
        known = credentials and (credentials.login, credentials.password.reveal(), credentials.authzid)
        self.attempts.append(known)
        self.mechanisms.append(mechanism)
        self.clients.append(client)
        self.entered.set()
        step = self.script.popleft() if self.script else None
        if isinstance(step, Refusal):
            raise Refused(step)
        if callable(step):
            return await step()
        return Door()

    def refuse_in_clear(self, client: str) -> None:
        self.in_clear.append(client)

    def relay(self, client: asyncio.Transport, passage: Any, leftover: bytes, keep: object = None) -> None:
        self.relayed.append((client, passage, leftover))
        self.over.set()

    def abandon(self, passage: Any) -> None:
        passage.connection.abort()
        self.abandoned.append(passage)
        self.ended("abandoned")

    def ended(self, reason: str) -> None:
        if not self.over.is_set():
            self.reasons.append(reason)
            self.over.set()


class Wire(asyncio.Transport):
    """A connection in memory: what the front writes is kept, what the client says is fed to the front."""

    def __init__(self, protocol: SmtpFront, *, secured: bool = False) -> None:
        super().__init__({"ssl_object": object()} if secured else {})
        self._protocol: Any = protocol
        self._is_closing = False
        self.is_aborted = False
        self.said = bytearray()
        self.news = asyncio.Event()
        self.readable = asyncio.Event()
        self.readable.set()
        self.lost = asyncio.Event()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self._is_closing, "nothing is said on a connection that was closed"
        self.said += data
        self.news.set()

    def pause_reading(self) -> None:
        self.readable.clear()

    def resume_reading(self) -> None:
        self.readable.set()

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol

    def is_closing(self) -> bool:
        return self._is_closing

    def close(self) -> None:
        if not self._is_closing:
            self._is_closing = True
            self._end_in(20)

    def _end_in(self, turns: int) -> None:
        """A transport flushes and ends TLS before it is lost; meanwhile the loop turns."""
        loop = asyncio.get_running_loop()
        if turns and not self.is_aborted:
            loop.call_soon(self._end_in, turns - 1)
        else:
            loop.call_soon(self.lose)

    def abort(self) -> None:
        self.is_aborted = True
        self.close()

    def lose(self, error: Exception | None = None) -> None:
        self._is_closing = True
        if not self.lost.is_set():
            self.lost.set()
            self.news.set()
            self._protocol.connection_lost(error)

    def hang_up(self) -> None:
        """The client's EOF, as asyncio's transports tell it."""
        if not self._protocol.eof_received():
            self.close()


class Client:
    """Talks to a front: whole texts, or byte by byte."""

    def __init__(self, visit: Visit, *, bytewise: bool = False, secured: bool = False) -> None:
        self.visit = visit
        self.front = SmtpFront(visit, asyncio.get_running_loop())
        self.wire = Wire(self.front, secured=secured)
        self._bytewise = bytewise
        self.front.connection_made(self.wire)

    async def send(self, data: str | bytes) -> None:
        octets = data if isinstance(data, bytes) else data.encode()
        size = 1 if self._bytewise else len(octets)
        for start in range(0, len(octets), max(size, 1)):
            if self.wire.is_closing() or self.visit.relayed:
                return
            await soon(self.wire.readable.wait())
            self.front.data_received(octets[start : start + size])
            await asyncio.sleep(0)

    async def line(self) -> str:
        while b"\r\n" not in self.wire.said:
            assert not self.wire.lost.is_set(), "closed without an answer"
            self.wire.news.clear()
            await soon(self.wire.news.wait())
        line, _, rest = bytes(self.wire.said).partition(b"\r\n")
        self.wire.said[:] = rest
        return line.decode("ascii")

    async def answer(self) -> str:
        """One answer, its lines joined by newlines."""
        lines = [await self.line()]
        while lines[-1][3:4] == "-":
            lines.append(await self.line())
        return "\n".join(lines)

    async def ask(self, text: str | bytes) -> str:
        await self.send(text + ("\r\n" if isinstance(text, str) else b"\r\n"))
        return await self.answer()

    async def is_closed(self) -> bool:
        await soon(self.wire.lost.wait())
        await soon(self.visit.over.wait())
        task = self.front._handler_coroutine
        if task is not None:
            await soon(asyncio.wait([task]))
        return True


class Leg(asyncio.Protocol):
    """One side of the stand-in relay; back-pressure included."""

    def __init__(self) -> None:
        self.other: Leg
        self.transport: Any = None
        self.lost = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.other.transport.write(data)

    def pause_writing(self) -> None:
        self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        self.other.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self.other.transport.close()
        self.lost.set()


class RelayingVisit(Visit):
    """Lets everybody in, to an upstream on loopback, over a relay of twenty lines."""

    def __init__(self, upstream: tuple[str, int], tls: Tls, **keywords: Any) -> None:
        super().__init__(tls, **keywords)
        self._upstream = upstream
        self.script = deque([self._dial])

    async def _dial(self) -> Leg:
        leg = Leg()
        await asyncio.get_running_loop().create_connection(lambda: leg, *self._upstream)
        return leg

    def relay(self, client: asyncio.Transport, passage: Any, leftover: bytes, keep: object = None) -> None:
        near, far = Leg(), passage
        near.other, far.other = far, near
        client.set_protocol(near)
        near.connection_made(client)
        client.resume_reading()
        near.data_received(leftover)
        super().relay(client, passage, leftover, keep)


@asynccontextmanager
async def serving(visit: Visit, front: Callable[[SmtpFront], object] = id) -> AsyncIterator[tuple[str, int]]:
    """A listener for one visit, with implicit TLS if the visit's listener says so; `front` is shown the front."""
    loop = asyncio.get_running_loop()
    context = visit.tls_context if visit.listener.tls is Tls.IMPLICIT else None

    def make() -> SmtpFront:
        made = SmtpFront(visit, loop)
        front(made)
        return made

    async with listening(make, context) as address:
        yield address


@asynccontextmanager
async def listening(
    make: Callable[[], asyncio.BaseProtocol], context: ssl.SSLContext | None = None
) -> AsyncIterator[tuple[str, int]]:
    """What the acceptor does, and no more: each connection gets a front on our transport."""
    loop = asyncio.get_running_loop()
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)

    async def accept() -> None:
        while True:
            sock, _ = await loop.sock_accept(listener)
            sock.setblocking(False)
            transport = Transport(sock, make())
            with suppress(OSError):
                if context is not None:
                    await transport.start_tls(context, server_side=True)
                transport.begin()

    accepting = loop.create_task(accept())
    try:
        yield listener.getsockname()
    finally:
        accepting.cancel()
        await asyncio.wait([accepting])
        listener.close()


class Caller:
    """A client over TCP, on asyncio's streams."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def answer(self) -> str:
        lines = [await self._line()]
        while lines[-1][3:4] == "-":
            lines.append(await self._line())
        return "\n".join(lines)

    async def _line(self) -> str:
        return (await soon(self.reader.readuntil(b"\r\n"))).decode("ascii").removesuffix("\r\n")

    async def ask(self, text: str) -> str:
        self.writer.write(text.encode() + b"\r\n")
        return await self.answer()

    async def start_tls(self) -> None:
        await soon(self.writer.start_tls(tls_contexts()[1], server_hostname="localhost"))

    async def rest(self) -> bytes:
        """Everything until the end of the connection, which must come."""
        return await soon(self.reader.read())


@asynccontextmanager
async def calling(address: tuple[str, int], *, tls: bool = False) -> AsyncIterator[Caller]:
    keywords: dict[str, Any] = {"ssl": tls_contexts()[1], "server_hostname": "localhost"} if tls else {}
    reader, writer = await soon(asyncio.open_connection(*address, limit=2**20, **keywords))
    try:
        yield Caller(reader, writer)
    finally:
        writer.transport.abort()
        with suppress(OSError, asyncio.TimeoutError):
            await soon(writer.wait_closed())


def run_on(make_loop: Callable[[], asyncio.AbstractEventLoop], scenario: Coroutine[Any, Any, T]) -> T:
    """Run on a loop of this kind; what it would only log as an error fails."""
    problems: list[dict[str, Any]] = []

    async def watched() -> T:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: problems.append(context))
        return await scenario

    with asyncio.Runner(loop_factory=make_loop) as runner:
        result = runner.run(watched())
        gc.collect()
    assert problems == []
    return result


LOOPS = pytest.mark.parametrize("make_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
