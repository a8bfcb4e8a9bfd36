"""Wires what makes a worker seen from outside: its observer, the node's readiness, and the HTTP that answers."""

from __future__ import annotations

import contextlib
import socket

from proxy.config import PROTOCOLS, Config
from proxy.edge.certificates import Certificates
from proxy.edge.front import House
from proxy.edge.monitor import Monitor
from proxy.errors import ProviderFault, UpstreamFault
from proxy.live.observing import Observer, Readiness
from proxy.login.bus import Wires
from proxy.meters import REFRESHES, UPSTREAM_ERRORS, Meters
from proxy.outlet import lost_lines
from proxy.store.pool import StorePool


class Monitoring:
    """One per worker. `observer.run()` is to be a task of the worker; `answer` needs a running loop."""

    def __init__(
        self,
        config: Config,
        certificates: Certificates,
        wires: Wires,
        meters: Meters,
        house: House,
        *,
        pool: StorePool,
        workers: int,
        is_first: bool,
    ) -> None:
        _begin(meters, config)
        self._board = wires.board
        self._workers = workers
        self.observer = Observer(
            meters=meters,
            registry=house.registry,
            certificate_ends=lambda: certificates.ends,
            connections=lambda: len(house.guests),
            lines_lost=lost_lines,
            store=pool.store,
            pool=pool,
            is_first=is_first,
        )
        self._readiness = Readiness(
            store=pool.store,
            pool=pool,
            board=wires.board,
            workers=workers,
            certificate_ends=lambda: certificates.ends,
            certificate_days=config.metrics.certificate_days,
        )
        self._monitor: Monitor | None = None

    async def answer(self, sock: socket.socket | None, stack: contextlib.AsyncExitStack) -> None:
        """Answer on this socket until `stack` ends; None: nobody asks."""
        if sock is None:
            return
        from proxy.live.exposition import Exposition  # noqa: PLC0415 - prometheus_client: 5 MB of a process

        exposition = Exposition(self._board, self._workers)
        self._monitor = Monitor(sock, render=exposition.render, report=self._readiness.report)
        await self._monitor.start()
        stack.push_async_callback(self._monitor.close)

    def accepts(self) -> None:
        """The worker accepts from now on."""
        self.observer.accepts()

    def leaves(self) -> None:
        """Another generation serves: who asks is answered there."""
        self.observer.leaves()
        if self._monitor is not None:
            self._monitor.stop()

    def drains(self) -> None:
        """Nobody serves any more when this one has ended, and who asks is told so."""
        self.observer.leaves()
        self._readiness.is_draining = True


def _begin(meters: Meters, config: Config) -> None:
    """Have those numbers stand at zero whose first rise is an alert: increase() overlooks one that begins with 1."""
    for upstream in config.upstreams.values():
        meters.tally(REFRESHES, upstream.name, ProviderFault.CLIENT_REJECTED.value)
        for protocol in PROTOCOLS:
            if upstream.endpoint(protocol) is not None:
                meters.tally(UPSTREAM_ERRORS, upstream.name, protocol, UpstreamFault.UNTRUSTED.value)
