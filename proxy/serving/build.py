"""What a worker of `gatepost serve` is made of: `build` is the one place where the parts meet, and nothing is global.

`serving/worker` runs it, and the supervisor has bound the listeners before.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from time import monotonic

from proxy.config import Config, ListenConfig
from proxy.edge import listen
from proxy.edge.certificates import Certificates
from proxy.edge.doorman import Doorman
from proxy.edge.extensions import Extensions
from proxy.edge.front import House
from proxy.edge.guests import Guests
from proxy.edge.imap import ImapFront
from proxy.edge.smtp import SmtpFront
from proxy.edge.tls import client_context
from proxy.errors import Answer, ConfigError
from proxy.live.census import Census
from proxy.live.publishing import Publisher
from proxy.live.sessions import Registry
from proxy.login.bus import Bus, Wires
from proxy.login.caps import Caps
from proxy.login.service import LoginService
from proxy.login.throttle import Throttle
from proxy.logs import Line
from proxy.meters import Meters
from proxy.oauth import TokenBroker, TokenClient
from proxy.oauth.ahead import Ahead
from proxy.oauth.client import preload
from proxy.record.alerts import Alerts
from proxy.record.hooks import Hooks
from proxy.record.housekeeping import AuditLog, Housekeeper
from proxy.record.journal import Journal
from proxy.record.refusals import RefusalLedger
from proxy.serving.control import Control
from proxy.serving.monitoring import Monitoring
from proxy.store.audit_rows import SYSTEM, Actor
from proxy.store.hints import hints
from proxy.store.pool import StorePool
from proxy.store.rows import Seat
from proxy.store.store import Store
from proxy.vault.cache import Fingerprints, VerifyCache
from proxy.vault.hashing import Hasher, HashPool
from proxy.vault.sealing import MasterPrivate, load_master

logger = logging.getLogger("gatepost.serve")

IDLE_SWEEP_S = 5.0
FIRST_PROBE_S = 3.0  # a silent upstream must not keep the others' clients waiting
FAREWELL_S = 6.0  # for BYE / 421 to the clients that were not logged in: longer than the fronts wait for one (CLOSE_S)
CUT_OFF_S = 1.0  # for connections that were aborted to be gone: a turn of the loop or two


@dataclass(frozen=True, slots=True)
class Post:
    """What a worker is given by its supervisor: who it is, where clients come from, and what it shares."""

    seat: Seat
    workers: int  # of this node
    sockets: Sequence[socket.socket]  # one for each of the configuration's listeners, in their order
    wires: Wires
    certificates: Certificates | None = None  # None: they are read by the worker
    control: socket.socket | None = None  # where the node's commands ask, for the first worker alone
    monitor: socket.socket | None = None  # where numbers and health are asked for

    @property
    def is_first(self) -> bool:
        """Whether it does what one of a node's workers must do for all."""
        return self.seat.number == 0

    def share_of(self, whole: int) -> int:
        """A worker's part of a bound that is the whole node's, rounded up."""
        return math.ceil(whole / self.workers)


@dataclass(slots=True)
class Server:
    """A running Gatepost, for one event loop."""

    config: Config
    seat: Seat
    house: House
    acceptors: list[listen.Acceptor]
    journal: Journal
    first_probe: asyncio.Event  # every upstream was asked once for its extensions, or did not answer
    monitoring: Monitoring
    census: Census
    ahead: Ahead
    duties: list[asyncio.Task[None]]  # what one worker of a node does for all

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
        sessions, waiting = len(self.house.registry), self.house.guests.waiting
        logger.info("%s", Line("draining", worker=self.seat.number, sessions=sessions, waiting=waiting))
        for acceptor in self.acceptors:
            acceptor.stop()
        self.monitoring.drains()
        self.house.guests.close_waiting(Answer.CLOSING)
        await self.house.registry.drain(deadline)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(min(deadline, loop.time() + FAREWELL_S)):
                await self.house.guests.nobody_waits.wait()

    def leave(self) -> None:
        """Accept nobody any more, and let all who are here go on. What is done for the whole node is others' now."""
        for acceptor in self.acceptors:
            acceptor.stop()
        self.monitoring.leaves()
        for duty in self.duties:
            duty.cancel()
        self.ahead.stop_searching()

    async def cut_off(self) -> None:
        """End what is left, so that no connection outlives the loop. Without effect after a drain that all heeded."""
        self.house.guests.cut_off_waiting()
        await self.house.registry.drain(asyncio.get_running_loop().time())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CUT_OFF_S):
                await self.house.guests.nobody_waits.wait()


def preflight(config: Config) -> Certificates:
    """Find out what would keep every worker from starting, and bring the database up to date.

    returns what the workers need of files, so that a replacement starts whatever has become of them
    raises  OperatorError, StoreUnavailable
    """
    store = Store.open(config.store.url, migrate=config.store.migrate)
    try:
        if config.store.migrate and not store.masters():
            # A credential is shown to the service alone: what `init` does for a key file has to be done here.
            store.add_master(load_master(config.keys.master.read()).newest_public(datetime.now(UTC)))
        master_of(config, store)
    finally:
        store.close()
    loop_factory(config)
    preload(config.upstreams.values())
    return Certificates(config.tls, config.listeners)


@contextlib.asynccontextmanager
async def running(config: Config, store: Store, master: MasterPrivate, post: Post) -> AsyncIterator[Server]:
    """A Gatepost that accepts, on this loop; what is left is cut off at the end. Raises ConfigError."""
    async with contextlib.AsyncExitStack() as stack:
        server = await build(config, store, master, post, stack)
        # Who connects earlier waits in the socket's backlog: the first client gets the whole list, too.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FIRST_PROBE_S):
                await server.first_probe.wait()
        for acceptor in server.acceptors:
            stack.push_async_callback(acceptor.close)
            acceptor.start()
        server.monitoring.accepts()
        stack.push_async_callback(server.cut_off)
        yield server


async def build(
    config: Config, store: Store, master: MasterPrivate, post: Post, stack: contextlib.AsyncExitStack
) -> Server:
    """Wire the parts together; what must be closed is left to `stack`, in the order that closing needs."""
    seat = post.seat
    limits = config.limits
    hostname = socket.gethostname()
    store = store.acting(Actor(SYSTEM, seat.node, worker=seat.number))
    meters = Meters(post.wires.sheet)
    pool = StorePool(store, meters=meters)
    stack.callback(pool.close)
    hashes = HashPool(
        Hasher(memory_kib=limits.argon2_memory_kib, time=limits.argon2_time, lanes=limits.argon2_lanes),
        threads=hashing_threads(post, usable_cores()),
        queue=limits.hash_queue,
        meters=meters,
    )
    stack.callback(hashes.close)
    record_uses = partial(store.record_uses, is_told=config.alerts.new_network)
    journal = Journal(lambda uses: pool.run(record_uses, uses), interval_s=config.audit.flush_s)
    stack.push_async_callback(journal.flush)
    refusals = RefusalLedger(
        lambda rows: pool.run(store.trail.record_refusals, rows), interval_s=config.audit.flush_s, clock=monotonic
    )
    stack.push_async_callback(refusals.close)
    token_client = TokenClient(client_context, meters=meters)
    alerts = Alerts(store=store, pool=pool, deliver=Hooks(config.alerts).deliver, node=seat.node)
    broker = TokenBroker(store=store, pool=pool, master=master, client=token_client, clock=monotonic, ear=alerts)
    stack.push_async_callback(broker.close)
    cache = VerifyCache(ttl_s=limits.verify_cache_s, clock=monotonic)
    registry = Registry(
        read_revision=lambda: pool.run(store.revision),
        read_standings=lambda secret_ids: pool.run(store.standings, secret_ids),
        read_kicked=lambda: pool.run(store.roster.kicked, seat),
        memory=cache,
    )
    publisher = Publisher(seat=seat, registry=registry, store=store, pool=pool, clock=monotonic)
    stack.push_async_callback(publisher.retire)
    ahead = Ahead(
        broker=broker,
        store=store,
        pool=pool,
        upstreams=config.upstreams.get,
        clock=monotonic,
        is_searching=post.is_first,
    )
    caps = Caps(count_elsewhere=lambda *mailbox: pool.run(store.roster.sessions_elsewhere, seat, *mailbox))
    stack.callback(caps.close)
    bus = Bus(post.wires)
    throttle = Throttle(
        wrong=limits.throttle_wrong,
        wrong_network=limits.throttle_wrong_network,
        window_s=limits.throttle_window_s,
        clock=monotonic,
        others=bus,
    )
    stack.callback(bus.listen(throttle))
    login = LoginService(
        upstreams=config.upstreams.get,
        store=store,
        pool=pool,
        hashes=hashes,
        cache=cache,
        throttle=throttle,
        fingerprints=Fingerprints(post.wires.key),
        broker=broker,
        registry=registry,
        journal=journal,
        refusals=refusals,
        caps=caps,
        worker_id=seat.id,
        meters=meters,
    )
    stack.push_async_callback(login.close)
    extensions = Extensions(store, pool)
    stack.push_async_callback(extensions.close)
    await extensions.load(config.upstreams)
    stack.enter_context(hints(config.store.url, partial(_call_soon, asyncio.get_running_loop(), registry.hint)))
    certificates = post.certificates or Certificates(config.tls, config.listeners)
    house = House(
        hostname=hostname,
        login=login,
        registry=registry,
        guests=Guests(connections=post.share_of(limits.connections), waiting_per_address=limits.waiting_per_address),
        tls_context=certificates.of,
        extensions=extensions.offered,
        learn=extensions.learn,
        meters=meters,
        doorman=stack.enter_context(contextlib.closing(Doorman(meters))),
    )
    monitoring = Monitoring(
        config,
        certificates,
        post.wires,
        meters,
        house,
        pool=pool,
        workers=post.workers,
        is_first=post.is_first,
    )
    await monitoring.answer(post.monitor, stack)
    tasks = [
        monitoring.observer.run(),
        registry.watch(),
        journal.run(),
        refusals.run(),
        publisher.run(),
        extensions.reread(config.upstreams),
        _sweep(config, registry),
        ahead.run(),
        alerts.run(),
    ]
    census = Census(store=store, pool=pool)
    for task in tasks:
        await stack.enter_async_context(_task(task))
    duties = _duties(config, store, pool, post)
    if post.is_first:
        # To the upstreams a node is one address: one worker asks, and the others, started later, read its answers.
        duties += [census.run(), extensions.probe_all(config)]
    else:
        extensions.first_round.set()
    owned = [await stack.enter_async_context(_task(duty)) for duty in duties]
    per_turn = listen.ACCEPTS_PER_TURN if post.workers == 1 else listen.SHARED_ACCEPTS_PER_TURN
    acceptors = [
        listen.Acceptor(house, listener, sock, _front_of(listener), per_turn=per_turn)
        for listener, sock in zip(config.listeners, post.sockets, strict=True)
    ]
    return Server(config, seat, house, acceptors, journal, extensions.first_round, monitoring, census, ahead, owned)


def _call_soon(loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
    """For other threads."""
    loop.call_soon_threadsafe(call)


def _duties(config: Config, store: Store, pool: StorePool, post: Post) -> list[Coroutine[None, None, None]]:
    """What the first worker does for the whole node."""
    if not post.is_first:
        return []
    duties = [
        Housekeeper(store=store, pool=pool, audit=config.audit).run(),
        AuditLog(store=store, pool=pool, node=post.seat.node).run(),
    ]
    if post.control is not None:
        duties.append(Control(post.control, config).run())
    return duties


def hashing_threads(post: Post, cores: int) -> int:
    """As many as cores on the whole node; but two for each worker, of which strangers never take the last."""
    return max(2, post.share_of(cores))


def usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _front_of(listener: ListenConfig) -> listen.FrontFactory:
    if listener.protocol == "imap":
        return ImapFront
    return lambda visit: SmtpFront(visit, asyncio.get_running_loop())


def master_of(config: Config, store: Store) -> MasterPrivate:
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
async def _task(work: Coroutine[None, None, None]) -> AsyncIterator[asyncio.Task[None]]:
    """A task for as long as the house stands. If it crashes the process drains, and ends with what it crashed of."""
    task = asyncio.create_task(work)
    task.add_done_callback(_die_of_a_crash)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            task.result()  # so that the exit status is not 0, and systemd starts it again


def _die_of_a_crash(task: asyncio.Future[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.critical("%s", Line("task_crashed"), exc_info=error)
        os.kill(os.getpid(), signal.SIGTERM)


def loop_factory(config: Config) -> Callable[[], asyncio.AbstractEventLoop] | None:
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
