"""The socket end of an upstream connection, from connect to the change of hands; knows neither IMAP nor SMTP.

Reading is off unless somebody awaits receive(). So what a server sends before it is asked stays where it belongs: in
front of a TLS handshake it is an error, behind the login it goes to the relay.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, cast

from proxy.edge.keepalive import keep_alive
from proxy.edge.transport import Transport
from proxy.edge.upstream_memory import UpstreamMemory
from proxy.errors import UpstreamError, UpstreamFault

# One read gives BURST_BYTES and a record at most, and reading then pauses; more than this is a transport gone wrong.
MAX_HELD_BYTES = 1_048_576
CONNECT_S = 3.0  # for an address that is not the last one: a broken IPv6 route must not use up the dial deadline
CLOSE_S = 1.0  # for the server's answer to QUIT or LOGOUT


class Leg(asyncio.Protocol):
    """One connection to a server upstream. Its owner ends it by hand_over(), part() or abort()."""

    def __init__(self, memory: UpstreamMemory) -> None:
        self._memory = memory
        self._server = ("", 0)  # as dialled
        self._offers_session = False
        self.describe: Callable[[], str] = (
            str  # gives `said`: few logins need it, and cleaning a long line takes 0.1 ms
        )
        self._transport: Transport | None = None
        self._held = bytearray()
        self._is_over = False  # EOF or connection_lost: nothing more will come
        self._is_lost = False  # connection_lost was called
        self._lost_by: Exception | None = None
        self._is_writing_paused = False
        self._waiter: asyncio.Future[None] | None = None
        self._successor: asyncio.Protocol | None = None

    @property
    def said(self) -> str:
        """The server's last line, printable, without secrets: for a deadline's log line."""
        return self.describe()

    @property
    def local_address(self) -> str:
        """The IP address that this connection has on our side; "" if there is none."""
        name: object = self._connected().get_extra_info("sockname")
        return str(name[0]) if isinstance(name, tuple) else ""

    async def open(self, host: str, port: int) -> None:
        """Connect, in the clear. Raises UpstreamError UNREACHABLE."""
        self._server = (host, port)
        try:
            addresses = await self._memory.addresses(self._server)
        except OSError as error:
            raise _unreachable(error) from None
        for family, address in addresses[:-1]:
            with suppress(OSError):  # TimeoutError is one
                async with asyncio.timeout(CONNECT_S):
                    await self._connect(family, address)
                self._memory.prefer_address(self._server, (family, address))
                return
        try:
            await self._connect(*addresses[-1])
        except OSError as error:
            self._memory.forget_addresses(self._server)
            raise _unreachable(error) from None
        self._memory.prefer_address(self._server, addresses[-1])

    async def _connect(self, family: int, address: Any) -> None:
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            keep_alive(sock)
            await connect(sock, address)
        except BaseException:
            sock.close()
            raise
        Transport(sock, self, close_s=CLOSE_S).begin()

    async def secure(self, host: str) -> None:
        """Do the TLS handshake; what comes afterwards is the server's that `host` names.

        The session of a handshake of the last minutes is taken up again if the server likes.

        raises  UpstreamError UNTRUSTED if anything came in the clear before it, or the handshake fails
        """
        if self._held:
            raise UpstreamError(UpstreamFault.UNTRUSTED, "bytes before the TLS handshake")
        if self._is_over:
            raise self._end()
        try:
            await self._shake_hands(host)
        except ssl.SSLEOFError as error:
            raise _unreachable(error) from None
        except ssl.SSLCertVerificationError as error:
            raise UpstreamError(UpstreamFault.UNTRUSTED, f"certificate: {error.verify_message}") from None
        except ssl.SSLError as error:
            raise UpstreamError(UpstreamFault.UNTRUSTED, f"TLS: {error.reason or 'failed'}") from None
        except OSError as error:
            raise _unreachable(error) from None
        self._connected().pause_reading()

    async def _shake_hands(self, host: str) -> None:
        session = self._memory.session(self._server)
        self._offers_session = session is not None
        transport = self._connected()
        await transport.start_tls(self._memory.context, server_hostname=host, session=session, timeout_s=None)
        if self._offers_session and not transport.get_extra_info("ssl_object").session_reused:
            self.doubt_session()

    def keep_session(self) -> None:
        """After the login: TLS 1.3 gives what can be resumed behind the handshake."""
        sock = self._connected().get_extra_info("ssl_object")
        if sock is not None and sock.session_reused is False:  # None: lost already
            self._memory.keep_session(self._server, sock)

    def doubt_session(self) -> None:
        """What has failed may have failed because it resumed: a server can find fault with that after the handshake."""
        if self._offers_session:
            self._offers_session = False
            self._memory.drop_session(self._server)

    async def receive(self) -> bytes:
        """All that has come, at least one byte; one caller at a time. Raises UpstreamError after the end."""
        while not self._held:
            if self._is_over:
                raise self._end()
            self._waiter = asyncio.get_running_loop().create_future()
            self._connected().resume_reading()
            await self._waiter
        data = bytes(self._held)
        self._held.clear()
        return data

    def put_back(self, data: bytes) -> None:
        """Bytes of receive() that belong to whoever comes next."""
        self._held[:0] = data

    def send(self, data: bytes) -> None:
        self._connected().write(data)

    async def part(self, farewell: bytes) -> None:
        """Say goodbye (QUIT, LOGOUT), wait a moment for the server to close, and be gone."""
        self.send(farewell)
        with suppress(UpstreamError, TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                while True:
                    await self.receive()
        self.abort()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def hand_over(self, protocol: asyncio.Protocol) -> None:
        """Make `protocol` the connection's, and tell it all that has happened since the login: no byte is lost.

        It hears connection_made, data_received with what is held, then eof_received or connection_lost if that has
        happened already; all within this call.
        """
        transport = self._connected()
        self._successor = protocol
        self.describe = str  # it holds what the login was done with
        if not self._is_lost:
            transport.set_protocol(protocol)
            # Before the calls below: a protocol that pauses because of what it is given here must stay paused.
            transport.resume_reading()
        protocol.connection_made(transport)
        if self._is_writing_paused:
            protocol.pause_writing()
        if self._held:
            data = bytes(self._held)
            self._held.clear()
            protocol.data_received(data)
        if self._is_lost:
            protocol.connection_lost(self._lost_by)
        elif self._is_over:
            protocol.eof_received()

    # What transports call. After the change of hands a call may still be under way to this protocol.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("Transport", transport)
        self._transport.pause_reading()
        self._is_over = self._is_lost = False  # an address that was given up may have ended before this one

    def data_received(self, data: bytes) -> None:
        if self._successor is not None:
            self._successor.data_received(data)
            return
        self._held += data
        self._connected().pause_reading()
        if len(self._held) > MAX_HELD_BYTES:
            self.abort()
        self._wake()

    def eof_received(self) -> bool:
        if self._successor is not None:
            self._successor.eof_received()
        self._is_over = True
        self._wake()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        if self._successor is not None:
            self._successor.connection_lost(exc)
        self._is_over = self._is_lost = True
        self._lost_by = exc
        self._wake()

    def pause_writing(self) -> None:
        if self._successor is not None:
            self._successor.pause_writing()
        self._is_writing_paused = True

    def resume_writing(self) -> None:
        if self._successor is not None:
            self._successor.resume_writing()
        self._is_writing_paused = False

    def _connected(self) -> Transport:
        assert self._transport is not None  # open() came first
        return self._transport

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _end(self) -> UpstreamError:
        if isinstance(self._lost_by, ssl.SSLError):
            return UpstreamError(UpstreamFault.UNTRUSTED, f"TLS: {self._lost_by.reason or 'failed'}")
        return UpstreamError(UpstreamFault.UNREACHABLE, self.said or "closed by the server")


@dataclass(frozen=True, slots=True)
class Connection:
    """A connection that the upstream let in, reading paused. Its owner ends it by hand_over() or abort()."""

    untagged: bytes  # IMAP: raw untagged lines between our AUTHENTICATE and its OK, for the client; SMTP: b""
    ok_rest: bytes  # IMAP: what follows the tag in the tagged OK, from " OK" to CRLF; SMTP: b""
    extensions: tuple[str, ...] | None  # capabilities or EHLO lines as told at login; None if it told none
    leg: Leg = field(repr=False)

    def hand_over(self, protocol: asyncio.Protocol) -> None:
        """Give the connection to the relay; see Leg.hand_over()."""
        self.leg.hand_over(protocol)

    def abort(self) -> None:
        self.leg.abort()


async def connect(sock: socket.socket, address: Any) -> None:
    """Connect a socket that does not block. Raises OSError.

    uvloop's sock_connect would hand even an IP address to a thread for getaddrinfo, and lose the scope of an IPv6 one.
    """
    try:
        sock.connect(address)
    except BlockingIOError:
        pass
    else:
        return
    loop = asyncio.get_running_loop()
    settled = loop.create_future()

    def settle() -> None:
        loop.remove_writer(sock)
        if not settled.done():
            settled.set_result(None)

    loop.add_writer(sock, settle)
    try:
        await settled
    finally:
        loop.remove_writer(sock)
    error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if error:
        raise OSError(error, os.strerror(error))


def _unreachable(error: Exception) -> UpstreamError:
    if isinstance(error, OSError) and error.strerror:
        return UpstreamError(UpstreamFault.UNREACHABLE, error.strerror)
    closed = isinstance(error, ConnectionError)
    return UpstreamError(UpstreamFault.UNREACHABLE, "closed by the server" if closed else type(error).__name__)
