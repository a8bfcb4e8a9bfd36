"""The acceptor: crowds, caps, handshakes that hang, and addresses that cannot be had; a whole Gatepost, both loops."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from proxy.config import ListenConfig, Tls
from proxy.edge import listen as module
from proxy.errors import ConfigError
from tests.edge.house_kit import QUICK, Gatepost, mail_server, open_house
from tests.edge.relay_kit import End, soon, until
from tests.edge.scripted import on_both_loops

pytest_plugins = ("tests.edge.house_plugin",)


async def first_words(gate: Gatepost, tls: Tls) -> bytes:
    client = await gate.connect(tls)
    return await client.line()


# -- crowds ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("tls", "crowd"), [(Tls.IMPLICIT, 100), (Tls.NONE, 1000)], ids=["100 with TLS", "1000"])
@on_both_loops
async def test_all_who_come_in_the_same_instant_are_greeted(made, tls, crowd):
    """Outcomes E49b: power returns after an outage."""
    limits = replace(QUICK, waiting_per_address=crowd)
    async with (
        mail_server(made.certificates, "imap") as upstream,
        open_house(made, upstream, tls=[tls], limits=limits) as gate,
    ):
        said = await asyncio.gather(*(first_words(gate, tls) for _ in range(crowd)))
        assert {line[:5] for line in said} == {b"* OK "}
        assert len(gate.server.house.guests) == crowd


@on_both_loops
async def test_crowd_beyond_the_cap_of_its_address_hears_so(made):
    limits = replace(QUICK, waiting_per_address=30)
    async with (
        mail_server(made.certificates, "imap") as upstream,
        open_house(made, upstream, tls=[Tls.NONE], limits=limits) as gate,
    ):
        said = await asyncio.gather(*(first_words(gate, Tls.NONE) for _ in range(100)))
        welcome = [line for line in said if line.startswith(b"* OK ")]
        assert len(welcome) == 30
        assert {line[:6] for line in said if line not in welcome} == {b"* BYE "}


@on_both_loops
async def test_who_finds_the_house_overfull_waits_and_is_served_later(made, monkeypatch):
    monkeypatch.setattr(module, "NO_ROOM_PAUSE_S", 0.02)
    limits = replace(QUICK, connections=1)
    async with (
        mail_server(made.certificates, "imap") as upstream,
        open_house(made, upstream, tls=[Tls.NONE, Tls.IMPLICIT], limits=limits) as gate,
    ):
        # In TLS handshakes, where nobody can be sent away: twice the soft cap.
        hanging = [await gate.connect_socket(Tls.IMPLICIT) for _ in range(2)]
        await until(lambda: gate.server.house.guests.is_overfull)
        late = await gate.connect(Tls.NONE)
        line = await gate.line("event=accept_paused .*reason=overfull")
        assert line.startswith("WARNING ")
        for sock in hanging:
            sock.close()
        assert (await late.line()).startswith(b"* OK ")
        assert len([line for line in gate.lines if "event=accept_paused" in line]) <= 2  # one for each listener


# -- handshakes --------------------------------------------------------------------------------------------------------


@on_both_loops
async def test_handshake_that_hangs_is_ended(made, monkeypatch):
    monkeypatch.setattr(module, "PRE_LOGIN_S", 0.2)
    async with mail_server(made.certificates, "imap") as upstream, open_house(made, upstream) as gate:
        client = End(await gate.connect_socket(Tls.IMPLICIT), None)
        assert await client.until_gone() == b""
        await gate.emptied()
        assert "peer=127.0.0.1" in await gate.line("event=tls_failed")


@on_both_loops
async def test_handshake_that_hangs_holds_up_nobody(made):
    async with mail_server(made.certificates, "imap") as upstream, open_house(made, upstream) as gate:
        for _ in range(20):
            await gate.connect_socket(Tls.IMPLICIT)
        assert (await first_words(gate, Tls.IMPLICIT)).startswith(b"* OK ")


@on_both_loops
async def test_stopping_lets_handshakes_go_on_and_closing_ends_them(made):
    async with mail_server(made.certificates, "imap") as upstream, open_house(made, upstream) as gate:
        acceptor = gate.server.acceptors[0]
        going_on, hanging = [await gate.connect_socket(Tls.IMPLICIT) for _ in range(2)]
        await until(lambda: gate.server.house.guests.waiting >= 2)
        host, port = acceptor.address
        acceptor.stop()
        acceptor.stop()  # harmless
        with pytest.raises(OSError):
            socket.create_connection((host, port), timeout=1).close()
        client = await soon(End.over(going_on, gate.trust, is_server=False))
        assert (await client.line()).startswith(b"* OK ")
        await soon(acceptor.close())
        assert await End(hanging, None).until_gone() == b""
        assert gate.server.house.guests.waiting == 1
        client.drop()
        await gate.emptied()


@on_both_loops
async def test_who_leaves_before_he_is_served_leaves_nothing(made):
    async with (
        mail_server(made.certificates, "imap") as upstream,
        open_house(made, upstream, tls=[Tls.NONE, Tls.IMPLICIT]) as gate,
    ):
        for tls in (Tls.NONE, Tls.IMPLICIT):
            for manner in ("drop", "reset"):
                getattr(End(await gate.connect_socket(tls), None), manner)()
        assert (await first_words(gate, Tls.NONE)).startswith(b"* OK ")
        for sock in gate.sockets:
            sock.close()
        await gate.emptied()


# -- addresses ---------------------------------------------------------------------------------------------------------


@on_both_loops
async def test_ipv4_client_of_an_ipv6_listener_is_shown_as_ipv4(made):
    """Outcomes E57."""
    async with (
        mail_server(made.certificates, "imap") as upstream,
        open_house(made, upstream, tls=[Tls.NONE], host="::") as gate,
    ):
        port = gate.server.addresses[0][1][1]
        for host, shown in (("127.0.0.1", "127.0.0.1"), ("::1", "::1")):
            with socket.create_connection((host, port)) as sock:
                sock.setblocking(False)
                client = End(sock, None)
                await client.line()
                await client.ask(b'a1 LOGIN ann "wrong"')
            assert f"peer={shown} " in await gate.line(f"event=login .*peer={shown} ")


def listener(host: str, port: int) -> ListenConfig:
    return ListenConfig("imap", host, port, Tls.NONE, ("main",))


def refused(config: ListenConfig) -> str:
    with pytest.raises(ConfigError) as caught:
        module.bind(config)
    return str(caught.value)


def test_port_in_use_names_the_address_and_the_remedy():
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        text = refused(listener("127.0.0.1", port))
    assert text.startswith(f"cannot listen on imap://127.0.0.1:{port}: Address already in use; ")
    assert "another port" in text


@pytest.mark.parametrize("host", ["192.0.2.1", "2001:db8::1"])
def test_address_of_another_machine_names_the_remedy(host):
    text = refused(listener(host, 0))
    assert text.endswith("; use an address of this machine")


def test_port_of_a_listener_that_was_closed_can_be_had_at_once():
    first = module.bind(listener("127.0.0.1", 0))
    port = first.getsockname()[1]
    with socket.create_connection(("127.0.0.1", port)), first.accept()[0]:
        first.close()
    module.bind(listener("127.0.0.1", port)).close()


def test_backlog_takes_a_thousand_before_anybody_accepts():
    """Outcomes E49b: as far as the kernel allows."""
    crowd = min(1000, int(Path("/proc/sys/net/core/somaxconn").read_text()))
    sockets = [module.bind(listener("127.0.0.1", 0))]
    try:
        address = sockets[0].getsockname()
        for _ in range(crowd):
            client = socket.socket()
            sockets.append(client)
            client.settimeout(5)
            client.connect(address)
    finally:
        for sock in sockets:
            sock.close()
