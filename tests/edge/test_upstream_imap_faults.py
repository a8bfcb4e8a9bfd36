"""IMAP servers upstream that nobody should trust, or wait for."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress

import pytest

from proxy.config import Endpoint, Tls, UpstreamConfig
from proxy.edge.upstream import dial
from proxy.edge.upstream_imap import MAX_LINE_BYTES, MAX_TALK_BYTES
from proxy.errors import UpstreamError, UpstreamFault
from tests.edge.imap_scripts import BOTH, fault_of, greet, let_in, silent_at, tell
from tests.edge.scripted import (
    BEARER,
    XOAUTH2,
    Certificates,
    happened,
    make_certificates,
    on_both_loops,
    serving,
)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


# Certificates


@pytest.mark.parametrize("which", ["other_name", "unknown_ca", "expired"])
@BOTH
@on_both_loops
async def test_a_wrong_certificate_is_untrusted(certificates, tls, which):
    context = getattr(certificates, which)

    def script(peer):
        if tls is Tls.STARTTLS:
            peer.send(b"* OK [CAPABILITY IMAP4rev1 STARTTLS] hi\r\n")
            peer.send(peer.tag(b"STARTTLS") + b" OK go\r\n")
            peer.start_tls(context)
        peer.ends()
        assert peer.heard == b""

    async with serving(script, certificates, "imap", tls, context) as server:
        with pytest.raises(UpstreamError, match="certificate: ") as caught:
            await dial(server.upstream, "imap", BEARER)
        assert caught.value.fault is UpstreamFault.UNTRUSTED


@on_both_loops
async def test_a_ca_file_that_is_gone_is_untrusted_and_not_dialled(certificates, tmp_path):
    upstream = UpstreamConfig(name="x", imap=Endpoint("localhost", 1, Tls.IMPLICIT), tls_ca=tmp_path / "gone.pem")
    with pytest.raises(UpstreamError, match=r"gone\.pem") as caught:
        await dial(upstream, "imap", BEARER)
    assert caught.value.fault is UpstreamFault.UNTRUSTED


@on_both_loops
async def test_clear_text_on_an_implicit_port_is_untrusted(certificates):
    def script(peer):
        peer.send(b"* OK [CAPABILITY IMAP4rev1] hi\r\n")
        peer.ends()

    async with serving(script, certificates, "imap", Tls.STARTTLS) as server:
        end = server.upstream.imap
        upstream = UpstreamConfig("x", imap=Endpoint(end.host, end.port, Tls.IMPLICIT), tls_ca=certificates.ca_file)
        with pytest.raises(UpstreamError) as caught:
            await dial(upstream, "imap", BEARER)
        assert caught.value.fault is UpstreamFault.UNTRUSTED


# STARTTLS


@on_both_loops
async def test_bytes_behind_the_answer_to_starttls_are_an_attack(certificates):
    def script(peer):
        peer.send(b"* OK [CAPABILITY IMAP4rev1 STARTTLS] hi\r\n")
        peer.send(peer.tag(b"STARTTLS") + b" OK go\r\n* CAPABILITY IMAP4rev1 AUTH=PLAIN\r\n")
        assert peer.ends() == b""

    assert (await fault_of(script, certificates, Tls.STARTTLS)).fault is UpstreamFault.UNTRUSTED


@on_both_loops
async def test_bytes_between_the_answer_to_starttls_and_the_handshake_break_it(certificates):
    def script(peer):
        peer.send(b"* OK [CAPABILITY IMAP4rev1 STARTTLS] hi\r\n")
        peer.send(peer.tag(b"STARTTLS") + b" OK go\r\n", bytewise=True)
        with suppress(OSError):  # the client may be gone after a few of them
            peer.send(b"* CAPABILITY IMAP4rev1 AUTH=PLAIN\r\n", bytewise=True)
        assert XOAUTH2 not in peer.ends()

    assert (await fault_of(script, certificates, Tls.STARTTLS)).fault is UpstreamFault.UNTRUSTED


@pytest.mark.parametrize("answer", [b" NO not now", b" BAD what"])
@on_both_loops
async def test_a_refused_starttls_never_falls_back(certificates, answer):
    def script(peer):
        peer.send(b"* OK [CAPABILITY IMAP4rev1 STARTTLS AUTH=XOAUTH2] hi\r\n")
        peer.send(peer.tag(b"STARTTLS") + answer + b"\r\n")
        assert peer.ends() == b""

    assert (await fault_of(script, certificates, Tls.STARTTLS)).fault is UpstreamFault.UNTRUSTED


@on_both_loops
async def test_starttls_not_offered_never_falls_back(certificates):
    def script(peer):
        peer.send(b"* OK hi\r\n")
        tell(peer, b"IMAP4rev1 AUTH=XOAUTH2")
        assert peer.ends() == b""

    assert (await fault_of(script, certificates, Tls.STARTTLS)).fault is UpstreamFault.UNTRUSTED


@on_both_loops
async def test_capabilities_from_before_tls_are_forgotten(certificates):
    def script(peer):
        peer.send(b"* OK [CAPABILITY IMAP4rev1 STARTTLS SASL-IR AUTH=XOAUTH2] hi\r\n")
        peer.send(peer.tag(b"STARTTLS") + b" OK [CAPABILITY IMAP4rev1 AUTH=XOAUTH2] go\r\n")
        peer.start_tls()
        tell(peer, b"IMAP4rev1 AUTH=PLAIN")
        assert peer.ends() == b""

    error = await fault_of(script, certificates, Tls.STARTTLS)
    assert error.fault is UpstreamFault.PROTOCOL_OFF
    assert "neither XOAUTH2 nor OAUTHBEARER" in error.said


# Silence, early ends, floods


@pytest.mark.parametrize("step", range(5))
@on_both_loops
async def test_silence_ends_at_the_deadline(certificates, step):
    error = await fault_of(silent_at(step), certificates, deadline_s=0.3)
    assert error.fault is UpstreamFault.SILENT


@on_both_loops
async def test_a_server_that_never_shakes_hands_is_silent(certificates):
    def script(peer):
        peer.ends()

    async with serving(script, certificates, "imap", Tls.STARTTLS) as server:
        end = server.upstream.imap
        upstream = UpstreamConfig("x", imap=Endpoint(end.host, end.port, Tls.IMPLICIT), tls_ca=certificates.ca_file)
        with pytest.raises(UpstreamError) as caught:
            await dial(upstream, "imap", BEARER, deadline_s=0.3)
        assert caught.value.fault is UpstreamFault.SILENT


@pytest.mark.parametrize("how", ["reset", "say_goodbye", "close"])
@pytest.mark.parametrize("step", range(5))
@on_both_loops
async def test_an_early_end_is_unreachable(certificates, step, how):
    def script(peer):
        silent_at(step)(peer)
        getattr(peer, how)()

    async with serving(script, certificates, "imap", Tls.IMPLICIT) as server:
        with pytest.raises(UpstreamError) as caught:
            await dial(server.upstream, "imap", BEARER)
        assert caught.value.fault is UpstreamFault.UNREACHABLE


@pytest.mark.parametrize("how", ["reset", "close"])
@on_both_loops
async def test_an_end_before_the_handshake_is_unreachable(certificates, how):
    def script(peer):
        getattr(peer, how)()

    async with serving(script, certificates, "imap", Tls.STARTTLS) as server:
        end = server.upstream.imap
        upstream = UpstreamConfig("x", imap=Endpoint(end.host, end.port, Tls.IMPLICIT), tls_ca=certificates.ca_file)
        with pytest.raises(UpstreamError) as caught:
            await dial(upstream, "imap", BEARER)
        assert caught.value.fault is UpstreamFault.UNREACHABLE


@pytest.mark.parametrize(
    ("host", "port"), [("127.0.0.1", 1), ("no-such-host.invalid", 993), ("x" * 70 + ".example", 993)]
)
@on_both_loops
async def test_nobody_there_is_unreachable(host, port):
    upstream = UpstreamConfig(name="x", imap=Endpoint(host, port, Tls.IMPLICIT))
    with pytest.raises(UpstreamError) as caught:
        await dial(upstream, "imap", BEARER)
    assert caught.value.fault is UpstreamFault.UNREACHABLE


@on_both_loops
async def test_a_protocol_that_is_not_configured_is_unreachable():
    with pytest.raises(UpstreamError, match="no smtp server is configured"):
        await dial(UpstreamConfig(name="x"), "smtp", BEARER)


@on_both_loops
async def test_the_next_address_of_a_name_is_tried(certificates):
    def script(peer):
        let_in(peer)
        peer.ends()

    async with serving(script, certificates, "imap", Tls.IMPLICIT) as server:
        loop = asyncio.get_running_loop()
        real = loop.getaddrinfo

        async def two_addresses(host, port, **options):
            found = await real("127.0.0.1", port, **options)
            return [(*found[0][:4], ("127.0.0.77", port)), *found]

        loop.getaddrinfo = two_addresses  # this test's own loop
        (await dial(server.upstream, "imap", BEARER)).abort()


@pytest.mark.parametrize("step", [0, 2])
@on_both_loops
async def test_a_flood_without_a_line_end_is_garbage(certificates, step):
    def script(peer):
        silent_at(step)(peer)
        peer.flood(b"x" * 65_536)

    error = await fault_of(script, certificates)
    assert error.fault is UpstreamFault.GARBAGE
    assert len(error.said) <= 200


@on_both_loops
async def test_a_flood_of_lines_is_garbage(certificates):
    def script(peer):
        silent_at(2)(peer)
        peer.flood(b"* x\r\n" * 13_000)

    assert (await fault_of(script, certificates)).fault is UpstreamFault.GARBAGE


@on_both_loops
async def test_a_long_capability_list_is_read(certificates):
    words = b" ".join(b"X-%d" % number for number in range(8_800))
    assert 60_000 < len(words) < MAX_LINE_BYTES < MAX_TALK_BYTES

    def script(peer):
        greet(peer, capabilities=words + b" AUTH=XOAUTH2")
        peer.tag(b"AUTHENTICATE XOAUTH2")
        peer.send(b"+\r\n")
        peer.expect(XOAUTH2)

    async with serving(script, certificates, "imap", Tls.IMPLICIT) as server:
        with pytest.raises(UpstreamError) as caught:
            await dial(server.upstream, "imap", BEARER)
        assert caught.value.fault is UpstreamFault.UNREACHABLE


@on_both_loops
async def test_many_untagged_lines_in_one_segment_are_taken(certificates):
    def script(peer):
        greet(peer)
        tag = peer.tag(b"AUTHENTICATE XOAUTH2 " + XOAUTH2)
        peer.send(b"* OK x\r\n" * 2_000 + tag + b" OK in\r\n")  # one call deep each: aioimaplib alone would recurse
        peer.ends()

    async with serving(script, certificates, "imap", Tls.IMPLICIT) as server:
        connection = await dial(server.upstream, "imap", BEARER)
        assert connection.untagged == b"* OK x\r\n" * 2_000
        connection.abort()


@pytest.mark.parametrize("step", range(5))
@on_both_loops
async def test_cancelling_the_dial_closes_the_connection(certificates, step):
    reached = threading.Event()

    def script(peer):
        silent_at(step)(peer)
        reached.set()
        peer.ends()

    async with serving(script, certificates, "imap", Tls.IMPLICIT) as server:
        dialling = asyncio.create_task(dial(server.upstream, "imap", BEARER))
        await happened(reached)
        dialling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await dialling
