"""The bytes that an SMTP client has sent and nobody has read yet: lines out, in memory that stays small.

Lines stands where aiosmtpd expects a StreamReader. It knows no commands.
"""

from __future__ import annotations

import asyncio

from proxy.wire.sasl import MAX_SASL_BYTES

MAX_HELD_BYTES = 65_536  # above it the client is not read from; one more burst of the transport may come on top
_RESUME_BYTES = MAX_HELD_BYTES // 2
_TOO_LONG = MAX_SASL_BYTES + 1


class Lines:
    """Feed it what arrives; await its lines; take what is left when the connection changes hands."""

    def __init__(self, transport: asyncio.Transport | None) -> None:
        self.head = b""  # first four octets of the last line, upper case: tells AUTH from the rest
        self._transport = transport
        self._held = bytearray()
        self._arrival: asyncio.Future[None] | None = None
        self._is_skipping = False  # through the rest of a line that was too long
        self._is_paused = False
        self._is_closed = False

    def attach(self, transport: asyncio.Transport) -> None:
        """Say whose reading is to be paused. Without one (during a TLS handshake) nothing is paused."""
        self._transport = transport
        self._pause_if_full()

    def feed(self, data: bytes) -> None:
        """Keep what has arrived. A line that was already answered as too long is thrown away as it comes."""
        if self._is_closed:
            return
        if self._is_skipping:
            _, newline, data = data.partition(b"\n")
            if not newline:
                return
            self._is_skipping = False
        self._held += data
        self._pause_if_full()
        if self._arrival is not None and not self._arrival.done():
            self._arrival.set_result(None)

    async def readuntil(self) -> bytes:
        """The next line with its LF (the name is StreamReader's).

        A line over MAX_SASL_BYTES, line end not counted, comes at once as its first MAX_SASL_BYTES + 1 octets and no
        LF: a client that never ends it hears so too. Waits for ever once closed: the reader's task is cancelled then.
        """
        while True:
            line = self._next()
            if line is not None:
                self.head = line[:4].upper()
                self._resume_if_empty()
                return line
            self._arrival = asyncio.get_running_loop().create_future()
            try:
                await self._arrival
            finally:
                self._arrival = None

    def take(self) -> bytes:
        """All bytes not read as lines; after this nothing is kept or read any more."""
        rest = bytes(self._held)
        self.close()
        return rest

    def close(self) -> None:
        """Forget everything and take nothing in any more."""
        self._is_closed = True
        self._held.clear()

    def _next(self) -> bytes | None:
        end = self._held.find(b"\n", 0, MAX_SASL_BYTES + 2)
        if end >= 0:
            line = bytes(self._held[: end + 1])
            del self._held[: end + 1]
            if len(line.rstrip(b"\r\n")) <= MAX_SASL_BYTES:
                return line
            return line[:_TOO_LONG]
        if len(self._held) < MAX_SASL_BYTES + 2:
            return None
        # Its last octet must not be one that is stripped as a line end, or the line would pass for a short one.
        line = bytes(self._held[:MAX_SASL_BYTES]) + b"."
        rest = bytes(self._held[MAX_SASL_BYTES:])
        self._held.clear()
        self._is_skipping = True
        self.feed(rest)
        return line

    def _pause_if_full(self) -> None:
        if self._transport is not None and not self._is_paused and len(self._held) > MAX_HELD_BYTES:
            self._is_paused = True
            self._transport.pause_reading()

    def _resume_if_empty(self) -> None:
        if self._transport is not None and self._is_paused and len(self._held) <= _RESUME_BYTES:
            self._is_paused = False
            if not self._transport.is_closing():
                self._transport.resume_reading()
