"""How a log line looks: one event, its fields, as key=value text or as JSON; and what may never be logged."""

from __future__ import annotations

import json
import logging
import re
from datetime import UTC, datetime

_PLAIN = re.compile(r"[A-Za-z0-9@._:/+\[\]-]+")
# Libraries that print what passes through them; every one carries tokens or passwords at some level.
TALKATIVE = (
    "aioimaplib",
    "mail.log",
    "mail.debug",
    "httpx2",
    "httpcore2",
    "asyncio",
    "alembic",
    "sqlalchemy",
    "uvicorn",
)

Field = str | int | float | bool | None


class Line:
    """One log line, rendered only if somebody reads it. Values are quoted, so nobody can write lines of his own."""

    __slots__ = ("event", "fields")

    def __init__(self, event: str, /, **fields: Field) -> None:
        self.event = event
        self.fields = fields

    def __str__(self) -> str:
        pairs = (f"{key}={_quoted(value)}" for key, value in self.fields.items() if value is not None)
        return " ".join((f"event={self.event}", *pairs))


def _quoted(value: Field) -> str:
    text = shown(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text)


_PRIORITY = ((logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6), (0, 7))


def priority_of(record: logging.LogRecord) -> int:
    """Syslog's number for a record's level; in angle brackets systemd reads it in front of a line (sd-daemon(3))."""
    return next(number for level, number in _PRIORITY if record.levelno >= level)


def shown(value: Field) -> str:
    """A field's value as text, without quotes."""
    return str(value).lower() if isinstance(value, bool) else str(value)


class TextFormat(logging.Formatter):
    """For the journal with the priority in front, which it takes away; else with a time."""

    def __init__(self, *, is_journal: bool) -> None:
        super().__init__()
        self._is_journal = is_journal

    def format(self, record: logging.LogRecord) -> str:
        text = self.bare(record)
        if self._is_journal:
            # Each line of a traceback needs the prefix, or the journal files it under another priority.
            return "\n".join(f"<{priority_of(record)}>{line}" for line in text.splitlines())
        return f"{_moment(record)} {record.levelname.lower()} {text}"

    def bare(self, record: logging.LogRecord) -> str:
        """Without time and level."""
        text = record.getMessage()
        return text + "\n" + self.formatException(record.exc_info) if record.exc_info else text


class JsonFormat(logging.Formatter):
    """One JSON object per line; for the journal with the priority in front, which it takes away."""

    def __init__(self, *, is_journal: bool = False) -> None:
        super().__init__()
        self._is_journal = is_journal

    def format(self, record: logging.LogRecord) -> str:
        return (f"<{priority_of(record)}>" if self._is_journal else "") + self.bare(record)

    def bare(self, record: logging.LogRecord) -> str:
        data: dict[str, Field] = {"time": _moment(record), "level": record.levelname.lower(), "logger": record.name}
        line = line_of(record)
        if line is not None:
            data["event"] = line.event
            data.update(line.fields)
        else:
            data["message"] = record.getMessage()
        if record.exc_info:
            data["traceback"] = self.formatException(record.exc_info)
        return json.dumps(data)


def line_of(record: logging.LogRecord) -> Line | None:
    """The Line of a record that was logged as `logger.info("%s", Line(...))`."""
    args = record.args
    if record.msg == "%s" and isinstance(args, tuple) and len(args) == 1 and isinstance(args[0], Line):
        return args[0]
    return None


def _moment(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
