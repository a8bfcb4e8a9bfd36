"""The workers of one configuration: numbers, processes, pipes. What is done with them is the supervisor's business.

A reload makes a new generation beside the one that serves, which then leaves: it accepts nobody any more, and its
workers end with their last session.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from time import monotonic

from proxy.config import Config
from proxy.edge.certificates import Certificates
from proxy.errors import ConfigError
from proxy.live.pulse import Beat
from proxy.login.bus import Wires, lay
from proxy.logs import Line
from proxy.meters import Board
from proxy.notify import Passed
from proxy.serving.build import usable_cores
from proxy.serving.listeners import open_monitor, open_sockets

logger = logging.getLogger("gatepost.workers")

HEAD_START_S = 4.0  # worker 0 asks the upstreams what they offer (3 s at most); the others begin with its answers
SOON_S = 10.0  # a worker that lived for less is not replaced at once
PAUSE_S = (0.5, 30.0)  # before its replacement: at first, doubled each time, at last


class Phase(Enum):
    COMING = "coming"  # not all of its workers have been ready yet
    SERVING = "serving"
    LEAVING = "leaving"  # it ends with its sessions


@dataclass(slots=True)
class Slot:
    """A worker's number, and the process that has it now. Times are monotonic."""

    number: int
    wires: Wires
    start_at: float
    pid: int | None = None
    pulse: int | None = None  # the pipe that its beats come through; None once it ended
    is_ready: bool = False
    started_at: float = 0.0
    heard_at: float = 0.0  # the last beat, or the start
    beat: Beat = field(default_factory=Beat)
    aborted_at: float | None = None  # when it was told to die for its silence
    deaths: int = 0  # in a row, each soon after the start

    def pause_s(self, lived_s: float) -> float:
        """How long its replacement is waited for, after one more death."""
        first_s, last_s = PAUSE_S
        self.deaths = self.deaths + 1 if lived_s < SOON_S else 0
        return min(first_s * 2 ** min(self.deaths - 1, 16), last_s) if self.deaths else 0.0

    def began(self, pid: int, pulse: int) -> None:
        self.pid, self.pulse, self.is_ready, self.aborted_at = pid, pulse, False, None
        self.started_at = self.heard_at = monotonic()
        self.beat = Beat()

    def ended(self) -> None:
        self.wires.sheet.forget_gauges()
        self.pid, self.is_ready, self.beat = None, False, Beat()

    def send(self, number: signal.Signals) -> None:
        if self.pid is not None:
            os.kill(self.pid, number)  # it is not waited for yet, so the number is still its own


@dataclass(slots=True, eq=False)
class Generation:
    """`sockets` are the listeners' in their order; `control` is where its first worker takes commands."""

    number: int
    config: Config
    certificates: Certificates
    sockets: Sequence[socket.socket]
    control: socket.socket | None
    monitor: socket.socket | None  # where numbers and health are asked for
    board: Board
    slots: list[Slot]
    wires: contextlib.ExitStack
    phase: Phase = Phase.COMING
    kill_at: float | None = None  # when those that still drain are killed

    @classmethod
    def make(
        cls,
        number: int,
        config: Config,
        certificates: Certificates,
        *,
        sockets: Sequence[socket.socket],
        control: socket.socket | None,
        monitor: socket.socket | None = None,
        board: Board | None = None,
    ) -> Generation:
        """Its first worker is due now, the others when it is ready.

        board   where the numbers of all generations are kept; the first has none yet
        """
        workers = config.workers.count or usable_cores()
        now = monotonic()
        board = board or Board()
        stack = contextlib.ExitStack()
        slots = [
            Slot(index, own, start_at=now if index == 0 else now + HEAD_START_S)
            for index, own in enumerate(lay(workers, stack, board))
        ]
        return cls(number, config, certificates, sockets, control, monitor, board, slots, stack)

    def next(self, config: Config, certificates: Certificates, passed: Sequence[Passed]) -> Generation:
        """The one that comes after this: it keeps the sockets that it can, and counts on. Raises ConfigError."""
        former = list(zip(self.config.listeners, self.sockets, strict=True))
        sockets = open_sockets(config.listeners, passed, former)
        try:
            monitor = open_monitor(config.metrics, self.config.metrics, self.monitor)
        except ConfigError:
            for sock in sockets:
                if sock not in self.sockets and all(sock is not one.sock for one in passed):
                    sock.close()
            raise
        return Generation.make(
            self.number + 1,
            config,
            certificates,
            sockets=sockets,
            control=self.control,
            monitor=monitor,
            board=self.board,
        )

    def tell_where(self, known: Sequence[socket.socket]) -> None:
        """Log each socket that it listens on, but for those that were told of before."""
        for listener, sock in zip(self.config.listeners, self.sockets, strict=True):
            if sock not in known:
                logger.info("%s", Line("listening", on=_named(listener.protocol, sock), tls=listener.tls.value))
        if self.monitor is not None and self.monitor not in known:
            logger.info("%s", Line("monitoring", on=_named("http", self.monitor)))

    @property
    def opened(self) -> list[socket.socket]:
        """All that it listens on."""
        return [*self.sockets, *([] if self.monitor is None else [self.monitor])]

    def living(self) -> Iterator[Slot]:
        return (slot for slot in self.slots if slot.pid is not None)

    @property
    def is_up(self) -> bool:
        return all(slot.is_ready for slot in self.slots)

    @property
    def sessions(self) -> int:
        return sum(slot.beat.sessions for slot in self.slots)

    def send(self, number: signal.Signals) -> None:
        for slot in self.living():
            slot.send(number)

    def hurry(self) -> None:
        """The first worker is ready: the others' waiting is over."""
        for slot in self.slots:
            slot.start_at = min(slot.start_at, monotonic())

    def end(self, margin_s: float) -> None:
        """Let all drain. Told again, they do not mind."""
        self.phase = Phase.LEAVING
        if self.kill_at is None:
            self.kill_at = monotonic() + self.config.limits.drain_s + margin_s
        self.send(signal.SIGTERM)

    def close(self) -> None:
        """No worker of it lives any more, or this is a worker of another."""
        self.wires.close()

    def __enter__(self) -> None:
        """In a worker of it, which has its own copies of all: they are closed at its end."""

    def __exit__(self, *_: object) -> None:
        self.close()
        for sock in self.opened:
            sock.close()


def _named(scheme: str, sock: socket.socket) -> str:
    host, port = sock.getsockname()[:2]
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"
