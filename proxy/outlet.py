"""Where log lines leave the process. Nobody who logs ever waits for who reads: what finds no room is counted and lost.

What can be written at once is. A process with a loop has a thread for the rest, and for files, whose disk may be slow.
The supervisor has none, so that it can fork at any time: it keeps the rest for its next turn.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import socket
import stat
import threading
from collections import deque
from collections.abc import Mapping
from functools import lru_cache
from time import monotonic, sleep
from typing import Literal, Protocol

from proxy import journald
from proxy.logs import TALKATIVE, JsonFormat, Line, TextFormat

MAX_WAITING_BYTES = 4 * 1024 * 1024  # some 20,000 lines: minutes of a busy worker
FLUSH_S = 2.0  # at the end of a process; a reader that is stuck must not keep it
POLL_S = 0.01
STDERR = 2

Journalling = Literal["no", "stderr", "native"]


class Sink(Protocol):
    """What takes rendered records."""

    def render(self, record: logging.LogRecord) -> bytes: ...

    @property
    def is_instant(self) -> bool:
        """Whether send() with may_wait=False surely does not wait, for a disk either."""

    def send(self, data: bytes, *, may_wait: bool) -> int:
        """How many bytes were taken, 0 if that would have meant to wait. Raises OSError if they are lost."""

    def close(self) -> None: ...


class Stderr:
    """Standard error. What it is decides how to write without waiting; a flag on it would be others' as well."""

    def __init__(self, form: logging.Formatter, descriptor: int = STDERR) -> None:
        self._form = form
        self._descriptor = descriptor
        self._sock: socket.socket | None = None
        self._pipe: int | None = None
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISSOCK(mode):
            self._sock = socket.socket(fileno=os.dup(descriptor))
        elif stat.S_ISFIFO(mode):
            # Opened anew it has flags of its own. Another user's can't be: then poll alone says whether there is room,
            # and a worker may be faster than we are.
            with contextlib.suppress(OSError):
                self._pipe = os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)

    @property
    def is_instant(self) -> bool:
        return self._sock is not None or self._pipe is not None

    def render(self, record: logging.LogRecord) -> bytes:
        return (self._form.format(record) + "\n").encode("utf-8", "backslashreplace")

    def send(self, data: bytes, *, may_wait: bool) -> int:
        with contextlib.suppress(BlockingIOError):
            if may_wait:
                return os.write(self._descriptor, data)
            if self._sock is not None:
                return self._sock.send(data, socket.MSG_DONTWAIT)
            if self._pipe is not None:
                return os.write(self._pipe, data)
            if select.select([], [self._descriptor], [], 0)[1]:
                return os.write(self._descriptor, data[: select.PIPE_BUF])
        if may_wait:  # somebody made it non-blocking for all who have it
            select.select([], [self._descriptor], [])
        return 0

    def close(self) -> None:
        if self._sock is not None:
            self._sock.close()
        if self._pipe is not None:
            os.close(self._pipe)
            self._pipe = None


class Outlet(logging.Handler):
    """The root logger's one handler. `lost` is how many lines nobody will read."""

    def __init__(self, sink: Sink, *, has_thread: bool, room: int = MAX_WAITING_BYTES) -> None:
        super().__init__()
        self.addFilter(_OurOwnOnly())  # a logger's own filter does not see what its children log
        self.lost = 0
        self.sink = sink
        self._room = room
        self._owner = os.getpid()
        self._waiting: deque[bytes] = deque()
        self._bytes = 0
        self._untold = 0  # lost, and not told of yet
        self._changed = threading.Condition()  # its lock is taken again by who has it
        self._is_closing = False
        self._writer: threading.Thread | None = None
        if has_thread:
            self._writer = threading.Thread(target=self._write_all, name="log", daemon=True)
            self._writer.start()

    @property
    def is_mine(self) -> bool:
        """False in a fork: its lines go through one of its own."""
        return self._owner == os.getpid()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            data = self.sink.render(record)
        except Exception:  # noqa: BLE001 - what a Handler does with a record that can't be rendered
            self.handleError(record)
            return
        if not self.is_mine:
            return
        with self._changed:
            if self._waiting and self._bytes + len(data) > self._room:
                self.lost += 1
                self._untold += 1
                return
            self._waiting.append(data)
            self._bytes += len(data)
            if self._writer is not None:
                if self.sink.is_instant and len(self._waiting) == 1:  # to wake the thread costs more than the line
                    self._write_first(may_wait=False)
                if self._waiting:
                    self._changed.notify()
        if self._writer is None:
            self.drain()

    def drain(self) -> None:
        """Write what can be written without waiting; for a process without the thread."""
        while self._writer is None and self._waiting and self._write_first(may_wait=False):
            pass

    def close(self) -> None:
        """Give what waits a while to be written. logging.shutdown calls it at the end of every process."""
        super().close()
        if not self.is_mine:
            self.sink.close()
            return
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        if self._writer is not None:
            self._writer.join(FLUSH_S)
            return
        end = monotonic() + FLUSH_S
        self.drain()
        while self._waiting and monotonic() < end:
            sleep(POLL_S)
            self.drain()
        self.sink.close()

    def _write_all(self) -> None:
        while True:
            with self._changed:
                while not self._waiting:
                    if self._is_closing:
                        self.sink.close()  # not before: it may be in a write
                        return
                    self._changed.wait()
            self._write_first(may_wait=True)

    def _write_first(self, *, may_wait: bool) -> bool:
        """Write of the line that waits longest, which is taken away when it is whole; False if nothing was taken."""
        data = self._waiting[0]
        is_lost = False
        try:
            taken = self.sink.send(data, may_wait=may_wait)
        except OSError:  # the reader is gone, or the disk is full
            taken, is_lost = len(data), True
        with self._changed:
            self._bytes -= taken
            if taken < len(data):
                self._waiting[0] = data[taken:]
                return taken > 0
            self._waiting.popleft()
            if is_lost:
                self.lost += 1
                self._untold += 1
            elif self._untold:
                told = self.sink.render(_lost_lines(self._untold))
                self._untold = 0
                self._waiting.append(told)
                self._bytes += len(told)
        return True


def _lost_lines(count: int) -> logging.LogRecord:
    args = (Line("log_lines_lost", lines=count),)
    return logging.LogRecord("gatepost.log", logging.WARNING, __file__, 0, "%s", args, None)


class _OurOwnOnly(logging.Filter):
    """Lets a library's warnings through and nothing below, at whatever level its loggers are set."""

    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno >= logging.WARNING or not _is_talkative(record.name)


@lru_cache(maxsize=256)  # asked for each record
def _is_talkative(name: str) -> bool:
    return any(name == one or name.startswith(f"{one}.") for one in TALKATIVE)


def journalling(environment: Mapping[str, str] = os.environ) -> Journalling:
    """How lines get to the journal, by what systemd says of standard error."""
    if "JOURNAL_STREAM" not in environment:
        return "no"
    return "native" if journald.is_ours(environment) else "stderr"


def configure(
    level: Literal["debug", "info", "warning"],
    form: Literal["text", "json"],
    *,
    journal: Journalling = "no",
    has_thread: bool = False,
) -> Outlet:
    """Send everything to standard error or the journal. Debug is the protocol without secrets, never a library's own.

    Called again in the same process it keeps what waits.
    """
    shape = (JsonFormat if form == "json" else TextFormat)(is_journal=journal == "stderr")
    sink: Sink = journald.Journal(shape) if journal == "native" else Stderr(shape)
    root = logging.getLogger()
    outlet = next((one for one in _outlets() if one.is_mine), None)
    if outlet is None:
        for inherited in _outlets():
            inherited.close()
        outlet = Outlet(sink, has_thread=has_thread)
    else:
        outlet.sink.close()
        outlet.sink = sink
    root.handlers[:] = [outlet]
    root.setLevel(level.upper())
    _note_no_more_than_is_shown()
    for name in TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)  # spares them the rendering
    return outlet


def _note_no_more_than_is_shown() -> None:
    """Spare each record what no line of ours has: the logging HOWTO, Optimization, lists these three and the next."""
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None  # noqa: SLF001 - whence it was logged, found by a walk over frames


def lost_lines() -> int:
    """How many of this process nobody will read."""
    return sum(one.lost for one in _outlets())


def _outlets() -> list[Outlet]:
    return [one for one in logging.getLogger().handlers if isinstance(one, Outlet)]
