"""What is offered before login: learned by probes and logins, kept in the store, common to all upstreams."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial

from proxy.config import Config, Endpoint, ListenConfig, Tls
from proxy.edge import extensions as module
from proxy.edge.extensions import Extensions
from proxy.store.pool import StorePool
from proxy.store.store import Store
from tests.edge.house_kit import (
    IMAP_OFFER,
    Mailbox,
    Set_up,
    imap_login,
    mail_server,
    open_house,
    smtp_login,
    until_it_leaves,
)
from tests.edge.relay_kit import until
from tests.edge.scripted import on_both_loops
from tests.test_serve import auth, ehlo

pytest_plugins = ("tests.edge.house_plugin",)


@asynccontextmanager
async def opened(made: Set_up):
    """An Extensions over the set-up's store."""
    store = Store.open(made.config.store.url, migrate=False)
    pool = StorePool(store, threads=1)
    extensions = Extensions(store, pool)
    try:
        yield extensions
    finally:
        await extensions.close()
        pool.close()
        store.close()


def listener(*upstreams: str, protocol="smtp") -> ListenConfig:
    return ListenConfig(protocol, "127.0.0.1", 0, Tls.IMPLICIT, upstreams)


def with_upstreams(made: Set_up, protocol: str, **endpoints) -> Config:
    """A configuration with these upstreams behind one listener."""
    base = made.config.upstreams["main"]
    upstreams = {name: replace(base, name=name, **{protocol: endpoint}) for name, endpoint in endpoints.items()}
    return replace(made.config, upstreams=upstreams, listeners=(listener(*endpoints, protocol=protocol),))


@on_both_loops
async def test_nothing_is_offered_while_an_upstream_was_never_asked(made):
    async with opened(made) as extensions:
        both = listener("one", "two")
        assert extensions.offered(both) == ()
        extensions.learn("one", "smtp", ("PIPELINING", "SIZE 100"))
        assert extensions.offered(both) == ()
        assert extensions.offered(listener("one")) == ("PIPELINING", "SIZE 100")
        extensions.learn("two", "imap", ("IDLE",))  # of the other protocol
        assert extensions.offered(both) == ()


@on_both_loops
async def test_two_upstreams_have_their_common_part_offered_and_the_smaller_size(made):
    async with opened(made) as extensions:
        extensions.learn("one", "smtp", ("PIPELINING", "CHUNKING", "SIZE 2000", "DSN", "XCLIENT NAME"))
        extensions.learn("two", "smtp", ("SIZE 1000", "CHUNKING", "PIPELINING", "XCLIENT NAME"))
        assert extensions.offered(listener("one", "two")) == ("PIPELINING", "CHUNKING", "SIZE 1000")
        extensions.learn("two", "smtp", ("PIPELINING",))
        assert extensions.offered(listener("one", "two")) == ("PIPELINING",)


@on_both_loops
async def test_what_was_learned_is_there_after_a_restart(made):
    async with opened(made) as extensions:
        extensions.learn("main", "imap", ("IMAP4rev1", "IDLE"))
    config = with_upstreams(made, "imap", main=Endpoint("localhost", 1, Tls.IMPLICIT))
    async with opened(made) as extensions:
        assert extensions.offered(listener("main", protocol="imap")) == ()
    async with opened(made) as extensions:
        await extensions.load(config.upstreams)
        assert extensions.offered(listener("main", protocol="imap")) == ("IDLE",)


@on_both_loops
async def test_upstream_that_was_down_is_asked_again(made, monkeypatch):
    monkeypatch.setattr(module, "PROBE_RETRY_S", 0.05)
    is_up = False

    async def greet(mailbox: Mailbox) -> None:
        if not is_up:
            raise ConnectionError
        await smtp_login(mailbox)

    async with (
        mail_server(made.certificates, "smtp", until_it_leaves, greet) as frail,
        mail_server(made.certificates, "smtp", until_it_leaves, partial(smtp_login, offer=("PIPELINING",))) as sound,
        opened(made) as extensions,
    ):
        config = with_upstreams(made, "smtp", frail=frail.endpoint, sound=sound.endpoint)
        probing = asyncio.create_task(extensions.probe_all(config))
        await until(lambda: extensions.offered(listener("sound")))
        assert extensions.offered(config.listeners[0]) == ()
        is_up = True
        async with asyncio.timeout(10):
            await probing
        assert extensions.offered(config.listeners[0]) == ("PIPELINING",)


@on_both_loops
async def test_probe_does_not_take_back_what_an_imap_login_told(made):
    """Exchange tells strangers less than users."""
    async with (
        mail_server(
            made.certificates, "imap", until_it_leaves, partial(imap_login, offer=b"IMAP4rev1 IDLE")
        ) as upstream,
        opened(made) as extensions,
    ):
        extensions.learn("main", "imap", ("IMAP4rev1", "IDLE", "MOVE"))
        config = with_upstreams(made, "imap", main=upstream.endpoint)
        await extensions.probe_all(config)
        assert extensions.offered(config.listeners[0]) == ("IDLE", "MOVE")


@on_both_loops
async def test_store_that_is_down_keeps_nobody_from_learning(made):
    store = Store.open(made.config.store.url, migrate=False)
    pool = StorePool(store, threads=1)
    pool.close()
    extensions = Extensions(store, pool)
    extensions.learn("main", "imap", ("IDLE",))
    await extensions.close()
    store.close()
    assert extensions.offered(listener("main", protocol="imap")) == ("IDLE",)


@on_both_loops
async def test_a_login_refreshes_what_the_next_client_is_offered(made):
    async with mail_server(made.certificates, "smtp") as upstream, open_house(made, upstream, "smtp") as gate:
        first = await gate.connect(Tls.IMPLICIT)
        await first.line()
        assert b"250-PIPELINING" in await ehlo(first)
        upstream.greet = partial(smtp_login, offer=("8BITMIME",))
        assert (await first.ask(auth(gate.password))).startswith(b"235 ")
        second = await gate.connect(Tls.IMPLICIT)
        await second.line()
        assert {b"250 8BITMIME", b"250-8BITMIME"} & set(offer := await ehlo(second))
        assert b"250-PIPELINING" not in offer
        first.drop()
        second.drop()


@on_both_loops
async def test_imap_capabilities_of_the_upstream_are_offered_before_login_and_its_own_auth_is_not(made):
    async with mail_server(made.certificates, "imap") as upstream, open_house(made, upstream) as gate:
        client = await gate.connect(Tls.IMPLICIT)
        greeting = (await client.line()).split(b"]")[0].split()[3:]
        assert set(IMAP_OFFER.split()) - {b"SASL-IR", b"AUTH=PLAIN"} <= set(greeting)
        assert greeting.count(b"AUTH=PLAIN") == greeting.count(b"SASL-IR") == 1
        client.drop()


# -- several processes -------------------------------------------------------------------------------------------------


@on_both_loops
async def test_a_node_s_first_worker_alone_asks_and_the_others_offer_what_it_got(made):
    visits = 0

    async def counted(mailbox: Mailbox) -> None:
        nonlocal visits
        visits += 1
        await smtp_login(mailbox)

    async with mail_server(made.certificates, "smtp", greet=counted) as upstream:
        async with open_house(made, upstream, "smtp", workers=2) as first:
            await until(first.server.first_probe.is_set)
            offered = first.server.house.extensions(first.server.addresses[0][0])
        assert visits == 1
        async with open_house(made, upstream, "smtp", number=1, workers=2) as second:
            client = await second.connect(Tls.IMPLICIT)
            await client.line()
            assert set(offered) <= {line[4:].decode() for line in await ehlo(client)}
        assert visits == 1
    assert offered


@on_both_loops
async def test_what_another_process_learned_is_offered_after_a_while(made, monkeypatch):
    monkeypatch.setattr(module, "REREAD_S", 0.01)
    async with opened(made) as one, opened(made) as other:
        upstream = replace(made.config.upstreams["main"], imap=Endpoint("localhost", 1, Tls.IMPLICIT))
        rereading = asyncio.create_task(one.reread({"main": upstream}))
        other.learn("main", "imap", ("IMAP4rev1", "IDLE"))
        await until(lambda: one.offered(listener("main", protocol="imap")) == ("IDLE",))
        rereading.cancel()
        await asyncio.wait([rereading])
