"""The acceptor: one place where client connections come from, for every protocol.

It binds, accepts, counts, has the PROXY header read where there must be one, does the TLS handshake of implicit-TLS
listeners and hands the front a connection that is ready. Accepting never waits for hashing, DNS or an upstream.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import secrets
import socket
from collections.abc import Callable
from typing import cast

from proxy.config import ListenConfig, Tls
from proxy.edge.forwarded import client_address
from proxy.edge.front import PRE_LOGIN_S, House, Visit
from proxy.edge.guests import Front
from proxy.edge.keepalive import keep_alive
from proxy.edge.relay import FLUSH_S
from proxy.edge.transport import Transport
from proxy.errors import ConfigError, ProtocolError
from proxy.logs import Line
from proxy.meters import ACCEPT_PAUSES, CONNECTIONS, HEADERS_REFUSED
from proxy.wire.addresses import Address, normal_address

logger = logging.getLogger("gatepost.edge")

BACKLOG = 4096  # a thousand clients come back in the same instant after a power cut; the kernel caps it at somaxconn
ACCEPTS_PER_TURN = 64  # then the loop serves those already here
SHARED_ACCEPTS_PER_TURN = 1  # of a socket that other workers wait at, too: nobody takes a whole crowd for himself
NO_ROOM_PAUSE_S = 0.25
NO_ROOM_LINE_S = 60.0  # one line of the log in so much time, however often there is no room
# Counted from close(), so the time for what is still to be sent is in it. Every close has its own deadline besides.
TLS_SHUTDOWN_S = FLUSH_S

_OVERFULL = "overfull"
_OUT_OF_ROOM = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


FrontFactory = Callable[[Visit], Front]  # what it makes is an asyncio protocol, too


def bind(listener: ListenConfig) -> socket.socket:
    """A listening socket. Raises ConfigError that names the address and the remedy."""
    return bind_to(listener.host, listener.port, listener.name)


def bind_to(host: str, port: int, name: str = "") -> socket.socket:
    """The same for any address; `name` is how an error calls it, without one by itself."""
    name = name or f"{f'[{host}]' if ':' in host else host}:{port}"
    try:
        infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = infos[0]
        sock = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise ConfigError(f"cannot listen on {name}: {error.strerror}", "correct the address") from None
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # "::" takes IPv4 as well; its clients come as IPv4-mapped addresses and are normalised (outcomes E57).
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind(address)
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        remedy = {
            errno.EADDRINUSE: "stop what listens there, or choose another port",
            errno.EACCES: "let systemd open ports below 1024 (systemctl enable --now gatepost-imaps.socket ...), "
            "or give the service CAP_NET_BIND_SERVICE",
            errno.EADDRNOTAVAIL: "use an address of this machine",
        }.get(error.errno or 0, "correct the address")
        raise ConfigError(f"cannot listen on {name}: {error.strerror}", remedy) from None
    return sock


class Acceptor:
    """Accepts for one listener until closed. Owns its socket, and the headers and handshakes under way."""

    def __init__(
        self,
        house: House,
        listener: ListenConfig,
        sock: socket.socket,
        front: FrontFactory,
        *,
        per_turn: int = ACCEPTS_PER_TURN,
    ) -> None:
        self._house = house
        self._listener = listener
        self._sock = sock
        self._front = front
        self._per_turn = per_turn
        self._loop = asyncio.get_running_loop()
        self._receiving: set[asyncio.Task[None]] = set()
        self._pause: asyncio.TimerHandle | None = None
        self._quiet_until = 0.0
        self._is_closed = False
        for reason in (_OVERFULL, *(errno.errorcode[number] for number in _OUT_OF_ROOM)):
            house.meters.tally(ACCEPT_PAUSES, reason)  # zero: who watches for its rise sees the first one, too

    @property
    def address(self) -> tuple[str, int]:
        host, port = self._sock.getsockname()[:2]
        return str(host), int(port)

    def start(self) -> None:
        self._pause = None
        if not self._is_closed:
            self._loop.add_reader(self._sock.fileno(), self._accept)

    def stop(self) -> None:
        """Accept nobody any more; headers and handshakes under way go on."""
        if not self._is_closed:
            self._is_closed = True
            if self._pause is not None:
                self._pause.cancel()
            self._loop.remove_reader(self._sock.fileno())
            self._sock.close()

    async def close(self) -> None:
        """Stop, and end the headers and handshakes under way."""
        self.stop()
        for task in self._receiving:
            task.cancel()
        if self._receiving:
            await asyncio.wait(self._receiving)

    def _accept(self) -> None:
        for _ in range(self._per_turn):
            if self._house.guests.is_overfull:
                self._rest(_OVERFULL)
                return
            try:
                sock, address = self._sock.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in _OUT_OF_ROOM:
                    self._rest(errno.errorcode[error.errno or 0])
                    return
                continue  # the client is gone again already (accept(2), Error handling)
            self._house.meters.count(CONNECTIONS, self._listener.protocol)
            task = self._loop.create_task(self._receive(sock, str(address[0])))
            self._receiving.add(task)
            task.add_done_callback(self._receiving.discard)

    def _rest(self, reason: str) -> None:
        """Leave newcomers to the kernel's queue for a moment: a busy loop would take the time to make room."""
        self._house.meters.count(ACCEPT_PAUSES, reason)
        if self._loop.time() >= self._quiet_until:
            self._quiet_until = self._loop.time() + NO_ROOM_LINE_S
            logger.warning("%s", Line("accept_paused", listener=self._listener.name, reason=reason))
        self._loop.remove_reader(self._sock.fileno())
        self._pause = self._loop.call_later(NO_ROOM_PAUSE_S, self.start)

    async def _receive(self, sock: socket.socket, address: str) -> None:
        sock.setblocking(False)
        visit_id = secrets.token_hex(6)
        peer = normal_address(address)
        client = await self._client_of(sock, peer, visit_id) if self._listener.proxy_protocol_from else peer
        if client is None:
            return
        visit = Visit(self._house, self._listener, str(client), visit_id)

        transport: Transport | None = None
        try:
            keep_alive(sock)
            front = self._front(visit)
            self._house.guests.greet(visit.id, front)
            transport = Transport(sock, cast("asyncio.BaseProtocol", front), close_s=TLS_SHUTDOWN_S)
            if self._listener.tls is Tls.IMPLICIT:
                assert visit.tls_context is not None
                await transport.start_tls(visit.tls_context, server_side=True, timeout_s=PRE_LOGIN_S)
            transport.begin()
        except OSError as error:  # TLS, a lost connection and the time-out are all of this family
            sock.close()
            reason = getattr(error, "reason", None) or type(error).__name__  # OpenSSL without memory gives none
            line = Line("tls_failed", service=self._listener.protocol, peer=visit.peer, reason=reason, id=visit.id)
            logger.info("%s", line)
            visit.ended("tls_failed")
        except BaseException:
            if transport is not None:
                transport.abort()
            sock.close()
            visit.ended("closed")
            raise

    async def _client_of(self, sock: socket.socket, peer: Address, visit_id: str) -> Address | None:
        """Whose connection a load balancer hands on; None if this is none, or no good one, and then it is closed."""
        guests = self._house.guests
        guests.knock(visit_id)
        try:
            return await client_address(sock, peer, self._listener.proxy_protocol_from)
        except (OSError, TimeoutError, ProtocolError) as error:
            sock.close()
            guests.leave(visit_id)
            self._house.meters.count(HEADERS_REFUSED, self._listener.protocol)
            reason = error.text if isinstance(error, ProtocolError) else type(error).__name__
            line = Line(
                "proxy_header_refused", service=self._listener.protocol, peer=str(peer), reason=reason, id=visit_id
            )
            logger.info("%s", line)
            return None
        except BaseException:
            sock.close()
            guests.leave(visit_id)
            raise
