"""Who asks the supervisor for a reload and waits for its end: `gatepost reload`, and systemd by it.

A connection is the request. It is answered with one line, {"ok": true, "config": "..."} or {"ok": false, "problem":
"...", "remedy": "..."}, when the reload that it asked for is done or refused. Never blocks.
"""

from __future__ import annotations

import contextlib
import json
import logging
import selectors
import socket
from collections.abc import Callable
from time import monotonic

from proxy.logs import Line
from proxy.serving.control import AGAIN_S, may_ask, peer_of

logger = logging.getLogger("gatepost.workers")

MAX_ASKERS = 8  # more are turned away: they ask for what is under way already


class Askers:
    """Owned by the supervisor. `sock` listens, or is None where there is no RuntimeDirectory."""

    def __init__(self, sock: socket.socket | None, config: str, *, clock: Callable[[], float] = monotonic) -> None:
        """`config` is the name of the file that is read again; `clock` is monotonic seconds."""
        self._sock = sock
        self._config = config
        self._clock = clock
        self._attend: Callable[[], object] = lambda: None
        self._attend_at: float | None = None  # None: requests are attended to, or never will be
        self._waiting: list[socket.socket] = []  # for the next reload
        self._asked: list[socket.socket] = []  # for the one that is under way

    def listen(self, selector: selectors.BaseSelector, reload: Callable[[], None]) -> None:
        """Take requests from now on."""
        if self._sock is not None:
            listening = self._sock

            def on_request() -> None:
                if not self._is_accepted(listening, reload):
                    # It stays readable: a busy loop would take the time from those who make room.
                    selector.unregister(listening)
                    self._attend_at = self._clock() + AGAIN_S

            self._attend = lambda: selector.register(listening, selectors.EVENT_READ, on_request)
            self._attend()

    def look(self) -> None:
        """What is due once a turn: attend to requests again, after a rest."""
        if self._attend_at is not None and self._clock() >= self._attend_at:
            self._attend_at = None
            self._attend()

    def begin(self) -> None:
        """A reload begins: who has asked by now is told of its end."""
        self._asked += self._waiting
        self._waiting = []

    def answer(self, problem: str = "", remedy: str = "") -> None:
        """It is done; with a problem, it is refused."""
        words = {"ok": False, "problem": problem, "remedy": remedy} if problem else {"ok": True, "config": self._config}
        for sock in self._asked:
            with sock, contextlib.suppress(OSError):  # who has left is not waited for
                sock.send(json.dumps(words).encode() + b"\n")  # far less than a new socket's buffer
        self._asked = []

    def disown(self) -> None:
        """In a new worker: they are the supervisor's."""
        for sock in (*self._waiting, *self._asked):
            sock.close()

    def _is_accepted(self, listening: socket.socket, reload: Callable[[], None]) -> bool:
        """Take one request; False if it has to wait, most likely for want of descriptors."""
        try:
            sock, _ = listening.accept()
        except BlockingIOError:  # it has left
            return True
        except OSError as error:
            logger.warning("%s", Line("control_delayed", error=error.strerror))
            return False
        sock.setblocking(False)
        self._heed(sock, reload)
        return True

    def _heed(self, sock: socket.socket, reload: Callable[[], None]) -> None:
        try:
            uid, groups = peer_of(sock)
        except OSError:
            sock.close()
            return
        if not may_ask(uid, groups) or len(self._waiting) >= MAX_ASKERS:
            logger.warning("%s", Line("control_refused", uid=uid))
            sock.close()
            return
        logger.info("%s", Line("control", op="reload", uid=uid))
        self._waiting.append(sock)
        reload()
