"""Whose connection a load balancer hands on: its PROXY header, read before anything else.

Works on the raw socket and takes not one byte more than the header: a TLS ClientHello often rides in the same segment,
and belongs to whoever does the handshake.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence

from proxy.config import Network
from proxy.errors import ProtocolError
from proxy.wire.addresses import Address, normal_address
from proxy.wire.proxy_header import MAX_HEADER_BYTES, ProxyHeader, decode_proxy_header

HEADER_S = 5.0  # outcomes E56; proxy-protocol.txt 2 wants 3 at least, which bears one lost segment


async def client_address(sock: socket.socket, peer: Address, trusted: Sequence[Network]) -> Address:
    """Who the client is, in normal form. Behind it the socket's next byte is the client's own first.

    sock    connected and non-blocking; left open, whatever happens
    peer    the other end of the socket, in normal form
    trusted the load balancers, which must send a header
    raises  ProtocolError if the peer is none of them (then nothing was read), or for a missing or broken header;
            TimeoutError if it did not come in time; OSError
    """
    if not any(peer in network for network in trusted):
        raise ProtocolError("not from a load balancer")
    async with asyncio.timeout(HEADER_S):
        header = await _read(sock)
    return peer if header.source is None else normal_address(header.source)


async def _read(sock: socket.socket) -> ProxyHeader:
    """Look at what is there, then take what belongs to the header.

    As long as a header is incomplete all that came belongs to it. So all of it is taken, nothing is left readable, and
    a sender who trickles wakes us once for each of his segments.
    """
    taken = b""
    while True:
        try:
            seen = sock.recv(MAX_HEADER_BYTES - len(taken), socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            await _readable(sock)
            continue
        if not seen:
            raise ProtocolError("closed within its PROXY header" if taken else "closed before its PROXY header")
        header = decode_proxy_header(taken + seen)
        size = len(taken) + len(seen) if header is None else header.size
        taken += sock.recv(size - len(taken))
        if header is not None:
            return header


async def _readable(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_reader(sock.fileno(), _wake, ready)
    try:
        await ready
    finally:
        loop.remove_reader(sock.fileno())


def _wake(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)
