"""The grammar of IMAP commands before login: pure functions over bytes that are complete.

A command arrives as texts and literals in turn: text, literal, text, ..., text. Where real clients write more than the
ABNF allows without being ambiguous (runs of spaces, specials in atoms, 8-bit in quoted strings), they are understood.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from proxy.errors import ProtocolError

MAX_TAG_BYTES = 64  # clients use under 16; a tag is echoed and kept while a login is under way
MAX_ID_PAIRS = 30  # RFC 2971 3.3
MAX_CLIENT_ID_CHARACTERS = 100  # one field of one log line

_UNREADABLE_SIZE = 1 << 40  # what a size of more digits than any literal has is taken for

# tag = 1*<any ASTRING-CHAR except "+">, RFC 3501 9
_TAG = re.compile(rb'[^\x00-\x20\x7f-\xff(){%%*"\\+]{1,%d}(?= )' % MAX_TAG_BYTES)
_NAME = re.compile(rb' +([^\x00-\x20\x7f-\xff"(){]+)')
_LITERAL = re.compile(rb"\{(\d+)(\+?)\}")
_ESCAPE = re.compile(rb'\\(["\\])')
# The closing quote is optional so that a string that never ends is one match, not a new search at every quote in it.
_QUOTED_OR_OPEN = re.compile(rb'"(?:[^"\\]|\\.)*+("?)', re.DOTALL)
_QUOTED = rb'"((?:[^\x00\r\n"\\]|\\["\\])*+)"'
# An atom may hold what astring forbids (\ of DOMAIN\user, % and * in passwords) but cannot be taken for anything else.
_STRING = re.compile(rb' +(?:%b|([^\x00-\x20\x7f"({][^\x00-\x20\x7f"]*+))' % _QUOTED)
_ID_TOKEN = re.compile(rb" *+(?:%b|(NIL)|([()]))" % _QUOTED, re.IGNORECASE)
_ID_SHAPE = re.compile(r"n|\((?:s[sn])*\)")  # NIL or a list of pairs: n nil, s string


@dataclass(frozen=True, slots=True)
class Head:
    """The start of a command. `tag` is None if it is invalid or alone; `name` is upper case, b"" if there is none."""

    tag: bytes | None
    name: bytes
    rest: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class LiteralMark:
    """A literal announced at the end of a line: its octets, and whether the client waits for our leave."""

    size: int
    is_synchronising: bool


@dataclass(frozen=True, slots=True)
class Command:
    """A whole command: texts and literals in turn. They may hold a password, so no repr shows them.

    tag       None if the client's was invalid
    name      upper case; b"" if there was none
    texts     one more than literals
    is_cut    it announced a literal that nobody wants: not asked for, and missing here
    """

    tag: bytes | None
    name: bytes
    texts: tuple[bytes, ...] = field(repr=False)
    literals: tuple[bytes, ...] = field(repr=False)
    is_cut: bool = False

    def expect_no_arguments(self) -> None:
        """Raise ProtocolError if there is anything behind the name."""
        if self.is_cut or self.literals or self.texts[0].strip(b" "):
            raise ProtocolError("Unexpected arguments")


def read_head(line: bytes) -> Head:
    """Cut a command's first line into tag, name and the rest (which starts with a space, if it is well formed).

    A lone word has no tag: it may be the rest of a refused login, and what is no tag is never echoed.
    """
    tag = _TAG.match(line)
    if tag is None:
        return Head(None, b"", b"")
    name = _NAME.match(line, tag.end())
    if name is None:
        return Head(tag[0], b"", b"")
    return Head(tag[0], name[1].upper(), line[name.end() :])


def split_literal(line: bytes) -> tuple[bytes, LiteralMark | None]:
    """Cut the literal mark {N} or {N+} from the end of a line, if there is one where an argument may start.

    Source: RFC 3501 4.3, RFC 7888 3 (non-synchronising), RFC 3516 4.1 (literal8, whose "~" stays in the text).
    """
    start = line.rfind(b"{")
    mark = _LITERAL.fullmatch(line, start) if start >= 0 else None
    if mark is None:
        return line, None
    text = line[:start]
    if not text.removesuffix(b"~").endswith((b" ", b"(")) or _ends_in_quotes(text):
        return line, None
    digits = mark[1].lstrip(b"0")
    # int() refuses thousands of digits; ten say enough.
    size = int(digits or b"0") if len(digits) <= 10 else _UNREADABLE_SIZE
    return text, LiteralMark(size, is_synchronising=not mark[2])


def read_strings(command: Command, maximum: int) -> list[bytes]:
    """The arguments of a command, each an atom, a quoted string or a literal, unescaped.

    raises  ProtocolError for more than `maximum`, or anything else in their place
    """
    if command.is_cut:
        raise ProtocolError("Invalid arguments")
    found: list[bytes] = []
    for index, text in enumerate(command.texts):
        at = 0
        end = len(text.rstrip(b" "))
        while at < end:
            match = _STRING.match(text, at)
            if match is None or len(found) == maximum:
                raise ProtocolError("Invalid arguments")
            found.append(match[2] if match[1] is None else _unescape(match[1]))
            at = match.end()
        if index < len(command.literals):
            if not text.endswith(b" ") or len(found) == maximum:
                raise ProtocolError("Invalid arguments")
            found.append(_checked_literal(command.literals[index]))
    return found


def read_id(command: Command) -> Mapping[bytes, bytes]:
    """The fields of an ID command, keys in lower case; those that are NIL are left out.

    raises  ProtocolError unless it is NIL or a list of at most MAX_ID_PAIRS pairs

    Source: RFC 2971 3.1.
    """
    if command.is_cut:
        raise ProtocolError("Invalid arguments")
    shape = ""
    longest = 1 + 2 * MAX_ID_PAIRS + 1  # with its brackets
    strings: list[bytes] = []
    for index, text in enumerate(command.texts):
        at = 0
        end = len(text.rstrip(b" "))
        while at < end:
            match = _ID_TOKEN.match(text, at)
            if match is None or len(shape) >= longest:
                raise ProtocolError("Invalid arguments")
            quoted, nil, bracket = match.groups()
            shape += "s" if quoted is not None else "n" if nil else bracket.decode()
            if quoted is not None or nil:
                strings.append(b"" if nil else _unescape(quoted))
            at = match.end()
        if index < len(command.literals):
            shape += "s"
            strings.append(_checked_literal(command.literals[index]))
    if not _ID_SHAPE.fullmatch(shape):
        raise ProtocolError("Invalid arguments")
    pairs = zip(strings[::2], strings[1::2], strict=False)  # NIL alone is a key without a value
    return {key.lower(): value for key, value in pairs if value}


def client_id(fields: Mapping[bytes, bytes]) -> str:
    """Name and version from an ID, printable, at most MAX_CLIENT_ID_CHARACTERS; "" if it gives neither."""
    said = b" ".join(fields[key] for key in (b"name", b"version") if key in fields).decode(errors="replace")
    return "".join(char for char in said if char.isprintable()).strip()[:MAX_CLIENT_ID_CHARACTERS]


def _ends_in_quotes(text: bytes) -> bool:
    return any(not quoted[1] for quoted in _QUOTED_OR_OPEN.finditer(text))


def _unescape(quoted: bytes) -> bytes:
    return _ESCAPE.sub(rb"\1", quoted)


def _checked_literal(octets: bytes) -> bytes:
    if b"\0" in octets:  # RFC 3501 4.3: a literal has any octet but NUL
        raise ProtocolError("Invalid arguments")
    return octets
