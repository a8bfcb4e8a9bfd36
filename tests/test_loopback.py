"""The page that a browser is sent back to, over real sockets: who is let in, what is said, and that it always ends."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import pytest

from proxy.connecting import loopback
from proxy.connecting.loopback import MAX_REQUEST, MAX_VISITORS, Loopback, Page
from proxy.errors import OperatorError

DONE = Page("Connected & well", "You can <close> this page.")


def is_ours(address: str) -> bool:
    return "state=s1" in address


@pytest.fixture
async def page() -> AsyncIterator[Loopback]:
    async with Loopback.bound("http://127.0.0.1:0/done") as page:
        yield page


async def ask(page: Loopback, request: bytes, *, host: str = "127.0.0.1", step: int | None = None) -> bytes:
    """Everything the listener says to a request, which is sent whole or in steps of so many bytes."""
    async with asyncio.timeout(10):
        reader, writer = await asyncio.open_connection(host, urlsplit(page.redirect_url).port)
        with contextlib.suppress(OSError):
            for begin in range(0, len(request), step or len(request)):
                writer.write(request[begin : begin + (step or len(request))])
                await writer.drain()
        said = b""
        with contextlib.suppress(OSError):
            said = await reader.read(100_000)
        writer.close()
        return said


def get(target: str) -> bytes:
    return f"GET {target} HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: test\r\n\r\n".encode()


@pytest.mark.parametrize("step", [None, 1])
async def test_the_right_browser_is_heard_and_told_how_it_went(page: Loopback, step: int | None) -> None:
    visit = asyncio.create_task(page.visit(is_ours, 10))
    asked = asyncio.create_task(ask(page, get("/done?code=c1&state=s1"), step=step))
    assert await visit == f"{page.redirect_url}?code=c1&state=s1"
    await page.show(DONE)
    said = await asked
    assert said.startswith(b"HTTP/1.1 200 ")
    assert b"Connected &amp; well" in said
    assert b"&lt;close&gt;" in said
    for header in (b"Cache-Control: no-store", b"Referrer-Policy: no-referrer", b"default-src 'none'"):
        assert header in said
    assert b"c1" not in said


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (get("/favicon.ico"), b"404"),
        (get("/"), b"404"),
        (get("//done?state=s1"), b"404"),
        (get("/done/?state=s1"), b"404"),
        (get("/done?state=another"), b"400"),
        (get("/done"), b"400"),
        (b"POST /done?state=s1 HTTP/1.1\r\n\r\n", b"404"),
        (b"GET http://127.0.0.1/done?state=s1 HTTP/1.1\r\n\r\n", b"404"),
        (b"GET /done?state=s1\xff HTTP/1.1\r\n\r\n", b"404"),
        (b"GET /done?state=s1\r\n\r\n", b"404"),
        (b"\r\n\r\n", b"404"),
        (b"\x16\x03\x01\x02\x00\x01\r\n\r\n", b"404"),
    ],
)
async def test_everybody_else_is_answered_and_waited_past(page: Loopback, request_: bytes, status: bytes) -> None:
    visit = asyncio.create_task(page.visit(is_ours, 10))
    await asyncio.sleep(0)
    assert (await ask(page, request_)).startswith(b"HTTP/1.1 " + status)
    assert not visit.done()
    asked = asyncio.create_task(ask(page, get("/done?state=s1")))
    assert (await visit).endswith("/done?state=s1")
    await page.show(DONE)
    await asked


async def test_a_second_right_browser_changes_nothing(page: Loopback) -> None:
    visit = asyncio.create_task(page.visit(is_ours, 10))
    asked = asyncio.create_task(ask(page, get("/done?state=s1&code=first")))
    assert (await visit).endswith("first")
    assert (await ask(page, get("/done?state=s1&code=second"))).startswith(b"HTTP/1.1 400")
    await page.show(DONE)
    assert b"200" in await asked


async def test_a_head_without_end_is_cut_off(page: Loopback) -> None:
    assert await ask(page, b"GET /" + b"a" * (2 * MAX_REQUEST)) == b""


async def test_silent_connections_end_and_more_than_enough_are_refused(
    page: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loopback, "READ_S", 0.3)
    port = urlsplit(page.redirect_url).port
    pairs = [await asyncio.open_connection("127.0.0.1", port) for _ in range(MAX_VISITORS + 3)]
    async with asyncio.timeout(10):
        for reader, writer in pairs:
            with contextlib.suppress(OSError):
                assert await reader.read() == b""
            writer.close()
    assert b"404" in await ask(page, get("/"))


async def test_it_stops_waiting_and_closes_with_browsers_connected(page: Loopback) -> None:
    with pytest.raises(TimeoutError):
        await page.visit(is_ours, 0.05)
    _, writer = await asyncio.open_connection("127.0.0.1", urlsplit(page.redirect_url).port)
    writer.close()


async def test_a_browser_that_left_does_not_hold_up_the_end(page: Loopback) -> None:
    visit = asyncio.create_task(page.visit(is_ours, 10))
    _, writer = await asyncio.open_connection("127.0.0.1", urlsplit(page.redirect_url).port)
    writer.write(get("/done?state=s1"))
    await visit
    writer.transport.abort()
    async with asyncio.timeout(5):
        await page.show(DONE)


async def test_localhost_is_both_of_its_addresses() -> None:
    async with Loopback.bound("http://localhost:0/") as page:
        assert page.redirect_url.startswith("http://localhost:")
        assert b"400" in await ask(page, get("/"))
        assert b"400" in await ask(page, get("/"), host="::1")


@pytest.mark.parametrize("url", ["https://gate.example.com/back", "http://192.0.2.1:8080/", "https://127.0.0.1/"])
async def test_an_address_that_is_not_this_machine_needs_another_way(url: str) -> None:
    with pytest.raises(OperatorError, match="--paste"):
        Loopback.bound(url)


async def test_a_port_that_is_taken_is_named(page: Loopback) -> None:
    with pytest.raises(OperatorError, match="redirect_url"):
        Loopback.bound(page.redirect_url)
