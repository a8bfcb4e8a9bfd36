"""The PROXY header: read to its last byte and no further, alike however it trickles, or refused."""

from __future__ import annotations

import asyncio
import ipaddress
import socket

from proxy.edge.forwarded import client_address
from proxy.errors import ProtocolError
from proxy.wire.addresses import normal_address
from proxy.wire.proxy_header import MAX_HEADER_BYTES, ProxyHeader, decode_proxy_header
from tests.fuzz.kit import LOOP, alike, demand, read_input

TOKENS = (
    b"PROXY TCP4 ", b"PROXY TCP6 ", b"PROXY UNKNOWN", b"192.0.2.1 ", b"::1 ", b"::ffff:192.0.2.1 ", b"1", b"65535",
    b"65536", b" ", b"\r\n", b"\r", b"\r\n\r\n\0\r\nQUIT\n", b"\x21\x11", b"\x21\x21", b"\x20\x00", b"\x21\x31",
    b"\0\x0c", b"\0\x24", b"\x0f\xf0", b"\x0f\xf1", b"\xc0\0\2\1\xc0\0\2\2\1\0\1\0", b"\x16\x03\x01\x02\0\1", b"%eth0",
    b"fe80::1%1 ", b"\xfe\x40\0",
)  # fmt: skip
PEER = ipaddress.ip_address("127.0.0.1")
TRUSTED = (ipaddress.ip_network("127.0.0.0/8"),)


def one(data: bytes) -> None:
    given = read_input(data)
    stream = given.stream[: MAX_HEADER_BYTES + 512]
    outcome = _decoded(stream[:MAX_HEADER_BYTES])
    _prefixes(stream, outcome)
    if isinstance(outcome, ProxyHeader):
        demand(0 < outcome.size <= min(len(stream), MAX_HEADER_BYTES), "a size beyond the header", outcome)
        if outcome.source is not None:
            demand(str(normal_address(outcome.source)) == outcome.source, "not the normal form", outcome.source)
    found = LOOP.run(lambda: _over_a_socket(stream))
    if isinstance(outcome, ProxyHeader):
        wanted = str(PEER) if outcome.source is None else outcome.source
        demand(found == (wanted, stream[outcome.size :]), "the socket tells another story", found, wanted)
    else:
        demand(found is None, "a broken header is taken", found)


def _prefixes(stream: bytes, outcome: ProxyHeader | ProtocolError | None) -> None:
    """More bytes never change what was decided; a header is decided at its last byte."""
    step = max(1, len(stream) // 64)
    decided = [_decoded(stream[:end]) for end in range(0, min(len(stream), MAX_HEADER_BYTES), step)]
    first = next((one for one in decided if one is not None), outcome)
    after = [one for one in decided if one is not None]
    if isinstance(outcome, ProxyHeader):
        alike([outcome, *after], "more bytes change a header")
        demand(_decoded(stream[: outcome.size - 1]) is None, "a header is done before its end", outcome)
        demand(_decoded(stream[: outcome.size]) == outcome, "a header needs more than itself", outcome)
    elif outcome is None:
        demand(not after, "it was decided, and is not any more", after)
    else:
        demand(not isinstance(first, ProxyHeader), "it was a header, and is none any more", first)


def _decoded(data: bytes) -> ProxyHeader | ProtocolError | None:
    try:
        return decode_proxy_header(data)
    except ProtocolError as error:
        return error


async def _over_a_socket(stream: bytes) -> tuple[str, bytes] | None:
    """Who the client is and what is left to read; None if the header was refused."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        half = len(stream) // 2
        theirs.sendall(stream[:half])
        asking = asyncio.ensure_future(client_address(ours, PEER, TRUSTED))
        await asyncio.sleep(0)
        theirs.sendall(stream[half:])
        theirs.shutdown(socket.SHUT_WR)
        try:
            address = await asking
        except ProtocolError:
            return None
        left = b""
        while more := ours.recv(65_536):
            left += more
        return str(address), left
