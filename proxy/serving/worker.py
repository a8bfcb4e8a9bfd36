"""A worker's life between its signals: it accepts, beats, leaves or drains. What it runs is made by build.

SIGTERM and SIGINT: drain, by a deadline. SIGUSR1: accept nobody any more, and end when the last session has ended by
itself. SIGHUP: read the certificate's files again.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import logging
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass

from proxy.config import Config
from proxy.errors import ConfigError
from proxy.live.pulse import Beat, beat
from proxy.logs import Line
from proxy.serving.build import Post, Server, loop_factory, master_of, running
from proxy.store.store import Store
from proxy.vault.sealing import MasterPrivate

logger = logging.getLogger("gatepost.serve")

RENEW, LEAVE = signal.SIGHUP, signal.SIGUSR1
# Blocked from the fork until a worker is ready for them.
SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, RENEW, LEAVE})
LOOK_S = 1.0  # how late a worker that leaves notices that its last client has gone


@dataclass(frozen=True, slots=True)
class Strings:
    """Two pipes between a worker and its supervisor."""

    supervised: int  # to read from: ends when the supervisor is gone
    pulse: int  # to write to: a beat as soon as the worker accepts, and then again and again


def work(config: Config, post: Post, strings: Strings) -> int:
    """Be a worker until it is told to end. Raises OperatorError, StoreUnavailable."""
    faulthandler.enable()  # a supervisor that has waited in vain sends SIGABRT: then the journal has where we hung
    store = Store.open(config.store.url, migrate=False)
    try:
        master = master_of(config, store)
        with asyncio.Runner(loop_factory=loop_factory(config)) as runner:
            runner.run(_run(config, store, master, post, strings))
    finally:
        store.close()
    return 0


async def _run(config: Config, store: Store, master: MasterPrivate, post: Post, strings: Strings) -> None:
    stopped, leaving = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    loop.add_signal_handler(LEAVE, leaving.set)
    loop.add_signal_handler(RENEW, _renew_certificates, post)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

    def orphaned() -> None:
        loop.remove_reader(strings.supervised)
        logger.warning("%s", Line("supervisor_gone", worker=post.seat.number))
        stopped.set()

    loop.add_reader(strings.supervised, orphaned)
    async with running(config, store, master, post) as server, _beating(server, strings.pulse):
        await _either(stopped, leaving)
        if not stopped.is_set():
            await _leave(server, stopped)
        await server.drain()
    loop.remove_reader(strings.supervised)


async def _leave(server: Server, stopped: asyncio.Event) -> None:
    """Serve those who are here until the last has gone, or until it is told to stop."""
    server.leave()
    seat, sessions = server.seat, len(server.house.registry)
    logger.info("%s", Line("leaving", worker=seat.number, pid=os.getpid(), sessions=sessions))
    while len(server.house.guests) and not stopped.is_set():
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stopped.wait(), LOOK_S)


async def _either(one: asyncio.Event, other: asyncio.Event) -> None:
    waiting = [asyncio.create_task(event.wait()) for event in (one, other)]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)


@contextlib.asynccontextmanager
async def _beating(server: Server, pulse: int) -> AsyncIterator[None]:
    def tell() -> Beat:
        return Beat(len(server.house.registry), server.census.accounts, server.census.needs_consent)

    task = asyncio.create_task(beat(pulse, tell))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


def _renew_certificates(post: Post) -> None:
    if post.certificates is not None:
        try:
            post.certificates.renew()
        except ConfigError as error:  # changed once more: the supervisor, who reads them as well, tells the operator
            logger.debug("%s", Line("certificate_refused", worker=post.seat.number, error=str(error)))
