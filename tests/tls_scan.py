"""A small TLS scanner: ClientHellos made by hand, so that also what no TLS library offers any more can be asked for.

It reads the server's first answer and no further; what needs a whole handshake is asked of openssl's s_client.
"""

from __future__ import annotations

import os
import socket
import struct
import subprocess
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

TIMEOUT_S = 10.0
SSL_3, TLS_1_0, TLS_1_1, TLS_1_2, TLS_1_3 = 0x0300, 0x0301, 0x0302, 0x0303, 0x0304
FALLBACK_SCSV = 0x5600  # RFC 7507: "I tried a newer version before"
INAPPROPRIATE_FALLBACK = 86
RENEGOTIATION_INFO, HEARTBEAT, SUPPORTED_VERSIONS = 0xFF01, 15, 43

TLS_1_3_CIPHERS = (0x1301, 0x1302, 0x1303)
# Elliptic-curve or finite-field Diffie-Hellman, authenticated, with AES-GCM, ChaCha20 or CBC under SHA-2 (RFC 5288,
# 5289, 7905): forward secrecy, and none of the broken parts.
FORWARD_SECRET = {
    *(0x009E, 0x009F, 0x0067, 0x006B, 0xC02B, 0xC02C, 0xC02F, 0xC030, 0xC023, 0xC024, 0xC027, 0xC028),
    *(0xCCA8, 0xCCA9, 0xCCAA),
}
# Every other cipher of the registry up to TLS 1.2: NULL, export, RC4, DES, 3DES, anonymous, static RSA, PSK, SHA-1.
OTHERS = tuple(number for number in (*range(0x0001, 0x00C8), *range(0xC001, 0xC0B5)) if number not in FORWARD_SECRET)

Connect = Callable[[], socket.socket]


@dataclass(frozen=True)
class Hello:
    """A ServerHello. `extensions` are numbers."""

    version: int
    cipher: int
    compression: int
    extensions: frozenset[int]


@dataclass(frozen=True)
class Refusal:
    """An alert's description, or None for a closed connection."""

    alert: int | None


def offer(
    connect: Connect,
    version: int,
    ciphers: Sequence[int],
    *,
    compressions: Sequence[int] = (0,),
    extensions: Iterable[tuple[int, bytes]] = (),
) -> Hello | Refusal:
    """Say hello with exactly this and read what the server makes of it.

    connect    a socket on which TLS begins now
    version    the newest; with TLS_1_3 nothing older is offered
    """
    body = struct.pack("!H", min(version, TLS_1_2)) + os.urandom(32) + b"\0"
    body += _vector(2, b"".join(struct.pack("!H", cipher) for cipher in ciphers))
    body += _vector(1, bytes(compressions))
    if version > SSL_3:
        body += _vector(
            2, b"".join(struct.pack("!H", kind) + _vector(2, data) for kind, data in (*_usual(version), *extensions))
        )
    handshake = b"\x01" + struct.pack("!I", len(body))[1:] + body
    sock = connect()
    with sock:
        sock.sendall(b"\x16" + struct.pack("!H", min(version, TLS_1_0)) + _vector(2, handshake))
        return _answer(sock)


def accepted(connect: Connect, version: int, ciphers: Iterable[int]) -> list[int]:
    """Which of the ciphers the server takes, in the order in which it prefers them."""
    left, found = list(ciphers), []
    while left and isinstance(hello := offer(connect, version, left), Hello):
        found.append(hello.cipher)
        left.remove(hello.cipher)
    return found


def s_client(address: tuple[str, int], starttls: str, *words: str, say: str = "") -> str:
    """What openssl s_client prints; `starttls` is "" where TLS begins at once. `say` goes to its standard input."""
    host, port = address
    done = subprocess.run(
        ["openssl", "s_client", "-connect", f"{host}:{port}", *(("-starttls", starttls) if starttls else ()), *words],
        check=False, input=say, capture_output=True, text=True, errors="replace", timeout=30,
    )  # fmt: skip
    return done.stdout + done.stderr


def _vector(size: int, data: bytes) -> bytes:
    return len(data).to_bytes(size, "big") + data


def _usual(version: int) -> list[tuple[int, bytes]]:
    """Groups, point formats, signatures by anything, the empty renegotiation_info; for 1.3 its own two."""
    groups = _vector(2, bytes.fromhex("001d00170018001901000101"))
    signatures = bytes.fromhex("0403050306030807080808090804080a0805080b0806040105010601030302030301020103020202")
    found = [(10, groups), (11, b"\x01\x00"), (13, _vector(2, signatures)), (RENEGOTIATION_INFO, b"\0")]
    if version == TLS_1_3:
        key = _vector(2, struct.pack("!H", 0x001D) + _vector(2, os.urandom(32)))
        found += [(SUPPORTED_VERSIONS, b"\x02" + struct.pack("!H", TLS_1_3)), (51, key)]
    return found


def _answer(sock: socket.socket) -> Hello | Refusal:
    try:
        kind, _, size = struct.unpack("!BHH", _exactly(sock, 5))
        data = _exactly(sock, size)
    except (EOFError, ConnectionError):
        return Refusal(None)
    if kind == 21:
        return Refusal(data[1])
    if kind != 22 or data[0] != 2:
        return Refusal(None)
    version = struct.unpack("!H", data[4:6])[0]
    at = 38 + 1 + data[38]
    cipher, compression = struct.unpack("!HB", data[at : at + 3])
    extensions: dict[int, bytes] = {}
    at += 5
    while at + 4 <= len(data):
        number, length = struct.unpack("!HH", data[at : at + 4])
        extensions[number] = data[at + 4 : at + 4 + length]
        at += 4 + length
    if SUPPORTED_VERSIONS in extensions:
        version = struct.unpack("!H", extensions[SUPPORTED_VERSIONS])[0]
    return Hello(version, cipher, compression, frozenset(extensions))


def _exactly(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = sock.recv(size - len(data))
        if not more:
            raise EOFError
        data += more
    return data
