"""What the logins of a process remember of one upstream: its addresses for seconds, its TLS sessions for minutes.

Whom to trust is not decided here, and forgetting costs one login a look-up or a full handshake.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import ssl
from collections.abc import Callable
from itertools import zip_longest
from time import monotonic
from typing import Any

JOIN_S = 2.0  # a look-up that takes longer may have lost its question: who comes then asks anew
ADDRESSES_S = 5.0  # shorter than any time that DNS gives for moving; and a crowd that comes back asks once
# A session that is resumed brings no certificate: what was verified counts for so long, and resuming prolongs nothing.
SESSION_S = 300.0
MAX_ADDRESSES = 4  # of one name that are tried

Address = tuple[int, Any]  # family, and what connect() takes
Server = tuple[str, int]  # host and port, as configured


class UpstreamMemory:
    """Of one upstream, with the one context of its connections: a session fits no other. Of one event loop."""

    def __init__(self, context: ssl.SSLContext, clock: Callable[[], float] = monotonic) -> None:
        self.context = context
        self._clock = clock
        self._addresses: dict[Server, tuple[float, list[Address]]] = {}
        self._asking: dict[Server, tuple[float, asyncio.Task[list[Address]]]] = {}  # since when
        self._answering: dict[Server, int] = {}  # the family of the last connection that was made
        self._sessions: dict[Server, tuple[float, ssl.SSLSession | None]] = {}

    async def addresses(self, server: Server) -> list[Address]:
        """Where the server is, at most MAX_ADDRESSES. All who ask at one time share one look-up. Raises OSError."""
        until, known = self._addresses.get(server, (0.0, []))
        if self._clock() < until:
            return known
        since, asking = self._asking.get(server, (0.0, None))
        if asking is None or self._clock() - since > JOIN_S:
            asking = asyncio.create_task(self._ask(server))
            asking.add_done_callback(lambda task: self._answered(server, task))
            self._asking[server] = self._clock(), asking
        return await asyncio.shield(asking)  # one who hangs up takes the answer from nobody

    async def _ask(self, server: Server) -> list[Address]:
        try:
            found = await asyncio.get_running_loop().getaddrinfo(*server, type=socket.SOCK_STREAM)
        except UnicodeError:  # IDNA's
            raise OSError(errno.EINVAL, "not a host name") from None
        each: dict[Address, None] = dict.fromkeys((info[0], info[4]) for info in found)
        addresses = _in_turns(list(each), self._answering.get(server))[:MAX_ADDRESSES]
        if not addresses:
            raise OSError(errno.EADDRNOTAVAIL, "no address")
        self._addresses[server] = (self._clock() + ADDRESSES_S, addresses)
        return addresses

    def _answered(self, server: Server, task: asyncio.Task[list[Address]]) -> None:
        if self._asking.get(server, (0.0, None))[1] is task:
            del self._asking[server]
        if not task.cancelled():
            task.exception()  # whoever asked may be gone, and asyncio would complain that nobody saw it

    def prefer_address(self, server: Server, address: Address) -> None:
        """It has answered: until the next look-up logins try it first, and from then on its family.

        Not the address itself: a provider shares its load out by the order of its answers.
        """
        self._answering[server] = address[0]
        until, known = self._addresses.get(server, (0.0, []))
        if address in known[1:]:
            self._addresses[server] = until, [address, *(one for one in known if one != address)]

    def forget_addresses(self, server: Server) -> None:
        """Nobody answered there: the next login asks again."""
        self._addresses.pop(server, None)

    def session(self, server: Server) -> ssl.SSLSession | None:
        """A TLS session to offer to this server (RFC 8446 2.2, RFC 5077)."""
        until, session = self._sessions.get(server, (0.0, None))
        return session if self._clock() < until else None

    def keep_session(self, server: Server, sock: ssl.SSLSocket) -> None:
        """After a login whose certificate was verified: keep its session, if nothing is known of the server.

        Once in SESSION_S and not after each login: to read it costs as much as resuming saves.
        """
        if self._clock() >= self._sessions.get(server, (0.0, None))[0]:
            session = None
            with contextlib.suppress(ValueError, ssl.SSLError):  # more than 65,280 bytes with the certificate: no copy
                session = sock.session
            self._sessions[server] = (self._clock() + SESSION_S, session)

    def drop_session(self, server: Server) -> None:
        """It was offered in vain, or what followed failed, for whatever reason: none is offered for SESSION_S."""
        self._sessions[server] = (self._clock() + SESSION_S, None)


def _in_turns(addresses: list[Address], best: int | None) -> list[Address]:
    """IPv6 and IPv4 in turns, as one may lead nowhere (RFC 8305 4); the best first, or else the resolver's first."""
    families = [family for family, _ in addresses]
    leads = best if best in families else next(iter(families), None)
    first = [one for one in addresses if one[0] == leads]
    second = [one for one in addresses if one[0] != leads]
    return [one for pair in zip_longest(first, second) for one in pair if one is not None]
