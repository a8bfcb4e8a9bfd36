"""What known attack tools do, against a real process: TLS scans, injected answers, endless lines and literals."""

from __future__ import annotations

import base64
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests import tls_scan as scan
from tests.edge.scripted import PATIENCE_S, Certificates
from tests.lab import Endpoint
from tests.whole.kit import USER, House, Line, make_house, write_config

FLOOD_BYTES = 64_000_000
PIECE = 65_536
GROWTH_KB = 16_384  # two reads of the event loop and what they are copied to, many times over
LISTENERS = ("imap implicit", "imap starttls", "smtp implicit", "smtp starttls")


@pytest.fixture(scope="module")
def house(template: Path, certificates: Certificates, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    house = make_house(template, tmp_path_factory.mktemp("outside") / "gate")
    write_config(house, certificates)
    house.start()
    try:
        yield house
        assert "Traceback" not in house.log()
    finally:
        house.kill()


# -- TLS --------------------------------------------------------------------------------------------------------------


def address(house: House, listener: str) -> Endpoint:
    return {
        "imap implicit": house.imaps, "imap starttls": house.imap, "smtp implicit": house.smtps,
        "smtp starttls": house.smtp,
    }[listener]  # fmt: skip


@pytest.fixture(params=LISTENERS)
def listener(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def connect(house: House, listener: str) -> scan.Connect:
    """Sockets on which TLS begins now."""

    def call() -> socket.socket:
        line = Line(socket.create_connection(tuple(address(house, listener)), timeout=PATIENCE_S))
        if listener == "imap starttls":
            line.line()
            assert line.ask(b"a STARTTLS").startswith(b"a OK")
        elif listener == "smtp starttls":
            line.line()
            line.answer(b"EHLO scanner.example")
            assert line.ask(b"STARTTLS").startswith(b"220 ")
        return line.sock

    return call


def test_only_tls_1_2_and_1_3_are_spoken(connect: scan.Connect) -> None:
    every = (*sorted(scan.FORWARD_SECRET), *scan.OTHERS)
    for version in (scan.SSL_3, scan.TLS_1_0, scan.TLS_1_1):
        assert isinstance(scan.offer(connect, version, every), scan.Refusal), hex(version)
    assert isinstance(modern := scan.offer(connect, scan.TLS_1_3, scan.TLS_1_3_CIPHERS), scan.Hello)
    assert isinstance(older := scan.offer(connect, scan.TLS_1_2, every), scan.Hello)
    assert (modern.version, older.version) == (scan.TLS_1_3, scan.TLS_1_2)


def test_no_cipher_without_forward_secrecy_or_with_broken_parts_is_taken(connect: scan.Connect) -> None:
    assert isinstance(scan.offer(connect, scan.TLS_1_2, scan.OTHERS), scan.Refusal)
    found = scan.accepted(connect, scan.TLS_1_2, (*scan.OTHERS, *sorted(scan.FORWARD_SECRET)))
    assert len(found) >= 4
    assert set(found) <= scan.FORWARD_SECRET


def test_compression_heartbeat_and_downgrades_are_refused(connect: scan.Connect) -> None:
    ciphers = sorted(scan.FORWARD_SECRET)
    hello = scan.offer(connect, scan.TLS_1_2, ciphers, compressions=(1, 64, 0), extensions=[(scan.HEARTBEAT, b"\x01")])
    assert isinstance(hello, scan.Hello)
    assert hello.compression == 0  # CRIME
    assert scan.HEARTBEAT not in hello.extensions
    assert scan.RENEGOTIATION_INFO in hello.extensions  # RFC 5746
    # A client that was made to fall back from 1.3 says so, and is not served (RFC 7507).
    fallen = scan.offer(connect, scan.TLS_1_2, (*ciphers, scan.FALLBACK_SCSV))
    assert fallen in (scan.Refusal(scan.INAPPROPRIATE_FALLBACK), scan.Refusal(None))  # uvloop closes without the alert


def test_a_client_cannot_renegotiate_and_early_data_is_never_taken(house: House, listener: str) -> None:
    protocol, kind = listener.split()
    starttls = protocol if kind == "starttls" else ""
    said = scan.s_client(tuple(address(house, listener)), starttls, "-tls1_2", "-crlf", say="R\n")
    assert "Cipher is ECDHE" in said
    assert "RENEGOTIATING" in said
    # The last: the server's greeting came where the client waited for a handshake, which there was none.
    assert re.search(r"no renegotiation|ssl handshake failure|unexpected record", said, re.IGNORECASE), said[-500:]
    # TLS 1.3's early data can be replayed; a ticket must not allow any.
    quit_words = {"imap": "a LOGOUT\n", "smtp": "QUIT\n"}[protocol]
    said = scan.s_client(tuple(address(house, listener)), starttls, "-tls1_3", "-crlf", "-ign_eof", say=quit_words)
    assert "Early data was not sent" in said
    assert set(re.findall(r"Max Early Data: (\d+)", said)) <= {"0"}


# -- endless input ----------------------------------------------------------------------------------------------------


def resident_kb(house: House) -> int:
    text = Path(f"/proc/{house.pid()}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", text)[1])  # type: ignore[index]


FLOODS = {
    "imap line": ("imap", b"a1 NOOP ", b"x"),
    "imap line of NULs": ("imap", b"", b"\0"),
    "imap brackets": ("imap", b"a1 ID ", b"("),
    "imap literals": ("imap", b"a1 ID (", b'"k" {4000+}\r\n' + b"x" * 4000 + b" "),
    "imap commands": ("imap", b"", b"a1 NOOP\r\n"),
    "smtp line": ("smtp", b"EHLO ", b"x"),
    "smtp line of NULs": ("smtp", b"", b"\0"),
    "smtp AUTH": ("smtp", b"EHLO x\r\nAUTH PLAIN ", b"A"),
    "smtp line ends": ("smtp", b"", b"\r\n"),
    "smtp carriage returns": ("smtp", b"", b"\r"),
}


@pytest.mark.parametrize("flood", FLOODS)
def test_endless_input_ends_the_connection_or_stops_being_read_in_little_memory(house: House, flood: str) -> None:
    protocol, start, piece = FLOODS[flood]
    port = house.imaps if protocol == "imap" else house.smtps
    before = resident_kb(house)
    line = house.connect(port)
    line.line()
    line.sock.settimeout(2.0)  # what is not read for so long is not read; the deadline before login does the rest
    block = start + piece * (PIECE // len(piece))
    sent = 0
    with suppress(OSError):
        while sent < FLOOD_BYTES:
            line.sock.sendall(block)
            sent += len(block)
            block = piece * (PIECE // len(piece))
            assert resident_kb(house) - before < GROWTH_KB
    assert resident_kb(house) - before < GROWTH_KB
    line.close()
    # Whoever comes next is served.
    client = house.connect(port)
    client.line()
    assert client.ask(b"n NOOP" if protocol == "imap" else b"NOOP").startswith((b"n OK", b"250 "))
    client.close()


# -- a man in the middle of the way upstream --------------------------------------------------------------------------

SCRIPTS = {
    "imap": (
        (b"* OK [CAPABILITY IMAP4rev1 STARTTLS] ready\r\n", b""),
        (b"%b OK begin TLS\r\n* CAPABILITY IMAP4rev1 AUTH=PLAIN\r\n* OK injected\r\n", b"STARTTLS"),
    ),
    "smtp": (
        (b"220 up.example ESMTP\r\n", b""),
        (b"250-up.example\r\n250 STARTTLS\r\n", b"EHLO"),
        (b"220 ready\r\n250-up.example\r\n250 AUTH PLAIN\r\n334 \r\n", b"STARTTLS"),
    ),
}


class InTheMiddle:
    """Follows its script on every connection, then keeps all that it hears until the end of it."""

    def __init__(self, protocol: str) -> None:
        self.heard: list[bytes] = []
        self._script = SCRIPTS[protocol]
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            with sock, suppress(OSError):
                sock.settimeout(PATIENCE_S)
                self._talk(sock)

    def _talk(self, sock: socket.socket) -> None:
        file = sock.makefile("rb")
        for answer, awaited in self._script:
            tag = b""
            while awaited and awaited not in (line := file.readline()):
                tag = line.split(b" ")[0]
                sock.sendall(b"* CAPABILITY IMAP4rev1 STARTTLS\r\n%b OK\r\n" % tag)
                if not line:
                    return
            tag = line.split(b" ")[0] if awaited else b""
            sock.sendall(answer % tag if b"%b" in answer else answer)
        self.heard.append(file.read())

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(PATIENCE_S)


@contextmanager
def in_the_middle(protocol: str) -> Iterator[InTheMiddle]:
    server = InTheMiddle(protocol)
    try:
        yield server
    finally:
        server.close()


@pytest.mark.parametrize("protocol", ["imap", "smtp"])
def test_answers_injected_before_tls_upstream_are_an_outage_and_no_secret_is_sent(
    template: Path, certificates: Certificates, tmp_path: Path, protocol: str
) -> None:
    """Outcomes E2."""
    house = make_house(template, tmp_path / "gate")
    with in_the_middle(protocol) as server:
        write_config(house, certificates, **{protocol: server.port})
        text = house.config.read_text().replace(f'"{protocol}s://localhost', f'"{protocol}://localhost')
        house.config.write_text(text)
        house.start()
        try:
            client = house.connect(house.imaps if protocol == "imap" else house.smtps)
            client.line()
            plain = base64.b64encode(f"\0{USER}\0{house.password}".encode())
            if protocol == "imap":
                answer = client.ask(b"a AUTHENTICATE PLAIN " + plain)
                assert answer.startswith(b"a NO [UNAVAILABLE]")
            else:
                client.answer(b"EHLO client.example")
                assert client.ask(b"AUTH PLAIN " + plain).startswith(b"454 4.7.0 ")
            client.close()
            house.await_log("event=login .*cause=upstream_untrusted")
            assert house.leaked() == []
        finally:
            house.kill()
    assert server.heard
    # Nothing more was said: no command, no secret. (TLS's own records would begin with 0x15 or 0x16.)
    assert [heard for heard in server.heard if heard[:1] not in (b"", b"\x15", b"\x16")] == []
