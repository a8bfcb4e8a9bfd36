"""The relay: bytes untouched, back-pressure, and every way a session can end; real sockets, real TLS, both loops."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import random
import weakref
from contextlib import suppress

import pytest

from proxy.edge import listen, relay as module
from proxy.edge.relay import HIGH_WATER_BYTES
from proxy.live.sessions import End as Why
from tests.edge.relay_kit import End, soon, staged, until
from tests.edge.scripted import Certificates, make_certificates, on_both_loops

TLS = pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
DATA = random.Random(9051).randbytes(400_000)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(autouse=True)
def quick_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Most tests end by a peer that does not answer our close; it need not be half a second each time."""
    monkeypatch.setattr(module, "END_S", 0.1)


async def digest(end: End, size: int) -> str:
    """The hash of the next so many bytes."""
    return digest_of(await end.exactly(size))


def digest_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@TLS
@on_both_loops
async def test_bytes_go_both_ways_at_once_untouched(certificates, tls):
    async with staged(certificates, tls=tls, is_small=False) as stage:
        stage.start()
        up, down = DATA, DATA[::-1]
        _, _, heard_above, heard_below = await soon(
            asyncio.gather(
                stage.client.send(up),
                stage.upstream.send(down),
                digest(stage.upstream, len(up)),
                digest(stage.client, len(down)),
            )
        )
        assert (heard_above, heard_below) == (digest_of(up), digest_of(down))
        await stage.client.leave()
        stage.upstream.drop()
        end = await stage.over()
        assert (end["bytes_up"], end["bytes_down"]) == (str(len(up)), str(len(down)))


@TLS
@on_both_loops
async def test_single_bytes_pass_at_once(certificates, tls):
    async with staged(certificates, tls=tls) as stage:
        stage.start()
        for byte in (b"a", b"\r", b"\n", b"\0", b"\xff"):
            await stage.client.send(byte)
            assert await stage.upstream.read() == byte
            await stage.upstream.send(byte)
            assert await stage.client.read() == byte


@TLS
@on_both_loops
async def test_leftovers_of_both_sides_come_first(certificates, tls):
    async with staged(certificates, tls=tls, is_small=False) as stage:
        await stage.upstream.send(b"* 3 EXISTS\r\n")  # behind its OK, before the relay stands
        await stage.client.send(b" then read")
        stage.start(leftover=b"held")
        assert await stage.upstream.exactly(14) == b"held then read"
        assert await stage.client.exactly(12) == b"* 3 EXISTS\r\n"


# -- back-pressure --------------------------------------------------------------------------------------------------


async def flood(end, limit: int) -> int:
    """Send until nothing is taken any more; how much was."""
    sent = 0
    try:
        while sent < limit:
            # A stall is the only sign that nobody takes more; a busy machine makes the test easier, never fail.
            await asyncio.wait_for(end.send(bytes(16_384)), 0.1)
            sent += 16_384
    except TimeoutError:
        pass
    return sent


BOUND = 4_000_000  # kernel's and TLS' buffers on two connections, and HIGH_WATER_BYTES of ours
MORE = 20_000_000


@TLS
@pytest.mark.parametrize("direction", ["up", "down"])
@on_both_loops
async def test_slow_reader_holds_up_the_other_side(certificates, tls, direction):
    async with staged(certificates, tls=tls) as stage:
        stage.start()
        sender = stage.client if direction == "up" else stage.upstream
        full = stage.leg._connected() if direction == "up" else stage.client_transport
        sent = await flood(sender, MORE)
        assert sent < BOUND
        assert full.get_write_buffer_size() < HIGH_WATER_BYTES + 2 * 262_144


@TLS
@on_both_loops
async def test_large_leftover_for_a_slow_upstream_holds_up_the_client(certificates, tls):
    async with staged(certificates, tls=tls) as stage:
        stage.start(leftover=bytes(1_000_000))
        assert await flood(stage.client, MORE) < BOUND


@TLS
@on_both_loops
async def test_client_who_read_nothing_before_the_login_holds_up_the_upstream(certificates, tls):
    async with staged(certificates, tls=tls) as stage:
        stage.client_transport.write(bytes(600_000))  # what a front answered; its transport was told to pause
        stage.start()
        assert await flood(stage.upstream, MORE) < BOUND


@TLS
@on_both_loops
async def test_paused_side_goes_on_when_the_reader_reads(certificates, tls):
    async with staged(certificates, tls=tls) as stage:
        stage.start(leftover=DATA[:200_000])
        sending = asyncio.create_task(stage.client.send(DATA[200_000:]))
        assert await digest(stage.upstream, len(DATA)) == digest_of(DATA)
        await soon(sending)


# -- ends -----------------------------------------------------------------------------------------------------------


def test_tls_gives_a_flush_as_long_as_the_relay_does():
    """asyncio counts ssl_shutdown_timeout from close(), not from when everything was sent."""
    assert listen.TLS_SHUTDOWN_S >= module.FLUSH_S


@TLS
@on_both_loops
async def test_what_arrived_before_the_upstream_left_reaches_a_slow_client(certificates, tls):
    """Outcomes E43."""
    async with staged(certificates, tls=tls) as stage:
        stage.start()
        data = DATA[:150_000]
        await stage.upstream.send(data)
        await stage.upstream.leave()
        assert digest_of(await stage.client.rest()) == digest_of(data)
        stage.client.drop()
        end = await stage.over()
        assert (end["reason"], end["bytes_down"]) == ("upstream_left", "150000")


@TLS
@on_both_loops
async def test_backlog_survives_the_upstream_that_left(certificates, tls):
    async with staged(certificates, tls=tls) as stage:
        stage.start()
        sending = asyncio.create_task(stage.upstream.send(DATA))
        await stage.client.exactly(100_000)
        reading = asyncio.create_task(stage.client.rest())
        await soon(sending)
        await stage.upstream.leave()
        assert digest_of(await soon(reading)) == digest_of(DATA[100_000:])


@TLS
@on_both_loops
async def test_last_words_reach_a_client_who_is_still_sending(certificates, tls):
    """Outcomes E43: "552 too big" in mid-DATA."""
    async with staged(certificates, tls=tls, protocol="smtp", is_small=False) as stage:
        stage.start()
        await stage.client.send(DATA[:50_000])
        await stage.upstream.exactly(50_000)
        await stage.upstream.send(b"552 5.3.4 too big\r\n")
        await stage.upstream.leave()
        assert (await stage.client.exactly(19)) == b"552 5.3.4 too big\r\n"
        stage.client.drop()
        assert (await stage.over())["reason"] == "upstream_left"


@TLS
@pytest.mark.parametrize("manner", ["leave", "drop", "reset"])
@on_both_loops
async def test_upstream_that_goes_takes_the_client_along(certificates, tls, manner):
    async with staged(certificates, tls=tls) as stage:
        stage.start()
        await stage.client.send(b"a1 NOOP\r\n")
        await stage.upstream.exactly(9)
        if manner == "leave":
            await stage.upstream.leave()
        else:
            getattr(stage.upstream, manner)()
        assert await stage.client.rest() == b""  # a clean end, and nothing invented
        stage.client.drop()
        assert (await stage.over())["reason"] == "upstream_left"


@TLS
@on_both_loops
async def test_all_that_a_client_sent_before_he_left_reaches_the_upstream(certificates, tls, monkeypatch):
    """Outcomes E44: he leaves after the final dot, before the answer; the upstream is slow to read and slow to say."""
    monkeypatch.setitem(module.ANSWERED_S, "smtp", 0.05)
    async with staged(certificates, tls=tls, protocol="smtp") as stage:
        stage.start(leftover=DATA[:100_000])
        sending = asyncio.create_task(stage.client.send(DATA[100_000:]))
        assert await digest(stage.upstream, 100_000) == digest_of(DATA[:100_000])
        leaving = asyncio.gather(sending, return_exceptions=True)
        reading = asyncio.create_task(digest(stage.upstream, len(DATA) - 100_000))
        await soon(leaving)
        await stage.client.leave()
        assert await reading == digest_of(DATA[100_000:])
        assert stage.lines == []  # its leg lives until it answers
        await stage.upstream.send(b"250 2.0.0 queued\r\n")
        assert await stage.upstream.rest() == b""
        stage.upstream.drop()
        end = await stage.over()
        assert (end["reason"], end["bytes_up"], end["bytes_down"]) == ("client_left", str(len(DATA)), "18")


@TLS
@on_both_loops
async def test_answers_to_pipelined_commands_do_not_cut_the_mail_behind_them(certificates, tls, monkeypatch):
    monkeypatch.setitem(module.ANSWERED_S, "smtp", 60.0)  # else a slow machine would end it early
    async with staged(certificates, tls=tls, protocol="smtp") as stage:
        mail = DATA[:60_000]  # more than the upstream's kernel takes, less than what pauses the client
        stage.start(leftover=mail)
        await stage.client.leave()
        await until(lambda: stage.relay.client.is_lost)
        answers = b"250 2.1.0 sender\r\n250 2.1.5 recipient\r\n"
        await stage.upstream.send(answers)
        await until(lambda: stage.relay.upstream.bytes_in == len(answers))
        assert await digest(stage.upstream, len(mail)) == digest_of(mail)
        await stage.upstream.send(b"250 2.0.0 queued\r\n")
        stage.upstream.drop()
        assert (await stage.over())["reason"] == "client_left"


@TLS
@pytest.mark.parametrize("protocol", ["imap", "smtp"])
@on_both_loops
async def test_upstream_that_does_not_answer_a_client_who_left_is_given_up(certificates, tls, protocol, monkeypatch):
    monkeypatch.setitem(module.LINGER_S, protocol, 0.1)
    async with staged(certificates, tls=tls, protocol=protocol) as stage:
        stage.start()
        await stage.client.send(b"a1 IDLE\r\n")
        await stage.client.leave()
        assert await stage.upstream.until_gone() == b"a1 IDLE\r\n"
        assert (await stage.over())["reason"] == "client_left"


@TLS
@pytest.mark.parametrize("has_asked", [True, False])
@on_both_loops
async def test_client_who_had_his_answers_and_leaves_without_a_word_frees_the_mailbox(
    certificates, tls, has_asked, monkeypatch
):
    """Many a scanner never says QUIT; to wait for more would keep its place upstream from the next one."""
    monkeypatch.setitem(module.LINGER_S, "smtp", 3600.0)
    async with staged(certificates, tls=tls, protocol="smtp") as stage:
        stage.start()
        if has_asked:
            await stage.client.send(b"NOOP\r\n")
            assert await digest(stage.upstream, 6) == digest_of(b"NOOP\r\n")
            await stage.upstream.send(b"250 2.0.0 ok\r\n")
            await digest(stage.client, 14)
        await stage.client.leave()
        assert await stage.upstream.until_gone() == b""
        assert (await stage.over())["reason"] == "client_left"


@TLS
@on_both_loops
async def test_imap_answer_for_a_client_who_left_ends_the_upstream(certificates, tls):
    """A mailbox that streams to nobody is not read to its end."""
    async with staged(certificates, tls=tls) as stage:
        stage.start()
        leg = stage.relay.client
        await stage.client.leave()
        await until(lambda: leg.is_lost)
        with suppress(OSError):  # we leave while it is sending
            while True:
                await stage.upstream.send(bytes(65_536))
        stage.upstream.drop()
        assert int((await stage.over())["bytes_down"]) < BOUND


@pytest.mark.parametrize("manner", ["leave", "drop"])
@TLS
@on_both_loops
async def test_client_who_leaves_and_reads_nothing_does_not_stay(certificates, tls, manner, monkeypatch):
    """Its EOF is not its loss while something is still to be sent to it."""
    monkeypatch.setattr(module, "FLUSH_S", 0.2)
    monkeypatch.setitem(module.LINGER_S, "imap", 0.2)
    async with staged(certificates, tls=tls) as stage:
        stage.start()
        await flood(stage.upstream, MORE)
        if manner == "leave":
            await stage.client.leave()  # FIN, but he holds the connection
        else:
            stage.client.drop()
        assert (await stage.over())["reason"] == "client_left"


@TLS
@on_both_loops
async def test_ending_is_a_clean_close_of_both_legs_without_a_word(certificates, tls):
    async with staged(certificates, tls=tls) as stage:
        stage.start()
        await stage.client.send(b"DATA")
        await stage.upstream.exactly(4)
        stage.session.end(Why.REVOKED)
        assert await asyncio.gather(stage.client.rest(), stage.upstream.rest()) == [b"", b""]
        end = await stage.over()
        assert (end["reason"], end["bytes_up"], end["bytes_down"]) == ("revoked", "4", "0")


@TLS
@on_both_loops
async def test_nothing_is_passed_on_after_the_end(certificates, tls):
    async with staged(certificates, tls=tls, protocol="smtp") as stage:
        stage.start()
        await stage.client.send(b"half a mail")
        await stage.upstream.exactly(11)
        stage.session.end(Why.REVOKED)
        with suppress(OSError):
            await stage.client.send(b"\r\n.\r\n")
        with suppress(OSError):
            await stage.upstream.send(b"250 ok\r\n")
        assert await asyncio.gather(stage.client.until_gone(), stage.upstream.until_gone()) == [b"", b""]
        await stage.over()


@TLS
@on_both_loops
async def test_ending_does_not_wait_for_peers_that_read_nothing(certificates, tls):
    async with staged(certificates, tls=tls) as stage:
        stage.start()
        await asyncio.gather(flood(stage.client, MORE), flood(stage.upstream, MORE))
        stage.session.end(Why.REVOKED)
        assert (await stage.over())["reason"] == "revoked"


@TLS
@pytest.mark.parametrize("side", ["client", "upstream"])
@on_both_loops
async def test_ending_does_not_wait_for_a_peer_that_never_closes_when_the_other_did(certificates, tls, side):
    async with staged(certificates, tls=tls) as stage:
        stage.start()
        stage.session.end(Why.REVOKED)
        leaving, staying = (stage.client, stage.upstream) if side == "client" else (stage.upstream, stage.client)
        leaving.reset()
        assert await staying.rest() == b""
        assert (await stage.over())["reason"] == "revoked"


@TLS
@on_both_loops
async def test_first_reason_is_the_one_that_is_told(certificates, tls):
    async with staged(certificates, tls=tls) as stage:
        stage.start()
        stage.session.end(Why.DRAINED)
        stage.session.end(Why.REVOKED)
        stage.client.reset()
        assert (await stage.over())["reason"] == "drained"


@TLS
@pytest.mark.parametrize("side", ["client", "upstream", "both"])
@on_both_loops
async def test_reset_ends_the_session_once(certificates, tls, side, monkeypatch):
    monkeypatch.setitem(module.LINGER_S, "imap", 0.1)
    async with staged(certificates, tls=tls) as stage:
        stage.start()
        await stage.client.send(b"a1 NOOP\r\n")
        await stage.upstream.exactly(9)
        for end in {"client": [stage.client], "upstream": [stage.upstream]}.get(side, [stage.client, stage.upstream]):
            end.reset()
        for end in (stage.client, stage.upstream):
            if end.sock.fileno() >= 0:
                await end.until_gone()
                end.drop()
        assert (await stage.over())["reason"] in ("client_left", "upstream_left")


@TLS
@on_both_loops
async def test_both_leave_at_once(certificates, tls):
    async with staged(certificates, tls=tls) as stage:
        stage.start()
        await asyncio.gather(stage.client.leave(), stage.upstream.leave())
        await asyncio.gather(stage.client.until_gone(), stage.upstream.until_gone())
        await stage.over()


@on_both_loops
async def test_upstream_that_left_before_the_relay_stood_is_heard_out(certificates):
    async with staged(certificates, tls=True) as stage:
        await stage.upstream.send(b"* BYE restarting\r\n")
        stage.leg.put_back(await soon(stage.leg.receive()))
        await stage.upstream.leave()
        stage.start(leftover=b"a2 SELECT INBOX\r\n")
        assert await stage.client.rest() == b"* BYE restarting\r\n"
        stage.client.drop()
        assert (await stage.over())["reason"] == "upstream_left"


@TLS
@on_both_loops
async def test_session_ended_before_the_relay_stood_ends_when_it_stands(certificates, tls):
    async with staged(certificates, tls=tls) as stage:
        stage.session.end(Why.REVOKED)
        stage.start(leftover=b"a2 SELECT INBOX\r\n")
        assert await stage.client.rest() == b""
        assert (await stage.over())["reason"] == "revoked"


@TLS
@on_both_loops
async def test_what_was_kept_for_the_session_is_let_go_at_its_end(certificates, tls):
    class Kept:
        pass

    async with staged(certificates, tls=tls) as stage:
        kept = Kept()
        reference = weakref.ref(kept)
        stage.start(keep=kept)
        del kept
        gc.collect()
        assert reference() is not None
        stage.session.end(Why.REVOKED)
        await asyncio.gather(stage.client.until_gone(), stage.upstream.until_gone())
        await stage.over()
        gc.collect()
        assert reference() is None


@TLS
@on_both_loops
async def test_relay_that_ended_waits_for_no_collector(certificates, tls):
    """In a cycle with its connections, more than 100 kB, it would: for hours, if it was a long session."""
    async with staged(certificates, tls=tls) as stage:
        stage.start()
        relay = weakref.ref(stage.relay)
        gc.disable()
        try:
            stage.session.end(Why.REVOKED)
            await asyncio.gather(stage.client.until_gone(), stage.upstream.until_gone())
            await stage.over()
            await until(lambda: relay() is None)
        finally:
            gc.enable()


@on_both_loops
async def test_session_without_a_byte_for_too_long_is_ended(certificates):
    async with staged(certificates, tls=True) as stage:
        stage.start()
        stage.registry.end_idle({"imap": 60.0, "smtp": 0.0})
        await stage.client.send(b"a1 NOOP\r\n")  # it lives
        await stage.upstream.exactly(9)
        stage.registry.end_idle({"imap": -1.0, "smtp": 60.0})
        assert await asyncio.gather(stage.client.rest(), stage.upstream.rest()) == [b"", b""]
        assert (await stage.over())["reason"] == "idle"


@pytest.mark.parametrize("side", ["client", "upstream"])
@on_both_loops
async def test_a_byte_either_way_counts_as_life(certificates, side):
    async with staged(certificates, tls=True) as stage:
        stage.start()
        stage.relay.last_byte_at = 0.0
        sender, reader = (stage.client, stage.upstream) if side == "client" else (stage.upstream, stage.client)
        await sender.send(b"x")
        await reader.exactly(1)
        assert stage.relay.last_byte_at > 0.0
