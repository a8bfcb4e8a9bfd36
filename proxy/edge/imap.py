"""The IMAP front: drives the sans-IO gate over a connection until it is handed to the relay."""

from __future__ import annotations

import asyncio
import logging
from typing import cast

from proxy.config import Tls
from proxy.edge.front import PRE_LOGIN_S, Visit
from proxy.edge.transport import Transport
from proxy.errors import Answer, Refused
from proxy.wire.actions import Close, Send, StartTls
from proxy.wire.imap import Action, ImapGate, Login, LoginInClear

logger = logging.getLogger("gatepost.imap")

CLOSE_S = 5.0  # how long the last words may take to reach a client that does not read


class ImapFront(asyncio.Protocol):
    """One IMAP client before login."""

    def __init__(self, visit: Visit) -> None:
        self._visit = visit
        self._loop = asyncio.get_running_loop()
        self._gate = ImapGate(
            extensions=visit.extensions,
            secured=visit.listener.tls is Tls.IMPLICIT,
            starttls=visit.listener.tls is Tls.STARTTLS,
            clear_ok=visit.listener.tls is Tls.NONE,
        )
        self._transport: Transport | None = None
        self._task: asyncio.Task[None] | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._is_lost = False
        self._farewell = None if visit.refusing is None else visit.refusing.answer  # in place of a greeting

    # -- asyncio.Protocol ---------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("Transport", transport)
        if self._farewell is not None:
            self._do(self._gate.close(self._farewell))
            return
        self._set_deadline(self._visit.started + PRE_LOGIN_S)
        self._do(self._gate.greet())

    def data_received(self, data: bytes) -> None:
        is_busy = self._gate.is_busy
        self._do(self._gate.receive(data))
        if is_busy and self._transport is not None:
            # A login is under way: what was read is held, the rest waits in the kernel. A client that sends nothing
            # meanwhile is still read, so that his hanging up is seen.
            self._transport.pause_reading()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_lost = True
        self._end("client_left" if exc is None else "connection_lost")
        if self._task is not None:
            self._task.cancel()

    # -- what the house may ask ---------------------------------------------------------------------------------------

    def close(self, answer: Answer) -> None:
        """End the connection with a BYE, whatever it is doing. Who is still in the TLS handshake is greeted with it."""
        self._farewell = answer
        if self._transport is None:
            return
        if self._task is not None:
            self._task.cancel()
        self._do(self._gate.close(answer))

    def abort(self) -> None:
        """Cut the connection off; without effect before it is made, or after the login."""
        if self._transport is not None and not self._is_lost:
            self._transport.abort()

    # -- doing what the gate says -------------------------------------------------------------------------------------

    def _do(self, actions: list[Action]) -> None:
        transport = self._transport
        if transport is None or self._is_lost:
            return
        for action in actions:
            match action:
                case Send(data):
                    transport.write(data)
                case StartTls():
                    # Nothing may be read between here and the handshake: it would be plaintext (outcomes E1).
                    transport.pause_reading()
                    self._task = self._loop.create_task(self._start_tls(transport))
                case Login():
                    self._task = self._loop.create_task(self._enter(transport, action))
                case LoginInClear():
                    self._visit.refuse_in_clear(self._gate.client_id)
                case Close():
                    self._close(transport)

    async def _start_tls(self, transport: Transport) -> None:
        context = self._visit.tls_context
        assert context is not None
        left_s = max(0.1, self._visit.started + PRE_LOGIN_S - self._loop.time())
        try:
            await transport.start_tls(context, server_side=True, timeout_s=left_s)
        except asyncio.CancelledError:
            self._end("closed")
            raise
        except OSError as error:  # TLS, a lost connection and the time-out are all of this family
            self._end(f"tls_failed {getattr(error, 'reason', None) or type(error).__name__}")
            return
        self._do(self._gate.secured())

    async def _enter(self, transport: Transport, login: Login) -> None:
        try:
            passage = await self._visit.enter(login.credentials, login.mechanism, self._gate.client_id)
        except Refused as refused:
            self._task = None
            self._do(self._gate.refuse(refused.refusal.answer))
            if not self._is_lost and not transport.is_closing():
                transport.resume_reading()
            return
        if self._is_lost or transport.is_closing():
            self._visit.abandon(passage)
            return
        self._stop_deadline()
        tag, held = self._gate.accept()
        connection = passage.connection
        # RFC 9051 6.2.2: the tagged OK is ours to tag, all else is what the upstream said.
        transport.write(connection.untagged + tag + connection.ok_rest)
        self._visit.relay(transport, passage, held)

    # -- ends ---------------------------------------------------------------------------------------------------------

    def _set_deadline(self, at: float) -> None:
        self._stop_deadline()
        self._deadline = self._loop.call_at(at, self._too_late)

    def _stop_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()

    def _too_late(self) -> None:
        self.close(Answer.UNAVAILABLE)

    def _close(self, transport: Transport) -> None:
        self._stop_deadline()
        transport.close()
        # A client that does not read, or never answers TLS's close, must not stay.
        self._deadline = self._loop.call_later(CLOSE_S, transport.abort)

    def _end(self, reason: str) -> None:
        self._stop_deadline()
        self._visit.ended(reason)
