"""`gatepost serve`, on the loop under test: the journey of bytes, draining, and what keeps it from starting."""

from __future__ import annotations

import asyncio
import hashlib
import random
import signal
from base64 import b64encode
from dataclasses import replace

import pytest

from proxy.config import Tls
from proxy.edge import imap, relay, smtp
from proxy.errors import Answer
from tests.edge.house_kit import QUICK, USER, Mailbox, mail_server, open_house
from tests.edge.relay_kit import End, soon, until
from tests.edge.scripted import on_both_loops

pytest_plugins = ("tests.edge.house_plugin",)


@pytest.fixture(autouse=True)
def short_linger(monkeypatch):
    for protocol in ("imap", "smtp"):
        monkeypatch.setitem(relay.LINGER_S, protocol, 0.1)


async def ehlo(client: End) -> list[bytes]:
    await client.send(b"EHLO client.example\r\n")
    lines = [await client.line()]
    while lines[-1][3:4] == b"-":
        lines.append(await client.line())
    return lines


def auth(password: str) -> bytes:
    return b"AUTH PLAIN " + b64encode(f"\0{USER}\0{password}".encode())


# -- one write ---------------------------------------------------------------------------------------------------------

CHUNK = random.Random(3030).randbytes(3_000_000)
MAIL = (b"MAIL FROM:<a@b.example> BODY=BINARYMIME\r\nRCPT TO:<c@d.example>\r\nBDAT %d\r\n%bBDAT 7 LAST\r\nthe end") % (
    len(CHUNK),
    CHUNK,
)


@pytest.mark.parametrize("tls", [Tls.IMPLICIT, Tls.STARTTLS], ids=lambda tls: tls.value)
@on_both_loops
async def test_auth_mail_rcpt_and_bdat_in_one_write_reach_the_upstream_byte_for_byte(made, tls):
    heard, count = hashlib.sha256(), 0

    async def talk(mailbox: Mailbox) -> None:
        nonlocal count
        while count < len(MAIL):
            data = await soon(mailbox.reader.read(65_536))
            assert data
            count += len(data)
            heard.update(data)
        await mailbox.send(b"250 2.1.0 ok\r\n250 2.1.5 ok\r\n250 2.0.0 3000000 bytes\r\n250 2.0.0 queued\r\n")
        assert await mailbox.rest() == b""

    async with (
        mail_server(made.certificates, "smtp", talk) as upstream,
        open_house(made, upstream, "smtp", tls=[tls]) as gate,
    ):
        client = await gate.connect(tls)
        assert (await client.line()).startswith(b"220 ")
        offer = await ehlo(client)
        if tls is Tls.STARTTLS:
            assert (await client.ask(b"STARTTLS")).startswith(b"220 ")
            await client.start_tls(gate.trust)
            offer = await ehlo(client)
        assert {b"250-PIPELINING", b"250-CHUNKING", b"250-8BITMIME", b"250 SIZE 10000000"} <= set(offer)
        sending = asyncio.create_task(client.send(auth(gate.password) + b"\r\n" + MAIL))
        assert (await client.line()).startswith(b"235 ")
        await soon(sending)
        assert (await soon(_lines(client, 4)))[-1] == b"250 2.0.0 queued"
        await client.leave()
        await gate.emptied()
        end = await gate.line("event=session_end")
    assert (count, heard.hexdigest()) == (len(MAIL), hashlib.sha256(MAIL).hexdigest())
    assert f"bytes_up={len(MAIL)} " in end


async def _lines(client: End, number: int) -> list[bytes]:
    return [await client.line() for _ in range(number)]


# -- the end -----------------------------------------------------------------------------------------------------------


@on_both_loops
async def test_draining_sends_waiting_clients_away_and_closes_quiet_sessions_without_a_word(made):
    async with (
        mail_server(made.certificates, "smtp") as upstream,
        open_house(made, upstream, "smtp", tls=[Tls.IMPLICIT]) as gate,
    ):
        waiting, logged_in = [await gate.connect(Tls.IMPLICIT) for _ in range(2)]
        for client in (waiting, logged_in):
            await client.line()
            await ehlo(client)
        assert (await logged_in.ask(auth(gate.password))).startswith(b"235 ")
        draining = asyncio.create_task(gate.server.drain())
        assert (await waiting.rest()).startswith(b"421 4.3.2 ")
        waiting.drop()
        assert await logged_in.rest() == b""
        await soon(draining)
        assert "reason=drained" in await gate.line("event=session_end")
        logged_in.drop()


@on_both_loops
async def test_session_that_is_never_quiet_ends_at_the_deadline(made):
    limits = replace(QUICK, drain_s=1)

    async def talk(mailbox: Mailbox) -> None:
        while True:
            await mailbox.send(b"* OK still here\r\n")
            await asyncio.sleep(0.05)

    async with (
        mail_server(made.certificates, "imap", talk) as upstream,
        open_house(made, upstream, limits=limits) as gate,
    ):
        client = await gate.connect(Tls.IMPLICIT)
        await client.line()
        assert (await client.ask(b'a1 LOGIN %b "%b"' % (USER.encode(), gate.password.encode()))).startswith(b"a1 OK")
        reading = asyncio.create_task(client.rest())
        await soon(gate.server.drain())
        assert set((await reading).splitlines()) == {b"* OK still here"}  # whole lines of the upstream's, none of ours
        assert "reason=drain_deadline" in await gate.line("event=session_end")


@on_both_loops
async def test_waiting_client_who_reads_nothing_does_not_hold_up_the_end(made, monkeypatch):
    monkeypatch.setattr(imap, "CLOSE_S", 0.2)
    async with mail_server(made.certificates, "imap") as upstream, open_house(made, upstream) as gate:
        client = await gate.connect(Tls.IMPLICIT)
        await client.line()
        await soon(gate.server.drain())
        assert gate.server.house.guests.waiting == 0


@pytest.mark.parametrize("last", [b"QUIT", b"shutdown"])
@on_both_loops
async def test_smtp_client_who_never_closes_is_cut_off_after_our_last_words(made, monkeypatch, last):
    monkeypatch.setattr(smtp, "CLOSE_S", 0.2)
    async with mail_server(made.certificates, "smtp") as upstream, open_house(made, upstream, "smtp") as gate:
        client = await gate.connect(Tls.IMPLICIT)
        await client.line()
        if last == b"QUIT":
            assert (await client.ask(b"QUIT")).startswith(b"221 ")
        else:
            gate.server.house.guests.close_waiting(Answer.CLOSING)
            assert (await client.line()).startswith(b"421 ")
        await gate.emptied()


@on_both_loops
async def test_house_that_is_left_without_draining_leaves_no_task(made):
    before = len(asyncio.all_tasks())
    async with mail_server(made.certificates, "imap") as upstream:
        async with open_house(made, upstream):
            assert len(asyncio.all_tasks()) > before
        await until(lambda: not upstream.tasks)


@on_both_loops
async def test_task_that_crashes_ends_the_process_with_its_error(made):
    told = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told.set)

    async def crash() -> int:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):  # noqa: PT012 - it comes when the house is left
        async with mail_server(made.certificates, "imap") as upstream, open_house(made, upstream) as gate:
            gate.server.house.registry._read_revision = crash
            await soon(told.wait())
    assert [line for line in gate.lines if line.startswith("CRITICAL event=task_crashed")]
