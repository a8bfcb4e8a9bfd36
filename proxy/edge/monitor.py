"""The HTTP that monitoring asks: /metrics, /healthz, /readyz, and nothing else. One request per connection, no body.

Small on purpose: whoever reaches it needs no password, so it reads one bounded head, answers, and closes.
Source: RFC 9112 (HTTP/1.1).
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import cast

from proxy.logs import Line

logger = logging.getLogger("gatepost.monitor")

MAX_HEAD_BYTES = 8192  # a Prometheus sends 400
MAX_CONNECTIONS = 32  # of a worker; those beyond are closed unread
DEADLINE_S = 10.0  # of a connection, from its start; Prometheus' own scrape_timeout is the same

Report = Callable[[], Awaitable[tuple[bool, object]]]
Render = Callable[[str], tuple[str, bytes]]


@dataclass(frozen=True, slots=True)
class Answer:
    status: str
    content_type: str
    body: bytes


class Monitor:
    """Answers on a socket that the workers share. Owned by build()."""

    def __init__(self, sock: socket.socket, *, render: Render, report: Report) -> None:
        """`render` makes the numbers for an Accept header; `report` says whether the node is ready, with JSON."""
        self._sock = sock
        self._render = render
        self._report = report
        self._server: asyncio.Server | None = None
        self.connections: set[_Connection] = set()

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Connection(self), sock=self._sock)

    def stop(self) -> None:
        """Take no more; who has asked is answered."""
        if self._server is not None:
            self._server.close()

    async def close(self) -> None:
        self.stop()
        for connection in tuple(self.connections):
            connection.abort()

    async def answer(self, head: bytes) -> Answer:
        """The answer to a request's head. Never raises, but for a bug of ours."""
        line, *fields = head.decode("latin-1").split("\r\n")
        method, _, rest = line.partition(" ")
        target, _, version = rest.partition(" ")
        if not version.startswith("HTTP/1."):
            return _plain("400 Bad Request", "this is HTTP/1.1")
        if method not in ("GET", "HEAD"):
            return _plain("405 Method Not Allowed", "only GET and HEAD")
        accept = next((field[7:].strip() for field in fields if field.lower().startswith("accept:")), "")
        match target.partition("?")[0]:
            case "/metrics":
                return Answer("200 OK", *self._render(accept))
            case "/healthz":
                return _json("200 OK", {"alive": True})
            case "/readyz":
                is_ready, report = await self._report()
                return _json("200 OK" if is_ready else "503 Service Unavailable", report)
        return _plain("404 Not Found", "here are /metrics, /healthz and /readyz")


class _Connection(asyncio.Protocol):
    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor
        self._head = b""
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        if len(self._monitor.connections) >= MAX_CONNECTIONS:
            transport.close()
            return
        self._monitor.connections.add(self)
        self._deadline = asyncio.get_running_loop().call_later(DEADLINE_S, self.abort)

    def data_received(self, data: bytes) -> None:
        if self._task is not None or self not in self._monitor.connections:
            return
        self._head += data
        head, end, _ = self._head.partition(b"\r\n\r\n")
        if end:
            self._task = asyncio.get_running_loop().create_task(self._answer(head))
        elif len(self._head) > MAX_HEAD_BYTES:
            self._say(b"GET", _plain("431 Request Header Fields Too Large", "too long"))

    async def _answer(self, head: bytes) -> None:
        try:
            answer = await self._monitor.answer(head)
        except Exception:
            logger.exception("%s", Line("monitor_crashed"))
            answer = _plain("500 Internal Server Error", "the log has it")
        self._say(head, answer)

    def _say(self, head: bytes, answer: Answer) -> None:
        fields = (
            f"HTTP/1.1 {answer.status}\r\nContent-Type: {answer.content_type}\r\nContent-Length: {len(answer.body)}\r\n"
            "Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n"
        )
        self._transport.write(fields.encode() + (b"" if head.startswith(b"HEAD ") else answer.body))
        self._transport.close()

    def connection_lost(self, _exc: Exception | None) -> None:
        if self in self._monitor.connections:
            self._monitor.connections.discard(self)
            self._deadline.cancel()
        if self._task is not None:
            self._task.cancel()

    def abort(self) -> None:
        self._transport.abort()


def _plain(status: str, text: str) -> Answer:
    return Answer(status, "text/plain; charset=utf-8", f"{text}\n".encode())


def _json(status: str, value: object) -> Answer:
    return Answer(status, "application/json", json.dumps(value).encode() + b"\n")
