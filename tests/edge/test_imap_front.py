"""The IMAP front as a driver, in a whole Gatepost: real sockets and TLS, a scripted upstream, both loops."""

from __future__ import annotations

import asyncio
import base64
import gc
import hashlib
import random
import socket
import ssl
import warnings
from contextlib import suppress
from dataclasses import replace

import pytest

from proxy.config import Tls
from proxy.edge import imap as module, relay
from proxy.errors import Answer
from tests.edge.house_kit import (
    QUICK,
    USER,
    Mailbox,
    command,
    imap_login,
    mail_server,
    open_house,
)
from tests.edge.relay_kit import End, soon, until
from tests.edge.scripted import on_both_loops

pytest_plugins = ("tests.edge.house_plugin",)


@pytest.fixture(autouse=True)
def short_linger(monkeypatch):
    """An upstream that does not answer LOGOUT-less leaving is waited for 5 s otherwise, in each test."""
    monkeypatch.setitem(relay.LINGER_S, "imap", 0.1)


def login(password: str, tag: bytes = b"a1") -> bytes:
    return b'%b LOGIN %b "%b"' % (tag, USER.encode(), password.encode())


async def greeting_of(client: End) -> bytes:
    line = await client.line()
    assert line.startswith(b"* OK [CAPABILITY "), line
    return line


# -- the way in ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tls", [Tls.IMPLICIT, Tls.STARTTLS], ids=lambda tls: tls.value)
@on_both_loops
async def test_login_hands_over_to_the_upstream(made, tls):
    async def talk(mailbox: Mailbox) -> None:
        assert await mailbox.line() == b"a2 NOOP"
        await mailbox.send(b"a2 OK from upstream\r\n")
        await mailbox.rest()

    async with mail_server(made.certificates, "imap", talk) as upstream, open_house(made, upstream, tls=[tls]) as gate:
        client = await gate.connect(tls)
        await greeting_of(client)
        if tls is Tls.STARTTLS:
            assert (await client.ask(login(gate.password))).startswith(b"a1 NO [PRIVACYREQUIRED]")
            assert (await client.ask(b"a0 STARTTLS")).startswith(b"a0 OK")
            await client.start_tls(gate.trust)
        assert (await client.ask(login(gate.password))).startswith(b"a1 OK [CAPABILITY IMAP4rev1 ")
        assert await client.ask(b"a2 NOOP") == b"a2 OK from upstream"
        client.drop()
        await gate.emptied()


APPEND = random.Random(3501).randbytes(3_000_000)


@pytest.mark.parametrize("tls", [Tls.IMPLICIT, Tls.STARTTLS], ids=lambda tls: tls.value)
@on_both_loops
async def test_every_byte_behind_login_in_the_same_write_reaches_the_upstream(made, tls):
    tail = b"a2 APPEND INBOX {%d+}\r\n%b\r\na3 NOOP\r\n" % (len(APPEND), APPEND)
    heard = hashlib.sha256()

    async def talk(mailbox: Mailbox) -> None:
        left = len(tail)
        while left:
            data = await soon(mailbox.reader.read(left))
            assert data
            heard.update(data)
            left -= len(data)
        await mailbox.send(b"a2 OK appended\r\na3 OK\r\n")
        assert await mailbox.rest() == b""

    async with mail_server(made.certificates, "imap", talk) as upstream, open_house(made, upstream, tls=[tls]) as gate:
        client = await gate.connect(tls)
        await greeting_of(client)
        if tls is Tls.STARTTLS:
            await client.ask(b"a0 STARTTLS")
            await client.start_tls(gate.trust)
        sending = asyncio.create_task(client.send(login(gate.password) + b"\r\n" + tail))
        assert (await client.line()).startswith(b"a1 OK")
        await soon(sending)
        assert [await client.line(), await client.line()] == [b"a2 OK appended", b"a3 OK"]
        await client.leave()
        await gate.emptied()
    assert heard.hexdigest() == hashlib.sha256(tail).hexdigest()


# -- STARTTLS --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("delay_s", [None, 0.0, 0.05], ids=["same segment", "at once", "later"])
@on_both_loops
async def test_what_comes_in_clear_behind_starttls_is_never_executed(made, delay_s):
    """Outcomes E1. In one segment it is thrown away; later it is no TLS, and the connection ends."""
    async with (
        mail_server(made.certificates, "imap") as upstream,
        open_house(made, upstream, tls=[Tls.STARTTLS]) as gate,
    ):
        client = await gate.connect(Tls.STARTTLS)
        await greeting_of(client)
        injected = login(gate.password, b"x1") + b"\r\nx2 NOOP\r\n"
        if delay_s is None:
            assert (await client.ask(b"a1 STARTTLS\r\n" + injected[:-2])).startswith(b"a1 OK")
            await client.start_tls(gate.trust)
            assert (await client.ask(b"a2 NOOP")) == b"a2 OK NOOP completed"
            client.drop()
        else:
            assert (await client.ask(b"a1 STARTTLS")).startswith(b"a1 OK")
            await asyncio.sleep(delay_s)
            await client.send(injected)
            assert b"x1" not in await client.until_gone()
            client.drop()
        await gate.emptied()
        assert upstream.sessions == 0
        assert not [line for line in gate.lines if "event=login" in line]


@on_both_loops
async def test_client_who_leaves_amid_the_handshake_is_forgotten(made):
    async with (
        mail_server(made.certificates, "imap") as upstream,
        open_house(made, upstream, tls=[Tls.STARTTLS]) as gate,
    ):
        for manner in ("drop", "reset"):
            client = await gate.connect(Tls.STARTTLS)
            await greeting_of(client)
            await client.ask(b"a1 STARTTLS")
            await client.send(b"\x16\x03\x01")
            getattr(client, manner)()
            await gate.emptied()


async def in_handshake(gate) -> End:
    client = await gate.connect(Tls.STARTTLS)
    await greeting_of(client)
    assert (await client.ask(b"a1 STARTTLS")).startswith(b"a1 OK")
    return client


@on_both_loops
async def test_deadline_ends_a_handshake_that_hangs(made, monkeypatch):
    monkeypatch.setattr(module, "PRE_LOGIN_S", 0.3)
    async with (
        mail_server(made.certificates, "imap") as upstream,
        open_house(made, upstream, tls=[Tls.STARTTLS]) as gate,
    ):
        client = await in_handshake(gate)
        assert await client.until_gone() == b""
        await gate.emptied()


@on_both_loops
async def test_closing_ends_a_handshake_that_hangs(made):
    async with (
        mail_server(made.certificates, "imap") as upstream,
        open_house(made, upstream, tls=[Tls.STARTTLS]) as gate,
    ):
        client = await in_handshake(gate)
        gate.server.house.guests.close_waiting(Answer.CLOSING)
        assert await client.until_gone() == b""
        await gate.emptied()


# -- close() in every state -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "said",
    [b"", b"a1 LOGIN an", b"a1 LOGIN {5}\r\n", b"a1 AUTHENTICATE PLAIN\r\n"],
    ids=["greeted", "half a line", "literal", "sasl"],
)
@on_both_loops
async def test_closing_says_bye_to_who_waits(made, said):
    async with mail_server(made.certificates, "imap") as upstream, open_house(made, upstream) as gate:
        client = await gate.connect(Tls.IMPLICIT)
        await greeting_of(client)
        if said:
            await client.send(said)
        if b"\r\n" in said:
            await client.line()
        gate.server.house.guests.close_waiting(Answer.CLOSING)
        assert (await client.rest()).startswith(b"* BYE ")
        client.drop()
        await gate.emptied()


@on_both_loops
async def test_closing_says_bye_to_who_is_still_in_the_implicit_handshake(made):
    async with mail_server(made.certificates, "imap") as upstream, open_house(made, upstream) as gate:
        sock = await gate.connect_socket(Tls.IMPLICIT)
        await until(lambda: gate.server.house.guests.waiting)
        gate.server.house.guests.close_waiting(Answer.CLOSING)
        client = await soon(End.over(sock, gate.trust, is_server=False))
        assert (await client.rest()).startswith(b"* BYE ")
        client.drop()
        await gate.emptied()


def hanging(started: asyncio.Event, over: asyncio.Event):
    """An upstream that never gets to its greeting."""

    async def greet(mailbox: Mailbox) -> None:
        started.set()
        try:
            await mailbox.rest()
        finally:
            over.set()
        raise ConnectionError

    return greet


@pytest.mark.parametrize("end", ["close", "drop", "reset", "leave"])
@on_both_loops
async def test_login_under_way_ends_with_its_client(made, end):
    started, over = asyncio.Event(), asyncio.Event()

    async with mail_server(made.certificates, "imap") as upstream, open_house(made, upstream) as gate:
        upstream.greet = hanging(started, over)
        client = await gate.connect(Tls.IMPLICIT)
        await greeting_of(client)
        await client.send(login(gate.password) + b"\r\n")
        await soon(started.wait())
        if end == "close":
            gate.server.house.guests.close_waiting(Answer.CLOSING)
            assert (await client.rest()).startswith(b"* BYE ")
            client.drop()
        elif end == "leave":
            await client.leave()
        else:
            getattr(client, end)()
        await soon(over.wait())  # the upstream's connection is gone, too
        await gate.emptied()
        client.sock.close()


# -- limits ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tls", [Tls.IMPLICIT, Tls.STARTTLS, Tls.NONE], ids=lambda tls: tls.value)
@on_both_loops
async def test_deadline_says_bye(made, tls, monkeypatch):
    monkeypatch.setattr(module, "PRE_LOGIN_S", 0.3)
    async with mail_server(made.certificates, "imap") as upstream, open_house(made, upstream, tls=[tls]) as gate:
        client = await gate.connect(tls)
        await greeting_of(client)
        assert (await client.rest()).startswith(b"* BYE ")
        client.drop()
        await gate.emptied()


@on_both_loops
async def test_commands_do_not_put_the_deadline_off(made, monkeypatch):
    monkeypatch.setattr(module, "PRE_LOGIN_S", 0.5)
    async with mail_server(made.certificates, "imap") as upstream, open_house(made, upstream) as gate:
        client = await gate.connect(Tls.IMPLICIT)
        await greeting_of(client)
        with suppress(OSError, AssertionError):
            for _ in range(90):  # commands are bounded, too
                assert (await client.ask(b"a1 NOOP")).startswith(b"a1 OK")
                await asyncio.sleep(0.02)
        client.drop()
        await gate.emptied()
        assert [line for line in gate.lines if "event=visit_end" in line]


@pytest.mark.parametrize("tls", [Tls.IMPLICIT, Tls.STARTTLS], ids=lambda tls: tls.value)
@on_both_loops
async def test_cap_is_told_and_never_silence(made, tls):
    limits = replace(QUICK, connections=2)
    async with (
        mail_server(made.certificates, "imap") as upstream,
        open_house(made, upstream, tls=[tls], limits=limits) as gate,
    ):
        first, second = [await gate.connect(tls) for _ in range(2)]
        await greeting_of(first)
        await greeting_of(second)
        third = await gate.connect(tls)
        assert (await third.rest()).startswith(b"* BYE ")
        third.drop()
        first.drop()
        await until(lambda: len(gate.server.house.guests) <= 1)
        fourth = await gate.connect(tls)  # there is room again
        await greeting_of(fourth)
        second.drop()
        fourth.drop()
        await gate.emptied()


@on_both_loops
async def test_third_failed_login_ends_the_connection(made):
    async with mail_server(made.certificates, "imap") as upstream, open_house(made, upstream) as gate:
        client = await gate.connect(Tls.IMPLICIT)
        await greeting_of(client)
        for tag in (b"a1", b"a2", b"a3"):
            answer = await client.ask(login("wrong", tag))
            assert answer.startswith(tag + b" NO [AUTHENTICATIONFAILED]")
        assert (await client.rest()).startswith(b"* BYE ")
        client.drop()
        await gate.emptied()
        assert upstream.sessions == 0


@on_both_loops
async def test_pipelined_logins_are_tried_one_after_the_other(made):
    async with mail_server(made.certificates, "imap") as upstream, open_house(made, upstream) as gate:
        client = await gate.connect(Tls.IMPLICIT)
        await greeting_of(client)
        both = login("wrong", b"a1") + b"\r\n" + login(gate.password, b"a2") + b"\r\na3 NOOP\r\n"
        await client.send(both)
        assert (await client.line()).startswith(b"a1 NO [AUTHENTICATIONFAILED]")
        assert (await client.line()).startswith(b"a2 OK")
        client.drop()
        await gate.emptied()
        assert upstream.sessions == 1


@on_both_loops
async def test_client_who_reads_nothing_is_cut_off(made, monkeypatch):
    monkeypatch.setattr(module, "CLOSE_S", 0.2)
    monkeypatch.setattr(module, "PRE_LOGIN_S", 0.5)
    async with (
        mail_server(made.certificates, "imap") as upstream,
        open_house(made, upstream, tls=[Tls.NONE]) as gate,
    ):
        sock = await gate.connect_socket(Tls.NONE)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await asyncio.get_running_loop().sock_sendall(sock, b"a1 CAPABILITY\r\n" * 90)
        await gate.emptied()
        sock.close()


@on_both_loops
async def test_flood_without_a_line_end_is_bounded(made):
    async with (
        mail_server(made.certificates, "imap") as upstream,
        open_house(made, upstream, tls=[Tls.NONE]) as gate,
    ):
        client = await gate.connect(Tls.NONE)
        await greeting_of(client)
        with suppress(OSError):
            for _ in range(100):
                await client.send(b"(" * 65_536)
        assert b"* OK" not in await client.until_gone()
        client.drop()
        await gate.emptied()


# -- what is no IMAP client -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "said",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"EHLO client.example\r\n",
        b"\x16\x03\x01\x00\x05hello",
        b"\x80\x2e\x01" + bytes(60),
        b"",
    ],
    ids=["http", "smtp in clear", "broken hello", "sslv2", "nothing"],
)
@on_both_loops
async def test_no_tls_on_the_implicit_port_is_one_line_and_a_closed_socket(made, said):
    """Outcomes E8."""
    async with mail_server(made.certificates, "imap") as upstream, open_house(made, upstream) as gate:
        client = End(await gate.connect_socket(Tls.IMPLICIT), None)
        if said:
            await client.send(said)
            await client.until_gone()
        client.drop()
        await gate.emptied()
        told = [line for line in gate.lines if "event=tls_failed" in line]
        assert len(told) == 1
        assert told[0].startswith("INFO ")
        assert "peer=127.0.0.1" in told[0]


@on_both_loops
async def test_tls_1_0_is_refused_in_one_line(made):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        old.minimum_version = ssl.TLSVersion.TLSv1
        old.maximum_version = ssl.TLSVersion.TLSv1_1
        old.set_ciphers("ALL:@SECLEVEL=0")
    async with mail_server(made.certificates, "imap") as upstream, open_house(made, upstream) as gate:
        sock = await gate.connect_socket(Tls.IMPLICIT)
        with pytest.raises(OSError):
            await soon(End.over(sock, old, is_server=False))
        sock.close()
        await gate.emptied()
        assert len([line for line in gate.lines if "event=tls_failed" in line]) == 1


# -- the upstream -----------------------------------------------------------------------------------------------------


@on_both_loops
async def test_upstream_that_misbehaves_is_unavailable_and_comes_back(made):
    async def garbage(mailbox: Mailbox) -> None:
        await mailbox.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        raise ConnectionError

    async def gone(_: Mailbox) -> None:
        raise ConnectionError

    async def bye(mailbox: Mailbox) -> None:
        await mailbox.send(b"* BYE restarting\r\n")
        raise ConnectionError

    async with mail_server(made.certificates, "imap") as upstream, open_house(made, upstream) as gate:
        client = await gate.connect(Tls.IMPLICIT)
        await greeting_of(client)
        for number, greet in enumerate((garbage, gone, bye)):
            upstream.greet = greet
            tag = b"a%d" % number
            assert (await client.ask(login(gate.password, tag))).startswith(tag + b" NO [UNAVAILABLE]")
        upstream.greet = imap_login
        assert (await client.ask(login(gate.password, b"b1"))).startswith(b"b1 OK")
        client.drop()
        await gate.emptied()


@on_both_loops
async def test_upstream_that_leaves_amid_a_fetch_ends_the_client_with_what_it_sent(made):
    """Outcomes E43: nothing is invented, no BYE of ours."""

    async def talk(mailbox: Mailbox) -> None:
        await mailbox.line()
        await mailbox.send(b"* 1 FETCH (BODY[] {1000}\r\n" + b"x" * 500)
        raise ConnectionError

    async with mail_server(made.certificates, "imap", talk) as upstream, open_house(made, upstream) as gate:
        client = await gate.connect(Tls.IMPLICIT)
        await greeting_of(client)
        await client.ask(login(gate.password))
        await client.send(b"a2 FETCH 1 BODY[]\r\n")
        assert await client.rest() == b"* 1 FETCH (BODY[] {1000}\r\n" + b"x" * 500
        client.drop()
        await gate.emptied()
        assert "reason=upstream_left" in await gate.line("event=session_end")


@on_both_loops
async def test_a_revoked_password_is_refused_at_once_and_its_session_ends(made):
    async with mail_server(made.certificates, "imap") as upstream, open_house(made, upstream) as gate:
        client, other = [await gate.connect(Tls.IMPLICIT) for _ in range(2)]
        for each in (client, other):
            await greeting_of(each)
        assert (await client.ask(login(gate.password))).startswith(b"a1 OK")

        config = str(gate.server.config.path)
        await asyncio.to_thread(command, "revoke", "--account", USER, "--all", "--config", config)
        assert (await other.ask(login(gate.password))).startswith(b"a1 NO [AUTHENTICATIONFAILED]")
        assert await client.rest() == b""
        client.drop()
        other.drop()
        await gate.emptied()
        assert "reason=revoked" in await gate.line("event=session_end")


@on_both_loops
async def test_bad_base64_and_cancel_leave_the_connection_usable(made):
    async with mail_server(made.certificates, "imap") as upstream, open_house(made, upstream) as gate:
        client = await gate.connect(Tls.IMPLICIT)
        await greeting_of(client)
        for answer in (b"*", b"!!!"):
            assert (await client.ask(b"a1 AUTHENTICATE PLAIN")).startswith(b"+")
            assert (await client.ask(answer)).startswith(b"a1 BAD")
        plain = base64.b64encode(f"\0{USER}\0{gate.password}".encode())
        assert (await client.ask(b"a2 AUTHENTICATE PLAIN")).startswith(b"+")
        assert (await client.ask(plain)).startswith(b"a2 OK")
        client.drop()
        await gate.emptied()
        gc.collect()
