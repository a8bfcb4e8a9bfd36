"""Runs the page in the foreground until SIGTERM: a process of its own, without the master's private half."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from proxy.admin.desk import node_of
from proxy.config import Config, WebConfig
from proxy.edge.tls import client_context, slim_buffers
from proxy.errors import ConfigError, OperatorError, StoreUnavailable
from proxy.logs import Line
from proxy.oauth.client import TokenClient
from proxy.outlet import configure, journalling
from proxy.serving.page import SUPERVISED, given
from proxy.store.pool import StorePool
from proxy.store.store import Store
from proxy.web.app import application
from proxy.web.certificate import LiveCertificate
from proxy.web.cookies import Cookies
from proxy.web.house import House
from proxy.web.rates import Rates
from proxy.web.rendering import Pages

logger = logging.getLogger("gatepost.web")

MAX_HEAD = 32_768  # octets of a request's head: the address with a code of 16 kB, and a browser's headers
HEAD_S = 20.0  # for a request's head to arrive whole
KEEP_ALIVE_S = 15
MAX_CONNECTIONS = 512  # above it 503; one page is a handful
STOP_S = 10  # for answers under way when the service stops
BACKLOG = 128
SWEEP_S = 600.0


def run(path: Path) -> int:
    """Serve the page until SIGTERM or SIGINT. Raises OperatorError or StoreUnavailable before it is ready.

    path    the configuration file; a supervisor's page is given what stood in it when it was checked
    """
    config = given(path)
    configure(config.log.level, config.log.format, journal=journalling(), has_thread=True)
    web = config.web
    if web is None:
        raise ConfigError(f"{config.path} has no [web]", "add it: config/gatepost.example.toml shows every key")
    store = Store.open(config.store.url, migrate=config.store.migrate)
    try:
        slim_buffers()
        with bound(web) as sock:
            asyncio.run(_run(config, web, store, sock))
    finally:
        store.close()
    return 0


@contextlib.contextmanager
def bound(web: WebConfig) -> Iterator[socket.socket]:
    """The listening socket. Raises OperatorError."""
    family = socket.AF_INET6 if ":" in web.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((web.host, web.port))
            sock.listen(BACKLOG)
        except OSError as error:
            raise OperatorError(
                f"cannot listen on {web.host} port {web.port}: {error.strerror}",
                "end who listens there, or change [web] address",
            ) from None
        yield sock


async def _run(config: Config, web: WebConfig, store: Store, sock: socket.socket) -> None:
    pool = StorePool(store)
    client = TokenClient(client_context)
    house = build(config, web, pool, client)
    live = None if web.certificate is None else LiveCertificate(web, config.tls)
    server = _Server(_uvicorn(house, live))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, server.stop)
    if os.environ.get(SUPERVISED):
        # Nothing is ever said there: to read is to be told of the supervisor's end.
        loop.add_reader(0, server.stop)
    tasks = [asyncio.create_task(_sweep(pool))]
    if live is not None:
        tasks.append(asyncio.create_task(live.watch()))
    logger.info("%s", Line("web_listening", on=f"{web.host}:{sock.getsockname()[1]}", tls=web.certificate is not None))
    logger.info("%s", Line("web_ready", url=web.public_url))
    try:
        await server.serve(sockets=[sock])
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await client.close()
        pool.close()
    logger.info("%s", Line("web_stopped"))


def build(config: Config, web: WebConfig, pool: StorePool, client: TokenClient) -> House:
    """The one place where the parts of the page meet."""
    return House(
        config=config,
        web=web,
        pool=pool,
        client=client,
        rates=Rates(monotonic),
        cookies=Cookies(web.public_url.startswith("https://")),
        pages=Pages(),
        node=node_of(config),
        clock=lambda: datetime.now(UTC),
    )


def _uvicorn(house: House, live: LiveCertificate | None) -> uvicorn.Config:
    def context(*_: object):  # type: ignore[no-untyped-def]  # noqa: ANN202 - an SSLContext, as uvicorn's factory wants
        return None if live is None else live.context

    return uvicorn.Config(
        application(house),
        http=_Patient,
        ws="none",
        lifespan="off",
        log_config=None,  # ours
        access_log=False,
        proxy_headers=False,  # guard reads them, from whom it trusts
        server_header=False,
        ssl_context_factory=None if live is None else context,
        h11_max_incomplete_event_size=MAX_HEAD,
        limit_concurrency=MAX_CONNECTIONS,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=STOP_S,
        backlog=BACKLOG,
    )


class _Server(uvicorn.Server):
    """uvicorn 0.54 takes SIGTERM and SIGINT by itself and raises them again at its end; here they are ours."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    def stop(self) -> None:
        self.should_exit = True


class _Patient(H11Protocol):
    """uvicorn 0.54 waits for ever for a head that comes one octet now and then: this one ends after HEAD_S."""

    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._late = self.loop.call_later(HEAD_S, transport.close)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        # The class says that there always is a cycle; before the first request there is not.
        cycle = getattr(self, "cycle", None)
        if cycle is None or cycle.response_complete:
            self._late = self._late or self.loop.call_later(HEAD_S, self.transport.close)
        else:
            self._stop_waiting()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def _stop_waiting(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None


async def _sweep(pool: StorePool) -> None:
    """Forget what is over."""
    while True:
        with contextlib.suppress(StoreUnavailable):
            await pool.run(pool.store.web.drop_old)
        await asyncio.sleep(SWEEP_S)
