"""edge/extensions.py: what a preset says is offered until the upstream itself has told."""

from __future__ import annotations

import pytest

from proxy.config import Endpoint, ListenConfig, Tls, UpstreamConfig
from proxy.edge.extensions import Extensions
from proxy.store.pool import StorePool
from proxy.store.store import Store

IMAP = ListenConfig("imap", "127.0.0.1", 0, Tls.NONE, ("known", "plain"))
SMTP = ListenConfig("smtp", "127.0.0.1", 0, Tls.NONE, ("known",))
END = Endpoint("localhost", 1, Tls.IMPLICIT)
KNOWN = UpstreamConfig("known", END, END, imap_extensions=("IDLE", "MOVE"), smtp_extensions=("SIZE 1000", "DSN"))
PLAIN = UpstreamConfig("plain", END)
UPSTREAMS = {"known": KNOWN, "plain": PLAIN}


@pytest.fixture
def store(tmp_path):
    store = Store.create(f"sqlite:///{tmp_path}/gatepost.db")
    yield store
    store.close()


@pytest.fixture
async def extensions(store):
    pool = StorePool(store)
    extensions = Extensions(store, pool)
    yield extensions
    await extensions.close()
    pool.close()


async def test_what_is_assumed_is_offered_at_once(extensions):
    await extensions.load(UPSTREAMS)
    assert extensions.offered(SMTP) == ("DSN", "SIZE 1000")


async def test_an_upstream_of_which_nothing_is_known_still_silences_the_others(extensions):
    await extensions.load(UPSTREAMS)
    assert extensions.offered(IMAP) == ()
    extensions.learn("plain", "imap", ("MOVE", "UIDPLUS"))
    assert extensions.offered(IMAP) == ("MOVE",)


async def test_what_was_learned_replaces_what_was_assumed(extensions):
    await extensions.load(UPSTREAMS)
    extensions.learn("known", "smtp", ("PIPELINING",))
    assert extensions.offered(SMTP) == ("PIPELINING",)


async def test_what_the_store_remembers_replaces_it_too(extensions, store):
    store.put_extensions("known", "smtp", ("CHUNKING",))
    await extensions.load(UPSTREAMS)
    assert extensions.offered(SMTP) == ("CHUNKING",)
