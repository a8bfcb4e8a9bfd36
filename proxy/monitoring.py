"""Wires what makes a worker seen from outside: its observer, the node's readiness, and the HTTP that answers."""

from __future__ import annotations

import contextlib
import socket

from proxy.bus import Wires
from proxy.config import Config
from proxy.edge.front import House
from proxy.edge.monitor import Monitor
from proxy.meters import Meters
from proxy.observing import Observer, Readiness
from proxy.store.pool import StorePool
from proxy.vault.certificate import inspect


class Monitoring:
    """One per worker. `observer.run()` is to be a task of serve; `answer` needs a running loop."""

    def __init__(
        self,
        config: Config,
        wires: Wires,
        meters: Meters,
        house: House,
        *,
        pool: StorePool,
        workers: int,
        is_first: bool,
    ) -> None:
        """Raises ConfigError if the certificate can't be read."""
        self._board = wires.board
        self._workers = workers
        self.observer = Observer(
            meters=meters,
            registry=house.registry,
            connections=lambda: len(house.guests),
            store=pool.store,
            pool=pool,
            is_first=is_first,
        )
        self._readiness = Readiness(
            store=pool.store,
            pool=pool,
            board=wires.board,
            workers=workers,
            certificate_days=config.metrics.certificate_days,
        )
        self.read_certificate(config)

    def read_certificate(self, config: Config) -> None:
        """Note when the certificate ends that clients are shown from now on. Raises ConfigError."""
        if config.tls.certificate is not None and config.tls.key is not None:
            ends = inspect(config.tls.certificate, config.tls.key).not_after
            self._readiness.certificate_ends = ends
            self.observer.certificate(ends)

    async def answer(self, sock: socket.socket | None, stack: contextlib.AsyncExitStack) -> None:
        """Answer on this socket until `stack` ends; None: nobody asks."""
        if sock is None:
            return
        from proxy.exposition import Exposition  # noqa: PLC0415 - prometheus_client: 5 MB of a process

        monitor = Monitor(sock, render=Exposition(self._board, self._workers).render, report=self._readiness.report)
        await monitor.start()
        stack.push_async_callback(monitor.close)

    def accepts(self) -> None:
        """The worker accepts from now on."""
        self.observer.accepts()

    def leaves(self) -> None:
        """It accepts no more, and has sessions for a while."""
        self.observer.leaves()
        self._readiness.is_draining = True
