"""The change of hands from a Leg to the relay: no byte is lost, whenever it comes."""

from __future__ import annotations

import asyncio
import threading

import pytest

from proxy.config import Tls
from proxy.edge.upstream import Connection, dial
from proxy.edge.upstream_leg import MAX_HELD_BYTES
from tests.edge.imap_scripts import let_in
from tests.edge.scripted import (
    BEARER,
    Certificates,
    Recorder,
    happened,
    make_certificates,
    on_both_loops,
    serving,
)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


# The change of hands

BEHIND = b"* 3 EXISTS\r\n* OK X* Y half"


@on_both_loops
async def test_bytes_in_the_segment_of_the_ok_reach_the_relay(certificates):
    def script(peer):
        let_in(peer, BEHIND)
        peer.send(b" line\r\n")
        peer.say_goodbye()

    async with serving(script, certificates, "imap", Tls.IMPLICIT) as server:
        connection = await dial(server.upstream, "imap", BEARER)
        relay = Recorder()
        connection.hand_over(relay)
        await relay.until_lost()
        assert relay.data == BEHIND + b" line\r\n"


@on_both_loops
async def test_bytes_before_during_and_after_the_change_of_hands_arrive_in_order(certificates):
    before, after = threading.Event(), threading.Event()
    numbers = b"".join(b"* %d EXISTS\r\n" % number for number in range(20_000))

    def script(peer):
        let_in(peer, b"* first\r\n")
        peer.send(numbers[:1000], bytewise=True)
        before.set()
        for at in range(1000, len(numbers), 5_000):  # while the hands change
            peer.send(numbers[at : at + 5_000])
        assert after.wait(10)
        peer.send(b"* last\r\n")
        peer.say_goodbye()

    async with serving(script, certificates, "imap", Tls.IMPLICIT) as server:
        connection = await dial(server.upstream, "imap", BEARER)
        await happened(before)  # turns of the loop in which a transport could deliver too early
        relay = Recorder()
        connection.hand_over(relay)
        await relay.until(lambda: len(relay.data) >= len(numbers))
        after.set()
        await relay.until_lost()
        assert relay.data == b"* first\r\n" + numbers + b"* last\r\n"


@pytest.mark.parametrize("behind", [b"", BEHIND])
@pytest.mark.parametrize("how", ["say_goodbye_and_go", "close"])
@on_both_loops
async def test_an_end_before_the_change_of_hands_is_told_after_the_bytes(certificates, behind, how):
    gone = threading.Event()

    def script(peer):
        let_in(peer, behind)
        getattr(peer, how)()
        gone.set()

    async with serving(script, certificates, "imap", Tls.IMPLICIT) as server:
        dialling = asyncio.create_task(dial(server.upstream, "imap", BEARER))
        await happened(gone)
        connection = await dialling
        relay = Recorder()
        connection.hand_over(relay)
        await relay.until_lost()
        assert relay.data == behind
        assert relay.events[0] == "made"
        assert relay.events[-1] == "lost"
        assert relay.events.count("lost") == relay.events.count("made") == 1


@on_both_loops
async def test_a_connection_that_is_lost_before_the_change_of_hands_is_told_as_lost(certificates):
    gone = threading.Event()

    def script(peer):
        let_in(peer, BEHIND)
        assert gone.wait(10)
        peer.reset()

    async with serving(script, certificates, "imap", Tls.IMPLICIT) as server:
        connection = await dial(server.upstream, "imap", BEARER)
        gone.set()
        connection.abort()
        witness = Recorder()
        await happened(gone)  # turns of the loop, in which connection_lost is delivered
        connection.hand_over(witness)
        await witness.until_lost()
        assert witness.events == ["made", BEHIND, "lost"]


@on_both_loops
async def test_a_relay_that_pauses_over_what_was_left_stays_paused(certificates):
    more = threading.Event()

    def script(peer):
        let_in(peer, BEHIND)
        peer.send(b"* MORE\r\n")
        more.set()
        peer.say_goodbye()

    class Slow(Recorder):
        def data_received(self, data):
            super().data_received(data)
            self.transport.pause_reading()

    async with serving(script, certificates, "imap", Tls.IMPLICIT) as server:
        connection = await dial(server.upstream, "imap", BEARER)
        relay = Slow()
        connection.hand_over(relay)
        await happened(more)
        for _ in range(5):
            await happened(more)  # turns of the loop
        assert not relay.transport.is_reading()
        assert b"* MORE" not in relay.data or relay.events[1:2] == [BEHIND + b"* MORE\r\n"]
        relay.transport.resume_reading()
        await relay.until(lambda: b"* MORE\r\n" in relay.data)
        relay.transport.resume_reading()
        await relay.until_lost()
        assert relay.data == BEHIND + b"* MORE\r\n"


@on_both_loops
async def test_what_waits_for_the_change_of_hands_is_bounded(certificates):
    full = threading.Event()

    def script(peer):
        let_in(peer)
        peer.flood(b"x" * 65_536)
        full.set()

    async with serving(script, certificates, "imap", Tls.IMPLICIT) as server:
        connection: Connection = await dial(server.upstream, "imap", BEARER)
        relay = Recorder()
        for _ in range(50):
            await asyncio.to_thread(int)  # turns of the loop
        connection.leg.hand_over(relay)
        held = relay.data
        assert len(held) <= MAX_HELD_BYTES
        connection.abort()
        await happened(full)
        await relay.until_lost()
