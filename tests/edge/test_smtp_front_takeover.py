"""The change of hands: everything a client sent behind AUTH reaches the upstream, byte for byte, in order."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import random

import pytest

from proxy.config import Tls
from tests.edge.smtp_front_kit import LOOPS, PLAIN, RelayingVisit, calling, run_on, serving, soon, tls_contexts

BODY = random.Random(4954).randbytes(3_000_000)
TAIL = b"MAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nBDAT 3000000\r\n" + BODY + b"BDAT 5 LAST\r\nhello"


class Sink(asyncio.Protocol):
    """An upstream that counts and hashes, and answers once it has all that it waits for."""

    def __init__(self) -> None:
        self.size = 0
        self.hash = hashlib.sha256()

    def connection_made(self, transport):
        self._transport = transport

    def data_received(self, data):
        self.hash.update(data)
        self.size += len(data)
        if self.size == len(TAIL):
            self._transport.write(b"250 2.1.0 sender\r\n250 2.1.5 recipient\r\n250 2.0.0 chunk\r\n250 2.0.0 queued\r\n")


async def send_all_at_once(tls: Tls, size: int) -> None:
    loop = asyncio.get_running_loop()
    sink = Sink()
    upstream = await loop.create_server(lambda: sink, "127.0.0.1", 0)
    visit = RelayingVisit(upstream.sockets[0].getsockname()[:2], tls, tls_context=tls_contexts()[0])
    async with serving(visit) as address, calling(address, tls=tls is Tls.IMPLICIT) as caller:
        assert (await caller.answer()).startswith("220 ")
        await caller.ask("EHLO client.example")
        if tls is Tls.STARTTLS:
            assert (await caller.ask("STARTTLS")).startswith("220 ")
            await caller.start_tls()
            await caller.ask("EHLO client.example")
        data = f"AUTH PLAIN {PLAIN}\r\n".encode() + TAIL
        for start in range(0, len(data), size):
            caller.writer.write(data[start : start + size])
            await caller.writer.drain()
        assert (await caller.answer()).startswith("235 ")
        gc.collect()  # asyncio's StreamWriter would close the connection here
        answers = [await caller.answer() for _ in range(4)]
        assert answers == ["250 2.1.0 sender", "250 2.1.5 recipient", "250 2.0.0 chunk", "250 2.0.0 queued"]
        assert sink.size == len(TAIL)
        assert sink.hash.hexdigest() == hashlib.sha256(TAIL).hexdigest()
        assert visit.reasons == []
        caller.writer.close()
        await soon(visit.relayed[0][1].lost.wait())
    upstream.close()
    await upstream.wait_closed()


@LOOPS
@pytest.mark.parametrize("size", [2**30, 65_521], ids=["one write", "many writes"])
@pytest.mark.parametrize("tls", Tls, ids=lambda tls: tls.value)
def test_every_byte_behind_auth_reaches_the_upstream(make_loop, tls, size):
    run_on(make_loop, send_all_at_once(tls, size))
