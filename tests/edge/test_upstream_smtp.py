"""Dialling an SMTP server: real sockets, real TLS, both event loops, a scripted server.

What replies mean is told by tests/wire/test_smtp_login.py; here is what needs a socket.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import threading
from contextlib import suppress

import pytest

from proxy.config import Tls
from proxy.edge.upstream import dial, examine, probe
from proxy.errors import UpstreamError, UpstreamFault
from tests.edge.scripted import (
    BEARER,
    BY_PASSWORD,
    FAILURE,
    PASSWORD,
    PLAIN,
    TOKEN,
    XOAUTH2,
    Certificates,
    Peer,
    Recorder,
    Script,
    happened,
    make_certificates,
    on_both_loops,
    serving,
)

EHLO = b"250-mx\r\n250-SIZE 1000\r\n250-AUTH LOGIN PLAIN XOAUTH2\r\n250 CHUNKING\r\n"
EXTENSIONS = ("SIZE 1000", "AUTH LOGIN PLAIN XOAUTH2", "CHUNKING")
BOTH = pytest.mark.parametrize("tls", [Tls.IMPLICIT, Tls.STARTTLS])
BYTEWISE = pytest.mark.parametrize("bytewise", [False, True], ids=["whole", "bytewise"])


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


def hear_ehlo(peer: Peer) -> None:
    assert peer.line().startswith(b"EHLO ")


def greet(peer: Peer, tls: Tls = Tls.IMPLICIT, *, bytewise: bool = False) -> None:
    """Up to where the client authenticates."""
    peer.send(b"220-mx\r\n220 ready\r\n", bytewise=bytewise)
    hear_ehlo(peer)
    if tls is Tls.STARTTLS:
        peer.send(b"250-mx\r\n250 STARTTLS\r\n", bytewise=bytewise)
        peer.expect(b"STARTTLS")
        peer.send(b"220 go\r\n", bytewise=bytewise)
        peer.start_tls()
        hear_ehlo(peer)
    peer.send(EHLO, bytewise=bytewise)


def hear_token(peer: Peer, *, bytewise: bool = False) -> None:
    peer.expect(b"AUTH XOAUTH2")
    peer.send(b"334 \r\n", bytewise=bytewise)
    peer.expect(XOAUTH2)


async def fault_of(
    script: Script, certificates: Certificates, tls: Tls = Tls.IMPLICIT, *, deadline_s: float = 5.0
) -> UpstreamError:
    """The error that dialling a server with this script gives; the client must be gone afterwards."""

    def until_gone(peer: Peer) -> None:
        script(peer)
        peer.ends()

    async with serving(until_gone, certificates, "smtp", tls) as server:
        with pytest.raises(UpstreamError) as caught:
            await dial(server.upstream, "smtp", BEARER, deadline_s=deadline_s)
        assert TOKEN not in str(caught.value)
    return caught.value


@BOTH
@BYTEWISE
@on_both_loops
async def test_a_token_logs_in(certificates, tls, bytewise):
    def script(peer):
        greet(peer, tls, bytewise=bytewise)
        hear_token(peer, bytewise=bytewise)
        peer.send(b"235 in\r\n", bytewise=bytewise)
        peer.expect(b"NOOP")
        peer.send(b"250 ok\r\n", bytewise=bytewise)
        peer.say_goodbye()

    async with serving(script, certificates, "smtp", tls) as server:
        connection = await dial(server.upstream, "smtp", BEARER)
        assert (connection.untagged, connection.ok_rest) == (b"", b"")
        assert connection.extensions == EXTENSIONS
        relay = Recorder()
        connection.hand_over(relay)
        relay.transport.write(b"NOOP\r\n")
        await relay.until_lost()
        assert relay.data == b"250 ok\r\n"


@on_both_loops
async def test_bytes_behind_235_reach_the_relay(certificates):
    def script(peer):
        greet(peer)
        hear_token(peer)
        peer.send(b"235 in\r\n421 4.3.2 go")
        peer.send(b"ing\r\n")
        peer.say_goodbye()

    async with serving(script, certificates, "smtp", Tls.IMPLICIT) as server:
        connection = await dial(server.upstream, "smtp", BEARER)
        relay = Recorder()
        connection.hand_over(relay)
        await relay.until_lost()
        assert relay.data == b"421 4.3.2 going\r\n"


@on_both_loops
async def test_a_failure_challenge_is_answered_by_an_empty_line(certificates):
    def script(peer):
        greet(peer)
        hear_token(peer)
        peer.send(b"334 " + FAILURE + b"\r\n")
        peer.expect(b"")
        peer.send(b"535-5.7.8 no\r\n535 5.7.8 token\r\n")

    error = await fault_of(script, certificates)
    assert error.fault is UpstreamFault.REFUSED
    assert '"status":"401"' in error.said


@on_both_loops
async def test_a_password_goes_by_plain(certificates):
    def script(peer):
        greet(peer)
        peer.expect(b"AUTH PLAIN")
        peer.send(b"334 \r\n")
        peer.expect(PLAIN)
        peer.send(b"235 in\r\n")
        peer.ends()

    async with serving(script, certificates, "smtp", Tls.IMPLICIT) as server:
        (await dial(server.upstream, "smtp", BY_PASSWORD)).abort()


@on_both_loops
async def test_ehlo_names_this_machine_or_its_address(certificates):
    names: list[bytes] = []

    def script(peer):
        peer.send(b"220 mx\r\n")
        names.append(peer.line())
        peer.send(b"554 no\r\n")

    await fault_of(script, certificates)
    (name,) = names
    assert name == b"EHLO [127.0.0.1]" or b"." in name.removeprefix(b"EHLO ")


@pytest.mark.parametrize("which", ["other_name", "unknown_ca", "expired"])
@BOTH
@on_both_loops
async def test_a_wrong_certificate_is_untrusted(certificates, tls, which):
    context = getattr(certificates, which)

    def script(peer):
        if tls is Tls.STARTTLS:
            peer.send(b"220 mx\r\n")
            hear_ehlo(peer)
            peer.send(b"250-mx\r\n250 STARTTLS\r\n")
            peer.expect(b"STARTTLS")
            peer.send(b"220 go\r\n")
            peer.start_tls(context)
        peer.ends()
        assert peer.heard == b""

    async with serving(script, certificates, "smtp", tls, context) as server:
        with pytest.raises(UpstreamError, match="certificate: ") as caught:
            await dial(server.upstream, "smtp", BEARER)
        assert caught.value.fault is UpstreamFault.UNTRUSTED


@pytest.mark.parametrize(
    ("ehlo", "answer"),
    [
        (b"250-mx\r\n250 STARTTLS\r\n", b"220 go\r\n250-fake\r\n250 AUTH PLAIN\r\n"),
        (b"250-mx\r\n250 STARTTLS\r\n", b"454 4.7.0 not now\r\n"),
        (b"250-mx\r\n250 AUTH XOAUTH2\r\n", None),
    ],
    ids=["injected", "refused", "not offered"],
)
@on_both_loops
async def test_a_broken_starttls_never_falls_back(certificates, ehlo, answer):
    def script(peer):
        peer.send(b"220 mx\r\n")
        hear_ehlo(peer)
        peer.send(ehlo)
        if answer:
            peer.expect(b"STARTTLS")
            peer.send(answer)
        assert peer.ends() == b""

    assert (await fault_of(script, certificates, Tls.STARTTLS)).fault is UpstreamFault.UNTRUSTED


@on_both_loops
async def test_bytes_between_220_and_the_handshake_break_it(certificates):
    def script(peer):
        peer.send(b"220 mx\r\n")
        hear_ehlo(peer)
        peer.send(b"250-mx\r\n250 STARTTLS\r\n")
        peer.expect(b"STARTTLS")
        peer.send(b"220 go\r\n", bytewise=True)
        with suppress(OSError):
            peer.send(b"250-fake\r\n250 AUTH PLAIN\r\n", bytewise=True)
        assert base64.b64encode(b"\0ann") not in peer.ends()

    assert (await fault_of(script, certificates, Tls.STARTTLS)).fault is UpstreamFault.UNTRUSTED


def silent_at(step: int) -> Script:
    """A server that stops talking after so many steps."""

    def script(peer):
        if step > 0:
            peer.send(b"220 mx\r\n"[: 4 if step == 1 else None])
        if step > 1:
            hear_ehlo(peer)
        if step > 2:
            peer.send(EHLO)
            peer.expect(b"AUTH XOAUTH2")
        if step > 3:
            peer.send(b"334 \r\n")
            peer.expect(XOAUTH2)
        if step > 4:
            peer.send(b"334 " + FAILURE + b"\r\n")
            peer.expect(b"")

    return script


@pytest.mark.parametrize("step", range(6))
@on_both_loops
async def test_silence_ends_at_the_deadline(certificates, step):
    error = await fault_of(silent_at(step), certificates, deadline_s=0.3)
    assert error.fault is UpstreamFault.SILENT


@pytest.mark.parametrize("how", ["reset", "say_goodbye", "close"])
@pytest.mark.parametrize("step", range(6))
@on_both_loops
async def test_an_early_end_is_unreachable(certificates, step, how):
    def script(peer):
        silent_at(step)(peer)
        getattr(peer, how)()

    async with serving(script, certificates, "smtp", Tls.IMPLICIT) as server:
        with pytest.raises(UpstreamError) as caught:
            await dial(server.upstream, "smtp", BEARER)
        assert caught.value.fault is UpstreamFault.UNREACHABLE


@pytest.mark.parametrize("step", [0, 2, 4])
@on_both_loops
async def test_a_flood_without_a_line_end_is_garbage(certificates, step):
    def script(peer):
        silent_at(step)(peer)
        peer.flood(b"2" * 65_536)

    assert (await fault_of(script, certificates)).fault is UpstreamFault.GARBAGE


@on_both_loops
async def test_a_flood_of_lines_is_garbage(certificates):
    def script(peer):
        silent_at(2)(peer)
        peer.flood(b"250-X\r\n" * 9_000)

    assert (await fault_of(script, certificates)).fault is UpstreamFault.GARBAGE


@pytest.mark.parametrize("step", range(6))
@on_both_loops
async def test_cancelling_the_dial_closes_the_connection(certificates, step):
    reached = threading.Event()

    def script(peer):
        silent_at(step)(peer)
        reached.set()
        peer.ends()

    async with serving(script, certificates, "smtp", Tls.IMPLICIT) as server:
        dialling = asyncio.create_task(dial(server.upstream, "smtp", BEARER))
        await happened(reached)
        dialling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await dialling


@pytest.mark.parametrize("credential", [BEARER, BY_PASSWORD])
@on_both_loops
async def test_no_log_level_lets_a_secret_out(certificates, caplog, credential):
    def script(peer):
        greet(peer)
        peer.line()
        peer.send(b"334 \r\n")
        echo = peer.line()
        peer.send(b"500-what is " + echo + b"\r\n500 cut " + echo[:70] + b"...\r\n")
        peer.ends()

    async with serving(script, certificates, "smtp", Tls.IMPLICIT) as server:
        with caplog.at_level(logging.DEBUG), pytest.raises(UpstreamError) as caught:
            await dial(server.upstream, "smtp", credential)
    text = caplog.text + repr(caught.value)
    assert "(hidden)" in caught.value.said
    for secret in (TOKEN, XOAUTH2.decode(), XOAUTH2.decode()[24:60], PASSWORD, PLAIN.decode()):
        assert secret not in text


@BOTH
@on_both_loops
async def test_a_probe_tells_what_is_offered_behind_tls(certificates, tls):
    def script(peer):
        greet(peer, tls)
        peer.expect(b"QUIT")
        peer.send(b"221 bye\r\n")
        peer.say_goodbye()

    async with serving(script, certificates, "smtp", tls) as server:
        assert await probe(server.upstream, "smtp") == EXTENSIONS


@pytest.mark.parametrize(("answer", "sentence"), [(EHLO, ""), (b"550 5.7.1 gone\r\n", "550 5.7.1 gone")])
@on_both_loops
async def test_an_examination_says_ehlo_once_more(certificates, answer, sentence):
    def script(peer):
        greet(peer)
        hear_token(peer)
        peer.send(b"235 in\r\n")
        hear_ehlo(peer)
        peer.send(answer)
        peer.expect(b"QUIT")
        peer.say_goodbye()

    async with serving(script, certificates, "smtp", Tls.IMPLICIT) as server:
        assert await examine(server.upstream, "smtp", BEARER) == sentence
