"""The HTTP of monitoring: three pages, bounded, whatever is sent to it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from proxy.edge import monitor
from proxy.edge.monitor import MAX_CONNECTIONS, MAX_HEAD_BYTES, Monitor
from tests.edge.relay_kit import soon, until


@asynccontextmanager
async def listening(*, is_ready: bool = True) -> AsyncIterator[tuple[Monitor, int]]:
    async def report() -> tuple[bool, object]:
        return is_ready, {"ready": is_ready}

    sock = socket.create_server(("127.0.0.1", 0))
    made = Monitor(sock, render=lambda accept: ("text/plain", f"numbers for {accept}\n".encode()), report=report)
    await made.start()
    try:
        yield made, sock.getsockname()[1]
    finally:
        await made.close()
        await until(lambda: not made.connections)


async def said(port: int, *parts: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for part in parts:
            writer.write(part)
            await soon(writer.drain())
        return await soon(reader.read())
    finally:
        writer.close()


@pytest.mark.parametrize(
    ("request_", "status", "body"),
    [
        (b"GET /metrics HTTP/1.1\r\nHost: x\r\nAccept: text/plain\r\n\r\n", b"200 OK", b"numbers for text/plain\n"),
        (b"GET /metrics HTTP/1.0\r\n\r\n", b"200 OK", b"numbers for \n"),
        (b"GET /healthz HTTP/1.1\r\n\r\n", b"200 OK", b'{"alive": true}\n'),
        (b"GET /readyz?verbose HTTP/1.1\r\n\r\n", b"200 OK", b'{"ready": true}\n'),
        (b"HEAD /readyz HTTP/1.1\r\n\r\n", b"200 OK", b""),
        (b"POST /metrics HTTP/1.1\r\n\r\n", b"405 Method Not Allowed", b"only GET and HEAD\n"),
        (b"GET /secret HTTP/1.1\r\n\r\n", b"404 Not Found", b"here are /metrics, /healthz and /readyz\n"),
        (b"GET http://x/metrics HTTP/1.1\r\n\r\n", b"404 Not Found", b"here are /metrics, /healthz and /readyz\n"),
        (b"PRI * HTTP/2.0\r\n\r\n", b"400 Bad Request", b"this is HTTP/1.1\n"),
        (b"\xff\x00\r\n\r\n", b"400 Bad Request", b"this is HTTP/1.1\n"),
        (b"\r\n\r\n", b"400 Bad Request", b"this is HTTP/1.1\n"),
    ],
)
async def test_each_request_has_its_answer_whole_and_byte_by_byte(request_, status, body) -> None:
    async with listening() as (_, port):
        for parts in ([request_], [bytes([byte]) for byte in request_]):
            head, _, rest = (await said(port, *parts)).partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 " + status + b"\r\n")
            assert rest == body
            assert b"Connection: close" in head


async def test_not_ready_is_503() -> None:
    async with listening(is_ready=False) as (_, port):
        answer = await said(port, b"GET /readyz HTTP/1.1\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
        assert answer.endswith(b'{"ready": false}\n')


async def test_a_head_without_an_end_is_refused_at_its_bound() -> None:
    async with listening() as (_, port):
        answer = await said(port, b"GET /metrics HTTP/1.1\r\nX: " + b"x" * MAX_HEAD_BYTES)
        assert answer.startswith(b"HTTP/1.1 431 ")


async def test_who_says_nothing_is_cut_off_by_the_deadline(monkeypatch) -> None:
    monkeypatch.setattr(monitor, "DEADLINE_S", 0.05)
    async with listening() as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(b"GET /metr")
            with suppress(ConnectionResetError):
                assert await soon(reader.read()) == b""
        finally:
            writer.close()


async def test_a_crowd_beyond_the_bound_is_closed_unread() -> None:
    async with listening() as (made, port):
        crowd = [await asyncio.open_connection("127.0.0.1", port) for _ in range(MAX_CONNECTIONS)]
        await until(lambda: len(made.connections) == MAX_CONNECTIONS)
        assert await said(port) == b""
        for _, writer in crowd:
            writer.close()
        await until(lambda: not made.connections)
        assert b"200 OK" in await said(port, b"GET /healthz HTTP/1.1\r\n\r\n")


async def test_a_bug_is_an_answer_and_a_line_of_the_log(caplog) -> None:
    def render(accept: str) -> tuple[str, bytes]:
        raise ZeroDivisionError

    async with listening() as (made, port):
        made._render = render
        assert (await said(port, b"GET /metrics HTTP/1.1\r\n\r\n")).startswith(b"HTTP/1.1 500 ")
    assert "event=monitor_crashed" in caplog.text
