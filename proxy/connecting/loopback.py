"""A page on this machine that a browser is sent back to after a sign-in (RFC 8252 7.3): listens, answers, closes.

It knows nothing of OAuth2: whoever waits says which address is the right one and what the page shall say.
"""

from __future__ import annotations

import asyncio
import contextlib
import html
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self
from urllib.parse import urlsplit

from proxy.config.address import is_loopback
from proxy.errors import OperatorError

MAX_REQUEST = 32_768  # octets of a request's head: an address of 16 kB, and a browser's headers
MAX_VISITORS = 32  # connections at a time: a browser opens a few, and some it never uses
READ_S = 10.0  # from the connection to the end of the request's head
DECIDE_S = 60.0  # from the right request to what its page shall say: two requests and two logins upstream

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title>
<style>
  body {{ font: 1.1rem/1.6 system-ui, sans-serif; max-width: 32rem; margin: 15vh auto 0; padding: 0 1.5rem;
         color: #222; background: #fff }}
  h1 {{ font-size: 1.4rem; font-weight: 600 }}
  @media (prefers-color-scheme: dark) {{ body {{ color: #ddd; background: #1b1b1b }} }}
</style></head>
<body><main><h1>{title}</h1><p>{text}</p></main></body></html>
"""


@dataclass(frozen=True, slots=True)
class Page:
    """What a visitor sees."""

    title: str
    text: str
    status: int = 200


_NOT_HERE = Page("Nothing is here", "Gatepost waits here for the end of a sign-in.", 404)
_OTHER = Page("This is not the sign-in that Gatepost waits for", "Use the newest address that it printed.", 400)


class Loopback:
    """One listener for one sign-in. Use as an async context manager."""

    def __init__(self, sockets: list[socket.socket], redirect_url: str) -> None:
        self.redirect_url = redirect_url  # with its real port
        parts = urlsplit(redirect_url)
        self._origin = f"{parts.scheme}://{parts.netloc}"
        self._path = parts.path or "/"
        self._sockets = sockets
        self._servers: list[asyncio.Server] = []
        self._visitors: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._is_ours: Callable[[str], bool] = lambda _: False
        self._arrived: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._page: asyncio.Future[Page] = asyncio.get_running_loop().create_future()
        self._is_shown = asyncio.Event()

    @classmethod
    def bound(cls, redirect_url: str) -> Self:
        """Take the address's port, or a free one for port 0.

        raises  OperatorError if it is not http:// on loopback, or the port is taken
        """
        parts = urlsplit(redirect_url)
        host = parts.hostname or ""
        if parts.scheme != "http" or not is_loopback(host):
            raise OperatorError(
                f"a browser that is sent to {redirect_url} does not come here", "use --paste or --device"
            )
        try:
            sockets = _listening(host, 80 if parts.port is None else parts.port)
        except OSError as error:
            raise OperatorError(
                f"cannot listen on {redirect_url}: {error.strerror or error}",
                "end what uses that port, set another [oauth2] redirect_url, or use --paste",
            ) from None
        port = sockets[0].getsockname()[1]
        shown = f"[{host}]" if ":" in host else host
        return cls(sockets, f"http://{shown}:{port}{parts.path}")

    async def __aenter__(self) -> Self:
        for sock in self._sockets:
            self._servers.append(await asyncio.start_server(self._serve, sock=sock, limit=MAX_REQUEST))
        return self

    async def __aexit__(self, *_: object) -> None:
        for server in self._servers:
            server.close()
        self._arrived.cancel()
        if not self._page.done():
            self._page.set_result(_OTHER)
        for writer in self._visitors.values():
            writer.transport.abort()
        # Each ends by itself now; cancelled, they would be reported as crashes by asyncio's streams (Python 3.11).
        while self._visitors:
            await asyncio.wait(list(self._visitors))
        for server in self._servers:
            await server.wait_closed()

    async def visit(self, is_ours: Callable[[str], bool], wait_s: float) -> str:
        """Wait for a browser at the right path whose whole address `is_ours`; others get a page that says so.

        returns the whole address; the browser waits until show()
        raises  TimeoutError
        """
        self._is_ours = is_ours
        async with asyncio.timeout(wait_s):
            return await asyncio.shield(self._arrived)

    async def show(self, page: Page) -> None:
        """Answer the browser that visit() returned, and see it off."""
        if not self._page.done():
            self._page.set_result(page)
        with contextlib.suppress(TimeoutError):  # it may be gone
            async with asyncio.timeout(READ_S):
                await self._is_shown.wait()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None or len(self._visitors) >= MAX_VISITORS:
            writer.transport.abort()
            return
        self._visitors[task] = writer
        try:
            async with asyncio.timeout(READ_S):
                head = await reader.readuntil(b"\r\n\r\n")
            await self._answer(head, writer)
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # a browser's spare connection, or nobody we know
        finally:
            del self._visitors[task]
            writer.transport.abort()

    async def _answer(self, head: bytes, writer: asyncio.StreamWriter) -> None:
        target = _target(head)
        if target is None or urlsplit(target).path != self._path:
            await _send(writer, _NOT_HERE)
            return
        address = self._origin + target
        if not self._is_ours(address) or self._arrived.done():
            await _send(writer, _OTHER)
            return
        self._arrived.set_result(address)
        try:
            async with asyncio.timeout(DECIDE_S):
                page = await asyncio.shield(self._page)
            await _send(writer, page)
        finally:
            self._is_shown.set()


def _listening(host: str, port: int) -> list[socket.socket]:
    if host != "localhost":
        return [socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)]
    # A browser may take either meaning of the name.
    first = socket.create_server(("127.0.0.1", port))
    try:
        return [first, socket.create_server(("::1", first.getsockname()[1]), family=socket.AF_INET6)]
    except OSError:  # no IPv6 on this host: then the browser, on this host too, has none either
        return [first]


def _target(head: bytes) -> str | None:
    """The path and query of a GET in origin form (RFC 9112 3.2.1), None for anything else."""
    words = head.partition(b"\r\n")[0].split(b" ")
    if len(words) != 3 or words[0] != b"GET" or not words[1].startswith(b"/") or not words[2].startswith(b"HTTP/1."):
        return None
    try:
        text = words[1].decode("ascii")
    except UnicodeDecodeError:
        return None
    # Two slashes in front would be read as a host.
    return text if text.isprintable() and not text.startswith("//") else None


async def _send(writer: asyncio.StreamWriter, page: Page) -> None:
    body = _PAGE.format(title=html.escape(page.title), text=html.escape(page.text)).encode()
    head = (
        f"HTTP/1.1 {page.status} {'OK' if page.status == 200 else 'No'}\r\n"
        "Content-Type: text/html; charset=utf-8\r\n"
        f"Content-Length: {len(body)}\r\n"
        "Cache-Control: no-store\r\n"
        "Referrer-Policy: no-referrer\r\n"
        "Content-Security-Policy: default-src 'none'; style-src 'unsafe-inline'\r\n"
        "X-Content-Type-Options: nosniff\r\n"
        "Connection: close\r\n\r\n"
    )
    async with asyncio.timeout(READ_S):
        writer.write(head.encode() + body)
        await writer.drain()
        writer.close()
        await writer.wait_closed()
