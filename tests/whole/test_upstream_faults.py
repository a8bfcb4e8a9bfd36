"""Outcomes E27, E40, E43 with a real process: an upstream that is silent, resets, floods, or is somebody else.

Nobody hears OK or 250 that the upstream did not say, no password is called wrong, and when the upstream is well again
nothing has to be done here.
"""

from __future__ import annotations

import base64
import socket
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace

import pytest

from proxy.login.service import LOGIN_S
from tests.edge.scripted import Certificates
from tests.whole.kit import USER, House, Line, MailServer, mail_server, write_config
from tests.whole.test_memory import resident_kib

LONG_LINE = 100_000_000
CHUNK = b"x" * 65_536
FLOOD_BOUND_KIB = 8 * 1024
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close() drops what is unsent and sends RST
Login = Callable[[Line], bool]


def always_ok(line: Line) -> None:
    while said := line.sock.recv(1000):
        line.send(said.split(b" ", 1)[0] + b" OK\r\n")


def reset(line: Line) -> None:
    line.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    line.close()


def silent(line: Line) -> bool:
    line.until_gone()
    return False


def garbage(line: Line) -> bool:
    line.send(bytes(range(256)) * 64 + b"\r\n")
    line.until_gone()
    return False


def one_long_line(line: Line) -> bool:
    with suppress(OSError):  # whoever reads it has had enough long before
        for _ in range(LONG_LINE // len(CHUNK)):
            line.send(CHUNK)
    return False


def gone(line: Line) -> bool:
    reset(line)
    return False


def answers(house: House) -> list[bytes]:
    """What a login hears by both protocols, at the same time."""
    plain = base64.b64encode(f"\0{USER}\0{house.password}".encode())

    def imap() -> bytes:
        client = house.connect(house.imaps)
        client.sock.settimeout(LOGIN_S)
        client.line()
        said = client.ask(b"a AUTHENTICATE PLAIN " + plain)
        client.close()
        return said

    def smtp() -> bytes:
        client = house.connect(house.smtps)
        client.sock.settimeout(LOGIN_S)
        client.line()
        client.answer(b"EHLO client.example")
        said = client.ask(b"AUTH PLAIN " + plain)
        client.close()
        return said

    with ThreadPoolExecutor(2) as threads:
        return [future.result() for future in [threads.submit(imap), threads.submit(smtp)]]


@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        (silent, "upstream_down"),  # ten seconds: that is the deadline of a dial
        (garbage, "upstream_down"),
        (one_long_line, "upstream_down"),
        (gone, "upstream_down"),
        (None, "upstream_untrusted"),
    ],
    ids=["silent", "garbage", "100 MB in one line", "reset", "a certificate of another name"],
)
def test_an_upstream_that_cannot_be_spoken_with_is_unavailable_until_it_is_well(
    house: House, certificates: Certificates, fault: Login | None, cause: str
) -> None:
    with (
        mail_server(certificates, "imap", always_ok) as imap,
        mail_server(certificates, "smtp", always_ok) as smtp,
    ):
        write_config(house, certificates, imap=imap.port, smtp=smtp.port)
        house.start()
        assert answers(house)[0].startswith(b"a OK")  # what the first of all costs is not of interest
        before = resident_kib(house.pid())
        servers: list[MailServer] = [imap, smtp]
        well = [(server._certificates, server._login) for server in servers]
        for server in servers:
            if fault is None:
                server._certificates = replace(certificates, good=certificates.other_name)
            else:
                server._login = fault
        said = answers(house)
        assert (said[0][:18], said[1][:10]) == (b"a NO [UNAVAILABLE]", b"454 4.7.0 ")
        assert house.log().count(f"result=refused cause={cause} ") == 2
        assert resident_kib(house.pid()) - before < FLOOD_BOUND_KIB
        for server, (kept, login) in zip(servers, well, strict=True):
            server._certificates, server._login = kept, login
        said = answers(house)
        assert (said[0][:4], said[1][:4]) == (b"a OK", b"235 ")
        assert house.stop() == 0
    assert "Traceback" not in house.log()


def test_an_upstream_that_resets_amid_a_fetch_ends_the_client_with_what_had_come(
    house: House, certificates: Certificates
) -> None:
    """Outcomes E43."""
    begin = b"* 1 FETCH (BODY[] {1000000}\r\n" + b"y" * 5000
    go = [b""]

    def talk(line: Line) -> None:
        assert line.line() == b"a2 FETCH 1 BODY[]"
        line.send(begin)
        go[0] = line.line()  # the client has had it all, and says so
        reset(line)

    with mail_server(certificates, "imap", talk) as upstream:
        write_config(house, certificates, imap=upstream.port)
        house.start()
        client = house.imap_session()
        client.send(b"a2 FETCH 1 BODY[]\r\n")
        heard = b""
        while len(heard) < len(begin):
            heard += client.sock.recv(65_536)
        client.send(b"a3 NOOP\r\n")
        assert heard + client.rest() == begin  # and its end is a clean one
        assert go == [b"a3 NOOP"]
        client.close()
        house.await_log("event=session_end .*reason=upstream_left")
        assert house.stop() == 0
    assert "Traceback" not in house.log()


@pytest.mark.parametrize("is_whole", [False, True], ids=["amid the message", "behind its dot"])
def test_an_upstream_that_resets_before_its_250_is_no_250(
    house: House, certificates: Certificates, *, is_whole: bool
) -> None:
    """Outcomes E43."""
    message = b"Subject: lost\r\n\r\nText" + (b"\r\n.\r\n" if is_whole else b", and no end\r\n")
    arrived = [b""]

    def talk(line: Line) -> None:
        assert line.line() == b"DATA"
        line.send(b"354 go on\r\n")
        while len(arrived[0]) < len(message):
            arrived[0] += line.sock.recv(65_536)
        reset(line)

    with mail_server(certificates, "smtp", talk) as upstream:
        write_config(house, certificates, smtp=upstream.port)
        house.start()
        client = house.smtp_session()
        assert client.ask(b"DATA").startswith(b"354")
        client.send(message)
        assert client.rest() == b""
        client.close()
        house.await_log("event=session_end .*reason=upstream_left")
        assert house.stop() == 0
    assert arrived == [message]
    assert "Traceback" not in house.log()
