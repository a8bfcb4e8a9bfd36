"""The journal's own protocol: an entry with fields of its own is one datagram. Knows no queue and no configuration.

Source: systemd.io/JOURNAL_NATIVE_PROTOCOL, systemd.journal-fields(7), systemd.exec(5) on $JOURNAL_STREAM.
"""

from __future__ import annotations

import logging
import os
import socket
import struct
from collections.abc import Mapping
from pathlib import Path

from proxy.logs import JsonFormat, TextFormat, line_of, priority_of, shown

ADDRESS = "/run/systemd/journal/socket"
MAX_FIELDS = 24  # of one line; the longest has some 15
MAX_VALUE_BYTES = 1024
MAX_MESSAGE_BYTES = 32_768  # far below what a datagram takes (net.core.wmem_default, 212,992): tracebacks are cut
_NAMES = {"id": "GATEPOST_SESSION"}  # the one that all lines of a session share


def is_ours(environment: Mapping[str, str], stderr: int = 2) -> bool:
    """Whether standard error is the journal's, and the journal is there to be spoken to."""
    try:
        found = os.fstat(stderr)
        is_named = environment.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"
        return is_named and Path(ADDRESS).is_socket()
    except OSError:
        return False


def entry(record: logging.LogRecord, form: TextFormat | JsonFormat) -> bytes:
    """A record as a datagram: the message as standard error would have it, and each of its values as a field."""
    message = form.bare(record).encode("utf-8", "backslashreplace")[:MAX_MESSAGE_BYTES]
    fields = [
        _field("MESSAGE", message),
        _field("PRIORITY", b"%d" % priority_of(record)),
        _field("SYSLOG_IDENTIFIER", b"gatepost"),
    ]
    if (line := line_of(record)) is not None:
        pairs = [("event", line.event), *((key, value) for key, value in line.fields.items() if value is not None)]
        for key, value in pairs[:MAX_FIELDS]:
            name = _NAMES.get(key, f"GATEPOST_{key.upper()}")
            fields.append(_field(name, shown(value).encode("utf-8", "backslashreplace")[:MAX_VALUE_BYTES]))
    return b"".join(fields)


def _field(name: str, value: bytes) -> bytes:
    # A value with a line of its own has its length in front, so that nobody can write fields by it.
    if b"\n" in value:
        return name.encode() + b"\n" + struct.pack("<Q", len(value)) + value + b"\n"
    return name.encode() + b"=" + value + b"\n"


class Journal:
    """Where an outlet's entries go."""

    def __init__(self, form: TextFormat | JsonFormat, address: str = ADDRESS) -> None:
        self._form = form
        self._address = address
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)

    @property
    def is_instant(self) -> bool:
        return True

    def render(self, record: logging.LogRecord) -> bytes:
        return entry(record, self._form)

    def send(self, data: bytes, *, may_wait: bool) -> int:
        """How many bytes were taken: all, or none because nobody reads. Raises OSError if there is no journal."""
        try:
            return self._sock.sendto(data, 0 if may_wait else socket.MSG_DONTWAIT, self._address)
        except BlockingIOError:
            return 0

    def close(self) -> None:
        self._sock.close()
