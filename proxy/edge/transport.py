"""The transport of every mail connection, in the clear and under TLS: a non-blocking socket behind asyncio's interface.

Both loops' own TLS runs between memory buffers that stay as large as the largest read. Here OpenSSL reads from and
writes to the socket itself, so an idle connection holds no buffer, and bulk is copied less (bench/PROFILE.md). TLS
starts in place and nothing is read ahead of it: what a peer sends in the clear behind STARTTLS meets the handshake.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections import deque
from enum import Enum, auto
from typing import Any

from proxy.edge.receiving import Stop, receive, throw_away
from proxy.edge.watch import Watch

HIGH_WATER_BYTES = 65_536
HANDSHAKE_S = 60.0
CLOSE_S = 30.0
TALK_READS = 3  # in a row, with nothing written between: more are no talk, whatever their size


class _State(Enum):
    OPEN = auto()
    FLUSHING = auto()  # close() was called, and not all is sent
    SHUTTING = auto()  # our close_notify is sent, or on its way; the peer's is awaited
    LOST = auto()


class Transport(asyncio.Transport):
    """A connected stream socket, which it owns. begin() tells the protocol; close() and abort() end it, once."""

    __slots__ = (
        "_close_s", "_deadline", "_has_end", "_high", "_is_full", "_is_reading", "_is_shaking", "_is_tls", "_is_told",
        "_loop", "_low", "_on_ready", "_pending", "_pending_bytes", "_protocol", "_reads_when_written", "_sock",
        "_state", "_unanswered", "_watch", "_writes_when_read",
    )  # fmt: skip

    def __init__(self, sock: socket.socket, protocol: asyncio.BaseProtocol, *, close_s: float = CLOSE_S) -> None:
        """Take over a connected, non-blocking socket. `close_s` is how long a clean close may take, flush included."""
        super().__init__()
        self._loop = asyncio.get_running_loop()
        self._sock = sock
        self._watch = Watch(sock.fileno(), self._on_readable, self._on_writable)
        self._protocol: Any = protocol
        self._close_s = close_s
        self._state = _State.OPEN
        self._is_tls = False
        self._is_told = False  # connection_made() was called, so connection_lost() must be
        self._is_reading = False
        self._unanswered = 0  # reads since the last write
        self._has_end = False  # the peer has said its last, and the protocol has not been told
        self._reads_when_written = False  # TLS has to write something before it can go on reading,
        self._writes_when_read = False  # and the other way round: RFC 8446 4.6.3, or TLS 1.2 renegotiates
        self._pending: deque[bytes] = deque()
        self._pending_bytes = 0
        self._high, self._low = HIGH_WATER_BYTES, HIGH_WATER_BYTES // 4
        self._is_full = False
        self._is_shaking = False
        self._on_ready: asyncio.Future[None] | None = None  # who awaits the socket or the last byte's departure
        self._deadline: asyncio.TimerHandle | None = None
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def begin(self) -> None:
        """Tell the protocol that it has a connection, and read for it."""
        self._is_told = self._is_reading = True
        self._protocol.connection_made(self)
        if self._is_reading and self._state is _State.OPEN:
            self._watch.read()

    async def start_tls(
        self,
        context: ssl.SSLContext,
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
        session: ssl.SSLSession | None = None,
        timeout_s: float | None = HANDSHAKE_S,
    ) -> None:
        """Do the handshake, in place: this transport is the secured one afterwards, and reads.

        timeout_s   None: the caller has a deadline around it

        raises  OSError (ssl.SSLError among them), TimeoutError; the connection is aborted then, and if cancelled
        """
        try:
            async with asyncio.timeout(timeout_s):
                while self._pending:
                    await self._ready()
                self._refuse_if_over()
                self._is_reading = False
                self._is_shaking = True
                if server_side:
                    await self._first_byte()
                self._sock.getpeername()  # raises if it was reset: wrap_socket would, and leave a socket open
                sock = context.wrap_socket(
                    self._sock,
                    server_side=server_side,
                    server_hostname=server_hostname,
                    session=session,
                    do_handshake_on_connect=False,
                )
                self._sock, self._is_tls = sock, True
                await self._shake_hands(sock)
                self._is_shaking = False
        except BaseException:
            self.abort()
            raise
        self._watch.stop_read()  # the handshake did not read to the end
        self.resume_reading()

    async def _first_byte(self) -> None:
        """Wait for the client to begin: TLS takes some 45 KB, and who only connects shall not have them."""
        self._watch.read()
        await self._ready()
        self._refuse_if_over()

    async def _shake_hands(self, sock: ssl.SSLSocket) -> None:
        while True:
            try:
                sock.do_handshake()
            except ssl.SSLWantReadError:
                self._watch.stop_write()  # there may be room all the time, and it would tell so in every turn
                self._watch.read()
            except ssl.SSLWantWriteError:
                self._watch.stop_read()
                self._watch.write()
            else:
                self._watch.stop_write()
                return
            await self._ready()
            self._refuse_if_over()

    def _refuse_if_over(self) -> None:
        if self._state is not _State.OPEN:
            raise ConnectionAbortedError("closed during the TLS handshake")

    async def _ready(self) -> None:
        """Wait for what is watched, or until nothing is pending, or the loss."""
        self._on_ready = self._loop.create_future()
        try:
            await self._on_ready
        finally:
            self._on_ready = None

    def _wake(self) -> None:
        if self._on_ready is not None and not self._on_ready.done():
            self._on_ready.set_result(None)

    # -- asyncio.BaseTransport, ReadTransport -------------------------------------------------------------------------

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """socket, peername, sockname; under TLS ssl_object (which SSLSocket is as good as), too."""
        try:
            match name:
                case "socket":
                    return self._sock
                case "peername":
                    return self._sock.getpeername()
                case "sockname":
                    return self._sock.getsockname()
                case "ssl_object" if self._is_tls:
                    return self._sock
        except OSError:
            pass  # gone
        return default

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        protocol: asyncio.BaseProtocol = self._protocol
        return protocol

    def is_closing(self) -> bool:
        return self._state is not _State.OPEN

    def is_reading(self) -> bool:
        return self._is_reading

    def pause_reading(self) -> None:
        # Still watched: most pauses end before anything comes. If something does, the watch ends then.
        self._is_reading = False

    def resume_reading(self) -> None:
        if self._is_reading or self._state is not _State.OPEN:
            return
        self._is_reading = True
        if self._has_end:  # a close_notify is no more in the socket, which says nothing of it again
            self._loop.call_soon(self._tell_end)
        self._watch.read()

    # -- reading ------------------------------------------------------------------------------------------------------

    def _on_readable(self) -> None:
        if self._is_shaking:
            self._wake()
            return
        if self._writes_when_read:
            self._writes_when_read = False
            self._flush()
        if self._state is _State.OPEN and self._is_reading:
            self._read()
        elif self._state is not _State.SHUTTING:
            self._watch.stop_read()
        else:
            self._wait_for_end()

    def _read(self) -> None:
        data, stop = receive(self._sock, may_stop_early=self._unanswered < TALK_READS)
        self._unanswered += 1
        self._has_end = stop is Stop.END
        if stop is Stop.MUST_WRITE:
            self._reads_when_written = True
            self._watch.write()
        if data:
            self._tell("data_received", data)
        if isinstance(stop, OSError):
            self._lose(stop)
        elif stop is Stop.END:
            self._tell_end()
        elif stop is Stop.RESET and self._state is _State.OPEN:
            self._watch.stop_read()
            self._watch.read()
        elif stop is Stop.FULL:
            self._loop.call_soon(self._on_readable)  # a reset may never be told: see Watch.stop_read()

    def _tell_end(self) -> None:
        if not self._has_end or not self._is_reading or self._state is not _State.OPEN:
            return
        self._has_end = False
        self._watch.stop_read()
        stays = self._tell("eof_received")
        if self._is_tls or not stays:  # asyncio's TLS knows no half-closed connection
            self.close()

    # -- writing ------------------------------------------------------------------------------------------------------

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send what the socket takes now and keep the rest; nothing after close()."""
        if self._state is not _State.OPEN or self._is_shaking or not data:
            return
        self._unanswered = 0
        sent = 0 if self._pending else self._send(data)
        if sent < len(data) and self._state is _State.OPEN:
            rest = bytes(data[sent:])
            self._pending.append(rest)
            self._pending_bytes += len(rest)
            if not self._writes_when_read:
                self._watch.write()
            self._tell_if_full()

    def _send(self, data: bytes | bytearray | memoryview) -> int:
        """How much the socket took. TLS that takes nothing now must be given the same again, from its first byte."""
        try:
            return self._sock.send(data)
        except (BlockingIOError, InterruptedError, ssl.SSLWantWriteError):
            return 0
        except ssl.SSLWantReadError:
            self._writes_when_read = True
            self._watch.read()
            return 0
        except OSError as error:
            self._lose(error)
            return 0

    def _on_writable(self) -> None:
        if self._is_shaking:
            self._wake()
        elif self._state is _State.SHUTTING:
            self._watch.stop_write()
            self._shut()
        else:
            self._flush()
            if self._reads_when_written and self._is_reading and self._state is _State.OPEN:
                self._reads_when_written = False
                self._read()

    def _flush(self) -> None:
        while self._pending:
            head = self._pending[0]
            sent = self._send(head)
            if self._state is _State.LOST:
                return
            self._pending_bytes -= sent
            if sent < len(head):
                if sent:
                    self._pending[0] = head[sent:]
                if self._writes_when_read:
                    self._watch.stop_write()
                else:
                    self._watch.write()
                break
            self._pending.popleft()
        self._tell_if_room()
        if not self._pending:
            self._watch.stop_write()
            self._wake()
            if self._state is _State.FLUSHING:
                self._shut()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._high = HIGH_WATER_BYTES if high is None else high
        self._low = self._high // 4 if low is None else low
        self._tell_if_full()

    def get_write_buffer_size(self) -> int:
        return self._pending_bytes

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self._low, self._high

    def _tell_if_full(self) -> None:
        if not self._is_full and self._pending_bytes > self._high:
            self._is_full = True
            self._tell("pause_writing")

    def _tell_if_room(self) -> None:
        if self._is_full and self._pending_bytes <= self._low:
            self._is_full = False
            self._tell("resume_writing")

    def _tell(self, what: str, *arguments: object) -> object:
        try:
            return getattr(self._protocol, what)(*arguments)
        except Exception as error:  # noqa: BLE001 - whatever a protocol does; asyncio's transports end like this, too
            self._loop.call_exception_handler(
                {"message": f"{what}() failed", "exception": error, "transport": self, "protocol": self._protocol}
            )
            self._lose(error)
            return None

    # -- ends ---------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Send what is pending, then end TLS, then the connection: cleanly within `close_s`, or else not."""
        if self._state is not _State.OPEN:
            return
        if self._is_shaking:
            self.abort()
            return
        self._state = _State.FLUSHING
        self._deadline = self._loop.call_later(self._close_s, self.abort)
        if not self._pending:
            self._shut()

    def abort(self) -> None:
        self._lose(None)

    def _shut(self) -> None:
        """Say close_notify, and wait for the peer's: a socket closed with bytes unread resets what is on its way."""
        if self._state is _State.LOST:
            return
        self._state = _State.SHUTTING
        if throw_away(self._sock) is Stop.FULL:  # OpenSSL takes data between the two close_notifies for an error
            self._loop.call_soon(self._shut)
            return
        if isinstance(self._sock, ssl.SSLSocket):
            try:
                self._sock.unwrap()
            except ssl.SSLWantReadError:
                self._watch.read()
                return
            except ssl.SSLWantWriteError:
                self._watch.write()
                return
            except OSError:
                pass  # the peer is gone without a word, as many do
        self._lose(None)

    def _wait_for_end(self) -> None:
        stop = throw_away(self._sock)
        if stop is Stop.END:
            self._lose(None)
        elif stop is Stop.FULL:
            self._loop.call_soon(self._on_readable)

    def _lose(self, error: Exception | None) -> None:
        if self._state is _State.LOST:
            return
        self._state = _State.LOST
        self._is_reading = False
        self._pending.clear()
        self._pending_bytes = 0
        self._watch.forget()
        if self._deadline is not None:
            self._deadline.cancel()
        self._sock.close()
        self._wake()
        self._loop.call_soon(self._tell_lost, error)

    def _tell_lost(self, error: Exception | None) -> None:
        protocol, self._protocol = self._protocol, None
        if self._is_told:
            protocol.connection_lost(error)
