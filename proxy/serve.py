"""`gatepost serve`: wires everything, runs it until SIGTERM, and drains.

`build` is the one place where the parts meet; nothing in them is global.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import signal
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from time import monotonic

from proxy.alerts import Alerts
from proxy.caps import Caps
from proxy.config import Config, ListenConfig, Tls
from proxy.edge import listen
from proxy.edge.extensions import Extensions
from proxy.edge.front import House
from proxy.edge.guests import Guests
from proxy.edge.imap import ImapFront
from proxy.edge.smtp import SmtpFront
from proxy.edge.tls import client_context, server_context, slim_buffers
from proxy.errors import Answer, ConfigError
from proxy.hooks import Hooks
from proxy.housekeeping import AuditLog, Housekeeper
from proxy.journal import Journal
from proxy.login import LoginService
from proxy.logs import Line, configure
from proxy.oauth import TokenBroker, TokenClient
from proxy.oauth.ahead import Ahead
from proxy.publishing import Publisher
from proxy.refusals import RefusalLedger
from proxy.sessions import Registry
from proxy.store.audit_rows import SYSTEM, Actor
from proxy.store.hints import hints
from proxy.store.pool import StorePool
from proxy.store.rows import Seat
from proxy.store.store import Store
from proxy.throttle import Throttle
from proxy.vault.cache import VerifyCache
from proxy.vault.hashing import Hasher, HashPool
from proxy.vault.sealing import MasterPrivate, load_master

logger = logging.getLogger("gatepost.serve")

IDLE_SWEEP_S = 5.0
FIRST_PROBE_S = 3.0  # a silent upstream must not keep the others' clients waiting
FAREWELL_S = 6.0  # for BYE / 421 to the clients that were not logged in: longer than the fronts wait for one (CLOSE_S)
CUT_OFF_S = 1.0  # for connections that were aborted to be gone: a turn of the loop or two


@dataclass(slots=True)
class Server:
    """A running Gatepost, for one event loop."""

    config: Config
    house: House
    acceptors: list[listen.Acceptor]
    journal: Journal
    first_probe: asyncio.Event  # every upstream was asked once for its extensions, or did not answer

    @property
    def addresses(self) -> list[tuple[ListenConfig, tuple[str, int]]]:
        return [
            (listener, acceptor.address)
            for listener, acceptor in zip(self.config.listeners, self.acceptors, strict=True)
        ]

    async def drain(self) -> None:
        """Stop accepting, send those away who are not logged in, let sessions fall quiet, end the rest in time."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.config.limits.drain_s
        logger.info("%s", Line("draining", sessions=len(self.house.registry), waiting=self.house.guests.waiting))
        for acceptor in self.acceptors:
            acceptor.stop()
        self.house.guests.close_waiting(Answer.CLOSING)
        await self.house.registry.drain(deadline)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(min(deadline, loop.time() + FAREWELL_S)):
                await self.house.guests.nobody_waits.wait()

    async def cut_off(self) -> None:
        """End what is left, so that no connection outlives the loop. Without effect after a drain that all heeded."""
        self.house.guests.cut_off_waiting()
        await self.house.registry.drain(asyncio.get_running_loop().time())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CUT_OFF_S):
                await self.house.guests.nobody_waits.wait()


def serve(config: Config) -> int:
    """Run in the foreground until SIGTERM or SIGINT. Raises OperatorError or StoreUnavailable before it is ready."""
    configure(config.log.level, config.log.format, is_journal="JOURNAL_STREAM" in os.environ)
    store = Store.open(config.store.url, migrate=config.store.migrate)
    try:
        master = _master(config, store)
        with asyncio.Runner(loop_factory=_loop_factory(config)) as runner:
            runner.run(_run(config, store, master))
    finally:
        store.close()
    return 0


async def _run(config: Config, store: Store, master: MasterPrivate) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    async with running(config, store, master) as server:
        for listener, (host, port) in server.addresses:
            name = f"{listener.protocol}://{f'[{host}]' if ':' in host else host}:{port}"
            logger.info("%s", Line("listening", on=name, tls=listener.tls.value))
        logger.info("%s", Line("ready"))
        await stopped.wait()
        await server.drain()
    logger.info("%s", Line("stopped"))


@contextlib.asynccontextmanager
async def running(config: Config, store: Store, master: MasterPrivate) -> AsyncIterator[Server]:
    """A Gatepost that accepts, on this loop; what is left is cut off at the end. Raises ConfigError."""
    slim_buffers()
    async with contextlib.AsyncExitStack() as stack:
        sockets = [stack.enter_context(listen.bind(listener)) for listener in config.listeners]
        server = await build(config, store, master, sockets, stack)
        # Who connects earlier waits in the socket's backlog: the first client gets the whole list, too.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FIRST_PROBE_S):
                await server.first_probe.wait()
        for acceptor in server.acceptors:
            stack.push_async_callback(acceptor.close)
            acceptor.start()
        stack.push_async_callback(server.cut_off)
        yield server


async def build(
    config: Config,
    store: Store,
    master: MasterPrivate,
    sockets: list[socket.socket],
    stack: contextlib.AsyncExitStack,
) -> Server:
    """Wire the parts together; what must be closed is left to `stack`, in the order that closing needs."""
    limits = config.limits
    hostname = socket.gethostname()
    seat = Seat(secrets.token_hex(8), hostname, 0)
    store = store.acting(Actor(SYSTEM, seat.node, worker=seat.number))
    pool = StorePool(store)
    stack.callback(pool.close)
    hashes = HashPool(
        Hasher(memory_kib=limits.argon2_memory_kib, time=limits.argon2_time, lanes=limits.argon2_lanes),
        queue=limits.hash_queue,
    )
    stack.callback(hashes.close)
    record_uses = partial(store.record_uses, is_told=config.alerts.new_network)
    journal = Journal(lambda uses: pool.run(record_uses, uses), interval_s=config.audit.flush_s)
    stack.push_async_callback(journal.flush)
    refusals = RefusalLedger(
        lambda rows: pool.run(store.trail.record_refusals, rows), interval_s=config.audit.flush_s, clock=monotonic
    )
    stack.push_async_callback(refusals.close)
    token_client = TokenClient(client_context)
    alerts = Alerts(store=store, pool=pool, deliver=Hooks(config.alerts).deliver, node=hostname)
    broker = TokenBroker(store=store, pool=pool, master=master, client=token_client, clock=monotonic, ear=alerts)
    stack.push_async_callback(broker.close)
    registry = Registry(
        read_revision=lambda: pool.run(store.revision),
        read_standings=lambda secret_ids: pool.run(store.standings, secret_ids),
        read_kicked=lambda: pool.run(store.roster.kicked, seat),
    )
    publisher = Publisher(seat=seat, registry=registry, store=store, pool=pool)
    stack.push_async_callback(publisher.retire)
    ahead = Ahead(broker=broker, store=store, pool=pool, upstreams=config.upstreams.get, clock=monotonic)
    caps = Caps(count_elsewhere=lambda *mailbox: pool.run(store.roster.sessions_elsewhere, seat, *mailbox))
    stack.callback(caps.close)
    login = LoginService(
        upstreams=config.upstreams.get,
        store=store,
        pool=pool,
        hashes=hashes,
        cache=VerifyCache(ttl_s=limits.verify_cache_s, clock=monotonic),
        throttle=Throttle(
            wrong=limits.throttle_wrong,
            wrong_network=limits.throttle_wrong_network,
            window_s=limits.throttle_window_s,
            clock=monotonic,
        ),
        broker=broker,
        registry=registry,
        journal=journal,
        refusals=refusals,
        caps=caps,
        worker_id=seat.id,
    )
    stack.push_async_callback(login.close)
    extensions = Extensions(store, pool)
    stack.push_async_callback(extensions.close)
    await extensions.load(config.upstreams)
    loop = asyncio.get_running_loop()

    def hint() -> None:
        loop.call_soon_threadsafe(registry.hint)

    stack.enter_context(hints(config.store.url, hint))
    house = House(
        hostname=hostname,
        login=login,
        registry=registry,
        guests=Guests(connections=limits.connections, waiting_per_address=limits.waiting_per_address),
        tls_context=_tls_context(config),
        extensions=extensions.offered,
        learn=extensions.learn,
    )
    for task in (
        registry.watch(),
        journal.run(),
        refusals.run(),
        publisher.run(),
        Housekeeper(store=store, pool=pool, audit=config.audit).run(),
        AuditLog(store=store, pool=pool, node=seat.node).run(),
        extensions.probe_all(config),
        _sweep(config, registry),
        ahead.run(),
        alerts.run(),
    ):
        await stack.enter_async_context(_task(task))
    acceptors = [
        listen.Acceptor(house, listener, sock, _front_of(listener))
        for listener, sock in zip(config.listeners, sockets, strict=True)
    ]
    return Server(config, house, acceptors, journal, extensions.first_round)


def _front_of(listener: ListenConfig) -> listen.FrontFactory:
    if listener.protocol == "imap":
        return ImapFront
    return lambda visit: SmtpFront(visit, asyncio.get_running_loop())


def _tls_context(config: Config) -> Callable[[ListenConfig], ssl.SSLContext | None]:
    minima = {listener.minimum_tls for listener in config.listeners if listener.tls is not Tls.NONE}
    contexts = {minimum: server_context(config.tls, minimum) for minimum in minima}
    return lambda listener: contexts.get(listener.minimum_tls)


def _master(config: Config, store: Store) -> MasterPrivate:
    source = config.keys.master
    # `key rotate` changes files; a credential or a variable stays what it was when this process began.
    master = load_master(source.read(), source.read if source.kind == "file" else None)
    newest = store.masters()[:1]
    if not newest or newest[0].key_id not in master.key_ids:
        raise ConfigError(
            f"{config.keys.master} is not the master key of this store", "restore the key that belongs to the database"
        )
    return master


async def _sweep(config: Config, registry: Registry) -> None:
    limits_s = {"imap": config.limits.imap_idle_s, "smtp": config.limits.smtp_idle_s}
    while True:
        await asyncio.sleep(IDLE_SWEEP_S)
        registry.end_idle(limits_s)


@contextlib.asynccontextmanager
async def _task(work: Coroutine[None, None, None]) -> AsyncIterator[None]:
    """A task for as long as the house stands. If it crashes the process drains, and ends with what it crashed of."""
    task = asyncio.create_task(work)
    task.add_done_callback(_die_of_a_crash)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            task.result()  # so that the exit status is not 0, and systemd starts it again


def _die_of_a_crash(task: asyncio.Future[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.critical("%s", Line("task_crashed"), exc_info=error)
        os.kill(os.getpid(), signal.SIGTERM)


def _loop_factory(config: Config) -> Callable[[], asyncio.AbstractEventLoop] | None:
    if config.workers.loop == "asyncio":
        return None
    try:
        import uvloop  # noqa: PLC0415 - Linux alone has it
    except ImportError:
        raise ConfigError(
            "[workers] loop is uvloop, which is not installed", 'pip install uvloop, or set loop = "asyncio"'
        ) from None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory
