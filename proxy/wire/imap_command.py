"""IMAP commands out of a byte stream: lines and literals put together, within bounds.

It decides nothing about a command; who drives it says whose literals are worth reading.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from proxy.errors import ProtocolError
from proxy.wire.framing import InputBuffer
from proxy.wire.imap_grammar import Command, Head, LiteralMark, read_head, split_literal
from proxy.wire.sasl import MAX_SASL_BYTES

MAX_LINE_BYTES = 8_192  # RFC 7162 4 asks for 8192; a login needs under 200. Of one command, all its lines together
MAX_LITERAL_BYTES = 4_096  # RFC 7888 5 (LITERAL-); a password of this length is none
MAX_LITERALS = 8  # of one command: LOGIN takes two, an ID with literals a few

# AUTHENTICATE carries its initial response (RFC 4959), for which the bound of a SASL line holds.
_AUTHENTICATE = re.compile(rb"[^ \r\n]{1,64} +AUTHENTICATE ", re.IGNORECASE)
_AUTHENTICATE_HEAD_BYTES = 128


@dataclass(frozen=True, slots=True)
class Continue:
    """The client waits for "+" before it sends a literal."""


@dataclass(frozen=True, slots=True)
class TooBig:
    """The command `tag` announced a literal over MAX_LITERAL_BYTES, which it has not sent: the command ends here."""

    tag: bytes


class CommandReader:
    """Reads one command after the other from `source`; octets behind the last one stay there."""

    __slots__ = ("_awaited", "_head", "_is_wanted", "_line_bytes", "_literals", "_source", "_texts")

    def __init__(self, source: InputBuffer) -> None:
        self._source = source
        self.reset()

    def reset(self) -> None:
        """Forget a command that is not complete."""
        self._head: Head | None = None
        self._texts: list[bytes] = []
        self._literals: list[bytes] = []
        self._line_bytes = 0
        self._awaited: int | None = None  # octets of the literal that comes next
        self._is_wanted = False

    def read(self, wants: Callable[[bytes], bool]) -> Command | Continue | TooBig | None:
        """The next event, or None until more has been received.

        wants    whether literals of the command of this name shall be kept. Others are read over, or, if the client
                 waits for leave to send one, end the command
        raises   ProtocolError for what no answer can mend: a line, or a literal sent unasked, over its bound
        """
        while True:
            if self._awaited is not None:
                octets = self._source.take(self._awaited)
                if octets is None:
                    return None
                self._literals.append(octets if self._is_wanted else b"")
                self._awaited = None
            line = self._source.take_line(self._line_limit())
            if line is None:
                return None
            self._line_bytes += len(line)
            text, mark = split_literal(line)
            self._add(text, wants)
            event = self._finish() if mark is None else self._announced(mark)
            if event is not None:
                return event

    def _line_limit(self) -> int:
        if self._head is not None:
            # A line may be empty behind its last literal, so the limit may be 0.
            return max(MAX_LINE_BYTES - self._line_bytes, 0)
        if len(self._source) > MAX_LINE_BYTES and _AUTHENTICATE.match(self._source.peek(_AUTHENTICATE_HEAD_BYTES)):
            return MAX_SASL_BYTES
        return MAX_LINE_BYTES

    def _add(self, text: bytes, wants: Callable[[bytes], bool]) -> None:
        if self._head is None:
            self._head = read_head(text)
            self._is_wanted = self._head.tag is not None and wants(self._head.name)
            text = self._head.rest
        self._texts.append(text)

    def _announced(self, mark: LiteralMark) -> Command | Continue | TooBig | None:
        is_one_too_many = len(self._literals) == MAX_LITERALS
        if mark.is_synchronising:
            if is_one_too_many or not self._is_wanted:
                return self._finish(is_cut=True)
            if mark.size > MAX_LITERAL_BYTES:
                tag = self._finish().tag
                assert tag is not None
                return TooBig(tag)
        elif mark.size > MAX_LITERAL_BYTES:
            # RFC 7888 4: it is on its way whatever we say; reading it all would be the client's choice of our work.
            raise ProtocolError("Literal too long")
        elif is_one_too_many:
            raise ProtocolError("Too many literals")
        self._awaited = mark.size
        return Continue() if mark.is_synchronising else None

    def _finish(self, *, is_cut: bool = False) -> Command:
        assert self._head is not None
        command = Command(self._head.tag, self._head.name, tuple(self._texts), tuple(self._literals), is_cut)
        self.reset()
        return command
