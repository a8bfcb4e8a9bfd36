"""What the loop watches a socket for: asked twice it is watched once, and both loops give the same."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Watch:
    """The readers and writers of one descriptor. Stop both before it is closed."""

    __slots__ = ("_fd", "_loop", "_on_readable", "_on_writable", "reads", "writes")

    def __init__(self, fd: int, on_readable: Callable[[], None], on_writable: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._fd = fd
        self._on_readable = on_readable
        self._on_writable = on_writable
        self.reads = self.writes = False

    def read(self) -> None:
        """Call `on_readable` as long as there is something to read. uvloop tells of a reset once, see stop_read()."""
        if not self.reads:
            self.reads = True
            self._loop.add_reader(self._fd, self._on_readable)

    def stop_read(self) -> None:
        """Stop it. Who has not read to the end must stop and start again, or may never hear of a reset."""
        if self.reads:
            self.reads = False
            self._loop.remove_reader(self._fd)

    def write(self) -> None:
        """Call `on_writable` as long as there is room."""
        if not self.writes:
            self.writes = True
            self._loop.add_writer(self._fd, self._on_writable)

    def stop_write(self) -> None:
        if self.writes:
            self.writes = False
            self._loop.remove_writer(self._fd)

    def forget(self) -> None:
        """Stop both, for good."""
        self.stop_read()
        self.stop_write()
        self._on_readable = self._on_writable = _nothing  # bound methods, so cycles


def _nothing() -> None:
    pass
