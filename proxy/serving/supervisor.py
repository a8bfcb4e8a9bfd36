"""`gatepost serve`: binds the listeners, starts the workers that share them, replaces those that die, and ends them.

The supervisor is one process without threads, event loop or open database, so that it can fork at any time. A worker
that dies takes its own sessions along and no others; its number goes to its replacement. When the supervisor is gone
the workers notice by a pipe, and drain.

A reload (SIGHUP, or whoever asks at the reload socket) is a new generation of workers beside the old one: succession.
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
from collections.abc import Callable
from time import monotonic

from proxy.admin.service import RELOAD_NAME
from proxy.config import Config
from proxy.live.pulse import READ_BYTES, last_beat
from proxy.logs import Line
from proxy.notify import Manager, manager
from proxy.outlet import Outlet, configure, journalling
from proxy.serving import control, vigil
from proxy.serving.askers import Askers
from proxy.serving.build import Post, preflight
from proxy.serving.generation import Generation, Phase, Slot
from proxy.serving.listeners import open_monitor, open_sockets
from proxy.serving.page import Page
from proxy.serving.succession import Succession
from proxy.serving.worker import SIGNALS, Strings, work
from proxy.store.rows import Seat

logger = logging.getLogger("gatepost.workers")

TURN_S = 1.0  # between two looks at what tells nothing by itself
FIRST_TRIES = 3  # at the very start: a worker killed so often before it was ready will never be
FAILED = 1  # exit status, as for every command that was refused
HEEDED = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, signal.SIGHUP})


def serve(config: Config, *, has_page: bool = True) -> int:
    """Run in the foreground until SIGTERM or SIGINT; the exit status. In a worker it raises SystemExit.

    has_page    whether the web page, if there is one, runs beside the workers; it may have a unit of its own
    raises  OperatorError or StoreUnavailable, before anybody is served
    """
    systemd = manager()
    _log_as(config)
    certificates = preflight(config)
    certificates.tell_of_end()
    with contextlib.ExitStack() as stack:
        sockets = open_sockets(config.listeners, systemd.passed)
        for sock in sockets:
            stack.enter_context(sock)
        asked = stack.enter_context(control.opened())
        monitor = open_monitor(config.metrics)
        first = Generation.make(1, config, certificates, sockets=sockets, control=asked, monitor=monitor)
        askers = Askers(stack.enter_context(control.opened(RELOAD_NAME)), str(config.path))
        return Supervisor(first, systemd, askers, has_page=has_page).run()


class Supervisor:
    """Starts, replaces and ends the workers of one node. `run` is the whole life of its process."""

    def __init__(self, first: Generation, systemd: Manager, askers: Askers, *, has_page: bool) -> None:
        self._systemd = systemd
        self._askers = askers
        self._succession = Succession(first, systemd, askers, lambda one: _log_as(one.config))
        self._log = _log_as(first.config)
        self._vigil = vigil.Vigil(systemd.watchdog_s)
        self._supervised, self._supervising = os.pipe()  # the second end is closed by our end alone
        self._page = Page(self._supervised) if has_page else None
        self._said, self._say = os.pipe()  # the numbers of signals
        self._selector = selectors.DefaultSelector()
        self._status = 0

    def run(self) -> int:
        """Returns the exit status when the last worker has ended."""
        self._heed_signals()
        self._askers.listen(self._selector, self._succession.reload)
        gc.collect()
        gc.freeze()  # what is here now stays shared by all: no collection writes to these pages
        while not (self._succession.is_ending and not self._succession.all and not self._has_page):
            self._start_due()
            self._wait()
            self._reap()
            self._look()
        if self._succession.is_up:
            logger.info("%s", Line("stopped"))
        return self._status

    @property
    def _has_page(self) -> bool:
        return self._page is not None and self._page.is_running

    # -- what happens ------------------------------------------------------------------------------------------------

    def _heed_signals(self) -> None:
        os.set_blocking(self._said, False)
        os.set_blocking(self._say, False)
        # Python runs a handler some time later; the byte wakes the select at once.
        signal.set_wakeup_fd(self._say, warn_on_full_buffer=False)
        for number in HEEDED:
            signal.signal(number, lambda *_: None)
        self._selector.register(self._said, selectors.EVENT_READ, self._on_signal)

    def _wait(self) -> None:
        """Until a signal, a worker's word, or the next thing to do; and do what is told."""
        due = [
            slot.start_at
            for one in self._succession.all
            if one.phase is not Phase.LEAVING
            for slot in one.slots
            if slot.pid is None
        ]
        for key, _ in self._selector.select(max(0.0, min([TURN_S, *(at - monotonic() for at in due)]))):
            key.data()

    def _on_signal(self) -> None:
        numbers = set(os.read(self._said, 512))
        if {signal.SIGTERM, signal.SIGINT} & numbers:
            self._succession.end()
        elif signal.SIGHUP in numbers:
            self._succession.reload()

    def _look(self) -> None:
        """What is due once a turn: whom nobody has heard of, who is late, what has changed, what is told."""
        succession = self._succession
        succession.look()
        self._askers.look()
        if self._vigil.is_kept(succession.all):
            self._systemd.alive()
        if self._page is not None:
            self._keep_page(self._page)
        if succession.is_up and not succession.is_ending and self._vigil.is_news(status := succession.status):
            self._systemd.status(status)
        self._log.drain()

    def _keep_page(self, page: Page) -> None:
        if self._succession.is_ending:
            page.stop()
        elif self._succession.is_up:
            page.keep(self._succession.serving.config)

    # -- workers come ------------------------------------------------------------------------------------------------

    def _start_due(self) -> None:
        for one in self._succession.all:
            for slot in one.slots:
                if one.phase is not Phase.LEAVING and slot.pid is None and slot.start_at <= monotonic():
                    self._start(one, slot)

    def _start(self, one: Generation, slot: Slot) -> None:
        """Fork a worker. It gets no signal until its loop can handle it, and it never returns from here."""
        try:
            pulse, tell_pulse = os.pipe()
        except OSError as error:
            self._put_off(slot, error)
            return
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        pid: int | None
        try:
            pid = os.fork()
        except OSError as error:
            pid = None
            self._put_off(slot, error)
        if pid == 0:
            os.close(pulse)
            self._forget(one)
            with one:
                status = work(one.config, self._post(one, slot), Strings(self._supervised, tell_pulse))
            raise SystemExit(status)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        os.close(tell_pulse)
        if pid is None:
            os.close(pulse)
            return
        slot.began(pid, pulse)
        self._selector.register(pulse, selectors.EVENT_READ, self._listener_to(one, slot))

    @staticmethod
    def _put_off(slot: Slot, error: OSError) -> None:
        """No memory, too many processes or open files: those who serve go on."""
        slot.start_at = monotonic() + slot.pause_s(0.0)
        logger.error("%s", Line("worker_not_started", worker=slot.number, error=error.strerror))

    def _forget(self, mine: Generation) -> None:
        """In a new worker: leave what is the supervisor's or other generations' alone."""
        signal.set_wakeup_fd(-1)
        for number in HEEDED:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        self._selector.close()
        self._askers.disown()
        if self._page is not None:
            self._page.disown()
        pulses = (slot.pulse for one in self._succession.all for slot in one.slots)
        for descriptor in (self._supervising, self._said, self._say, *pulses):
            if descriptor is not None:
                os.close(descriptor)
        for other in self._succession.all:
            if other is not mine:
                other.close()
                for sock in other.opened:
                    if sock not in mine.opened:
                        sock.close()  # else a listener that a reload took away would go on accepting in nobody's name
        _log_as(mine.config, has_thread=True)

    @staticmethod
    def _post(one: Generation, slot: Slot) -> Post:
        node = one.config.workers.node or socket.gethostname()
        seat = Seat(secrets.token_hex(8), node, slot.number)
        asked = one.control if slot.number == 0 else None
        return Post(seat, len(one.slots), one.sockets, slot.wires, one.certificates, asked, one.monitor)

    def _listener_to(self, one: Generation, slot: Slot) -> Callable[[], None]:
        def hear() -> None:
            assert slot.pulse is not None
            data = os.read(slot.pulse, READ_BYTES)
            if not data:  # it is dead, and will be reaped
                self._close_pulse(slot)
                return
            slot.heard_at, slot.beat = monotonic(), last_beat(data) or slot.beat
            if not slot.is_ready:
                slot.is_ready = True
                logger.info("%s", Line("worker_ready", worker=slot.number, pid=slot.pid))
                self._succession.on_ready(one)

        return hear

    # -- workers go --------------------------------------------------------------------------------------------------

    def _reap(self) -> None:
        for one in tuple(self._succession.all):
            for slot in one.living():
                assert slot.pid is not None
                pid, wait_status = os.waitpid(slot.pid, os.WNOHANG)
                if pid:
                    self._on_death(one, slot, os.waitstatus_to_exitcode(wait_status))
            if one.phase is Phase.LEAVING and not any(one.living()):
                self._succession.forget(one)

    def _on_death(self, one: Generation, slot: Slot, status: int) -> None:
        """`status` is negative for the number of a signal."""
        was_ready = slot.is_ready
        line = Line("worker_died", worker=slot.number, pid=slot.pid, status=status)
        if slot.pulse is not None:
            self._close_pulse(slot)
        slot.ended()
        if one.phase is Phase.LEAVING:
            if status == -signal.SIGTERM and one.kill_at is not None:
                status = 0  # ours, and it met one whose loop had ended already and has no handler any more
            if self._succession.is_ending:
                self._status = max(self._status, status if status >= 0 else 128 - status)
            if status:
                logger.error("%s", line)
            return
        slot.start_at = monotonic() + slot.pause_s(monotonic() - slot.started_at)
        logger.log(logging.ERROR if status else logging.WARNING, "%s", line)
        if one.phase is Phase.COMING and not was_ready and (status > 0 or slot.deaths >= FIRST_TRIES):
            self._give_up(one)

    def _give_up(self, one: Generation) -> None:
        """What keeps a worker from its very first start was told by it, and keeps the next one as well."""
        if not self._succession.give_up(one):
            self._status = FAILED
            self._succession.end()

    def _close_pulse(self, slot: Slot) -> None:
        assert slot.pulse is not None
        self._selector.unregister(slot.pulse)
        os.close(slot.pulse)
        slot.pulse = None


def _log_as(config: Config, *, has_thread: bool = False) -> Outlet:
    return configure(config.log.level, config.log.format, journal=journalling(), has_thread=has_thread)
