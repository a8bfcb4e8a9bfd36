"""Behind a load balancer: PROXY headers on raw sockets, and in front of a whole Gatepost; both loops (outcomes E56)."""

from __future__ import annotations

import asyncio
import base64
import json
import select
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from proxy.config import ListenConfig, Protocol, Tls
from proxy.edge import forwarded as module, listen
from proxy.edge.forwarded import client_address
from proxy.errors import ProtocolError
from proxy.wire.proxy_header import MAX_HEADER_BYTES
from tests.edge.house_kit import QUICK, USER, Gatepost, command, mail_server, open_house
from tests.edge.relay_kit import End, soon, until
from tests.edge.scripted import HOST, on_both_loops
from tests.wire.test_proxy_header import BAD, GOOD, IPV4, IPV6, addresses, v2

pytest_plugins = ("tests.edge.house_plugin",)

INSIDE = (ip_network("127.0.0.0/8"),)
OUTSIDE = (ip_network("10.0.0.0/8"), ip_network("::1"))
PEER = ip_address("127.0.0.1")
LINE = b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 993\r\n"
HELLO = b"\x16\x03\x01 what the client says first"
HEADERS = {"v1": LINE, "v2": v2(0x21, 0x11, IPV4), "v2 with TLVs": v2(0x21, 0x11, IPV4 + bytes(2_000))}


@contextmanager
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """The accepted end, non-blocking, and the load balancer's."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        far = socket.create_connection(listener.getsockname())
        near, _ = listener.accept()
    with far, near:
        near.setblocking(False)
        far.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield near, far


def what_is_left(near: socket.socket, far: socket.socket) -> bytes:
    far.shutdown(socket.SHUT_WR)
    near.setblocking(True)
    near.settimeout(10)
    return b"".join(iter(lambda: near.recv(65_536), b""))


def is_readable(sock: socket.socket) -> bool:
    return bool(select.select([sock], [], [], 0)[0])


# -- on raw sockets ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS)
@on_both_loops
async def test_header_is_taken_and_what_rides_behind_it_is_left(header):
    with pair() as (near, far):
        far.sendall(header + HELLO)
        assert await soon(client_address(near, PEER, INSIDE)) == ip_address("192.0.2.7")
        assert what_is_left(near, far) == HELLO


@pytest.mark.parametrize("header", [LINE, HEADERS["v2"]], ids=["v1", "v2"])
@on_both_loops
async def test_header_that_trickles_is_taken_as_it_comes_so_that_nobody_waits_in_a_busy_loop(header):
    """A socket with a part of a header that was only peeked at would stay readable."""
    with pair() as (near, far):
        reading = asyncio.create_task(client_address(near, PEER, INSIDE))
        for place in range(len(header) - 1):
            far.sendall(header[place : place + 1])
            await until(lambda: not is_readable(near))
            assert not reading.done()
        far.sendall(header[-1:] + HELLO)
        assert await soon(reading) == ip_address("192.0.2.7")
        assert what_is_left(near, far) == HELLO


@on_both_loops
async def test_header_that_gives_nobody_means_the_peer_itself():
    for case in ("v1 unknown", "v2 local", "v2 local with an address", "v2 unspecified", "v2 AF_UNIX"):
        with pair() as (near, far):
            far.sendall(GOOD[case][0] + HELLO)
            assert await soon(client_address(near, PEER, INSIDE)) == PEER
            assert what_is_left(near, far) == HELLO


@on_both_loops
async def test_of_others_nothing_is_read():
    with pair() as (near, far):
        far.sendall(LINE + HELLO)
        for trusted in (OUTSIDE, (ip_network("::/0"),)):
            with pytest.raises(ProtocolError, match="not from a load balancer"):
                await client_address(near, PEER, trusted)
        assert what_is_left(near, far) == LINE + HELLO


@on_both_loops
async def test_no_header_in_time_is_the_end_of_waiting_and_watching(monkeypatch):
    monkeypatch.setattr(module, "HEADER_S", 0.1)
    for begun in (b"", LINE[:-1]):
        with pair() as (near, far):
            far.sendall(begun)
            with pytest.raises(TimeoutError):
                await client_address(near, PEER, INSIDE)
            assert not asyncio.get_running_loop().remove_reader(near.fileno())


@on_both_loops
async def test_end_before_or_within_the_header_is_told_apart():
    for begun, words in ((b"", "closed before"), (LINE[:9], "closed within"), (v2(0x21, 0x21, IPV6)[:-1], "within")):
        with pair() as (near, far):
            far.sendall(begun)
            far.shutdown(socket.SHUT_WR)
            with pytest.raises(ProtocolError, match=words):
                await soon(client_address(near, PEER, INSIDE))


# -- before a whole Gatepost -------------------------------------------------------------------------------------------


def listener(tls: Tls, trusted=INSIDE, protocol: Protocol = "imap") -> ListenConfig:
    return ListenConfig(protocol, "127.0.0.1", 0, tls, ("main",), proxy_protocol_from=trusted)


async def come(gate: Gatepost, header: bytes, tls: Tls = Tls.NONE) -> End:
    """A connection by way of a load balancer; with TLS the ClientHello is in the header's segment."""
    sock = await gate.connect_socket(tls)
    if tls is not Tls.IMPLICIT:
        client = End(sock, None)
        await client.send(header)
        return client
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    outgoing.write(header)
    client = End(sock, (gate.trust.wrap_bio(incoming, outgoing, server_hostname=HOST), incoming, outgoing))
    await client.shake_hands()
    return client


def from_(address: str) -> bytes:
    is_ipv6 = ":" in address
    return v2(0x21, 0x21 if is_ipv6 else 0x11, addresses(address, "::1" if is_ipv6 else "127.0.0.1"))


async def enter_by_imap(gate: Gatepost, client: End, tls: Tls) -> None:
    assert (await client.line()).startswith(b"* OK ")
    if tls is Tls.STARTTLS:
        assert (await client.ask(b"a0 STARTTLS")).startswith(b"a0 OK ")
        await client.start_tls(gate.trust)
    assert (await client.ask(b'a1 LOGIN %b "%b"' % (USER.encode(), gate.password.encode()))).startswith(b"a1 OK ")


async def enter_by_smtp(gate: Gatepost, client: End, tls: Tls) -> None:
    assert (await client.line()).startswith(b"220 ")
    if tls is Tls.STARTTLS:
        assert (await client.ask(b"STARTTLS")).startswith(b"220 ")
        await client.start_tls(gate.trust)
    await client.send(b"EHLO client.example\r\n")
    while (await client.line())[3:4] == b"-":
        pass
    plain = base64.b64encode(f"\0{USER}\0{gate.password}".encode())
    assert (await client.ask(b"AUTH PLAIN " + plain)).startswith(b"235 ")


@pytest.mark.parametrize("tls", Tls)
@pytest.mark.parametrize(("protocol", "enter"), [("imap", enter_by_imap), ("smtp", enter_by_smtp)])
@on_both_loops
async def test_client_is_who_the_header_says_and_its_tls_begins_behind_it(made, protocol, enter, tls):
    async with (
        mail_server(made.certificates, protocol) as upstream,
        open_house(made, upstream, protocol, listeners=[listener(tls, protocol=protocol)]) as gate,
    ):
        for header in HEADERS.values():
            await enter(gate, await come(gate, header, tls), tls)
        told = [line for line in gate.lines if "event=login " in line and "result=ok" in line]
        assert ["peer=192.0.2.7 " in line for line in told] == [True] * len(HEADERS)


@on_both_loops
async def test_without_a_good_header_it_is_closed_before_any_word_and_told_once(made, monkeypatch):
    monkeypatch.setattr(module, "HEADER_S", 0.2)
    cases = {
        b"": "TimeoutError",
        LINE[:-1]: "TimeoutError",
        b"a1 NOOP\r\n": "no PROXY header",
        HELLO: "no PROXY header",
        BAD["v1 octal"]: "malformed PROXY v1 header",
        b"PROXY UNKNOWN " + b"x" * 200: "PROXY v1 header without an end",
        v2(0x21, 0x11, IPV4 + bytes(MAX_HEADER_BYTES)): "PROXY v2 header is too long",
        v2(0x22, 0x11, IPV4): "PROXY v2 header of an unknown version or command",
    }
    async with (
        mail_server(made.certificates, "imap") as upstream,
        open_house(made, upstream, listeners=[listener(Tls.NONE)]) as gate,
    ):
        for data, reason in cases.items():
            del gate.lines[:]
            assert await (await come(gate, data)).until_gone() == b""
            line = await gate.line("event=proxy_header_refused")
            assert line.startswith("INFO ")
            assert "service=imap peer=127.0.0.1 " in line
            assert f'reason="{reason}"' in line or f"reason={reason} " in line
            assert len(gate.lines) == 1
        await gate.emptied()
        assert (await (await come(gate, LINE)).line()).startswith(b"* OK ")


@on_both_loops
async def test_others_than_load_balancers_are_closed_without_a_word(made):
    async with (
        mail_server(made.certificates, "imap") as upstream,
        open_house(made, upstream, listeners=[listener(Tls.NONE, OUTSIDE), listener(Tls.IMPLICIT, OUTSIDE)]) as gate,
    ):
        for tls in (Tls.NONE, Tls.IMPLICIT):
            client = End(await gate.connect_socket(tls), None)
            assert await client.until_gone() == b""
        await until(lambda: sum('reason="not from a load balancer"' in line for line in gate.lines) == 2)
        await gate.emptied()


@on_both_loops
async def test_load_balancer_that_looks_whether_we_live_is_himself(made):
    async with (
        mail_server(made.certificates, "imap") as upstream,
        open_house(made, upstream, listeners=[listener(Tls.NONE)]) as gate,
    ):
        client = await come(gate, GOOD["v2 local"][0])
        assert (await client.line()).startswith(b"* OK ")
        client.drop()
        assert "peer=127.0.0.1 " in await gate.line("event=visit_end")


@on_both_loops
async def test_headers_are_nothing_to_a_listener_that_expects_none(made):
    async with mail_server(made.certificates, "imap") as upstream, open_house(made, upstream, tls=[Tls.NONE]) as gate:
        client = await come(gate, LINE)
        assert (await client.line()).startswith(b"* OK ")
        assert b" BAD " in await client.line()
        client.drop()
        assert "peer=127.0.0.1 " in await gate.line("event=visit_end")


# -- what goes by the address ------------------------------------------------------------------------------------------


@on_both_loops
async def test_networks_of_an_app_password_hold_for_the_address_in_the_header(made):
    """And an IPv4-mapped one is IPv4 (outcomes E57)."""
    words = ("create", USER, "--name", "office", "--from", "192.0.2.0/24", "--json", "--config", str(made.config.path))
    password = json.loads(command(*words))["password"].encode()
    async with (
        mail_server(made.certificates, "imap") as upstream,
        open_house(made, upstream, listeners=[listener(Tls.NONE)]) as gate,
    ):
        for address, answer in (("198.51.100.7", b"NO"), ("192.0.2.7", b"OK"), ("::ffff:192.0.2.8", b"OK")):
            client = await come(gate, from_(address))
            await client.line()
            assert (await client.ask(b'a1 LOGIN %b "%b"' % (USER.encode(), password))).startswith(b"a1 " + answer)
            client.drop()
        assert "peer=198.51.100.7 " in await gate.line("event=login .*cause=wrong_network")
        assert await gate.line("event=login .*peer=192.0.2.8 .*result=ok")


@on_both_loops
async def test_throttle_counts_for_the_address_in_the_header(made):
    limits = replace(QUICK, throttle_wrong=2)
    async with (
        mail_server(made.certificates, "imap") as upstream,
        open_house(made, upstream, listeners=[listener(Tls.NONE)], limits=limits) as gate,
    ):
        guesser = await come(gate, from_("192.0.2.7"))
        await guesser.line()
        for guess in (b"one", b"two"):
            assert b"[AUTHENTICATIONFAILED]" in await guesser.ask(b'a1 LOGIN %b "%b"' % (USER.encode(), guess))
        good = b'a1 LOGIN %b "%b"' % (USER.encode(), gate.password.encode())
        assert b"[LIMIT]" in await guesser.ask(good)
        owner = await come(gate, from_("198.51.100.7"))
        await owner.line()
        assert (await owner.ask(good)).startswith(b"a1 OK ")


@on_both_loops
async def test_cap_of_an_address_is_that_of_the_address_in_the_header(made):
    limits = replace(QUICK, waiting_per_address=2)
    async with (
        mail_server(made.certificates, "imap") as upstream,
        open_house(made, upstream, listeners=[listener(Tls.NONE)], limits=limits) as gate,
    ):
        said = [await (await come(gate, from_("192.0.2.7"))).line() for _ in range(3)]
        assert [line[:5] for line in said] == [b"* OK ", b"* OK ", b"* BYE"]
        assert (await (await come(gate, from_("192.0.2.8"))).line()).startswith(b"* OK ")


@on_both_loops
async def test_those_whose_header_has_not_come_count_for_the_cap_of_all(made, monkeypatch):
    monkeypatch.setattr(listen, "NO_ROOM_PAUSE_S", 0.02)
    async with (
        mail_server(made.certificates, "imap") as upstream,
        open_house(made, upstream, listeners=[listener(Tls.NONE)], limits=replace(QUICK, connections=1)) as gate,
    ):
        silent = [await gate.connect_socket(Tls.NONE) for _ in range(2)]
        await until(lambda: len(gate.server.house.guests) == 2)
        late = await come(gate, LINE)
        await gate.line("event=accept_paused .*reason=overfull")
        for sock in silent:
            sock.close()
        assert (await late.line()).startswith(b"* OK ")
        assert len(gate.server.house.guests) == 1


# -- the end -----------------------------------------------------------------------------------------------------------


@on_both_loops
async def test_draining_waits_for_headers_under_way_and_says_goodbye(made):
    async with (
        mail_server(made.certificates, "imap") as upstream,
        open_house(made, upstream, listeners=[listener(Tls.NONE)]) as gate,
    ):
        client = await come(gate, LINE[:20])
        await until(lambda: gate.server.house.guests.waiting)
        draining = asyncio.create_task(gate.server.drain())
        await until(lambda: gate.server.house.guests.is_closing)
        await client.send(LINE[20:])
        assert (await client.line()).startswith(b"* BYE ")
        await soon(draining)
        await gate.emptied()


@on_both_loops
async def test_closing_ends_those_whose_header_has_not_come(made):
    async with (
        mail_server(made.certificates, "imap") as upstream,
        open_house(made, upstream, listeners=[listener(Tls.NONE)]) as gate,
    ):
        clients = [await come(gate, begun) for begun in (b"", LINE[:20])]
        await until(lambda: gate.server.house.guests.waiting == 2)
        await soon(gate.server.acceptors[0].close())
        assert [await client.until_gone() for client in clients] == [b"", b""]
        assert len(gate.server.house.guests) == 0
