"""The transport by itself, on both loops: what its peer does, what its protocol hears. test_relay.py does the rest."""

from __future__ import annotations

import asyncio
import hashlib
import socket
import ssl
import struct
from contextlib import asynccontextmanager

import pytest
import trustme

from proxy.edge.receiving import BURST_BYTES
from proxy.edge.transport import TALK_READS, Transport
from tests.edge.relay_kit import End, soon, until
from tests.edge.scripted import HOST, make_certificates, on_both_loops


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    return make_certificates(tmp_path_factory.mktemp("certificates"))


class Listener(asyncio.Protocol):
    """Keeps what it hears, in order."""

    def __init__(self):
        self.heard = []
        self.data = bytearray()
        self.lost = asyncio.Event()

    def connection_made(self, transport):
        self.heard.append("made")

    def data_received(self, data):
        self.data += data

    def eof_received(self):
        self.heard.append("eof")

    def pause_writing(self):
        self.heard.append("full")

    def resume_writing(self):
        self.heard.append("room")

    def connection_lost(self, error):
        self.heard.append(error)
        self.lost.set()


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


@asynccontextmanager
async def connected(protocol, context=None, trust=None, *, begins=True):
    """A transport with its protocol, and the far end."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        far = socket.create_connection(listener.getsockname())
        near, _ = listener.accept()
    near.setblocking(False)
    transport = Transport(near, protocol, close_s=5.0)
    try:
        making = asyncio.ensure_future(End.over(far, trust, is_server=False))
        if context is not None:
            await soon(transport.start_tls(context, server_side=True))
        end = await soon(making)
        if begins:
            transport.begin()
        yield transport, end
    finally:
        transport.abort()
        far.close()
        await asyncio.sleep(0)
        await asyncio.sleep(0)


@pytest.fixture
def trust(certificates):
    return ssl.create_default_context(cafile=str(certificates.ca_file))


@on_both_loops
async def test_what_came_with_a_reset_is_read_and_the_reset_heard(certificates):
    for size in (10, BURST_BYTES, 3 * BURST_BYTES):
        protocol = Listener()
        async with connected(protocol, begins=False) as (transport, end):
            await end.send(bytes(size))
            end.reset()
            await asyncio.sleep(0)
            transport.begin()
            await soon(protocol.lost.wait())
            assert isinstance(protocol.heard[-1], ConnectionResetError)


class Pieces(Listener):
    """Keeps what comes as it comes, and answers each piece with `answer` if there is one."""

    def __init__(self, answer=b""):
        super().__init__()
        self.answer = answer
        self.pieces = []

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.pieces.append(data)
        if self.answer:
            self.transport.write(self.answer)


@on_both_loops
async def test_short_records_are_read_one_by_one_only_if_each_is_answered(certificates, trust):
    lines = [b"line %3d\n" % number for number in range(200)]
    expected = {b"": [*lines[:TALK_READS], b"".join(lines[TALK_READS:])], b"ok\n": lines}
    for answer, pieces in expected.items():
        protocol = Pieces(answer)
        async with connected(protocol, certificates.good, trust, begins=False) as (transport, end):
            end.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            transport.pause_reading()
            for line in lines:
                await end.send(line)
            transport.begin()
            await until(lambda protocol=protocol: b"".join(protocol.pieces) == b"".join(lines))
            assert protocol.pieces == pieces


@on_both_loops
async def test_all_records_that_came_before_a_reset_are_read(certificates, trust):
    protocol = Listener()
    async with connected(protocol, certificates.good, trust, begins=False) as (transport, end):
        end.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # or they would not have left
        transport.pause_reading()
        for number in range(8):
            await end.send(b"line %3d\n" % number)
        reset(end.sock)
        await asyncio.sleep(0)
        transport.begin()
        await soon(protocol.lost.wait())
        assert protocol.data == b"".join(b"line %3d\n" % number for number in range(8))


@on_both_loops
async def test_a_reset_while_reading_is_paused_is_heard_when_it_goes_on(certificates):
    protocol = Listener()
    async with connected(protocol) as (transport, end):
        transport.pause_reading()
        await end.send(b"last words")
        reset(end.sock)
        for _ in range(5):
            await asyncio.sleep(0)
        assert protocol.heard == ["made"]
        transport.resume_reading()
        await soon(protocol.lost.wait())


@on_both_loops
async def test_the_end_of_tls_waits_for_a_protocol_that_paused(certificates, trust):
    class Pausing(Listener):
        def data_received(self, data):
            super().data_received(data)
            transport.pause_reading()

    protocol = Pausing()
    async with connected(protocol, certificates.good, trust) as (transport, end):
        await end.send(b"last words")
        with pytest.raises(ssl.SSLWantReadError):
            end._tls[0].unwrap()  # close_notify, and no FIN: the socket will not tell of it again
        await end._flush()
        await until(lambda: protocol.data)
        assert protocol.heard == ["made"]
        transport.resume_reading()
        assert await end.rest() == b""
        end.drop()
        await soon(protocol.lost.wait())
        assert protocol.heard == ["made", "eof", None]


@on_both_loops
async def test_what_was_written_before_close_arrives_and_nothing_after(certificates, trust):
    protocol = Listener()
    data = bytes(range(256)) * 20_000
    async with connected(protocol, certificates.good, trust) as (transport, end):
        transport.write(data)
        transport.close()
        transport.write(b"too late")
        transport.close()
        assert transport.is_closing()
        assert hashlib.sha256(await end.rest()).digest() == hashlib.sha256(data).digest()
        await end.leave()
        await soon(protocol.lost.wait())
        assert protocol.heard[-1] is None
        assert "full" in protocol.heard


@on_both_loops
async def test_a_close_beside_many_unread_records_still_sends_all(certificates, trust):
    for context, trusted in ((certificates.good, trust), (None, None)):
        protocol = Listener()
        async with connected(protocol, context, trusted) as (transport, end):
            transport.pause_reading()
            for _ in range(40):
                await end.send(b"a NOOP\r\n")
            transport.write(bytes(1_000_000))
            transport.close()
            assert len(await end.rest()) == 1_000_000


@on_both_loops
async def test_a_close_passes_over_what_the_peer_still_sends(certificates, trust):
    protocol = Listener()
    async with connected(protocol, certificates.good, trust) as (transport, end):
        transport.pause_reading()
        await end.send(bytes(100_000))
        transport.write(b"goodbye")
        transport.close()
        assert await end.rest() == b"goodbye"  # the unread bytes became no reset
        await end.leave()
        await soon(protocol.lost.wait())
        assert protocol.data == b""


@on_both_loops
async def test_a_peer_that_answers_no_close_is_cut_off(certificates, trust):
    protocol = Listener()
    async with connected(protocol, certificates.good, trust) as (transport, _end):
        transport._close_s = 0.2
        transport.close()
        await soon(protocol.lost.wait())


@pytest.mark.parametrize("where", ["data_received", "eof_received", "pause_writing"])
@on_both_loops
async def test_a_protocol_that_breaks_loses_its_connection_and_the_loop_is_told(certificates, where):
    told = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context["message"]))
    broken = type("Broken", (Listener,), {where: lambda *_: 1 / 0})
    protocol = broken()
    async with connected(protocol) as (transport, end):
        if where == "pause_writing":
            transport.write(bytes(10_000_000))
        else:
            await end.send(b"x")
            await end.leave()
        await soon(protocol.lost.wait())
        assert isinstance(protocol.heard[-1], ZeroDivisionError)
        assert told == [f"{where}() failed"]


@on_both_loops
async def test_clear_bytes_behind_starttls_meet_the_handshake(certificates):
    protocol = Listener()
    async with connected(protocol) as (transport, end):
        transport.pause_reading()
        await end.send(b"MAIL FROM:<a@example.org>\r\n")
        with pytest.raises(ssl.SSLError):
            await soon(transport.start_tls(certificates.good, server_side=True))
        await soon(protocol.lost.wait())
        assert protocol.data == b""


@on_both_loops
async def test_a_client_who_only_connects_gets_no_tls_state(certificates, trust):
    """Some 45 KB each: ten thousand sockets would take half a gigabyte from those who talk."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        far = socket.create_connection(listener.getsockname())
        near, _ = listener.accept()
    near.setblocking(False)
    transport = Transport(near, Listener())
    shaking = asyncio.ensure_future(transport.start_tls(certificates.good, server_side=True))
    for _ in range(20):
        await asyncio.sleep(0)
    assert transport.get_extra_info("ssl_object") is None
    making = asyncio.ensure_future(End.over(far, trust, is_server=False))
    await soon(shaking)
    await soon(making)
    assert transport.get_extra_info("ssl_object") is not None
    transport.abort()
    far.close()


@on_both_loops
async def test_a_handshake_begins_when_the_clear_words_have_gone(certificates, trust):
    protocol = Listener()
    async with connected(protocol) as (transport, end):
        transport.write(bytes(8_000_000))
        assert transport.get_write_buffer_size() > 0
        securing = asyncio.ensure_future(transport.start_tls(certificates.good, server_side=True))
        assert await end.exactly(8_000_000) == bytes(8_000_000)
        await end.start_tls(trust)
        await soon(securing)
        await end.send(b"hello")
        await until(lambda: protocol.data == b"hello")
        assert transport.get_extra_info("ssl_object").version() == "TLSv1.3"


@pytest.mark.parametrize("how", ["silent", "gone", "reset", "closed here", "cancelled"])
@on_both_loops
async def test_a_handshake_that_fails_takes_the_connection_with_it(certificates, how):
    protocol = Listener()
    async with connected(protocol) as (transport, end):
        timeout_s = 0.2 if how == "silent" else 10.0
        securing = asyncio.ensure_future(transport.start_tls(certificates.good, server_side=True, timeout_s=timeout_s))
        await asyncio.sleep(0)
        match how:
            case "gone":
                end.drop()
            case "reset":
                end.reset()
            case "closed here":
                transport.close()
            case "cancelled":
                securing.cancel()
        with pytest.raises((OSError, asyncio.CancelledError)):
            await soon(securing)
        await soon(protocol.lost.wait())
        assert protocol.heard == ["made", None]
        assert transport.get_extra_info("peername", "nobody") == "nobody"


@on_both_loops
async def test_a_connection_that_was_reset_at_once_leaves_nothing_open(certificates):
    """A load balancer's look whether we are there. Python's warning of an unclosed socket would fail this test."""
    protocol = Listener()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        far = socket.create_connection(listener.getsockname())
        near, _ = listener.accept()
    near.setblocking(False)
    reset(far)
    with pytest.raises((ConnectionError, ssl.SSLError, OSError)):
        await soon(Transport(near, protocol).start_tls(certificates.good, server_side=True))
    assert protocol.heard == []


@on_both_loops
async def test_a_wrong_name_is_refused_as_a_client(certificates, trust):
    protocol = Listener()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    near.setblocking(False)
    transport = Transport(near, protocol)
    serving = asyncio.ensure_future(End.over(far, certificates.good, is_server=True))
    with pytest.raises(ssl.SSLCertVerificationError):
        await soon(transport.start_tls(trust, server_hostname=f"not-{HOST}"))
    with pytest.raises(OSError):
        await soon(serving)
    far.close()
    assert protocol.heard == []


class Counting(Transport):
    """Counts how often the loop says that there is room to write."""

    __slots__ = ("told_of_room",)

    def _on_writable(self):
        self.told_of_room += 1
        super()._on_writable()


@on_both_loops
async def test_a_handshake_that_waits_for_its_peer_does_not_ask_for_room(tmp_path):
    """There is room all the time, so each turn of the loop would bring the next: a worker that does nothing else."""
    ca = trustme.CA()
    leaf = ca.issue_cert(*(f"{number}.{'name' * 12}.example" for number in range(1000)))  # more than a socket takes
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    leaf.configure_cert(context)
    near, far = socket.socketpair()
    near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    for sock in (near, far):
        sock.setblocking(False)
    transport = Counting(near, Listener())
    transport.told_of_room = 0
    shaking = asyncio.create_task(transport.start_tls(context, server_side=True))
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    hello = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        client.wrap_bio(ssl.MemoryBIO(), hello, server_hostname="x").do_handshake()
    far.send(hello.read())
    await until(lambda: transport._watch.writes)  # it has more to say than there is room
    quiet = 0
    while quiet < 20:  # turns in a row: then all is said, and it is the turn of a peer who is silent
        try:
            far.recv(65_536)
            quiet = 0
        except BlockingIOError:
            quiet += 1
        await asyncio.sleep(0)
    told = transport.told_of_room
    assert told > 0
    for _ in range(20):
        await asyncio.sleep(0)
    assert transport.told_of_room == told
    assert not shaking.done()
    shaking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await shaking
    far.close()
