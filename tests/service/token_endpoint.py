"""A token endpoint on loopback that does what it is told: rotation with reuse detection, and every kind of failure."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import parse_qs

CLIENT_SECRET = "client-secret-0f1e/+2d=3c"  # what quoting must not spoil
Behaviour = Callable[["TokenEndpoint", "Request", asyncio.StreamWriter], Awaitable[None]]


@dataclass(frozen=True)
class Request:
    headers: Mapping[str, str]
    form: Mapping[str, str]


@dataclass
class TokenEndpoint:
    """Gives a new access token and a new refresh token each time; a spent refresh token ends its whole family."""

    url: str = ""
    rotates: bool = True
    lifetime_s: int = 3600
    script: deque[Behaviour] = field(default_factory=deque)  # for the next requests; afterwards it behaves
    requests: list[Request] = field(default_factory=list)
    newest: dict[str, str] = field(default_factory=dict)  # family -> its one valid refresh token
    issued: list[str] = field(default_factory=list)  # every token ever, for the search in the logs
    reuses: list[str] = field(default_factory=list)  # spent tokens that were presented
    has_asked: asyncio.Event = field(default_factory=asyncio.Event)
    release: asyncio.Event = field(default_factory=asyncio.Event)

    def new_family(self, name: str) -> str:
        token = f"refresh.{name}.0"
        self.newest[name] = token
        self.issued.append(token)
        return token

    def grant(self, request: Request) -> tuple[int, dict[str, object]]:
        presented = request.form.get("refresh_token", "")
        _, _, rest = presented.partition(".")
        family, _, number = rest.rpartition(".")
        if self.newest.get(family) != presented:
            self.reuses.append(presented)
            self.newest.pop(family, None)
            return 400, {"error": "invalid_grant", "error_description": "AADSTS70000: spent or unknown"}
        count = sum(token.startswith(f"access.{family}.") for token in self.issued) + 1
        access = f"access.{family}.{count}"
        self.issued.append(access)
        body: dict[str, object] = {"access_token": access, "token_type": "Bearer", "expires_in": self.lifetime_s}
        if self.rotates:
            refresh = f"refresh.{family}.{int(number) + 1}"
            self.newest[family] = refresh
            self.issued.append(refresh)
            body["refresh_token"] = refresh
        return 200, body

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        lines = head.split("\r\n")
        headers = {
            name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:] if line)
        }
        body = (await reader.readexactly(int(headers["content-length"]))).decode()
        request = Request(headers, {name: values[0] for name, values in parse_qs(body).items()})
        self.requests.append(request)
        self.has_asked.set()
        behaviour = self.script.popleft() if self.script else behaves
        await behaviour(self, request, writer)


async def behaves(endpoint: TokenEndpoint, request: Request, writer: asyncio.StreamWriter) -> None:
    status, body = endpoint.grant(request)
    await send(writer, status, json.dumps(body).encode())


async def send(writer: asyncio.StreamWriter, status: int, body: bytes, **headers: str) -> None:
    extra = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    head = f"HTTP/1.1 {status} Whatever\r\ncontent-length: {len(body)}\r\nconnection: close\r\n{extra}\r\n"
    writer.write(head.encode() + body)
    await writer.drain()


def answers(status: int, body: bytes | dict[str, object], **headers: str) -> Behaviour:
    data = json.dumps(body).encode() if isinstance(body, dict) else body

    async def behave(endpoint: TokenEndpoint, request: Request, writer: asyncio.StreamWriter) -> None:
        await send(writer, status, data, **headers)

    return behave


def refuses(error: str, description: str = "", status: int = 400) -> Behaviour:
    return answers(status, {"error": error, "error_description": description})


async def waits(endpoint: TokenEndpoint, request: Request, writer: asyncio.StreamWriter) -> None:
    """Behave once `release` is set."""
    await endpoint.release.wait()
    await behaves(endpoint, request, writer)


async def resets(endpoint: TokenEndpoint, request: Request, writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def floods(endpoint: TokenEndpoint, request: Request, writer: asyncio.StreamWriter) -> None:
    """A body without end."""
    writer.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n")
    while True:
        writer.write(b" " * 65_536)
        await writer.drain()


@asynccontextmanager
async def listening() -> AsyncIterator[TokenEndpoint]:
    endpoint = TokenEndpoint()
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await endpoint.serve(reader, writer)
        except (ConnectionError, asyncio.CancelledError):
            writer.transport.abort()  # the client left, or the test is over
        finally:
            writer.close()
            tasks.discard(task)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    endpoint.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/token"
    try:
        yield endpoint
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await server.wait_closed()
