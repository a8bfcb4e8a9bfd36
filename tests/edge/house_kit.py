"""A whole Gatepost on the loop under test, before a scripted mail server on the same loop; sockets and TLS are real.

The upstream takes a stored password, so that no identity provider is needed.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gc
import io
import json
import logging
import re
import shutil
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from proxy.cli import main
from proxy.config import Config, Endpoint, LimitsConfig, ListenConfig, Protocol, Tls, TlsConfig, UpstreamConfig
from proxy.config.reader import load
from proxy.edge.listen import bind
from proxy.login.bus import lay
from proxy.serving.build import Post, Server, running
from proxy.store.rows import Seat
from proxy.store.store import Store
from proxy.vault.sealing import load_master
from tests.edge.relay_kit import End, soon, until
from tests.edge.scripted import HOST, Certificates

USER = "ann@example.org"
UPSTREAM_PASSWORD = "the upstream's own password"
IMAP_OFFER = b"IMAP4rev1 SASL-IR AUTH=PLAIN IDLE LITERAL+ ID"
SMTP_OFFER = ("PIPELINING", "SIZE 10000000", "CHUNKING", "8BITMIME")
QUICK = LimitsConfig(argon2_memory_kib=8, argon2_time=1)

Talk = Callable[["Mailbox"], Awaitable[None]]


class Mailbox:
    """The upstream's end of a connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def line(self) -> bytes:
        return (await soon(self.reader.readuntil(b"\r\n"))).removesuffix(b"\r\n")

    async def exactly(self, size: int) -> bytes:
        return await soon(self.reader.readexactly(size))

    async def rest(self) -> bytes:
        """All until the connection ends, however."""
        parts = []
        with suppress(ConnectionError, ssl.SSLError):
            while data := await soon(self.reader.read(65_536)):
                parts.append(data)
        return b"".join(parts)

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await soon(self.writer.drain())


async def imap_login(mailbox: Mailbox, offer: bytes = IMAP_OFFER) -> None:
    await mailbox.send(b"* OK [CAPABILITY %b] ready\r\n" % offer)
    tag, command = (await mailbox.line()).split(b" ", 1)
    if command == b"LOGOUT":  # a probe
        await mailbox.send(b"* BYE\r\n%b OK\r\n" % tag)
        raise ConnectionError
    plain = base64.b64encode(f"\0{USER}\0{UPSTREAM_PASSWORD}".encode())
    assert command == b"AUTHENTICATE PLAIN " + plain
    await mailbox.send(b"%b OK [CAPABILITY %b] in\r\n" % (tag, offer))


async def smtp_login(mailbox: Mailbox, offer: Sequence[str] = SMTP_OFFER) -> None:
    await mailbox.send(b"220 up.example ESMTP\r\n")
    assert (await mailbox.line()).startswith(b"EHLO ")
    lines = ["up.example", *offer, "AUTH PLAIN LOGIN"]
    ehlo = "".join(f"250-{line}\r\n" for line in lines[:-1]) + f"250 {lines[-1]}\r\n"
    await mailbox.send(ehlo.encode())
    command = await mailbox.line()
    if command == b"QUIT":  # a probe
        await mailbox.send(b"221 bye\r\n")
        raise ConnectionError
    assert command == b"AUTH PLAIN"
    await mailbox.send(b"334 \r\n")
    assert await mailbox.line() == base64.b64encode(f"\0{USER}\0{UPSTREAM_PASSWORD}".encode())
    await mailbox.send(b"235 in\r\n")


@dataclass
class Upstream:
    """A mail server: what it says at login, then `talk` with each session; what a talk raises fails the test."""

    endpoint: Endpoint
    talk: Talk
    greet: Callable[[Mailbox], Awaitable[None]]
    errors: list[BaseException] = field(default_factory=list)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    sessions: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        mailbox = Mailbox(reader, writer)
        try:
            await self.greet(mailbox)
            self.sessions += 1
            await self.talk(mailbox)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError, ssl.SSLError):
            pass  # it left
        except Exception as error:
            self.errors.append(error)
        finally:
            writer.transport.abort()
            self.tasks.discard(task)


async def until_it_leaves(mailbox: Mailbox) -> None:
    await mailbox.rest()


@asynccontextmanager
async def mail_server(
    certificates: Certificates,
    protocol: Protocol,
    talk: Talk = until_it_leaves,
    greet: Callable[[Mailbox], Awaitable[None]] | None = None,
) -> AsyncIterator[Upstream]:
    upstream = Upstream(
        Endpoint(HOST, 0, Tls.IMPLICIT), talk, greet or (imap_login if protocol == "imap" else smtp_login)
    )
    server = await asyncio.start_server(upstream.serve, "127.0.0.1", 0, ssl=certificates.good, backlog=2000)
    upstream.endpoint = Endpoint(HOST, server.sockets[0].getsockname()[1], Tls.IMPLICIT)
    try:
        yield upstream
    finally:
        server.close()
        tasks = tuple(upstream.tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await server.wait_closed()
    if upstream.errors:
        raise upstream.errors[0]


@dataclass
class Set_up:  # noqa: N801 - the noun
    """A directory that `gatepost init` made, with one account whose password the upstream takes."""

    config: Config
    password: str
    certificates: Certificates


def set_up(template: Path, directory: Path, certificates: Certificates) -> Set_up:
    shutil.copytree(template, directory)
    config = replace(
        load(directory / "gatepost.toml"),
        upstreams={"main": UpstreamConfig(name="main", tls_ca=certificates.ca_file, auth="password")},
        limits=QUICK,
    )
    return Set_up(config, (directory / "app.password").read_text(), certificates)


TOML = """
[[listen]]
protocol = "imap"
address = "127.0.0.1:0"
tls = "implicit"

[upstream.main]
imap = "imaps://localhost:1"
smtp = "smtps://localhost:1"
auth = "password"

[store]
url = "sqlite:///gatepost.db"
[keys]
master = "file:master.key"
[tls]
certificate = "cert.pem"
key = "key.pem"
[limits]
argon2_memory_kib = 8
argon2_time = 1
"""


def make_template(directory: Path) -> Path:
    """Once for many tests: the set-up with its account and app password, made by the commands."""
    command("init", str(directory))
    config = directory / "gatepost.toml"
    config.write_text(TOML)
    add = ("account", "add", USER, "--upstream", "main", "--password-stdin")
    command(*add, "--config", str(config), stdin=UPSTREAM_PASSWORD)
    made = json.loads(command("create", USER, "--name", "test", "--json", "--config", str(config)))
    (directory / "app.password").write_text(made["password"])
    return directory


def command(*words: str, stdin: str = "") -> str:
    """A gatepost command in this process, which must succeed; what it printed."""
    out, before = io.StringIO(), sys.stdin
    sys.stdin = io.TextIOWrapper(io.BytesIO(stdin.encode() + b"\n"))
    try:
        with contextlib.redirect_stdout(out):
            assert main(words) == 0
    finally:
        sys.stdin = before
    return out.getvalue()


@dataclass
class Gatepost:
    """A running one. `lines` is its log."""

    server: Server
    password: str
    trust: ssl.SSLContext
    lines: list[str]
    sockets: list[socket.socket] = field(default_factory=list)  # of clients, closed at the end

    async def connect(self, tls: Tls, *, number: int = 0) -> End:
        """A client at the listener of this kind; with Tls.IMPLICIT behind the handshake."""
        sock = await self.connect_socket(tls, number=number)
        return await soon(End.over(sock, self.trust if tls is Tls.IMPLICIT else None, is_server=False))

    async def connect_socket(self, tls: Tls, *, number: int = 0) -> socket.socket:
        found = [address for listener, address in self.server.addresses if listener.tls is tls]
        host, port = found[number]
        sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        sock.setblocking(False)
        self.sockets.append(sock)
        await soon(asyncio.get_running_loop().sock_connect(sock, (host, port)))
        return sock

    async def probed(self) -> None:
        """Wait until the upstream was asked what it offers."""
        await until(lambda: all(self.server.house.extensions(listener) for listener, _ in self.server.addresses))

    async def emptied(self) -> None:
        """Wait until no connection is counted any more."""
        await until(lambda: not len(self.server.house.guests) and not len(self.server.house.registry))

    async def line(self, pattern: str) -> str:
        """Wait for a line of the log."""
        await until(lambda: any(re.search(pattern, line) for line in self.lines))
        return next(line for line in self.lines if re.search(pattern, line))


class _Ears(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        self.lines.append(f"{record.levelname} {text}" + (" TRACEBACK" if record.exc_info else ""))


@asynccontextmanager
async def post_for(config: Config, number: int, workers: int) -> AsyncIterator[Post]:
    """What the supervisor gives its workers."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(bind(listener)) for listener in config.listeners]
        yield Post(Seat(f"worker{number}", "node1", number), workers, sockets, lay(workers, stack)[number])


@asynccontextmanager
async def open_house(
    made: Set_up,
    upstream: Upstream,
    protocol: Protocol = "imap",
    *,
    tls: Sequence[Tls] = (Tls.IMPLICIT,),
    host: str = "127.0.0.1",
    limits: LimitsConfig = QUICK,
    listeners: Sequence[ListenConfig] = (),
    number: int = 0,
    workers: int = 1,
) -> AsyncIterator[Gatepost]:
    """Serve with one listener for each of `tls`; nothing may be logged as an error, and nothing left at the end.

    listeners   if there are any, they take the place of tls and host
    """
    config = made.config
    one = config.upstreams["main"]
    one = replace(one, imap=upstream.endpoint) if protocol == "imap" else replace(one, smtp=upstream.endpoint)
    directory = config.path.parent
    config = replace(
        config,
        upstreams={"main": one},
        listeners=tuple(listeners) or tuple(ListenConfig(protocol, host, 0, kind, ("main",)) for kind in tls),
        tls=TlsConfig(directory / "cert.pem", directory / "key.pem"),
        limits=limits,
    )
    trust = ssl.create_default_context(cafile=str(directory / "cert.pem"))
    ears = _Ears()
    logger = logging.getLogger("gatepost")
    before = logger.level
    logger.addHandler(ears)
    logger.setLevel(logging.DEBUG)
    store = Store.open(config.store.url, migrate=False)
    try:
        async with (
            post_for(config, number, workers) as post,
            running(config, store, load_master(config.keys.master.read()), post) as server,
        ):
            gate = Gatepost(server, made.password, trust, ears.lines)
            if upstream.greet in (imap_login, smtp_login):
                await gate.probed()
            try:
                yield gate
            finally:
                for sock in gate.sockets:
                    sock.close()
    finally:
        store.close()
        logger.removeHandler(ears)
        logger.setLevel(before)
        gc.collect()
    assert not [line for line in ears.lines if line.startswith(("ERROR", "CRITICAL")) or "TRACEBACK" in line]
