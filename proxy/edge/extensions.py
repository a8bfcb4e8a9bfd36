"""What each upstream offers: as its preset says, then as learned from the store, by probes, and by every login."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping

from proxy.config import PROTOCOLS, Config, ListenConfig, Protocol, UpstreamConfig
from proxy.edge.upstream import probe
from proxy.errors import StoreUnavailable, UpstreamError
from proxy.logs import Line
from proxy.store.pool import StorePool
from proxy.store.store import Store
from proxy.wire.extensions import common_esmtp, common_imap

logger = logging.getLogger("gatepost.edge")

PROBE_RETRY_S = 60.0  # an upstream that was down at the start is asked again
REREAD_S = 60.0  # until other workers and nodes offer what a login taught this one


class Extensions:
    """Learned lists by upstream and protocol, and from them what each listener offers before login."""

    def __init__(self, store: Store, pool: StorePool) -> None:
        self._store = store
        self._pool = pool
        self._assumed: dict[tuple[str, Protocol], tuple[str, ...]] = {}  # until it is learned for the first time
        self._learned: dict[tuple[str, Protocol], tuple[str, ...]] = {}
        self._offers: dict[ListenConfig, tuple[str, ...]] = {}
        self._writes: set[asyncio.Task[None]] = set()
        self.first_round = asyncio.Event()  # probe_all has asked everybody once, and what it got is kept

    async def load(self, upstreams: Mapping[str, UpstreamConfig]) -> None:
        """Read what the store remembers. Raises StoreUnavailable."""
        for upstream in upstreams.values():
            for protocol in PROTOCOLS:
                if upstream.extensions(protocol):
                    self._assumed[upstream.name, protocol] = upstream.extensions(protocol)
                known = await self._pool.run(self._store.extensions, upstream.name, protocol)
                if known is not None and upstream.endpoint(protocol) is not None:
                    self._learned[upstream.name, protocol] = known
        self._offers.clear()

    async def reread(self, upstreams: Mapping[str, UpstreamConfig]) -> None:
        """Look again and again, until cancelled, what other processes have learned."""
        while True:
            await asyncio.sleep(REREAD_S)
            if self._writes:  # what we know is newer
                continue
            with contextlib.suppress(StoreUnavailable):  # the registry's watcher tells the operator
                await self.load(upstreams)

    def offered(self, listener: ListenConfig) -> tuple[str, ...]:
        """What all upstreams behind the listener have; nothing while one of them is unknown."""
        offer = self._offers.get(listener)
        if offer is None:
            keys = [(name, listener.protocol) for name in listener.upstreams]
            lists = [self._learned.get(key, self._assumed.get(key)) for key in keys]
            known = [one for one in lists if one is not None]
            common = common_imap if listener.protocol == "imap" else common_esmtp
            offer = common(known) if len(known) == len(lists) else ()
            self._offers[listener] = offer
        return offer

    def learn(self, upstream: str, protocol: Protocol, extensions: tuple[str, ...]) -> None:
        """Note what an upstream said; a change is kept in the store, in the background."""
        if self._learned.get((upstream, protocol)) == extensions:
            return
        self._learned[upstream, protocol] = extensions
        self._offers.clear()
        task = asyncio.create_task(self._keep(upstream, protocol, extensions))
        self._writes.add(task)
        task.add_done_callback(self._writes.discard)

    async def probe_all(self, config: Config) -> None:
        """Ask every upstream that a listener needs; those that are down again after a while, until all answered."""
        wanted = {(name, listener.protocol) for listener in config.listeners for name in listener.upstreams}
        while wanted:
            answers = await asyncio.gather(*(self._probe(config.upstreams[name], kind) for name, kind in wanted))
            await self.close()  # who is told of the first round may read the store
            self.first_round.set()
            wanted = {pair for pair, is_answered in zip(wanted, answers, strict=True) if not is_answered}
            if wanted:
                await asyncio.sleep(PROBE_RETRY_S)

    async def close(self) -> None:
        if self._writes:
            await asyncio.wait(self._writes)

    async def _probe(self, upstream: UpstreamConfig, protocol: Protocol) -> bool:
        try:
            extensions = await probe(upstream, protocol)
        except UpstreamError as error:
            line = Line("probe", upstream=upstream.name, service=protocol, result="failed", error=str(error))
            logger.warning("%s", line)
            return False
        # What a login told is fuller than what is offered to strangers (Exchange tells of MOVE after login only).
        if (upstream.name, protocol) not in self._learned or protocol == "smtp":
            self.learn(upstream.name, protocol, extensions)
        return True

    async def _keep(self, upstream: str, protocol: Protocol, extensions: tuple[str, ...]) -> None:
        try:
            await self._pool.run(self._store.put_extensions, upstream, protocol, extensions)
        except StoreUnavailable as error:
            logger.info("%s", Line("extensions_not_kept", upstream=upstream, error=str(error)))
