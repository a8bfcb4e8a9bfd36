"""The PROXY protocol's header: what a load balancer writes before the first byte of a connection that it hands on.

Reads who the client is, and nothing else. What a header says about TLS counts for nothing here: our own handshake does.
"""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass

from proxy.errors import ProtocolError
from proxy.wire.addresses import normal_address

MAX_HEADER_BYTES = 4096  # v2: addresses take 52, the rest is TLVs; 64 KiB could be announced (outcomes E56)
MAX_LINE_BYTES = 107  # v1: section 2.1, the worst case, CRLF included

_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
_START = struct.Struct("!12sBBH")  # signature, version and command, family and transport, length of what follows
_MAX_PORT = 65_535


@dataclass(frozen=True, slots=True)
class ProxyHeader:
    """size      bytes of the header; what follows is the client's
    source    the client's address, an IPv4-mapped one as IPv4; None if the header gives none that counts, and then
              the connection's own peer is the client
    """

    size: int
    source: str | None


def decode_proxy_header(data: bytes) -> ProxyHeader | None:
    """Read a PROXY protocol v1 or v2 header from the start of a connection.

    data    first bytes of the connection, at most MAX_HEADER_BYTES; they may go beyond the header
    returns None while the header is incomplete: then all of `data` belongs to it; .size is the bytes it used
    raises  ProtocolError if the bytes cannot become a header

    Source: HAProxy proxy-protocol.txt, sections 2.1 (v1) and 2.2 (v2).
    """
    if _may_begin(data, _SIGNATURE):
        return _binary(data)
    if _may_begin(data, b"PROXY TCP4 ", b"PROXY TCP6 ", b"PROXY UNKNOWN ", b"PROXY UNKNOWN\r\n"):
        return _line(data)
    raise ProtocolError("no PROXY header")


def _may_begin(data: bytes, *beginnings: bytes) -> bool:
    return any(data.startswith(beginning) or beginning.startswith(data) for beginning in beginnings)


def _line(data: bytes) -> ProxyHeader | None:
    end = data.find(b"\r\n", 0, MAX_LINE_BYTES)
    if end < 0:
        if len(data) >= MAX_LINE_BYTES:
            raise ProtocolError("PROXY v1 header without an end")
        return None
    size = end + 2
    fields = data[:end].split(b" ")
    # 2.1: what follows UNKNOWN must be ignored, and the connection taken as if there were no header.
    return ProxyHeader(size, None if fields[1] == b"UNKNOWN" else _source(fields))


def _source(fields: list[bytes]) -> str:
    try:
        _, family, *rest = (field.decode("ascii") for field in fields)
        source, destination, *ports = rest
        for address in (source, destination):
            # ipaddress takes no leading zeros either, but the zone of an IPv6 address. A mapped one may have dots in
            # it: inet_ntop(3) writes it so.
            if "%" in address or ipaddress.ip_address(address).version != int(family[-1]):
                raise ValueError("no address of this family")
        if len(ports) != 2 or not all(_is_port(port) for port in ports):
            raise ValueError("no two ports")
        return str(normal_address(source))
    except ValueError:
        raise ProtocolError("malformed PROXY v1 header") from None


def _is_port(text: str) -> bool:
    return text.isdigit() and len(text) <= 5 and str(int(text)) == text and int(text) <= _MAX_PORT


def _binary(data: bytes) -> ProxyHeader | None:
    if len(data) < _START.size:
        return None
    _, version_and_command, family_and_transport, length = _START.unpack_from(data)
    size = _START.size + length
    source_bytes = _source_bytes(version_and_command, family_and_transport)
    if size > MAX_HEADER_BYTES:
        raise ProtocolError("PROXY v2 header is too long")
    if length < 2 * source_bytes + (4 if source_bytes else 0):  # two addresses and, with them, two ports
        raise ProtocolError("PROXY v2 header is too short for its addresses")
    if len(data) < size:
        return None
    # What follows the addresses is TLVs, skipped unread. Their CRC32c is for receivers that support it (2.2.3): we do
    # not, as TCP has its own checksum and the sender is trusted by its address alone.
    source = data[_START.size : _START.size + source_bytes]
    return ProxyHeader(size, str(normal_address(str(ipaddress.ip_address(source)))) if source else None)


def _source_bytes(version_and_command: int, family_and_transport: int) -> int:
    """How long the client's address is; 0 if there is none that counts."""
    match version_and_command:
        case 0x20:  # LOCAL: the load balancer's own connection; the family is ignored
            return 0
        case 0x21:  # PROXY
            pass
        case _:
            raise ProtocolError("PROXY v2 header of an unknown version or command")
    family, transport = divmod(family_and_transport, 16)
    if family > 3 or transport > 2:
        raise ProtocolError("PROXY v2 header of an unknown family or transport")
    # 2.2: a receiver falls back to "unspecified" for what it does not support. Of AF_UNIX and datagrams we have no use.
    return {0x11: 4, 0x21: 16}.get(family_and_transport, 0)
