"""A cable to a PostgreSQL socket that can be cut and mended: what a network does between a node and its database."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Self

NAME = ".s.PGSQL.5432"  # what libpq looks for in the directory that `host` names


class Cable:
    """Listens in `directory` for libpq and passes everything on to the server's socket."""

    def __init__(self, directory: Path, server: Path) -> None:
        self.directory = directory
        self._server = server / NAME
        self._pairs: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._listener: socket.socket | None = None
        self._threads: list[threading.Thread] = []

    @classmethod
    @contextlib.contextmanager
    def laid(cls, directory: Path, server: Path) -> Iterator[Self]:
        directory.mkdir()
        cable = cls(directory, server)
        cable.mend()
        try:
            yield cable
        finally:
            cable.cut()
            for thread in cable._threads:
                thread.join(10)

    def mend(self) -> None:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(self.directory / NAME))
        listener.listen(128)
        self._listener = listener
        self._start(self._accept, listener)

    def cut(self) -> None:
        """End every connection and refuse new ones, until mend()."""
        listener, self._listener = self._listener, None
        if listener is None:
            return
        (self.directory / NAME).unlink()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        with self._lock:
            for end in self._pairs:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def _start(self, target, *args: object) -> None:  # type: ignore[no-untyped-def]
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            far = socket.socket(socket.AF_UNIX)
            far.connect(str(self._server))
            with self._lock:
                self._pairs |= {near, far}
            if self._listener is not listener:  # cut in this instant
                near.shutdown(socket.SHUT_RDWR)
            self._start(self._pump, near, far)

    def _pump(self, near: socket.socket, far: socket.socket) -> None:
        with near, far, selectors.DefaultSelector() as selector:
            selector.register(near, selectors.EVENT_READ, far)
            selector.register(far, selectors.EVENT_READ, near)
            with contextlib.suppress(OSError):
                while True:
                    for key, _ in selector.select():
                        data = key.fileobj.recv(65_536)  # type: ignore[union-attr]
                        if not data:
                            return
                        key.data.sendall(data)
            with self._lock:
                self._pairs -= {near, far}
