"""The relay: after login, bytes both ways, untouched and unread; Gatepost never speaks again.

Two legs, each an asyncio.Protocol on its transport. What arrives on one is written to the other; when the other's
buffer is full this one's reading stops, so a slow reader holds up his peer and no memory grows. A leg that ends is
flushed to the other, which then closes; every closing has a deadline after which the transport is aborted.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import cast

from proxy.edge.transport import Transport
from proxy.live.sessions import End, Session
from proxy.logs import Line
from proxy.meters import BYTES, SESSIONS_ENDED, Meters, Tally

logger = logging.getLogger("gatepost.relay")

HIGH_WATER_BYTES = 65_536  # written but not sent: above it the peer is paused
# How long an upstream may take to answer after its client left (outcomes E44): a mail whose last byte has come is
# worth waiting for, an IMAP command is not.
LINGER_S = {"imap": 5.0, "smtp": 30.0}
# And how long it must then be quiet to have answered all: pipelined MAIL and RCPT are answered while the mail is still
# on its way. An IMAP answer may be a whole mailbox, and nobody reads it.
ANSWERED_S = {"imap": 0.0, "smtp": 1.0}
FLUSH_S = 30.0  # how long the last bytes for a slow reader may take after the upstream left (E43)
END_S = 0.5  # how long a clean TLS close may take when a session must end now (E31: within a second)


class Leg(asyncio.Protocol):
    """One connection of a relay. `is_full` while its transport asked for no more to be written."""

    __slots__ = ("_flow", "_relay", "bytes_in", "is_full", "is_lost", "last_at", "other", "transport")

    def __init__(self, relay: Relay, flow: Tally) -> None:
        self._relay = relay
        self._flow = flow
        self.transport: Transport | None = None
        self.other: Leg
        self.bytes_in = 0
        self.last_at = 0.0  # loop time of the last byte
        self.is_full = False
        self.is_lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("Transport", transport)
        if self.transport.is_closing():
            return  # nothing will be written
        # It may have told the front, which had it before, to pause, and would not say so again. With a limit of zero
        # it has said so if it holds anything, and will say when that is sent.
        self.transport.set_write_buffer_limits(high=0)
        self.is_full = self.transport.get_write_buffer_size() > 0
        self.transport.set_write_buffer_limits(high=HIGH_WATER_BYTES)
        self.other.steer()

    def data_received(self, data: bytes) -> None:
        if self.is_lost:
            return
        self.bytes_in += len(data)
        self._flow.add(len(data))
        self._relay.pass_on(self, data)

    def eof_received(self) -> bool:
        # No half-close: an EOF ends this leg. What is written but not sent holds up its loss.
        if not self.is_lost:
            self._relay.leg_leaves()
        return False

    def pause_writing(self) -> None:
        self.is_full = True
        if not self.is_lost:
            self.other.steer()

    def resume_writing(self) -> None:
        self.is_full = False
        if not self.is_lost:
            self.other.steer()

    def connection_lost(self, _exc: Exception | None) -> None:
        self.is_lost = True
        self._relay.leg_lost(self)

    def steer(self) -> None:
        """Read if the other leg takes what is read, or is gone."""
        if self.transport is None or self.is_lost:
            return
        if self.other.is_full and not self.other.is_lost:
            self.transport.pause_reading()
        elif self._relay.is_started:
            self.transport.resume_reading()

    def close(self) -> None:
        if self.transport is not None:
            self.transport.close()

    def let_go(self) -> None:
        """At the end of the session, when both legs are lost: nothing refers to itself by way of this leg any more.

        Two connections with TLS are more than 100 kB, and would lie about until the collector looks for cycles.
        """
        self.transport = None
        del self.other, self._relay


class Relay:
    """The pair of legs of one session. Ends once, says why once, then tells `on_end`."""

    def __init__(
        self,
        session: Session,
        *,
        on_end: Callable[[Session], None],
        keep: object = None,
        meters: Meters | None = None,
    ) -> None:
        """A relay for an admitted session; give its two legs to their transports, then start() it.

        keep    something that must live as long as the relay: since CPython 3.11.5 a StreamWriter that is collected
                closes its transport, and aiosmtpd holds one
        """
        self._loop = asyncio.get_running_loop()
        self._session = session
        self._on_end = on_end
        self._keep = keep
        self._why: End | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._answered: asyncio.TimerHandle | None = None
        self._is_dropping = False
        self.is_started = False
        self.last_byte_at = self._loop.time()
        self._meters = meters or Meters()
        self.client = Leg(self, self._meters.tally(BYTES, session.protocol, "up"))
        self.upstream = Leg(self, self._meters.tally(BYTES, session.protocol, "down"))
        self.client.other, self.upstream.other = self.upstream, self.client

    def start(self) -> None:
        """Both legs are connected: from now on they are read, and the registry may end them."""
        self.is_started = True
        self.client.steer()
        self.upstream.steer()
        self._session.relay = self
        if self._session.ending is not None:
            self.end(self._session.ending)

    def pass_on(self, source: Leg, data: bytes) -> None:
        self.last_byte_at = source.last_at = self._loop.time()
        target = source.other
        # A session that was ended passes nothing on any more.
        if self._is_dropping or target.transport is None:
            return
        if not target.is_lost:
            target.transport.write(data)
        elif target is self.client:
            self._answers_nobody()

    def end(self, why: End) -> None:
        """End the session now: a clean TLS close of both legs, no word, nothing more passed on."""
        if self._why is None:
            self._why = why
        self._is_dropping = True
        self.client.close()
        self.upstream.close()
        self._set_deadline(END_S)

    def leg_leaves(self) -> None:
        """The peer of a leg said its last. Its loss follows when it has read what is on the way to it."""
        if self._deadline is None:
            self._set_deadline(FLUSH_S)

    def leg_lost(self, leg: Leg) -> None:
        if self.client.is_lost and self.upstream.is_lost:
            self._finish()
            return
        other = leg.other
        if self._why is None:
            self._why = End.CLIENT_LEFT if leg is self.client else End.UPSTREAM_LEFT
        if other.transport is None:
            return
        if leg is self.client and not self._is_dropping and not other.transport.is_closing():
            # What the client sent is flushed; the upstream's answer to it ends the wait (E44).
            other.steer()
            self._set_deadline(LINGER_S[self._session.protocol])
            if other.last_at >= leg.last_at:  # he has had his answers, or asked nothing: few clients say goodbye
                self._answers_nobody(quiet_s=self._loop.time() - other.last_at)
        else:
            other.close()  # flushes first
            self._set_deadline(END_S if self._is_dropping else FLUSH_S)

    def _answers_nobody(self, quiet_s: float = 0.0) -> None:
        """The client is gone and the upstream has said something, `quiet_s` ago."""
        if self._answered is not None:
            self._answered.cancel()
        delay_s = max(0.0, ANSWERED_S[self._session.protocol] - quiet_s)
        self._answered = self._loop.call_later(delay_s, self._close_upstream)

    def _close_upstream(self) -> None:
        transport = self.upstream.transport
        # While it still takes what the client sent, it has not answered that: it will, or the deadline comes.
        if transport is not None and not self.upstream.is_lost and transport.get_write_buffer_size() == 0:
            self.upstream.close()

    def _set_deadline(self, delay_s: float) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = self._loop.call_later(delay_s, self._abort)

    def _abort(self) -> None:
        for leg in (self.client, self.upstream):
            if leg.transport is not None and not leg.is_lost:
                leg.transport.abort()

    def _finish(self) -> None:
        for timer in (self._deadline, self._answered):
            if timer is not None:
                timer.cancel()
        self._keep = None
        self.client.let_go()
        self.upstream.let_go()
        session = self._session
        session.relay = None
        self._meters.count(SESSIONS_ENDED, session.protocol, self._why.value if self._why else "")
        line = Line(
            "session_end",
            service=session.protocol,
            user=session.email,
            peer=session.peer,
            reason=self._why.value if self._why else None,
            bytes_up=self.client.bytes_in,
            bytes_down=self.upstream.bytes_in,
            app_password=session.public_id,
            id=session.id,
        )
        logger.info("%s", line)
        self._on_end(session)
