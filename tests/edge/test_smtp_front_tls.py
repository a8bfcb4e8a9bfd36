"""STARTTLS and hostile networks, over real sockets on both loops."""

from __future__ import annotations

import asyncio
import socket
import ssl
from contextlib import suppress

import pytest

from proxy.config import Tls
from proxy.edge import smtp
from proxy.edge.smtp import SmtpFront
from proxy.edge.smtp_lines import MAX_HELD_BYTES, Lines
from proxy.errors import Answer
from tests.edge.smtp_front_kit import LOOPS, PLAIN, Door, Visit, calling, listening, run_on, serving, soon, tls_contexts


def starttls_visit(**keywords):
    return Visit(Tls.STARTTLS, tls_context=tls_contexts()[0], **keywords)


@LOOPS
def test_after_starttls_all_is_as_new(make_loop):
    async def scenario():
        visit = starttls_visit()
        async with serving(visit) as address, calling(address) as caller:
            await caller.answer()
            await caller.ask("EHLO before.example")
            assert (await caller.ask("STARTTLS")).startswith("220 2.0.0 ")
            await caller.start_tls()
            assert (await caller.ask("MAIL FROM:<a@b.example>")).startswith("503 5.5.1 ")
            assert (await caller.ask(f"AUTH PLAIN {PLAIN}")).startswith("503 5.5.1 ")
            assert (await caller.ask("STARTTLS")).startswith("503 5.5.1 ")
            offer = await caller.ask("EHLO after.example")
            assert "STARTTLS" not in offer
            assert "AUTH PLAIN LOGIN" in offer
            assert (await caller.ask(f"AUTH PLAIN {PLAIN}")).startswith("235 ")
            assert visit.clients == ["after.example"]
            visit.relayed[0][0].abort()

    run_on(make_loop, scenario())


@LOOPS
@pytest.mark.parametrize(
    "injected",
    ["NOOP\r\n", "EHLO x\r\nMAIL FROM:<a@b>\r\n", f"AUTH PLAIN {PLAIN}\r\n", "NOO", "x" * 20_000, "NOOP\r\n" * 20_000],
    ids=["one", "two", "auth", "piece", "long", "many"],
)
def test_what_comes_in_clear_behind_starttls_is_never_executed(make_loop, injected):
    """Outcome E1, CVE-2024-34083: thrown away if it came in one segment, or the handshake fails."""

    async def scenario():
        visit = starttls_visit()
        async with serving(visit) as address, calling(address) as caller:
            await caller.answer()
            await caller.ask("EHLO x")
            assert (await caller.ask("STARTTLS\r\n" + injected)).startswith("220 ")
            try:
                await caller.start_tls()
            except OSError:
                assert visit.reasons in ([], ["tls_failed"])
            else:
                assert (await caller.ask("NOOP")) == "250 2.0.0 OK"  # one answer: the injected ones got none
                assert (await caller.ask("MAIL FROM:<a@b>")).startswith("503 ")
            assert visit.attempts == []
        await soon(visit.over.wait())

    run_on(make_loop, scenario())


@LOOPS
def test_a_client_hello_that_comes_before_the_front_goes_on_is_not_lost(make_loop):
    """A quick client answers 220 within microseconds; what the front then does may wait for its turn in the loop."""

    class Slow(SmtpFront):
        async def push(self, status):
            await super().push(status)
            if str(status).startswith("220 2.0.0"):
                for _ in range(100):  # turns of the loop, in which the ClientHello arrives
                    await asyncio.sleep(0)

    async def scenario():
        visit = starttls_visit()
        loop = asyncio.get_running_loop()
        async with listening(lambda: Slow(visit, loop)) as address, calling(address) as caller:
            await caller.answer()
            assert (await caller.ask("STARTTLS")).startswith("220 ")
            await caller.start_tls()
            assert (await caller.ask("NOOP")) == "250 2.0.0 OK"

    run_on(make_loop, scenario())


@LOOPS
@pytest.mark.parametrize(
    "hello", [b"EHLO again\r\n", b"GET / HTTP/1.1\r\n\r\n", bytes(500)], ids=["smtp", "http", "zeros"]
)
def test_a_handshake_that_is_none_ends_the_connection(make_loop, hello, caplog):
    async def scenario():
        visit = starttls_visit()
        async with serving(visit) as address, calling(address) as caller:
            await caller.answer()
            assert (await caller.ask("STARTTLS")).startswith("220 ")
            caller.writer.write(hello)
            with suppress(ConnectionResetError):
                assert b"250" not in await caller.rest()
            await soon(visit.over.wait())
            assert visit.reasons == ["tls_failed"]

    run_on(make_loop, scenario())
    assert "Traceback" not in caplog.text


@LOOPS
def test_hanging_up_in_the_handshake_ends_the_visit(make_loop):
    async def scenario():
        visit = starttls_visit()
        async with serving(visit) as address, calling(address) as caller:
            await caller.answer()
            await caller.ask("STARTTLS")
            caller.writer.close()
            await soon(visit.over.wait())
            assert visit.reasons == ["tls_failed"]

    run_on(make_loop, scenario())


@LOOPS
def test_the_handshake_ends_at_the_deadline_of_the_whole_login(make_loop):
    async def scenario():
        visit = starttls_visit(age_s=59.0)
        async with serving(visit) as address, calling(address) as caller:
            await caller.answer()
            await caller.ask("STARTTLS")
            await soon(visit.over.wait())
            assert visit.reasons == ["deadline"]

    run_on(make_loop, scenario())


@LOOPS
def test_draining_ends_a_handshake(make_loop):
    async def scenario():
        visit = starttls_visit()
        fronts = []
        async with serving(visit, front=fronts.append) as address, calling(address) as caller:
            await caller.answer()
            await caller.ask("STARTTLS")
            fronts[0].close(Answer.CLOSING)
            assert await caller.rest() == b""  # no words in clear where TLS is awaited
            await soon(visit.over.wait())
            assert visit.reasons == ["closing"]

    run_on(make_loop, scenario())


@LOOPS
@pytest.mark.parametrize("tls", [Tls.IMPLICIT, Tls.STARTTLS])
def test_commands_sent_with_the_end_of_the_handshake_are_heard(make_loop, tls):
    """A client that writes in the same moment as its Finished message, and more than a front holds."""

    async def scenario():
        visit = Visit(tls, tls_context=tls_contexts()[0])
        async with serving(visit) as address:
            reader, writer = await asyncio.open_connection(*address)
            if tls is Tls.STARTTLS:
                await reader.readuntil(b"\n")
                writer.write(b"STARTTLS\r\n")
                await reader.readuntil(b"\n")
            incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            client = tls_contexts()[1].wrap_bio(incoming, outgoing, server_hostname="localhost")
            while True:
                try:
                    client.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    writer.write(outgoing.read())
                    incoming.write(await soon(reader.read(65_536)))
            count = MAX_HELD_BYTES // 6 * 3
            client.write(b"EHLO x\r\n" + b"NOOP\r\n" * count + b"QUIT\r\n")
            writer.write(outgoing.read())
            plain = b""
            while not plain.endswith(b"Goodbye\r\n"):
                data = await soon(reader.read(65_536))
                assert data
                incoming.write(data)
                try:
                    while chunk := client.read(65_536):
                        plain += chunk
                except ssl.SSLWantReadError:
                    pass
            assert plain.count(b"250 2.0.0 OK\r\n") == count
            writer.transport.abort()
            await soon(visit.over.wait())

    run_on(make_loop, scenario())


@LOOPS
def test_a_megabyte_without_a_line_end_is_answered_at_once_and_held_in_little_memory(make_loop):
    async def scenario():
        visit = Visit()
        async with serving(visit) as address, calling(address) as caller:
            await caller.answer()
            caller.writer.write(b"x" * 1_000_000)
            assert (await caller.answer()).startswith("500 5.5.2 ")
            caller.writer.write(b"\r\n")
            assert (await caller.ask("NOOP")) == "250 2.0.0 OK"

    run_on(make_loop, scenario())


@LOOPS
def test_a_client_that_floods_and_never_reads_holds_little_memory_and_ends_at_the_deadline(make_loop, monkeypatch):
    monkeypatch.setattr(smtp, "CLOSE_S", 0.3)

    async def scenario():
        loop = asyncio.get_running_loop()
        visit = Visit(age_s=58, extensions=tuple(f"X{number} {'y' * 200}" for number in range(50)))
        fronts = []
        stuck = asyncio.Event()

        class Watched(SmtpFront):
            def pause_writing(self):
                super().pause_writing()
                fronts.append(self)
                stuck.set()

        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.setblocking(False)
        async with listening(lambda: Watched(visit, loop)) as address:
            await loop.sock_connect(sock, address)
            flood = loop.create_task(loop.sock_sendall(sock, b"EHLO x\r\n" * 5_000_000))
            await soon(stuck.wait())
            transport = fronts[0]._client
            assert transport.get_write_buffer_size() < 200_000
            assert len(fronts[0]._lines._held) < MAX_HELD_BYTES + 300_000
            await soon(asyncio.wait([flood]))
            assert isinstance(flood.exception(), OSError)
            await soon(visit.over.wait())
            assert visit.reasons == ["deadline"]
        sock.close()

    run_on(make_loop, scenario())


@LOOPS
@pytest.mark.parametrize("tls", Tls, ids=lambda tls: tls.value)
def test_what_is_sent_during_a_login_is_held_up_to_a_bound_and_waits_outside_above_it(make_loop, tls):
    async def scenario():
        fronts = []
        held = asyncio.Event()

        class Watched(Lines):
            def _pause_if_full(self):
                super()._pause_if_full()
                if self._is_paused:
                    held.set()

        async def slow_login():
            await held.wait()
            return Door()

        visit = Visit(tls, tls_context=tls_contexts()[0], script=(slow_login,))
        async with serving(visit, front=fronts.append) as address, calling(address, tls=tls is Tls.IMPLICIT) as caller:
            await caller.answer()
            if tls is Tls.STARTTLS:
                await caller.ask("STARTTLS")
                await caller.start_tls()
            await caller.ask("EHLO x")
            fronts[0]._lines.__class__ = Watched
            caller.writer.write(f"AUTH PLAIN {PLAIN}\r\n".encode() + b"x" * 5_000_000)
            assert (await caller.answer()).startswith("235 ")
            client, _, leftover = visit.relayed[0]
            assert MAX_HELD_BYTES < len(leftover) < MAX_HELD_BYTES + 300_000
            client.abort()

    run_on(make_loop, scenario())


@LOOPS
def test_quit_over_implicit_tls_ends_it_cleanly(make_loop):
    async def scenario():
        visit = Visit(Tls.IMPLICIT, tls_context=tls_contexts()[0])
        async with serving(visit) as address, calling(address, tls=True) as caller:
            await caller.answer()
            caller.writer.write(b"QUIT\r\n")
            assert await caller.rest() == b"221 2.0.0 Goodbye\r\n"
            await soon(visit.over.wait())
            assert visit.reasons == ["quit"]

    run_on(make_loop, scenario())


@LOOPS
def test_the_upstream_is_let_go_when_the_client_leaves_in_the_login(make_loop):
    async def scenario():
        cancelled = asyncio.Event()

        async def never():
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()

        visit = Visit(Tls.IMPLICIT, tls_context=tls_contexts()[0], script=(never,))
        async with serving(visit) as address, calling(address, tls=True) as caller:
            await caller.answer()
            await caller.ask("EHLO x")
            caller.writer.write(f"AUTH PLAIN {PLAIN}\r\n".encode())
            await soon(visit.entered.wait())
            caller.writer.close()
            await soon(cancelled.wait())
            await soon(visit.over.wait())
            assert visit.reasons == ["closed_by_client"]

    run_on(make_loop, scenario())
