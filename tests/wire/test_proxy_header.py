"""PROXY headers, whole and byte by byte; what follows a header is never touched, and nothing but it is believed."""

from __future__ import annotations

import ipaddress
import struct

import pytest
from hypothesis import example, given, settings, strategies as st

from proxy.errors import ProtocolError
from proxy.wire.proxy_header import MAX_HEADER_BYTES, MAX_LINE_BYTES, ProxyHeader, decode_proxy_header

SIGNATURE = bytes.fromhex("0d0a0d0a000d0a515549540a")
CLIENT_HELLO = bytes.fromhex("16030100c8010000c40303")
WORST_LINE = b"PROXY UNKNOWN %b %b 65535 65535\r\n" % ((b"ffff:" * 8)[:-1], (b"ffff:" * 8)[:-1])


def v2(command: int, family: int, block: bytes, length: int | None = None) -> bytes:
    return SIGNATURE + struct.pack("!BBH", command, family, len(block) if length is None else length) + block


def addresses(source: str, destination: str, *, tlvs: bytes = b"") -> bytes:
    packed = b"".join(ipaddress.ip_address(text).packed for text in (source, destination))
    return packed + struct.pack("!HH", 40_000, 993) + tlvs


IPV4 = addresses("192.0.2.7", "198.51.100.1")
IPV6 = addresses("2001:db8::7", "2001:db8::1")
SSL_TLV = b"\x20\x00\x05\x01\x00\x00\x00\x00"  # PP2_TYPE_SSL: "the client came by TLS, and has a good certificate"
WRONG_CRC_TLV = b"\x03\x00\x04\xde\xad\xbe\xef"

GOOD: dict[str, tuple[bytes, str | None]] = {
    "v1 IPv4": (b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 993\r\n", "192.0.2.7"),
    "v1 IPv4, longest": (b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n", "255.255.255.255"),
    "v1 IPv6": (b"PROXY TCP6 2001:DB8::7 ::1 0 993\r\n", "2001:db8::7"),
    "v1 IPv6, longest": (
        b"PROXY TCP6 %b %b 65535 65535\r\n" % ((b"ffff:" * 8)[:-1], (b"ffff:" * 8)[:-1]),
        "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
    ),
    "v1 IPv4-mapped": (b"PROXY TCP6 ::ffff:c000:207 ::ffff:198.51.100.1 40000 993\r\n", "192.0.2.7"),
    "v1 unknown": (b"PROXY UNKNOWN\r\n", None),
    "v1 unknown, with anything": (b"PROXY UNKNOWN \xff\n\r TCP4 1.2.3.4\r\n", None),
    "v1 unknown, longest": (WORST_LINE, None),
    "v2 IPv4": (v2(0x21, 0x11, IPV4), "192.0.2.7"),
    "v2 IPv6": (v2(0x21, 0x21, IPV6), "2001:db8::7"),
    "v2 IPv4-mapped": (v2(0x21, 0x21, addresses("::ffff:192.0.2.7", "::1")), "192.0.2.7"),
    "v2 with TLVs": (v2(0x21, 0x11, IPV4 + SSL_TLV + WRONG_CRC_TLV), "192.0.2.7"),
    "v2 with a TLV beyond its end": (v2(0x21, 0x11, IPV4 + b"\x04\xff\xff"), "192.0.2.7"),
    "v2 longest": (v2(0x21, 0x11, IPV4 + bytes(MAX_HEADER_BYTES - 28)), "192.0.2.7"),
    "v2 local": (v2(0x20, 0x00, b""), None),
    "v2 local with an address": (v2(0x20, 0x11, IPV4), None),
    "v2 local of a family that is ignored": (v2(0x20, 0xFF, b"abc"), None),
    "v2 unspecified": (v2(0x21, 0x00, b""), None),
    "v2 unspecified with bytes": (v2(0x21, 0x00, IPV4), None),
    "v2 UDP over IPv4": (v2(0x21, 0x12, IPV4), None),
    "v2 AF_UNIX": (v2(0x21, 0x31, b"/run/client.sock".ljust(216, b"\0")), None),
}

BAD: dict[str, bytes] = {
    "TLS": CLIENT_HELLO,
    "IMAP": b"a1 CAPABILITY\r\n",
    "v1 in small letters": b"proxy TCP4 192.0.2.7 192.0.2.1 1 2\r\n",
    "v1 without family": b"PROXY \r\n",
    "v1 UDP": b"PROXY UDP4 192.0.2.7 192.0.2.1 1 2\r\n",
    "v1 unknown with more in the word": b"PROXY UNKNOWNX\r\n",
    "v1 without addresses": b"PROXY TCP4 \r\n",
    "v1 without ports": b"PROXY TCP4 192.0.2.7 192.0.2.1\r\n",
    "v1 with one port": b"PROXY TCP4 192.0.2.7 192.0.2.1 1\r\n",
    "v1 with three ports": b"PROXY TCP4 192.0.2.7 192.0.2.1 1 2 3\r\n",
    "v1 with two spaces": b"PROXY TCP4 192.0.2.7  192.0.2.1 1 2\r\n",
    "v1 with a space at the end": b"PROXY TCP4 192.0.2.7 192.0.2.1 1 2 \r\n",
    "v1 IPv6 in TCP4": b"PROXY TCP4 ::1 ::1 1 2\r\n",
    "v1 IPv4 in TCP6": b"PROXY TCP6 192.0.2.7 192.0.2.1 1 2\r\n",
    "v1 destination of another family": b"PROXY TCP4 192.0.2.7 ::1 1 2\r\n",
    "v1 octal": b"PROXY TCP4 192.0.2.07 192.0.2.1 1 2\r\n",
    "v1 number out of range": b"PROXY TCP4 192.0.2.256 192.0.2.1 1 2\r\n",
    "v1 three numbers": b"PROXY TCP4 192.0.2 192.0.2.1 1 2\r\n",
    "v1 name": b"PROXY TCP4 localhost 192.0.2.1 1 2\r\n",
    "v1 zone": b"PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n",
    "v1 port with a zero": b"PROXY TCP4 192.0.2.7 192.0.2.1 01 2\r\n",
    "v1 port out of range": b"PROXY TCP4 192.0.2.7 192.0.2.1 65536 2\r\n",
    "v1 port with a sign": b"PROXY TCP4 192.0.2.7 192.0.2.1 -1 2\r\n",
    "v1 port in other digits": "PROXY TCP4 192.0.2.7 192.0.2.1 \u0661 2\r\n".encode(),
    "v1 bare line feed": b"PROXY TCP4 192.0.2.7 192.0.2.1 1 2\nA1 NOOP\r\n",
    "v1 bare carriage return": b"PROXY TCP4 192.0.2.7 192.0.2.1 1 2\rA1 NOOP\r\n",
    "v1 one byte too long": WORST_LINE.replace(b" 65535\r", b" 655350\r"),
    "v1 without an end": b"PROXY UNKNOWN " + b"x" * MAX_LINE_BYTES,
    "v2 of another version": v2(0x11, 0x11, IPV4),
    "v2 of another command": v2(0x22, 0x11, IPV4),
    "v2 of another family": v2(0x21, 0x41, IPV4),
    "v2 of another transport": v2(0x21, 0x13, IPV4),
    "v2 too short for IPv4": v2(0x21, 0x11, IPV4[:-1]),
    "v2 too short for IPv6": v2(0x21, 0x21, IPV6[:-1]),
    "v2 one byte too long": v2(0x21, 0x11, IPV4, MAX_HEADER_BYTES - 15),
    "v2 longest of all": v2(0x21, 0x11, IPV4, 0xFFFF),
    "v2 local, too long": v2(0x20, 0x00, b"", 0xFFFF),
    "v2 signature with a wrong end": SIGNATURE[:-1] + b"\r",
}


@pytest.mark.parametrize("case", GOOD)
def test_header_is_read_to_its_last_byte_and_no_further(case: str) -> None:
    data, source = GOOD[case]
    assert decode_proxy_header(data) == ProxyHeader(len(data), source)
    assert decode_proxy_header(data + CLIENT_HELLO) == ProxyHeader(len(data), source)


@pytest.mark.parametrize("case", GOOD)
def test_header_is_incomplete_until_its_last_byte(case: str) -> None:
    data, _ = GOOD[case]
    assert [decode_proxy_header(data[:size]) for size in range(len(data))] == [None] * len(data)


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_header_is_refused(case: str) -> None:
    with pytest.raises(ProtocolError):
        decode_proxy_header(BAD[case])


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_header_is_refused_byte_by_byte_and_never_for_what_it_could_still_become(case: str) -> None:
    data = BAD[case]
    for size in range(len(data) + 1):
        try:
            assert decode_proxy_header(data[:size]) is None
        except ProtocolError:
            break
    else:
        pytest.fail("nobody refused it")


def test_a_wrong_protocol_is_known_by_its_first_bytes() -> None:
    for data in (b"\x16", b"a", b"PROXX", b"\r\n\r\n\r", b"PROXY UDP", b"PROXY TCP5"):
        with pytest.raises(ProtocolError):
            decode_proxy_header(data)


def test_a_length_that_lies_is_refused_before_the_bytes_are_there() -> None:
    with pytest.raises(ProtocolError, match="too long"):
        decode_proxy_header(BAD["v2 longest of all"][:16])
    with pytest.raises(ProtocolError, match="too short"):
        decode_proxy_header(BAD["v2 too short for IPv6"][:16])


def test_bounds_are_those_of_the_specification() -> None:
    assert len(WORST_LINE) == MAX_LINE_BYTES
    assert len(GOOD["v2 longest"][0]) == MAX_HEADER_BYTES


def test_no_error_repeats_what_was_sent() -> None:
    with pytest.raises(ProtocolError) as caught:
        decode_proxy_header(b"PROXY TCP4 hunter2 192.0.2.1 1 2\r\n")
    assert "hunter2" not in str(caught.value)
    assert caught.value.__suppress_context__


anything = st.one_of(
    st.binary(max_size=200),
    st.binary(max_size=200).map(SIGNATURE.__add__),
    st.binary(max_size=200).map((SIGNATURE + b"\x21\x11\0").__add__),
    st.binary(max_size=120).map(lambda rest: b"PROXY TCP4 " + rest + b"\r\n"),
    st.text("0123456789.: \r\nPROXYTC46", max_size=100).map(lambda rest: b"PROXY TCP6 " + rest.encode()),
)


@settings(max_examples=500, deadline=None)
@given(anything)
@example(b"")
def test_any_bytes_are_a_header_or_incomplete_or_refused(data: bytes) -> None:
    try:
        header = decode_proxy_header(data)
    except ProtocolError:
        return
    if header is not None:
        assert 15 <= header.size <= len(data)
        assert decode_proxy_header(data[: header.size]) == header
        assert decode_proxy_header(data[: header.size - 1]) is None


@settings(max_examples=200, deadline=None)
@given(st.ip_addresses(), st.integers(0, 65_535), st.binary(max_size=50), st.booleans())
def test_every_address_survives(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int, rest: bytes, is_binary: bool
) -> None:
    version = address.version
    if is_binary:
        block = address.packed * 2 + struct.pack("!HH", port, port)
        head = v2(0x21, 0x11 if version == 4 else 0x21, block)
    else:
        head = f"PROXY TCP{version} {address} {address} {port} {port}\r\n".encode()
    mapped = getattr(address, "ipv4_mapped", None)
    assert decode_proxy_header(head + rest) == ProxyHeader(len(head), str(mapped or address))
