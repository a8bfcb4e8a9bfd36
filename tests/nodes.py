"""Two Gatepost nodes of two workers each on one PostgreSQL, behind HAProxy with the file that we ship; and a crowd.

For tests/whole/test_nodes.py and bench/revocation.py.
"""

from __future__ import annotations

import asyncio
import base64
import re
import shutil
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.gate import Gate
from tests.lab import Lab
from tests.lab.ports import PortReservation

PATIENCE_S = 60.0
HAPROXY_CONFIG = Path(__file__).parent.parent / "config" / "haproxy.cfg"
WORKERS = 2


@dataclass
class Nodes:
    """Both nodes, and the balancer's ports."""

    first: Gate
    second: Gate
    imaps: int
    smtps: int
    lab: Lab

    @property
    def both(self) -> tuple[Gate, Gate]:
        return self.first, self.second

    def trust(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.lab.ca_file))


@contextmanager
def running_nodes(lab: Lab, directory: Path, database: str) -> Iterator[Nodes]:
    """`database` is the URL of an empty one."""
    with ExitStack() as stack:
        gates = [_node(lab, directory, database, number) for number in (1, 2)]
        gates[0].cli("db", "upgrade")
        for gate in gates:
            stack.callback(gate.kill)
            gate.start()
        ports = PortReservation()
        stack.callback(ports.release)
        imaps, smtps = stack.enter_context(_balancer(directory, gates, [ports.take() for _ in range(3)]))
        yield Nodes(gates[0], gates[1], imaps, smtps, lab)


def _node(lab: Lab, directory: Path, database: str, number: int) -> Gate:
    home = directory / f"mail{number}"
    gate = Gate.prepare(lab, home, workers=WORKERS)
    if number > 1:
        shutil.copy(directory / "mail1" / "master.key", home / "master.key")
    text = gate.config.read_text().replace("sqlite:///gatepost.db", database)
    text = text.replace("[workers]\n", f'[workers]\nnode = "mail{number}"\n')
    gate.config.write_text(text.replace("[[listen]]\n", '[[listen]]\nproxy_protocol_from = ["127.0.0.0/8"]\n'))
    return gate


@contextmanager
def _balancer(directory: Path, gates: list[Gate], ports: list[int]) -> Iterator[tuple[int, int]]:
    imaps, smtps, smtp = ports
    text = HAPROXY_CONFIG.read_text()
    for gate, address in zip(gates, ("192.0.2.11", "192.0.2.12"), strict=True):
        for port, endpoint in ((993, gate.imaps), (465, gate.smtps), (587, gate.smtp)):
            text = text.replace(f"{address}:{port}", f"127.0.0.1:{endpoint.port}")
    for port, own in ((993, imaps), (465, smtps), (587, smtp)):
        text = text.replace(f"bind :{port}\n", f"bind 127.0.0.1:{own}\n")
    assert not re.search(r"192\.0\.2\.1[12]|bind :", re.sub(r"#.*", "", text))
    file = directory / "haproxy.cfg"
    file.write_text(text)
    log = (directory / "haproxy.log").open("wb")
    with log, subprocess.Popen(["haproxy", "-db", "-f", file], stdout=log, stderr=log) as process:
        try:
            _await_port(process, imaps)
            yield imaps, smtps
        finally:
            process.terminate()


def _await_port(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        assert process.poll() is None, "haproxy did not start"
        hex_port = f":{port:04X}"
        if any(hex_port in line and " 0A " in line for line in Path("/proc/net/tcp").read_text().splitlines()):
            return
        time.sleep(0.02)
    raise AssertionError("haproxy does not listen")


@dataclass(eq=False)
class Client:
    """A session through the balancer. `ended_at` is wall clock; `said` what came after the login unasked."""

    protocol: str
    public_id: str
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    said: bytes = b""
    ended_at: float | None = None
    waiting: asyncio.Task[None] | None = field(default=None, repr=False)

    async def ask(self, command: bytes, until: bytes) -> bytes:
        """Send a line; return what comes up to a line that begins with `until`."""
        self.writer.write(command + b"\r\n")
        heard = b""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                line = await self.reader.readline()
                assert line, f"{self.protocol}: the end after {heard!r}"
                heard += line
                if line.startswith(until):
                    return heard

    def watch(self) -> None:
        """From now on nothing is asked; see what comes and when it ends."""
        self.waiting = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        while data := await self.reader.read(4096):
            self.said += data
        self.ended_at = time.time()

    async def still_works(self) -> bool:
        """Whether it was not ended, and answers."""
        assert self.waiting is not None
        if self.waiting.done():
            return False
        self.waiting.cancel()
        await asyncio.wait([self.waiting])
        if self.protocol == "imap":
            return b"x1 OK" in await self.ask(b"DONE", b"x1 ")
        return (await self.ask(b"NOOP", b"250")).startswith(b"250")

    async def close(self) -> None:
        if self.waiting is not None:
            self.waiting.cancel()
            await asyncio.wait([self.waiting])
        self.writer.transport.abort()


async def connect(nodes: Nodes, protocol: str, user: str, made: dict[str, str]) -> Client:
    """Log in through the balancer, and IDLE or do nothing."""
    port = nodes.imaps if protocol == "imap" else nodes.smtps
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", port, ssl=nodes.trust(), server_hostname="localhost", ssl_handshake_timeout=PATIENCE_S
    )
    client = Client(protocol, made["id"], reader, writer)
    async with asyncio.timeout(PATIENCE_S):
        await reader.readline()
    if protocol == "imap":
        assert b"a1 OK" in await client.ask(f'a1 LOGIN {user} "{made["password"]}"'.encode(), b"a1 ")
        await client.ask(b"a2 SELECT INBOX", b"a2 OK")
        await client.ask(b"x1 IDLE", b"+ ")
    else:
        await client.ask(b"EHLO client.example", b"250 ")
        plain = base64.b64encode(f"\0{user}\0{made['password']}".encode())
        assert (await client.ask(b"AUTH PLAIN " + plain, b"2")).startswith(b"235")
    client.watch()
    return client


async def crowd(nodes: Nodes, wanted: list[tuple[str, str, dict[str, str]]], at_once: int = 16) -> list[Client]:
    """Sessions for (protocol, user, app password), in this order."""
    gate = asyncio.Semaphore(at_once)

    async def one(protocol: str, user: str, made: dict[str, str]) -> Client:
        async with gate:
            return await connect(nodes, protocol, user, made)

    return await asyncio.gather(*(one(*each) for each in wanted))
