"""Dialling a mail server upstream: the one door to upstream_imap and upstream_smtp.

Every call has a deadline, leaves no connection behind when it fails or is cancelled, and raises UpstreamError only.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from proxy.config import Endpoint, Mechanism, Protocol, UpstreamConfig
from proxy.edge import upstream_imap, upstream_smtp
from proxy.edge.tls import client_context
from proxy.edge.upstream_leg import Connection, Leg
from proxy.edge.upstream_memory import UpstreamMemory
from proxy.errors import ConfigError, UpstreamError, UpstreamFault
from proxy.wire.sasl import UpstreamCredential

__all__ = ["DIAL_S", "Connection", "dial", "examine", "probe"]

DIAL_S = 10.0  # of the 25 s that a login may take: 5 are for its queue, 10 for a token (login/service)

# What says nothing of a login, and so may come from a TLS session that should not have been resumed.
_OF_THE_CONNECTION = frozenset(
    {UpstreamFault.UNREACHABLE, UpstreamFault.UNTRUSTED, UpstreamFault.SILENT, UpstreamFault.GARBAGE}
)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Face:
    """What this module asks of a protocol: each on an open leg, in the clear, each raises UpstreamError."""

    login: Callable[[Leg, Endpoint, UpstreamCredential, Mechanism], Awaitable[Connection]]
    offers: Callable[[Leg, Endpoint], Awaitable[tuple[str, ...]]]
    objection: Callable[[Leg, Endpoint, UpstreamCredential, Mechanism], Awaitable[str]]
    farewell: bytes


_FACES: dict[Protocol, Face] = {
    "imap": Face(upstream_imap.login, upstream_imap.offers, upstream_imap.objection, upstream_imap.FAREWELL),
    "smtp": Face(upstream_smtp.login, upstream_smtp.offers, upstream_smtp.objection, upstream_smtp.FAREWELL),
}


async def dial(
    upstream: UpstreamConfig, protocol: Protocol, credential: UpstreamCredential, *, deadline_s: float = DIAL_S
) -> Connection:
    """Connect, secure and log in.

    returns a Connection that the caller must hand over or abort
    raises  UpstreamError
    """
    face = _FACES[protocol]
    _, connection = await _within(
        deadline_s,
        upstream,
        protocol,
        lambda leg, end: face.login(leg, end, credential, upstream.mechanism),
    )
    return connection


async def probe(upstream: UpstreamConfig, protocol: Protocol, *, deadline_s: float = DIAL_S) -> tuple[str, ...]:
    """What the server offers behind TLS, before login: IMAP capabilities or EHLO lines. Raises UpstreamError."""
    face = _FACES[protocol]
    leg, offers = await _within(deadline_s, upstream, protocol, face.offers)
    await _part(leg, face.farewell)
    return offers


async def examine(
    upstream: UpstreamConfig, protocol: Protocol, credential: UpstreamCredential, *, deadline_s: float = DIAL_S
) -> str:
    """Log in and ask for something that only a usable mailbox answers, for the doctor (outcomes E42).

    returns "" if all is well, else the server's sentence, as in "BAD User is authenticated but not connected"
    raises  UpstreamError if it does not even let us in
    """
    face = _FACES[protocol]
    leg, objection = await _within(
        deadline_s,
        upstream,
        protocol,
        lambda leg, end: face.objection(leg, end, credential, upstream.mechanism),
    )
    await _part(leg, face.farewell)
    return objection


async def _within(
    deadline_s: float,
    upstream: UpstreamConfig,
    protocol: Protocol,
    talk: Callable[[Leg, Endpoint], Awaitable[T]],
) -> tuple[Leg, T]:
    """Open a leg and talk on it until the deadline; on any failure, also cancellation, the leg is aborted."""
    endpoint = upstream.endpoint(protocol)
    if endpoint is None:
        raise UpstreamError(UpstreamFault.UNREACHABLE, f"no {protocol} server is configured")
    try:
        memory = _memory(upstream)
    except ConfigError as error:
        raise UpstreamError(UpstreamFault.UNTRUSTED, str(error)) from None
    leg = Leg(memory)
    try:
        async with asyncio.timeout(deadline_s):
            await leg.open(endpoint.host, endpoint.port)
            result = await talk(leg, endpoint)
        leg.keep_session()
    except TimeoutError:
        leg.doubt_session()
        leg.abort()
        raise UpstreamError(UpstreamFault.SILENT, leg.said) from None
    except UpstreamError as error:
        if error.fault in _OF_THE_CONNECTION:
            leg.doubt_session()
        leg.abort()
        raise
    except BaseException:
        leg.abort()
        raise
    return leg, result


async def _part(leg: Leg, farewell: bytes) -> None:
    try:
        await leg.part(farewell)
    finally:
        leg.abort()


@functools.lru_cache(maxsize=64)
def _memory(upstream: UpstreamConfig) -> UpstreamMemory:
    # Reading the system's roots takes 20 ms of the event loop; a login must not pay for it. New
    # roots come with the next workers: by a restart, or a reload that changes the configuration.
    return UpstreamMemory(client_context(upstream))
