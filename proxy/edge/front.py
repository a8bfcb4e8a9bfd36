"""What both fronts share: one client connection from its accept to the relay, and the house around it."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field

from proxy.config import ListenConfig, Protocol
from proxy.edge.doorman import Doorman, Reason
from proxy.edge.guests import Guests
from proxy.edge.relay import Relay
from proxy.edge.transport import Transport
from proxy.edge.upstream import Connection, dial
from proxy.errors import Refusal
from proxy.live.sessions import Registry, Session
from proxy.login.attempt import Attempt
from proxy.login.service import LoginService, Passage
from proxy.logs import Line
from proxy.meters import HANDSHAKES_FAILED, Meters
from proxy.wire.sasl import Credentials

logger = logging.getLogger("gatepost.edge")

PRE_LOGIN_S = 60.0  # from accept to the relay, whatever the client does (outcomes E50)
TLS_FAILED = "tls_failed"  # how the reason begins when a handshake failed
MAX_FAILED = 3  # refused AUTHs on one connection


@dataclass(frozen=True, slots=True)
class House:
    """What a front may use of the rest. One per process, made by build()."""

    hostname: str
    login: LoginService
    registry: Registry
    guests: Guests
    tls_context: Callable[[ListenConfig], ssl.SSLContext | None]
    extensions: Callable[[ListenConfig], tuple[str, ...]]
    learn: Callable[[str, Protocol, tuple[str, ...]], None]  # upstream, protocol, what it offers after login
    meters: Meters = field(default_factory=Meters)
    doorman: Doorman = field(default_factory=Doorman)


class Visit:
    """One client connection, whichever protocol it speaks, from its accept to its end."""

    def __init__(self, house: House, listener: ListenConfig, peer: str, visit_id: str) -> None:
        """Count it in. `peer` is the client's address without port, an IPv4-mapped one as IPv4.

        refusing    set if the front must greet with BYE or 421 and close
        """
        self.id = visit_id
        self.listener = listener
        self.peer = peer
        self.started = asyncio.get_running_loop().time()
        self.hostname = house.hostname
        self.tls_context = house.tls_context(listener)
        self.extensions = house.extensions(listener)
        self.refusing: Refusal | None = house.guests.arrive(self.id, peer)
        self._house = house
        self._is_over = False
        self._has_tried_in_clear = False
        if self.refusing is not None:
            self._tell_turned_away(self.refusing)

    async def enter(self, credentials: Credentials | None, mechanism: str, client: str) -> Passage[Connection]:
        """Try to log in. Raises Refused, already logged and on the time grid; cancel it if the client hangs up."""
        return await self._house.login.enter(self._attempt(credentials, mechanism, client), dial)

    def refuse_in_clear(self, client: str) -> None:
        """Tell of a login where TLS is due, which was refused unread: once for a connection, however often it tries."""
        if not self._has_tried_in_clear:
            self._has_tried_in_clear = True
            self._house.login.refuse_unread(self._attempt(None, "", client), Refusal.CLEAR_TEXT)

    def relay(self, client: Transport, passage: Passage[Connection], leftover: bytes, keep: object = None) -> None:
        """Hand both connections to the relay; the client has been told OK. If that fails, both end here.

        leftover    what the client sent after its credentials: goes upstream first
        keep        stays referenced until the session ends
        """
        try:
            self._join(client, passage, leftover, keep)
        except Exception:
            logger.exception("%s", Line("relay_crashed", service=self.listener.protocol, id=self.id))
            client.abort()
            self.abandon(passage)

    def _join(self, client: Transport, passage: Passage[Connection], leftover: bytes, keep: object) -> None:
        self._house.guests.let_in(self.id)
        if passage.connection.extensions is not None:
            self._house.learn(passage.session.upstream, self.listener.protocol, passage.connection.extensions)
        relay = Relay(passage.session, on_end=self._session_ended, keep=keep, meters=self._house.meters)
        client.pause_reading()  # until start(); its front may have paused it already
        client.set_protocol(relay.client)
        relay.client.connection_made(client)
        passage.connection.hand_over(relay.upstream)
        if leftover:
            relay.client.data_received(leftover)
        relay.start()

    def abandon(self, passage: Passage[Connection]) -> None:
        """Nobody will use it: the client hung up between the upstream's OK and ours, or the relay failed."""
        passage.connection.abort()
        self._session_ended(passage.session)

    def ended(self, reason: str) -> None:
        """The connection is over before a login. Saying so again is harmless."""
        if not self._is_over:
            line = Line("visit_end", service=self.listener.protocol, peer=self.peer, reason=reason, id=self.id)
            logger.debug("%s", line)
            if self.refusing is None and self._house.guests.is_closing:
                self._tell_turned_away(Refusal.SHUTTING_DOWN)
            if reason.startswith(TLS_FAILED):
                self._house.meters.count(HANDSHAKES_FAILED, self.listener.protocol)
            self._gone()

    def _attempt(self, credentials: Credentials | None, mechanism: str, client: str) -> Attempt:
        return Attempt(
            id=self.id,
            protocol=self.listener.protocol,
            upstreams=self.listener.upstreams,
            peer=self.peer,
            credentials=credentials,
            mechanism=mechanism,
            client=client,
            started=asyncio.get_running_loop().time(),
        )

    def _tell_turned_away(self, cause: Refusal) -> None:
        limit = None
        if cause is Refusal.CONNECTION_CAP:
            limit = "connections" if self._house.guests.are_too_many else "waiting_per_address"
        self._house.doorman.tell(Reason(self.listener.protocol, cause, limit), self.peer, self.id)

    def _session_ended(self, session: Session) -> None:
        self._house.registry.remove(session)
        self._gone()

    def _gone(self) -> None:
        if not self._is_over:
            self._is_over = True
            self._house.guests.leave(self.id)
