"""The least that a proxy of our kind can cost: our transport and loop, and nothing of Gatepost above them.

`python -m bench.floor IMAPS SMTPS UPSTREAM_IMAPS UPSTREAM_SMTPS CHAIN KEY CA` serves until it is ended, in as many
processes as cores. It lets everybody in, writes no line and asks no store; what Gatepost takes more is what its checks,
its counting and its records take, and what it takes as much of is Python, OpenSSL and the kernel.
"""

from __future__ import annotations

import asyncio
import base64
import os
import socket
import ssl
import sys
from dataclasses import dataclass
from typing import cast

import uvloop

from proxy.edge.transport import Transport
from proxy.edge.upstream_leg import connect

BACKLOG = 4096
LINE_BYTES = 65_536


@dataclass(frozen=True, slots=True)
class Ways:
    """Where an upstream is, and the contexts of both sides."""

    upstream: tuple[str, int]
    is_imap: bool
    server: ssl.SSLContext
    client: ssl.SSLContext


class Leg(asyncio.Protocol):
    """One end of a pair: lines until the login is done, then what comes goes to the other."""

    def __init__(self) -> None:
        self.transport: Transport | None = None
        self.other: Leg | None = None
        self._held = b""
        self._line: asyncio.Future[bytes] | None = None
        self._is_over = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.write(data)
            return
        self._held += data
        self._give_line()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, _exc: Exception | None) -> None:
        self._is_over = True
        if self._line is not None and not self._line.done():
            self._line.set_exception(ConnectionResetError())
        other, self.other = self.other, None
        if other is not None and other.transport is not None:
            other.other = None
            other.transport.close()

    def pause_writing(self) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.resume_reading()

    async def line(self) -> bytes:
        if self._is_over:
            raise ConnectionResetError
        self._line = asyncio.get_running_loop().create_future()
        self._give_line()
        return await self._line

    def _give_line(self) -> None:
        if self._line is not None and not self._line.done() and (end := self._held.find(b"\n")) >= 0:
            line, self._held = self._held[:end], self._held[end + 1 :]
            self._line.set_result(line)

    def send(self, data: bytes) -> None:
        assert self.transport is not None
        self.transport.write(data)

    async def answer(self, command: bytes, final: bytes) -> bytes:
        """Send a command, and read to the line that begins like this."""
        self.send(command)
        while not (line := await self.line()).startswith(final):
            pass
        return line

    def join(self, other: Leg) -> None:
        """From here on both pass on what comes."""
        self.other, other.other = other, self
        for one, its in ((self, other), (other, self)):
            held, one._held = one._held, b""
            if held:
                its.send(held)


async def visit(sock: socket.socket, ways: Ways) -> None:
    client = Leg()
    transport = Transport(sock, client)
    try:
        await transport.start_tls(ways.server, server_side=True)
        transport.begin()
        if ways.is_imap:
            await _imap(client, ways)
        else:
            await _smtp(client, ways)
    except OSError:
        transport.abort()


async def _imap(client: Leg, ways: Ways) -> None:
    client.send(b"* OK ready\r\n")
    tag, _, user, _password = (await client.line()).split(None, 3)
    upstream = await _dial(ways)
    await upstream.line()
    told = await upstream.answer(b"a AUTHENTICATE XOAUTH2 %b\r\n" % _bearer(user.decode()), b"a ")
    client.send(tag + told[1:] + b"\n")
    client.join(upstream)


async def _smtp(client: Leg, ways: Ways) -> None:
    client.send(b"220 ready\r\n")
    await client.line()
    client.send(b"250-localhost\r\n250 AUTH PLAIN\r\n")
    user = base64.b64decode((await client.line()).split()[-1]).split(b"\0")[1]
    upstream = await _dial(ways)
    await upstream.line()
    await upstream.answer(b"EHLO localhost\r\n", b"250 ")
    told = await upstream.answer(b"AUTH XOAUTH2 %b\r\n" % _bearer(user.decode()), b"235")
    client.send(told + b"\n")
    client.join(upstream)


async def _dial(ways: Ways) -> Leg:
    sock = socket.socket()
    sock.setblocking(False)
    await connect(sock, ways.upstream)
    leg = Leg()
    transport = Transport(sock, leg)
    await transport.start_tls(ways.client, server_hostname="localhost")
    transport.begin()
    return leg


def _bearer(user: str) -> bytes:
    return base64.b64encode(f"user={user}\1auth=Bearer any\1\1".encode())


async def serve(listeners: list[tuple[socket.socket, Ways]]) -> None:
    loop = asyncio.get_running_loop()
    tasks: set[asyncio.Task[None]] = set()

    def accept(sock: socket.socket, ways: Ways) -> None:
        try:
            accepted, _ = sock.accept()
        except BlockingIOError:
            return
        accepted.setblocking(False)
        task = loop.create_task(visit(accepted, ways))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    for sock, ways in listeners:
        loop.add_reader(sock.fileno(), accept, sock, ways)
    await loop.create_future()


def main() -> int:
    ports, (chain, key, ca) = [int(word) for word in sys.argv[1:5]], sys.argv[5:8]
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(chain, key)
    client = ssl.create_default_context(cafile=ca)
    listeners = []
    for port, upstream, is_imap in ((ports[0], ports[2], True), (ports[1], ports[3], False)):
        sock = socket.create_server(("127.0.0.1", port), backlog=BACKLOG)
        sock.setblocking(False)
        listeners.append((sock, Ways(("127.0.0.1", upstream), is_imap, server, client)))
    for _ in range((os.cpu_count() or 1) - 1):
        if not os.fork():
            break
    uvloop.run(serve(listeners))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
