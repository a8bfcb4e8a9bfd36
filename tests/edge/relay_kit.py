"""A relay on its stage: a mail client and a mail server over real sockets and TLS, the house between them real.

Both far ends are driven by the test, on the loop under test: an End sends and reads exactly when it is told to.
"""

from __future__ import annotations

import asyncio
import logging
import re
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from proxy.config import ListenConfig, Protocol, Tls
from proxy.edge.front import House, Visit
from proxy.edge.guests import Guests
from proxy.edge.listen import TLS_SHUTDOWN_S
from proxy.edge.relay import Relay
from proxy.edge.transport import Transport
from proxy.edge.upstream_leg import Connection, Leg
from proxy.edge.upstream_memory import UpstreamMemory
from proxy.live.sessions import Registry, Session
from proxy.login.service import LoginService, Passage
from tests.edge.scripted import HOST, PATIENCE_S, Certificates

T = TypeVar("T")

SMALL_BYTES = 16_384  # socket buffers, so that back-pressure needs kilobytes in place of megabytes
READ_BYTES = 65_536


async def soon(work: Coroutine[Any, Any, T] | asyncio.Future[T]) -> T:
    return await asyncio.wait_for(work, PATIENCE_S)


async def until(is_so: Callable[[], object]) -> None:
    """Wait for what happens within this process and tells nobody."""
    async with asyncio.timeout(PATIENCE_S):
        while not is_so():  # noqa: ASYNC110 - there is nothing to wait on
            await asyncio.sleep(0.005)


class End:
    """A far end of a connection, plain or TLS; reads and writes may overlap."""

    def __init__(self, sock: socket.socket, tls: tuple[ssl.SSLObject, ssl.MemoryBIO, ssl.MemoryBIO] | None) -> None:
        sock.setblocking(False)
        self._loop = asyncio.get_running_loop()
        self.sock = sock
        self._tls = tls

    @classmethod
    async def over(cls, sock: socket.socket, context: ssl.SSLContext | None, *, is_server: bool) -> End:
        """Make one; with a context behind the handshake."""
        if context is None:
            return cls(sock, None)
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = context.wrap_bio(incoming, outgoing, server_side=is_server, server_hostname=None if is_server else HOST)
        end = cls(sock, (tls, incoming, outgoing))
        await end.shake_hands()
        return end

    async def shake_hands(self) -> None:
        assert self._tls is not None
        while True:
            try:
                self._tls[0].do_handshake()
            except ssl.SSLWantReadError:
                await self._flush()
                await self._fetch()
            else:
                await self._flush()
                return

    async def send(self, data: bytes) -> None:
        """Returns when the kernel has all of it."""
        if self._tls is None:
            await soon(self._loop.sock_sendall(self.sock, data))
            return
        self._tls[0].write(data)
        await self._flush()

    async def read(self, limit: int = READ_BYTES) -> bytes:
        """What is there, at least a byte; b"" at a clean end (with TLS: close_notify). Raises OSError for any other."""
        if self._tls is None:
            return await soon(self._loop.sock_recv(self.sock, limit))
        while True:
            try:
                return self._tls[0].read(limit)
            except ssl.SSLZeroReturnError:
                return b""
            except ssl.SSLWantReadError:
                await self._fetch()

    async def exactly(self, size: int) -> bytes:
        parts, missing = [], size
        while missing > 0:
            data = await self.read(missing)
            assert data, f"the end after {size - missing} of {size} bytes"
            parts.append(data)
            missing -= len(data)
        return b"".join(parts)

    async def line(self) -> bytes:
        """The next line, without CRLF; byte by byte, so that nothing behind it is taken."""
        line = b""
        while not line.endswith(b"\r\n"):
            byte = await self.read(1)
            assert byte, f"the end after {line!r}"
            line += byte
        return line[:-2]

    async def ask(self, command: bytes) -> bytes:
        """Send a line and read one."""
        await self.send(command + b"\r\n")
        return await self.line()

    async def start_tls(self, context: ssl.SSLContext) -> None:
        """Go over to TLS as a client."""
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(incoming, outgoing, server_hostname=HOST), incoming, outgoing
        await self.shake_hands()

    async def rest(self) -> bytes:
        """All until a clean end."""
        parts = []
        while data := await self.read():
            parts.append(data)
        return b"".join(parts)

    async def until_gone(self) -> bytes:
        """All until an end of any kind."""
        parts = []
        try:
            while data := await self.read():
                parts.append(data)
        except TimeoutError:
            raise  # it is an OSError, too, but the connection is still there
        except OSError:
            pass
        return b"".join(parts)

    async def leave(self) -> None:
        """Say close_notify if there is TLS, and FIN."""
        if self._tls is not None:
            with suppress(ssl.SSLError):
                self._tls[0].unwrap()
            with suppress(OSError):
                await self._flush()
        with suppress(OSError):
            self.sock.shutdown(socket.SHUT_WR)

    def drop(self) -> None:
        """FIN, without close_notify."""
        self.sock.close()

    def reset(self) -> None:
        """RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    async def _flush(self) -> None:
        assert self._tls is not None
        if data := self._tls[2].read():
            await soon(self._loop.sock_sendall(self.sock, data))

    async def _fetch(self) -> None:
        assert self._tls is not None
        data = await soon(self._loop.sock_recv(self.sock, READ_BYTES))
        if data:
            self._tls[1].write(data)
        else:
            self._tls[1].write_eof()


@dataclass
class Stage:
    """A session between two ends."""

    client: End
    upstream: End
    visit: Visit
    session: Session
    registry: Registry
    guests: Guests
    client_transport: Transport
    leg: Leg
    lines: list[str]
    has_started: bool = False

    @property
    def relay(self) -> Relay:
        """Until the session ends: then nobody has it any more."""
        assert isinstance(self.session.relay, Relay)
        return self.session.relay

    def start(self, leftover: bytes = b"", keep: object = None) -> None:
        self.has_started = True
        passage = Passage(self.session, Connection(b"", b"", None, self.leg))
        self.visit.relay(self.client_transport, passage, leftover, keep)

    async def over(self) -> dict[str, str]:
        """Wait for the end of the session; what the log says of it."""
        await soon(self.registry._emptied.wait())
        assert len(self.guests) == 0
        assert len(self.lines) == 1, self.lines
        return dict(re.findall(r"(\w+)=(\S+)", self.lines[0]))


class Before(asyncio.Protocol):
    """What a front is to the client's connection: somebody who had it before the relay."""

    def data_received(self, data: bytes) -> None:
        raise AssertionError("read before the relay stood")


def make_session(protocol: Protocol = "imap", **changes: Any) -> Session:
    values: dict[str, Any] = {
        "id": "s1", "account_id": 1, "email": "ann@example.org", "credential_id": 1, "public_id": "p1", "name": "phone",
        "secret_id": 1, "generation": 1, "revision": 1, "protocol": protocol, "upstream": "scripted",
        "upstream_user": "ann",
        "peer": "127.0.0.1", "client": "",
    }  # fmt: skip
    return Session(**{**values, **changes})


async def no_revision() -> int:
    return 1


async def no_standings(_: list[int]) -> dict[int, Any]:
    return {}


async def none_kicked() -> set[str]:
    return set()


def make_house(registry: Registry, guests: Guests, **changes: Any) -> House:
    values: dict[str, Any] = {
        "hostname": "gate.example", "login": cast("LoginService", None), "registry": registry, "guests": guests,
        "tls_context": lambda _: None, "extensions": lambda _: (), "learn": lambda *_: None,
    }  # fmt: skip
    return House(**{**values, **changes})


class _Ears(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if "event=session_end" in record.getMessage():
            self.lines.append(record.getMessage())


@asynccontextmanager
async def staged(
    certificates: Certificates, *, tls: bool, protocol: Protocol = "imap", is_small: bool = True
) -> AsyncIterator[Stage]:
    """Two connections, made as production makes them, and nothing between them yet: see Stage.start()."""
    trust = ssl.create_default_context(cafile=str(certificates.ca_file))
    async with AsyncExitStack() as stack:
        ears = _Ears()
        logger = logging.getLogger("gatepost.relay")
        logger.addHandler(ears)
        stack.callback(logger.removeHandler, ears)
        level = logger.level
        logger.setLevel(logging.INFO)
        stack.callback(logger.setLevel, level)

        near, far = _connected(is_small)
        stack.callback(far.close)
        stack.callback(near.close)
        making = asyncio.create_task(End.over(far, trust if tls else None, is_server=False))
        client_transport = Transport(near, Before(), close_s=TLS_SHUTDOWN_S)
        if tls:
            await soon(client_transport.start_tls(certificates.good, server_side=True))
        client_transport.begin()
        client_transport.pause_reading()
        client = await soon(making)

        with _listening(is_small) as listener:
            leg = Leg(UpstreamMemory(trust))
            await soon(leg.open("127.0.0.1", listener.getsockname()[1]))
            if is_small:
                leg._connected().get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL_BYTES)
            accepted, _ = listener.accept()
        stack.callback(accepted.close)
        making = asyncio.create_task(End.over(accepted, certificates.good if tls else None, is_server=True))
        if tls:
            await soon(leg.secure(HOST))
        upstream = await soon(making)

        registry = Registry(read_revision=no_revision, read_standings=no_standings, read_kicked=none_kicked)
        guests = Guests(connections=10, waiting_per_address=10)
        listener_config = ListenConfig(protocol, "127.0.0.1", 0, Tls.IMPLICIT if tls else Tls.NONE, ("scripted",))
        visit = Visit(make_house(registry, guests), listener_config, "127.0.0.1", "visit")
        session = make_session(protocol)
        registry.admit(session)
        stage = Stage(
            client, upstream, visit, session, registry, guests,
            client_transport, leg, ears.lines,
        )  # fmt: skip
        try:
            yield stage
        finally:
            relay = cast("Relay | None", session.relay)
            if relay is not None:
                relay._abort()
                await soon(registry._emptied.wait())
            elif not stage.has_started:
                client_transport.abort()
                leg.abort()
            await asyncio.sleep(0)
            await asyncio.sleep(0)


def _listening(is_small: bool) -> socket.socket:
    listener = socket.create_server(("127.0.0.1", 0))
    if is_small:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BYTES)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL_BYTES)
    return listener


def _connected(is_small: bool) -> tuple[socket.socket, socket.socket]:
    """A TCP connection on loopback: the accepted end, the connecting end."""
    with _listening(is_small) as listener:
        far = socket.socket()
        if is_small:
            far.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BYTES)
            far.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL_BYTES)
        far.connect(listener.getsockname())
        near, _ = listener.accept()
    near.setblocking(False)
    return near, far
