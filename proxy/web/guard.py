"""What surrounds every page: who comes, from where, how often; the headers of every answer; one line of the log.

It looks at the head of a request alone. The path is logged, never the query, which holds the code of a sign-in.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from time import monotonic
from traceback import extract_tb
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from proxy.config import WebConfig
from proxy.logs import Line
from proxy.web.rates import REQUESTS, Rates, network_of
from proxy.wire.addresses import normal_address

logger = logging.getLogger("gatepost.web")

# Nothing inline, nothing from elsewhere, no frame around it, no form to elsewhere.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
STATIC = "/static/"
SIGNED_IN = "/signed-in"
MACHINES = (
    "/.well-known/autoconfig/",
    "/mail/config-v1.1.xml",
    "/autodiscover/",
    "/Autodiscover/",
    "/apple.mobileconfig",
)
MAX_LOGGED = 120  # characters of a path
FRAMES = 8  # of a crash that the log shows


class Guard:
    """ASGI middleware; `plain` answers without the page: (scope, receive, send, status)."""

    def __init__(
        self, app: ASGIApp, web: WebConfig, rates: Rates, plain: Callable[[Scope, Receive, Send, int], object]
    ) -> None:
        self._app = app
        self._web = web
        self._rates = rates
        self._plain = plain
        self._proxies = web.trusted_proxies
        self._origin = web.public_url
        self._host = urlsplit(web.public_url).netloc

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = monotonic()
        headers = Headers(scope=scope)
        peer = _normal(scope["client"][0]) if scope["client"] else ""
        address = self._address(peer, headers)
        scope["state"] = {**scope.get("state", {}), "address": address or peer}
        status = 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                self._dress(scope["path"], MutableHeaders(scope=message))
            await send(message)

        refusal = self._refusal(scope, headers, address)
        try:
            if refusal:
                await self._plain(scope, receive, answer, refusal)  # type: ignore[misc]
            else:
                await self._app(scope, receive, answer)
        except Exception as error:  # noqa: BLE001 - a page's bug must not end the process, and it is logged
            # The text of an exception may repeat what was sent, so the log has where it happened and no more.
            frames = [f"{frame.filename}:{frame.lineno}" for frame in extract_tb(error.__traceback__)[-FRAMES:]]
            fields = {"path": scope["path"][:MAX_LOGGED], "error": type(error).__name__, "at": " < ".join(frames[::-1])}
            logger.critical("%s", Line("web_crashed", **fields))
            if not status:
                await self._plain(scope, receive, answer, 500)  # type: ignore[misc]
        finally:
            logger.log(
                logging.DEBUG if scope["path"].startswith(STATIC) else logging.INFO,
                "%s",
                Line(
                    "web",
                    method=scope["method"],
                    path=scope["path"][:MAX_LOGGED],
                    status=status,
                    peer=address or peer,
                    ms=round((monotonic() - begun) * 1000),
                ),
            )

    def _address(self, peer: str, headers: Headers) -> str:
        """Who is there: the peer, or whom a trusted proxy names; "" for a peer who is no such proxy."""
        if not self._proxies:
            return peer
        if not self._is_proxy(peer):
            return ""
        named = ",".join(headers.getlist("x-forwarded-for")).split(",")
        hops = [_normal(hop.strip()) for hop in reversed(named)]
        # From the nearest outwards: the first that no proxy of ours is; what stands behind it anybody may have written.
        return next((hop for hop in hops if hop and not self._is_proxy(hop)), peer)

    def _is_proxy(self, hop: str) -> bool:
        try:
            address = normal_address(hop)
        except ValueError:
            return False
        return any(address in network for network in self._proxies)

    def _refusal(self, scope: Scope, headers: Headers, address: str) -> int:
        """The status of a request that no page is to see, 0 for the others."""
        is_post = scope["method"] == "POST"
        if not address:
            return 403
        if not is_post and scope["method"] not in ("GET", "HEAD"):
            return 405
        if not self._rates.take(REQUESTS, network_of(address)):
            return 429
        if scope["path"].startswith(MACHINES):
            return 0  # mail programs: under other names of the host, and without an Origin
        # A proxy may put another name; nothing is made of it but this refusal, which keeps DNS rebinding out.
        if not self._proxies and headers.get("host", "").lower() != self._host:
            return 421
        return 403 if is_post and headers.get("origin") != self._origin else 0

    def _dress(self, path: str, headers: MutableHeaders) -> None:
        is_static = path.startswith(STATIC)
        headers["cache-control"] = "public, max-age=3600" if is_static else "no-store"
        headers["content-security-policy"] = CONTENT_SECURITY_POLICY
        headers["x-content-type-options"] = "nosniff"
        headers["x-frame-options"] = "DENY"  # for browsers that do not know frame-ancestors
        # With no-referrer a browser's Origin of a form is "null" (Fetch, "append a request Origin header"), which
        # could be anybody's; nothing leaves this origin with same-origin either. The one address with a code has none.
        headers["referrer-policy"] = "no-referrer" if path == SIGNED_IN else "same-origin"
        headers["cross-origin-opener-policy"] = "same-origin"
        headers["cross-origin-resource-policy"] = "same-origin"
        headers["permissions-policy"] = "camera=(), geolocation=(), microphone=(), payment=()"
        if self._origin.startswith("https://"):
            headers["strict-transport-security"] = "max-age=31536000"


def _normal(hop: str) -> str:
    """An address as rules, buckets and the audit have it; what is none stays as it was written.

    A page on "::" takes IPv4 as well, and its visitors come as IPv4-mapped addresses (outcomes E57).
    """
    try:
        return str(normal_address(hop))
    except ValueError:
        return hop
