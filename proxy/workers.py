"""`gatepost serve`: binds the listeners, starts the workers that share them, replaces those that die, and ends them.

The supervisor is one process without threads, event loop or open database, so that it can fork at any time. A worker
(serve) that dies takes its own sessions along and no others; its number goes to its replacement. When the supervisor
is gone the workers notice by a pipe, and drain. Another signal to heed is another line in `_on_signal`.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import secrets
import selectors
import signal
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import monotonic

from proxy.bus import Wires, lay
from proxy.config import Config
from proxy.edge import listen
from proxy.logs import Line, configure
from proxy.serve import SIGNALS, Post, Strings, preflight, usable_cores, work
from proxy.store.rows import Seat

logger = logging.getLogger("gatepost.workers")

HEAD_START_S = 4.0  # worker 0 asks the upstreams what they offer (3 s at most); the others begin with its answers
SOON_S = 10.0  # a worker that lived for less is not replaced at once
PAUSE_S = (0.5, 30.0)  # before its replacement: at first, doubled each time, at last
FIRST_TRIES = 3  # at the very start: a worker killed so often before it was ready will never be
MARGIN_S = 10.0  # beyond drain_s, for last words and writes; systemd's TimeoutStopSec is longer than both
FAILED = 1  # exit status, as for every command that was refused


def serve(config: Config) -> int:
    """Run in the foreground until SIGTERM or SIGINT; the exit status. In a worker it raises SystemExit.

    raises  OperatorError or StoreUnavailable, before anybody is served
    """
    configure(config.log.level, config.log.format, is_journal="JOURNAL_STREAM" in os.environ)
    preflight(config)
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(listen.bind(listener)) for listener in config.listeners]
        wires = lay(config.workers.count or usable_cores(), stack)
        monitor = stack.enter_context(listen.bind_to(*config.metrics.address)) if config.metrics.address else None
        return Supervisor(config, sockets, wires, monitor).run()


@dataclass(slots=True)
class Slot:
    """A worker's number, and the process that has it now. Times are monotonic."""

    number: int
    wires: Wires
    start_at: float
    pid: int | None = None
    ready: int | None = None  # the pipe on which it will tell that it accepts; None once it has, or can't any more
    is_ready: bool = False
    started_at: float = 0.0
    deaths: int = 0  # in a row, each soon after the start

    def pause_s(self, lived_s: float) -> float:
        """How long its replacement is waited for, after one more death."""
        first_s, last_s = PAUSE_S
        self.deaths = self.deaths + 1 if lived_s < SOON_S else 0
        return min(first_s * 2 ** min(self.deaths - 1, 16), last_s) if self.deaths else 0.0


class Supervisor:
    """Starts, replaces and ends the workers of one node. `run` is the whole life of its process."""

    def __init__(
        self,
        config: Config,
        sockets: Sequence[socket.socket],
        wires: Sequence[Wires],
        monitor: socket.socket | None = None,
    ) -> None:
        """`sockets` are the listeners' in their order, `wires` those of each worker."""
        self._monitor = monitor
        self._config = config
        self._sockets = sockets
        now = monotonic()
        self._slots = [
            Slot(number, own, start_at=now if number == 0 else now + HEAD_START_S) for number, own in enumerate(wires)
        ]
        self._supervised, self._supervising = os.pipe()  # the second end is closed by our end alone
        self._said, self._say = os.pipe()  # the numbers of signals
        self._selector = selectors.DefaultSelector()
        self._is_up = False  # all were ready once
        self._end_at: float | None = None  # when those who still drain are killed
        self._status = 0

    def run(self) -> int:
        """Returns the exit status when the last worker has ended."""
        self._heed_signals()
        gc.collect()
        gc.freeze()  # what is here now stays shared by all: no collection writes to these pages
        while self._end_at is None or any(slot.pid for slot in self._slots):
            if self._end_at is None:
                self._start_due()
            elif monotonic() >= self._end_at:
                self._send(signal.SIGKILL)
            self._wait()
            self._reap()
        if self._is_up:
            logger.info("%s", Line("stopped"))
        return self._status

    # -- what happens ------------------------------------------------------------------------------------------------

    def _heed_signals(self) -> None:
        os.set_blocking(self._said, False)
        os.set_blocking(self._say, False)
        # Python runs a handler some time later; the byte wakes the select at once.
        signal.set_wakeup_fd(self._say, warn_on_full_buffer=False)
        for number in SIGNALS:
            signal.signal(number, lambda *_: None)
        self._selector.register(self._said, selectors.EVENT_READ, self._on_signal)

    def _wait(self) -> None:
        """Until a signal, a worker's word, or the next thing to do; and do what is told."""
        for key, _ in self._selector.select(self._next_s()):
            key.data()

    def _next_s(self) -> float | None:
        if self._end_at is not None:
            return max(0.1, self._end_at - monotonic())
        due = [slot.start_at for slot in self._slots if slot.pid is None]
        return max(0.0, min(due) - monotonic()) if due else None

    def _on_signal(self) -> None:
        numbers = os.read(self._said, 512)
        if {signal.SIGTERM, signal.SIGINT} & set(numbers):
            self._end()

    def _end(self) -> None:
        """Let all drain. Told again, they do not mind."""
        for sock in (*self._sockets, *([self._monitor] if self._monitor else [])):
            sock.close()  # the workers close theirs: then nobody listens
        if self._end_at is None:
            self._end_at = monotonic() + self._config.limits.drain_s + MARGIN_S
        self._send(signal.SIGTERM)

    def _send(self, number: signal.Signals) -> None:
        for slot in self._slots:
            if slot.pid is not None:
                os.kill(slot.pid, number)  # it is not waited for yet, so the number is still its own

    # -- workers come ------------------------------------------------------------------------------------------------

    def _start_due(self) -> None:
        for slot in self._slots:
            if slot.pid is None and slot.start_at <= monotonic():
                self._start(slot)

    def _start(self, slot: Slot) -> None:
        """Fork a worker. It gets no signal until its loop can handle it, and it never returns from here."""
        ready, tell_ready = os.pipe()
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        pid: int | None
        try:
            pid = os.fork()
        except OSError as error:  # no memory, or too many processes: those who serve go on
            pid = None
            slot.start_at = monotonic() + slot.pause_s(0.0)
            logger.error("%s", Line("worker_not_started", worker=slot.number, error=error.strerror))  # noqa: TRY400
        if pid == 0:
            os.close(ready)
            self._forget()
            raise SystemExit(work(self._config, self._post(slot), Strings(self._supervised, tell_ready)))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        os.close(tell_ready)
        if pid is None:
            os.close(ready)
            return
        slot.pid, slot.ready, slot.is_ready, slot.started_at = pid, ready, False, monotonic()
        self._selector.register(ready, selectors.EVENT_READ, self._listener_to(slot))

    def _forget(self) -> None:
        """In a new worker: leave what is the supervisor's alone."""
        signal.set_wakeup_fd(-1)
        for number in SIGNALS:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        self._selector.close()
        for mine in (self._supervising, self._said, self._say, *(slot.ready for slot in self._slots)):
            if mine is not None:
                os.close(mine)

    def _post(self, slot: Slot) -> Post:
        node = self._config.workers.node or socket.gethostname()
        seat = Seat(secrets.token_hex(8), node, slot.number)
        return Post(seat, len(self._slots), self._sockets, slot.wires, self._monitor)

    def _listener_to(self, slot: Slot) -> Callable[[], None]:
        def hear() -> None:
            assert slot.ready is not None
            slot.is_ready = os.read(slot.ready, 1) != b""
            self._close_ready(slot)
            if slot.is_ready:  # else it is dead, and will be reaped
                self._on_ready(slot)

        return hear

    def _on_ready(self, slot: Slot) -> None:
        logger.info("%s", Line("worker_ready", worker=slot.number, pid=slot.pid))
        if self._is_up or self._end_at is not None:
            return
        for other in self._slots:
            other.start_at = min(other.start_at, monotonic())  # the head start is over
        if all(one.is_ready for one in self._slots):
            self._is_up = True
            for listener, sock in zip(self._config.listeners, self._sockets, strict=True):
                host, port = sock.getsockname()[:2]
                name = f"{listener.protocol}://{f'[{host}]' if ':' in host else host}:{port}"
                logger.info("%s", Line("listening", on=name, tls=listener.tls.value))
            if self._monitor is not None:
                host, port = self._monitor.getsockname()[:2]
                logger.info("%s", Line("monitoring", on=f"http://{f'[{host}]' if ':' in host else host}:{port}"))
            logger.info("%s", Line("ready"))

    # -- workers go --------------------------------------------------------------------------------------------------

    def _reap(self) -> None:
        for slot in self._slots:
            if slot.pid is None:
                continue
            pid, wait_status = os.waitpid(slot.pid, os.WNOHANG)
            if pid:
                self._on_death(slot, os.waitstatus_to_exitcode(wait_status))

    def _on_death(self, slot: Slot, status: int) -> None:
        """`status` is negative for the number of a signal."""
        was_ready, slot.is_ready = slot.is_ready, False
        if slot.ready is not None:
            self._close_ready(slot)
        line = Line("worker_died", worker=slot.number, pid=slot.pid, status=status)
        slot.pid = None
        slot.wires.sheet.forget_gauges()
        if self._end_at is not None:
            self._status = max(self._status, status if status >= 0 else 128 - status)
            if status:
                logger.error("%s", line)
            return
        slot.start_at = monotonic() + slot.pause_s(monotonic() - slot.started_at)
        logger.log(logging.ERROR if status else logging.WARNING, "%s", line)
        if not self._is_up and not was_ready and (status > 0 or slot.deaths >= FIRST_TRIES):
            self._give_up()

    def _give_up(self) -> None:
        """What keeps a worker from its very first start was told by it, and keeps the next one as well."""
        self._status = FAILED
        self._end()

    def _close_ready(self, slot: Slot) -> None:
        assert slot.ready is not None
        self._selector.unregister(slot.ready)
        os.close(slot.ready)
        slot.ready = None
