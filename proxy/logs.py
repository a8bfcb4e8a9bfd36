"""How a log line looks: one event, its fields, as key=value text or as JSON; and what may never be logged."""

from __future__ import annotations

import json
import logging
import re
import sys
from datetime import UTC, datetime
from typing import Literal

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
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text)


_PRIORITY = ((logging.ERROR, "<3>"), (logging.WARNING, "<4>"), (logging.INFO, "<6>"), (0, "<7>"))


def _priority(record: logging.LogRecord) -> str:
    """What systemd reads as such in front of a line of a service's standard error (sd-daemon(3))."""
    return next(prefix for level, prefix in _PRIORITY if record.levelno >= level)


class TextFormat(logging.Formatter):
    """For the journal with the priority in front, which it takes away; else with a time."""

    def __init__(self, *, is_journal: bool) -> None:
        super().__init__()
        self._is_journal = is_journal

    def format(self, record: logging.LogRecord) -> str:
        text = record.getMessage()
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        if self._is_journal:
            priority = _priority(record)
            # Each line of a traceback needs the prefix, or the journal files it under another priority.
            return "\n".join(priority + line for line in text.splitlines())
        return f"{_moment(record)} {record.levelname.lower()} {text}"


class JsonFormat(logging.Formatter):
    """One JSON object per line; for the journal with the priority in front, which it takes away."""

    def __init__(self, *, is_journal: bool = False) -> None:
        super().__init__()
        self._is_journal = is_journal

    def format(self, record: logging.LogRecord) -> str:
        data: dict[str, Field] = {"time": _moment(record), "level": record.levelname.lower(), "logger": record.name}
        line = _line_of(record)
        if line is not None:
            data["event"] = line.event
            data.update(line.fields)
        else:
            data["message"] = record.getMessage()
        if record.exc_info:
            data["traceback"] = self.formatException(record.exc_info)
        return (_priority(record) if self._is_journal else "") + json.dumps(data)


def _line_of(record: logging.LogRecord) -> Line | None:
    """The Line of a record that was logged as `logger.info("%s", Line(...))`."""
    args = record.args
    if record.msg == "%s" and isinstance(args, tuple) and len(args) == 1 and isinstance(args[0], Line):
        return args[0]
    return None


def _moment(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class _OurOwnOnly(logging.Filter):
    """Lets a library's warnings through and nothing below, at whatever level its loggers are set."""

    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno >= logging.WARNING or not _is_within(record.name, TALKATIVE)


def _is_within(name: str, loggers: tuple[str, ...]) -> bool:
    return any(name == one or name.startswith(f"{one}.") for one in loggers)


def configure(level: Literal["debug", "info", "warning"], form: Literal["text", "json"], *, is_journal: bool) -> None:
    """Send everything to standard error. Debug is the protocol without secrets, never a library's own debug."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter((JsonFormat if form == "json" else TextFormat)(is_journal=is_journal))
    # On the handler: a logger's own filter does not see what its children log.
    handler.addFilter(_OurOwnOnly())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)  # spares them the rendering
