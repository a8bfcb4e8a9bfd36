"""The form of a backup: lines of JSON, one for each row, the same for every database. Knows no database.

    {"gatepost_backup": 1, "schema": "0003", ...}                   who made it when, of which schema
    {"table": "account", "columns": ["id", ...], "last_id": 17}     and its rows, in the order of their keys
    [17, "ann@example.com", ...]
    {"end": {"account": 1, ...}, "sha256": "..."}                   the rows of each table; the hash of all lines above

Times are RFC 3339 in UTC, bytes are base64. What is sealed stays sealed; no master key is in it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import BinaryIO

from sqlalchemy import Boolean, Column, Integer, LargeBinary, Table, Text
from sqlalchemy.types import Enum as EnumColumn

from proxy.errors import StoreError
from proxy.store.types import UtcDateTime, Words

FORMAT = 1
MAX_LINE_BYTES = 4_194_304  # a row is a few hundred bytes, an app password's scope or a token some thousand
ANOTHER = "use another copy"
_BEGINS = b'{"gatepost_backup": '

Value = None | bool | int | str | bytes | datetime | Enum | tuple[str, ...]
Row = Mapping[str, Value]


class BadArchive(StoreError):
    """The file is no backup, or none that can be restored here. One line; nothing was kept of it."""


@dataclass(frozen=True, slots=True)
class Head:
    """What the first line says. `gatepost` is the version that wrote it, `masters` the key ids, newest first."""

    schema: str
    gatepost: str
    made_at: str
    made_by: str
    masters: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Written:
    """What stands in a finished backup: rows by table, and the hash that its last line has."""

    head: Head
    rows: Mapping[str, int]
    sha256: str


class Writer:
    """Writes a backup line by line: head, then for each table its rows, then the end."""

    def __init__(self, out: BinaryIO, head: Head) -> None:
        """Writes the head. OSError is the caller's."""
        self._out = out
        self._head = head
        self._hash = hashlib.sha256()
        self._rows: dict[str, int] = {}
        self._line(
            {
                "gatepost_backup": FORMAT,
                "schema": head.schema,
                "gatepost": head.gatepost,
                "made_at": head.made_at,
                "made_by": head.made_by,
                "masters": list(head.masters),
            }
        )

    def table(self, table: Table, rows: Iterator[Sequence[Value]], last_id: int | None = None) -> None:
        """`last_id` is the highest id that ever was, of a table that never uses one twice."""
        columns = [column.name for column in table.columns]
        self._line({"table": table.name, "columns": columns, "last_id": last_id})
        count = 0
        for row in rows:
            self._line([_plain(value) for value in row])
            count += 1
        self._rows[table.name] = count

    def end(self) -> Written:
        digest = self._hash.hexdigest()
        self._out.write(json.dumps({"end": self._rows, "sha256": digest}).encode() + b"\n")
        return Written(self._head, self._rows, digest)

    def _line(self, value: object) -> None:
        line = json.dumps(value).encode() + b"\n"
        self._hash.update(line)
        self._out.write(line)


@dataclass(frozen=True, slots=True)
class Part:
    """A table of the backup; its rows are to be read before the next part is asked for."""

    table: Table
    last_id: int | None
    rows: Iterator[Row]


class Reader:
    """Reads a backup from its start. Every method raises BadArchive; only end of parts() means that all was whole."""

    def __init__(self, source: BinaryIO, name: str) -> None:
        """Reads the head. `name` is how errors call the file."""
        self._source = source
        self._name = name
        self._hash = hashlib.sha256()
        self._number = 0
        self._rows: dict[str, int] = {}
        self._ahead: object = None
        self.sha256 = ""
        self.head = self._read_head()

    @property
    def rows(self) -> Mapping[str, int]:
        """How many were read, by table."""
        return self._rows

    def parts(self, tables: Sequence[Table]) -> Iterator[Part]:
        """The parts, which must be these tables in this order; at their end everything was compared with the hash."""
        self._ahead = self._object()
        for table in tables:
            match self._ahead:
                case {"table": table.name, "columns": list(columns), "last_id": int() | None as last_id}:
                    if columns != [column.name for column in table.columns]:
                        raise self._damaged()
                case _:
                    raise self._damaged()
            self._rows[table.name] = 0
            yield Part(table, last_id, self._rows_of(table))
        match self._ahead:
            case {"end": dict(rows), "sha256": str(digest)}:
                if rows != self._rows or digest != self.sha256 or self._source.read(1):
                    raise self._damaged()
            case _:
                raise self._damaged()

    def _rows_of(self, table: Table) -> Iterator[Row]:
        decoders = [(column.name, _decoder(column)) for column in table.columns]
        while isinstance(line := self._object(), list):
            if len(line) != len(decoders):
                raise self._damaged()
            try:
                row = {name: decode(value) for (name, decode), value in zip(decoders, line, strict=True)}
            except (ValueError, TypeError):
                raise self._damaged() from None
            self._rows[table.name] += 1
            yield row
        self._ahead = line

    def _read_head(self) -> Head:
        line = self._source.readline(MAX_LINE_BYTES)
        if not line.startswith(_BEGINS):
            raise BadArchive(f"{self._name} is no backup of Gatepost", "name a file that gatepost backup made")
        match self._parsed(line):
            case {"gatepost_backup": int(found)} if found > FORMAT:
                raise BadArchive(
                    f"{self._name} was made by a newer Gatepost (format {found}, this one knows {FORMAT})",
                    "restore it with that version",
                )
            case {
                "schema": str(schema),
                "gatepost": str(gatepost),
                "made_at": str(made_at),
                "made_by": str(made_by),
                "masters": list(masters),
            } if all(isinstance(master, str) for master in masters):
                return Head(schema, gatepost, made_at, made_by, tuple(masters))
        raise self._damaged()

    def _object(self) -> object:
        self.sha256 = self._hash.hexdigest()  # of the lines before this one
        line = self._source.readline(MAX_LINE_BYTES)
        if not line.endswith(b"\n"):
            raise BadArchive(f"{self._name} is cut off behind line {self._number}", ANOTHER)
        return self._parsed(line)

    def _parsed(self, line: bytes) -> object:
        self._number += 1
        self._hash.update(line)
        try:
            value: object = json.loads(line)
        except (ValueError, RecursionError):
            raise self._damaged() from None
        return value

    def _damaged(self) -> BadArchive:
        return BadArchive(f"{self._name} is damaged at line {self._number}", ANOTHER)


def _plain(value: Value) -> object:
    """A value as JSON has it."""
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, Enum):
        return value.value
    return value


def _decoder(column: Column[object]) -> Callable[[object], Value]:
    """What makes a column's value of JSON's. It raises ValueError or TypeError for anything else."""
    decode = _decoder_of_type(column)
    is_nullable = bool(column.nullable)

    def decoded(value: object) -> Value:
        if value is None:
            if not is_nullable:
                raise ValueError("null")
            return None
        return decode(value)

    return decoded


def _decoder_of_type(column: Column[object]) -> Callable[[object], Value]:
    if isinstance(column.type, EnumColumn) and column.type.enum_class is not None:
        members: Callable[[object], Value] = column.type.enum_class
        return members
    return next(decode for kind, decode in _DECODERS if isinstance(column.type, kind))


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _number(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not -(2**63) <= value < 2**63:
        raise TypeError
    return value


def _moment(value: object) -> datetime:
    if not isinstance(value, str):
        raise TypeError
    found = datetime.fromisoformat(value)
    if found.utcoffset() is None:
        raise ValueError("no zone")
    return found.astimezone(UTC)


def _words(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        raise TypeError
    return tuple(value)


def _bytes(value: object) -> bytes:
    if not isinstance(value, str):
        raise TypeError
    try:
        return base64.b64decode(value, validate=True)
    except binascii.Error:
        raise ValueError("base64") from None


# The first that fits decides: UtcDateTime and Words are texts to one database and not to the other.
_DECODERS: tuple[tuple[type, Callable[[object], Value]], ...] = (
    (UtcDateTime, _moment),
    (Words, _words),
    (LargeBinary, _bytes),
    (Boolean, _flag),
    (Integer, _number),  # BigInteger is one
    (Text, _text),
)
