"""Received bytes cut into lines and counted octets; knows no protocol.

Every look at the bytes starts where the last one ended, so that input of one byte at a time costs what it costs whole.
"""

from __future__ import annotations

from proxy.errors import ProtocolError


class InputBuffer:
    """What a peer sent and nobody has read yet. It may hold secrets: no repr shows them."""

    __slots__ = ("_data", "_searched")

    def __init__(self) -> None:
        self._data = bytearray()
        self._searched = 0  # no line end before this offset

    def __len__(self) -> int:
        return len(self._data)

    def __repr__(self) -> str:
        return f"InputBuffer({len(self._data)} bytes)"

    def feed(self, data: bytes) -> None:
        self._data += data

    def take_line(self, limit: int) -> bytes | None:
        """Take the next line, without its CRLF or bare LF.

        limit   octets a line may have, its end not counted
        returns None while there is no line end
        raises  ProtocolError once the line is too long; the buffer is then of no further use
        """
        end = self._data.find(b"\n", self._searched, limit + 2)
        if end < 0:
            self._searched = min(len(self._data), limit + 2)
            if len(self._data) > limit + 1:  # one more may be the CR before an LF that has yet to come
                raise ProtocolError("Line too long")
            return None
        line = self._take(end + 1)[:-1].removesuffix(b"\r")
        if len(line) > limit:
            raise ProtocolError("Line too long")
        return line

    def take(self, size: int) -> bytes | None:
        """Take exactly `size` octets, or None while there are fewer."""
        return self._take(size) if len(self._data) >= size else None

    def take_all(self) -> bytes:
        return self._take(len(self._data))

    def peek(self, size: int) -> bytes:
        """The first octets, at most `size`, left in place."""
        return bytes(self._data[:size])

    def clear(self) -> None:
        self._data = bytearray()  # a new one, so that the memory of a large read goes too
        self._searched = 0

    def _take(self, size: int) -> bytes:
        taken = bytes(self._data[:size])
        del self._data[:size]  # CPython moves the start of a bytearray and copies only when it halves: linear in all
        self._searched = 0
        return taken
