"""What logins remember of an upstream: sessions of TLS, and addresses."""

from __future__ import annotations

import asyncio
import socket
import ssl

import pytest

from proxy.config import Tls
from proxy.edge.tls import client_context
from proxy.edge.upstream import dial
from proxy.edge.upstream_leg import Leg
from proxy.edge.upstream_memory import ADDRESSES_S, JOIN_S, SESSION_S, UpstreamMemory
from proxy.errors import UpstreamError, UpstreamFault
from tests.edge.imap_scripts import BOTH, greet, let_in
from tests.edge.scripted import BEARER, HOST, XOAUTH2, Certificates, make_certificates, on_both_loops, serving


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


class Visits:
    """A script that notes of each connection whether its TLS session was resumed, and then greets."""

    def __init__(self) -> None:
        self.resumed: list[bool] = []

    def __call__(self, peer):
        self.resumed.append(peer._socket.session_reused)
        peer.send(b"hello\r\n")
        peer.ends()


async def visit(memory: UpstreamMemory, port: int) -> None:
    """A handshake and a line, as a login has them."""
    leg = Leg(memory)
    try:
        await leg.open(HOST, port)
        await leg.secure(HOST)
        await leg.receive()
        leg.keep_session()
    except UpstreamError:
        leg.doubt_session()
        raise
    finally:
        leg.abort()


# TLS sessions


@BOTH
@on_both_loops
async def test_second_login_resumes_what_the_first_had_verified(certificates, tls):
    resumed: list[bool] = []

    def script(peer):
        greet(peer, tls)
        resumed.append(peer._socket.session_reused)
        peer.send(peer.tag(b"AUTHENTICATE XOAUTH2 " + XOAUTH2) + b" OK in\r\n")
        peer.ends()

    async with serving(script, certificates, "imap", tls) as server:
        for _ in range(3):
            (await dial(server.upstream, "imap", BEARER)).abort()
    assert resumed == [False, True, True]


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@on_both_loops
async def test_certificate_is_verified_anew_after_some_minutes_however_often_it_was_resumed(certificates, version):
    now = [1000.0]
    script = Visits()
    async with serving(script, certificates, "imap", Tls.IMPLICIT) as server:
        context = client_context(server.upstream)
        context.maximum_version = version
        memory = UpstreamMemory(context, lambda: now[0])
        for _ in range(3):
            await visit(memory, server.upstream.imap.port)
            now[0] += SESSION_S * 0.49
        await visit(memory, server.upstream.imap.port)
        await visit(memory, server.upstream.imap.port)
    assert script.resumed == [False, True, True, False, True]


@on_both_loops
async def test_server_whose_certificate_is_wrong_by_now_is_not_believed_after_the_session(certificates):
    now = [1000.0]
    async with serving(Visits(), certificates, "imap", Tls.IMPLICIT) as server:
        memory = UpstreamMemory(client_context(server.upstream), lambda: now[0])
        await visit(memory, server.upstream.imap.port)
    async with serving(Visits(), certificates, "imap", Tls.IMPLICIT, certificates.expired) as server:
        # It has not the keys of that session: no resuming, so its certificate is looked at even now.
        with pytest.raises(UpstreamError, match="certificate: ") as caught:
            await visit(memory, server.upstream.imap.port)
        assert caught.value.fault is UpstreamFault.UNTRUSTED


@on_both_loops
async def test_session_is_of_one_server(certificates):
    async with serving(Visits(), certificates, "imap", Tls.IMPLICIT) as server:
        memory = UpstreamMemory(client_context(server.upstream))
        port = server.upstream.imap.port
        await visit(memory, port)
        assert memory.session((HOST, port)) is not None
        assert memory.session(("127.0.0.1", port)) is None  # another name: its certificate was not looked at for that
        assert memory.session((HOST, port + 1)) is None  # another server, which has other keys


@on_both_loops
async def test_after_a_handshake_that_failed_no_session_is_offered_for_a_while(certificates):
    now = [1000.0]
    script = Visits()
    fails = [False]

    def sometimes(peer):
        if fails[0]:
            assert peer._socket.recv(1)
            peer.reset()
            return
        peer.start_tls()
        script(peer)

    async with serving(sometimes, certificates, "imap", Tls.STARTTLS) as server:
        memory = UpstreamMemory(client_context(server.upstream), lambda: now[0])
        port = server.upstream.imap.port
        await visit(memory, port)
        fails[0] = True
        with pytest.raises(UpstreamError):
            await visit(memory, port)
        fails[0] = False
        await visit(memory, port)
        await visit(memory, port)
        now[0] += SESSION_S
        await visit(memory, port)
        await visit(memory, port)
    assert script.resumed == [False, False, False, False, True]


@pytest.mark.parametrize("says", [b"", b"hello\r\n"], ids=["nothing", "garbage"])
@on_both_loops
async def test_login_that_fails_after_it_resumed_is_followed_by_one_that_does_not(certificates, says):
    resumed: list[bool] = []

    def fails_if_resumed(peer):
        resumed.append(peer._socket.session_reused)
        if resumed[-1]:
            peer.send(says)
            return
        let_in(peer)
        peer.ends()

    async with serving(fails_if_resumed, certificates, "imap", Tls.IMPLICIT) as server:
        (await dial(server.upstream, "imap", BEARER)).abort()
        with pytest.raises(UpstreamError) as caught:
            await dial(server.upstream, "imap", BEARER)
        assert caught.value.fault in (UpstreamFault.UNREACHABLE, UpstreamFault.GARBAGE)
        for _ in range(2):
            (await dial(server.upstream, "imap", BEARER)).abort()
    assert resumed == [False, True, False, False]


@on_both_loops
async def test_refused_login_says_nothing_of_the_session(certificates):
    resumed: list[bool] = []

    def refuses_the_second(peer):
        resumed.append(peer._socket.session_reused)
        greet(peer)
        tag = peer.tag(b"AUTHENTICATE XOAUTH2 " + XOAUTH2)
        peer.send(tag + (b" NO no\r\n" if len(resumed) == 2 else b" OK in\r\n"))
        peer.ends()

    async with serving(refuses_the_second, certificates, "imap", Tls.IMPLICIT) as server:
        (await dial(server.upstream, "imap", BEARER)).abort()
        with pytest.raises(UpstreamError):
            await dial(server.upstream, "imap", BEARER)
        (await dial(server.upstream, "imap", BEARER)).abort()
    assert resumed == [False, True, True]


def test_session_that_can_not_be_copied_is_none(context):
    class Lengthy:
        @property
        def session(self):
            raise ValueError("i2d() failed")

    memory = UpstreamMemory(context)
    memory.keep_session((HOST, 993), Lengthy())
    assert memory.session((HOST, 993)) is None


@on_both_loops
async def test_server_that_refuses_a_session_is_offered_none_for_a_while(certificates):
    now = [1000.0]
    script = Visits()
    contexts = [certificates.good]

    def restarted(peer):
        peer.start_tls(contexts[0])
        script(peer)

    async with serving(restarted, certificates, "imap", Tls.STARTTLS) as server:
        memory = UpstreamMemory(client_context(server.upstream), lambda: now[0])
        port = server.upstream.imap.port
        await visit(memory, port)
        contexts[0] = certificates.twin
        for _ in range(3):
            await visit(memory, port)
        now[0] += SESSION_S
        await visit(memory, port)
        await visit(memory, port)
    assert script.resumed == [False, False, False, False, False, True]


# Addresses


class Resolver:
    """A getaddrinfo that counts, and answers when it is let."""

    def __init__(self, port: int) -> None:
        self.asked = 0
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.port = port
        self.error: OSError | None = None

    async def __call__(self, host, port, **_options):
        self.asked += 1
        await self.may_answer.wait()
        if self.error is not None:
            raise self.error
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", self.port))]


@pytest.fixture
def context() -> ssl.SSLContext:
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


async def test_all_who_ask_at_one_time_share_one_look_up(context):
    loop = asyncio.get_running_loop()
    loop.getaddrinfo = resolver = Resolver(143)
    resolver.may_answer.clear()
    memory = UpstreamMemory(context)
    asking = [asyncio.create_task(memory.addresses(("mail.example.org", 143))) for _ in range(10)]
    await asyncio.sleep(0)
    asking.pop(0).cancel()  # he who asked first hangs up
    await asyncio.sleep(0)
    resolver.may_answer.set()
    assert await asyncio.gather(*asking) == [[(socket.AF_INET, ("127.0.0.1", 143))]] * 9
    assert resolver.asked == 1


async def test_look_up_that_hangs_holds_up_only_those_who_came_soon(context):
    now = [0.0]
    loop = asyncio.get_running_loop()
    loop.getaddrinfo = resolver = Resolver(143)
    resolver.may_answer.clear()
    memory = UpstreamMemory(context, lambda: now[0])
    early = asyncio.create_task(memory.addresses(("mail.example.org", 143)))
    for _ in range(3):
        await asyncio.sleep(0)
    now[0] += JOIN_S + 0.1
    hangs, resolver.may_answer = resolver.may_answer, asyncio.Event()
    late = asyncio.create_task(memory.addresses(("mail.example.org", 143)))
    for _ in range(3):
        await asyncio.sleep(0)
    resolver.may_answer.set()
    assert await late
    assert not early.done()
    hangs.set()
    assert await early
    assert resolver.asked == 2


V6 = [(socket.AF_INET6, (f"2001:db8::{number}", 143, 0, 0)) for number in range(5)]
V4 = (socket.AF_INET, ("192.0.2.1", 143))


async def test_both_families_are_tried_however_many_addresses_one_has(context):
    async def resolver(*_arguments, **_options):
        return [(family, socket.SOCK_STREAM, 6, "", address) for family, address in [*V6, V4]]

    asyncio.get_running_loop().getaddrinfo = resolver
    assert await UpstreamMemory(context).addresses(("mail.example.org", 143)) == [V6[0], V4, V6[1], V6[2]]


async def test_the_family_that_answered_is_the_first_from_then_on(context):
    now = [0.0]
    other = (socket.AF_INET, ("192.0.2.2", 143))
    found = [*V6, other, V4]

    async def resolver(*_arguments, **_options):
        return [(family, socket.SOCK_STREAM, 6, "", address) for family, address in found]

    asyncio.get_running_loop().getaddrinfo = resolver
    memory = UpstreamMemory(context, lambda: now[0])
    server = ("mail.example.org", 143)
    await memory.addresses(server)
    memory.prefer_address(server, V4)
    assert await memory.addresses(server) == [V4, V6[0], other, V6[1]]
    now[0] += ADDRESSES_S
    assert await memory.addresses(server) == [other, V6[0], V4, V6[1]]  # as the resolver has it
    now[0] += ADDRESSES_S
    del found[-2:]
    assert await memory.addresses(server) == V6[:4]


async def test_no_address_is_an_error(context):
    async def nowhere(*_arguments, **_options):
        return []

    asyncio.get_running_loop().getaddrinfo = nowhere
    with pytest.raises(OSError, match="no address"):
        await UpstreamMemory(context).addresses(("mail.example.org", 143))


async def test_addresses_are_asked_for_again_after_seconds_and_failures_at_once(context):
    now = [0.0]
    loop = asyncio.get_running_loop()
    loop.getaddrinfo = resolver = Resolver(143)
    memory = UpstreamMemory(context, lambda: now[0])
    resolver.error = socket.gaierror(socket.EAI_AGAIN, "try again")
    for _ in range(2):
        with pytest.raises(OSError, match="try again"):
            await memory.addresses(("mail.example.org", 143))
    assert resolver.asked == 2
    resolver.error = None
    for _ in range(3):
        await memory.addresses(("mail.example.org", 143))
        now[0] += ADDRESSES_S * 0.4
    assert resolver.asked == 3
    await memory.addresses(("mail.example.org", 143))
    assert resolver.asked == 4


async def test_failed_look_up_that_nobody_waits_for_any_more_is_no_complaint(context, caplog):
    loop = asyncio.get_running_loop()
    loop.getaddrinfo = resolver = Resolver(143)
    resolver.may_answer.clear()
    resolver.error = socket.gaierror(socket.EAI_AGAIN, "try again")
    memory = UpstreamMemory(context)
    asking = asyncio.create_task(memory.addresses(("mail.example.org", 143)))
    await asyncio.sleep(0)
    asking.cancel()
    await asyncio.sleep(0)
    resolver.may_answer.set()
    resolver.error = None
    assert await memory.addresses(("mail.example.org", 143))
    assert not caplog.records


@on_both_loops
async def test_address_where_nobody_answers_is_looked_up_again_by_the_next_login(certificates):
    async with serving(let_in, certificates, "imap", Tls.IMPLICIT) as server:
        loop = asyncio.get_running_loop()
        real, asked = loop.getaddrinfo, []

        async def counting(host, port, **options):
            asked.append(host)
            return await real("127.0.0.1", port, **options)

        loop.getaddrinfo = counting
        free = socket.create_server(("127.0.0.1", 0))
        nobody = free.getsockname()[1]
        free.close()
        memory = UpstreamMemory(client_context(server.upstream))
        for _ in range(2):
            with pytest.raises(UpstreamError) as caught:
                await Leg(memory).open("mail.example.org", nobody)
            assert caught.value.fault is UpstreamFault.UNREACHABLE
        assert asked.count("mail.example.org") == 2
