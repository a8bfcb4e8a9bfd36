"""Logging in to an IMAP server: real sockets, real TLS, both event loops, a scripted server."""

from __future__ import annotations

import base64
import logging

import pytest

from proxy.config import Tls
from proxy.edge.upstream import dial, examine, probe
from proxy.errors import UpstreamError, UpstreamFault
from proxy.secret import Secret
from proxy.wire.sasl import Bearer, Password
from tests.edge.imap_scripts import BOTH, BYTEWISE, CAPABILITIES, fault_of, greet, let_in, tell
from tests.edge.scripted import (
    BEARER,
    BY_PASSWORD,
    FAILURE,
    PASSWORD,
    PLAIN,
    TOKEN,
    XOAUTH2,
    Certificates,
    Recorder,
    make_certificates,
    on_both_loops,
    serving,
)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@BOTH
@BYTEWISE
@on_both_loops
async def test_a_token_logs_in(certificates, tls, bytewise):
    def script(peer):
        greet(peer, tls, bytewise=bytewise)
        tag = peer.tag(b"AUTHENTICATE XOAUTH2 " + XOAUTH2)
        peer.send(b"* CAPABILITY IMAP4rev1 IDLE\r\n* OK [ALERT] hi\r\n" + tag + b" OK [X] in\r\n", bytewise=bytewise)
        peer.expect(b"a1 NOOP")
        peer.send(b"a1 OK\r\n", bytewise=bytewise)
        peer.say_goodbye()

    async with serving(script, certificates, "imap", tls) as server:
        connection = await dial(server.upstream, "imap", BEARER)
        assert connection.untagged == b"* CAPABILITY IMAP4rev1 IDLE\r\n* OK [ALERT] hi\r\n"
        assert connection.ok_rest == b" OK [X] in\r\n"
        assert connection.extensions == ("IMAP4rev1", "IDLE")
        relay = Recorder()
        connection.hand_over(relay)
        relay.transport.write(b"a1 NOOP\r\n")
        await relay.until_lost()
        assert relay.data == b"a1 OK\r\n"
        assert relay.events[0] == "made"
        assert relay.events[-1] == "lost"
        assert relay.events.count("lost") == 1


@on_both_loops
async def test_without_sasl_ir_the_token_waits_for_the_plus(certificates):
    def script(peer):
        greet(peer, capabilities=b"IMAP4rev1 AUTH=XOAUTH2")
        tag = peer.tag(b"AUTHENTICATE XOAUTH2")
        peer.send(b"+ \r\n")
        peer.expect(XOAUTH2)
        peer.send(tag + b" ok [CAPABILITY IMAP4rev1 MOVE] in\r\n")
        peer.ends()

    async with serving(script, certificates, "imap", Tls.IMPLICIT) as server:
        connection = await dial(server.upstream, "imap", BEARER)
        assert connection.extensions == ("IMAP4rev1", "MOVE")
        assert connection.untagged == b""
        assert connection.ok_rest == b" ok [CAPABILITY IMAP4rev1 MOVE] in\r\n"
        connection.abort()


@on_both_loops
async def test_a_greeting_without_capabilities_is_asked_for_them(certificates):
    def script(peer):
        peer.send(b"* OK ready\r\n")
        tell(peer, CAPABILITIES)
        peer.send(peer.tag(b"AUTHENTICATE XOAUTH2 " + XOAUTH2) + b" OK in\r\n")
        peer.ends()

    async with serving(script, certificates, "imap", Tls.IMPLICIT) as server:
        connection = await dial(server.upstream, "imap", BEARER)
        assert connection.extensions is None  # it told none after the login
        connection.abort()


@on_both_loops
async def test_oauthbearer_is_used_where_it_is_all_there_is(certificates):
    def script(peer):
        greet(peer, capabilities=b"IMAP4rev1 SASL-IR AUTH=PLAIN AUTH=OAUTHBEARER")
        tag, name, mechanism, message = peer.line().split()
        assert (name, mechanism) == (b"AUTHENTICATE", b"OAUTHBEARER")
        assert base64.b64decode(message).startswith(b"n,a=ann@example.org,\x01host=localhost\x01port=")
        peer.send(b"+ " + FAILURE + b"\r\n")
        peer.expect(b"AQ==")
        peer.send(tag + b" NO refused\r\n")

    error = await fault_of(script, certificates)
    assert error.fault is UpstreamFault.REFUSED


@BOTH
@BYTEWISE
@on_both_loops
async def test_a_failure_challenge_is_answered_and_never_shown(certificates, tls, bytewise):
    def script(peer):
        greet(peer, tls, bytewise=bytewise)
        tag = peer.tag(b"AUTHENTICATE XOAUTH2 " + XOAUTH2)
        peer.send(b"+ " + FAILURE + b"\r\n", bytewise=bytewise)
        peer.expect(b"")
        peer.send(tag + b" NO AUTHENTICATE failed\r\n", bytewise=bytewise)

    error = await fault_of(script, certificates, tls)
    assert error.fault is UpstreamFault.REFUSED
    assert error.said.endswith('NO AUTHENTICATE failed {"status":"401","schemes":"bearer"}')


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        (b"NO AUTHENTICATE failed.", UpstreamFault.REFUSED),
        (b"NO [AUTHENTICATIONFAILED] Invalid credentials (Failure)", UpstreamFault.REFUSED),
        (b"no [authenticationfailed] x", UpstreamFault.REFUSED),
        (b"BAD Command Argument Error. 11", UpstreamFault.REFUSED),
        (b"NO [UNAVAILABLE] Temporary authentication failure.", UpstreamFault.UNAVAILABLE),
        (b"NO Server Unavailable. 15", UpstreamFault.UNAVAILABLE),
        (b"NO [LIMIT] no more", UpstreamFault.BUSY),
        (b"NO [ALERT] Too many simultaneous connections. (Failure)", UpstreamFault.BUSY),
        (b"BAD Request is throttled. Suggested Backoff Time: 299961 milliseconds", UpstreamFault.BUSY),
        (b"NO [ALERT] Your account is not enabled for IMAP use.", UpstreamFault.PROTOCOL_OFF),
        (b"MAYBE later", UpstreamFault.GARBAGE),
        (b"NO {17}", UpstreamFault.GARBAGE),
    ],
)
@on_both_loops
async def test_a_refusal_has_its_fault(certificates, answer, fault):
    def script(peer):
        greet(peer)
        peer.send(peer.tag(b"AUTHENTICATE XOAUTH2 " + XOAUTH2) + b" " + answer + b"\r\n")

    error = await fault_of(script, certificates)
    assert error.fault is fault
    assert answer.decode() in error.said


@pytest.mark.parametrize(
    ("greeting", "fault"),
    [
        (b"* BYE shutting down", UpstreamFault.UNAVAILABLE),
        (b"* BYE no", UpstreamFault.UNREACHABLE),
        (b"* BYE [LIMIT] too many connections", UpstreamFault.BUSY),
        (b"* PREAUTH you are root", UpstreamFault.UNTRUSTED),
        (b"* preauth you are root", UpstreamFault.UNTRUSTED),
        (b"220 mx ESMTP", UpstreamFault.GARBAGE),
        (b"HTTP/1.1 400 Bad Request", UpstreamFault.GARBAGE),
        (b"", UpstreamFault.GARBAGE),
        (b"* OK unix line end\n* OK", UpstreamFault.GARBAGE),
        (b"\x00\xff\xfe", UpstreamFault.GARBAGE),
    ],
)
@BOTH
@on_both_loops
async def test_a_bad_greeting_has_its_fault_and_gets_no_word(certificates, tls, greeting, fault):
    def script(peer):
        peer.send(greeting + b"\r\n")
        assert peer.ends() == b""

    assert (await fault_of(script, certificates, tls)).fault is fault


@pytest.mark.parametrize(
    "line",
    [b"* BYE [LIMIT] throttled", b"+ go", b"B1 OK other tag", b"* CAPABILITY {9999999999}", b"OK", b"* \xff\xfe x"],
)
@on_both_loops
async def test_a_wrong_answer_to_capability_ends_the_dial(certificates, line):
    def script(peer):
        peer.send(b"* OK\r\n")
        tag = peer.tag(b"CAPABILITY")
        peer.send(line + b"\r\n" + tag + b" OK done\r\n")

    error = await fault_of(script, certificates)
    assert error.fault is (UpstreamFault.BUSY if b"LIMIT" in line else UpstreamFault.GARBAGE)


@on_both_loops
async def test_a_refused_capability_is_unavailable(certificates):
    def script(peer):
        peer.send(b"* OK\r\n")
        peer.send(peer.tag(b"CAPABILITY") + b" NO not now\r\n")

    assert (await fault_of(script, certificates)).fault is UpstreamFault.UNAVAILABLE


# Passwords


@on_both_loops
async def test_a_password_goes_by_plain(certificates):
    def script(peer):
        greet(peer)
        peer.send(peer.tag(b"AUTHENTICATE PLAIN " + PLAIN) + b" OK in\r\n")
        peer.ends()

    async with serving(script, certificates, "imap", Tls.IMPLICIT) as server:
        (await dial(server.upstream, "imap", BY_PASSWORD)).abort()


@on_both_loops
async def test_a_password_goes_by_login_where_there_is_no_plain(certificates):
    def script(peer):
        greet(peer, capabilities=b"IMAP4rev1")
        peer.send(peer.tag(b'LOGIN "a \\"nn\\\\" "p \\"\\\\ \xc3\xbc"') + b" OK in\r\n")
        peer.ends()

    async with serving(script, certificates, "imap", Tls.IMPLICIT) as server:
        (await dial(server.upstream, "imap", Password('a "nn\\', Secret('p "\\ ü')))).abort()


@on_both_loops
async def test_a_password_is_not_sent_where_login_is_disabled(certificates):
    def script(peer):
        greet(peer, capabilities=b"IMAP4rev1 LOGINDISABLED AUTH=XOAUTH2")
        assert peer.ends() == b""

    error = await fault_of(script, certificates, credential=BY_PASSWORD)
    assert error.fault is UpstreamFault.PROTOCOL_OFF


@pytest.mark.parametrize("credential", [Bearer("ann\r\n", Secret("t")), Password("ann", Secret("a\r\nb"))])
@on_both_loops
async def test_a_credential_that_breaks_the_line_is_not_sent(certificates, credential):
    def script(peer):
        greet(peer, capabilities=b"IMAP4rev1 AUTH=XOAUTH2")
        assert peer.ends() == b""

    assert (await fault_of(script, certificates, credential=credential)).fault is UpstreamFault.REFUSED


@on_both_loops
async def test_a_plus_that_asks_for_more_than_the_password_is_garbage(certificates):
    def script(peer):
        greet(peer)
        peer.tag(b"AUTHENTICATE PLAIN " + PLAIN)
        peer.send(b"+ more\r\n")

    assert (await fault_of(script, certificates, credential=BY_PASSWORD)).fault is UpstreamFault.GARBAGE


@on_both_loops
async def test_ok_before_the_credential_is_garbage(certificates):
    def script(peer):
        greet(peer, capabilities=b"IMAP4rev1 AUTH=XOAUTH2")
        peer.send(peer.tag(b"AUTHENTICATE XOAUTH2") + b" OK whoever you are\r\n")

    assert (await fault_of(script, certificates)).fault is UpstreamFault.GARBAGE


# Secrets


@pytest.mark.parametrize(("credential", "capabilities"), [(BEARER, CAPABILITIES), (BY_PASSWORD, b"IMAP4rev1")])
@on_both_loops
async def test_no_log_level_lets_a_secret_out(certificates, credential, capabilities):
    records: list[logging.LogRecord] = []

    class Keep(logging.Handler):
        def emit(self, record):
            records.append(record)

    def script(peer):
        greet(peer, capabilities=capabilities)
        tag, _, echo = peer.line().partition(b" ")
        peer.send(b"* OK what is " + echo + b" ?\r\n" + tag + b" NO not " + echo + b"\r\n")

    handler = Keep()
    canary = logging.getLogger("gatepost.canary")
    loggers = [logging.getLogger(name) for name in (None, "aioimaplib", "aioimaplib.aioimaplib", "asyncio", "gatepost")]
    levels = [(logger, logger.level) for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.DEBUG)
        logger.addHandler(handler)
    try:
        canary.debug("canary")
        error = await fault_of(script, certificates, credential=credential)
    finally:
        for logger, level in levels:
            logger.setLevel(level)
            logger.removeHandler(handler)
    text = "\n".join([*(record.getMessage() for record in records), error.said, repr(error)])
    assert "canary" in text  # the records do arrive
    escaped = PASSWORD.replace("\\", "\\\\").replace('"', '\\"')
    for secret in (TOKEN, XOAUTH2.decode(), XOAUTH2.decode()[24:60], PASSWORD, escaped, PLAIN.decode()):
        assert secret not in text
    assert "(hidden)" in error.said


# Probe and examination


@BOTH
@on_both_loops
async def test_a_probe_tells_what_is_offered_behind_tls(certificates, tls):
    def script(peer):
        greet(peer, tls)
        peer.expect(b"ZZ9 LOGOUT")
        peer.send(b"* BYE\r\nZZ9 OK\r\n")
        peer.say_goodbye()

    async with serving(script, certificates, "imap", tls) as server:
        assert await probe(server.upstream, "imap") == ("IMAP4rev1", "SASL-IR", "AUTH=PLAIN", "AUTH=XOAUTH2")


@on_both_loops
async def test_a_probe_does_not_wait_for_a_server_that_does_not_part(certificates):
    def script(peer):
        greet(peer)
        assert peer.ends() == b"ZZ9 LOGOUT\r\n"

    async with serving(script, certificates, "imap", Tls.IMPLICIT) as server:
        assert "SASL-IR" in await probe(server.upstream, "imap")


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (b" OK [READ-ONLY] done", ""),
        (b" BAD User is authenticated but not connected.", "BAD User is authenticated but not connected."),
        (b" NO [NONEXISTENT] no INBOX", "NO [NONEXISTENT] no INBOX"),
    ],
)
@on_both_loops
async def test_an_examination_opens_the_inbox(certificates, answer, sentence):
    def script(peer):
        let_in(peer)
        tag = peer.tag(b"EXAMINE INBOX")
        peer.send(b"* 3 EXISTS\r\n* FLAGS (\\Seen)\r\n" + tag + answer + b"\r\n")
        assert peer.ends() == b"ZZ9 LOGOUT\r\n"

    async with serving(script, certificates, "imap", Tls.IMPLICIT) as server:
        assert await examine(server.upstream, "imap", BEARER) == sentence


@on_both_loops
async def test_an_examination_of_a_refused_token_raises(certificates):
    def script(peer):
        greet(peer)
        peer.send(peer.tag(b"AUTHENTICATE XOAUTH2 " + XOAUTH2) + b" NO no\r\n")
        peer.ends()

    async with serving(script, certificates, "imap", Tls.IMPLICIT) as server:
        with pytest.raises(UpstreamError) as caught:
            await examine(server.upstream, "imap", BEARER)
        assert caught.value.fault is UpstreamFault.REFUSED
