"""Generations of workers: which one serves, which comes, which leave. A reload is a succession, or is refused.

Owned by the supervisor, which forks and reaps. Whatever the configuration says takes effect with a new generation, no
live session is touched, and what validated is what runs. Only a new certificate in the same files needs none: the
workers read it themselves.
"""

from __future__ import annotations

import logging
import signal
import socket
from collections.abc import Callable, Sequence
from time import monotonic

from proxy.config.reader import load
from proxy.errors import ConfigError, OperatorError, StoreUnavailable
from proxy.logs import Line
from proxy.notify import Manager
from proxy.serving import vigil
from proxy.serving.askers import Askers
from proxy.serving.build import preflight
from proxy.serving.generation import Generation, Phase
from proxy.serving.worker import LEAVE, RENEW

logger = logging.getLogger("gatepost.workers")

MAX_LEAVING = 3  # generations that live for their sessions alone; before a fourth, the oldest drains by its deadline
MARGIN_S = 10.0  # beyond drain_s, for last words and writes; systemd's TimeoutStopSec is longer than both
COME_S = 150.0  # for a new generation to serve; who asked for it waits a little longer
FILES_S = 5.0  # between two looks at the certificate's files; a change counts when the next look finds it again


class Succession:
    """All generations that have a worker. `is_up` is true from when the first one served."""

    def __init__(
        self,
        first: Generation,
        systemd: Manager,
        askers: Askers,
        log_as: Callable[[Generation], object],
        *,
        come_s: float = COME_S,
    ) -> None:
        """`log_as` has this process log as a generation's configuration says."""
        self.serving = first
        self.coming: Generation | None = first
        self.all = [first]  # oldest first
        self.is_up = False
        self.is_ending = False
        self._systemd = systemd
        self._askers = askers
        self._log_as = log_as
        self._come_s = come_s
        self._must_reload = False
        self._must_come_by = 0.0  # or the reload is refused
        self._files_at = 0.0  # the next look at the certificate's files

    @property
    def status(self) -> str:
        """The line that `systemctl status` shows."""
        return vigil.status(self.all, self.serving)

    def look(self) -> None:
        """What is due once a turn."""
        for one in self.all:
            if one.kill_at is not None and monotonic() >= one.kill_at:
                one.send(signal.SIGKILL)
        if self.coming is not None and self.is_up and not self.is_ending and monotonic() >= self._must_come_by:
            self.give_up(self.coming)  # workers that hang are replaced again and again
        if self.is_up and not self.is_ending and monotonic() >= self._files_at:
            self._files_at = monotonic() + FILES_S
            if self.serving.certificates.have_changed():
                self._renew_certificates()

    def end(self) -> None:
        """Let all drain."""
        if not self.is_ending:
            self._systemd.stopping(f"draining {sum(one.sessions for one in self.all)} sessions")
        self.is_ending = True
        self._turn_away()
        for one in self.all:
            for sock in one.opened:
                sock.close()  # the workers close theirs: then nobody listens, or systemd alone
            one.end(MARGIN_S)

    def forget(self, gone: Generation) -> None:
        """None of its workers lives."""
        gone.close()
        self.all.remove(gone)

    # -- one comes ---------------------------------------------------------------------------------------------------

    def on_ready(self, one: Generation) -> None:
        """One more of its workers accepts."""
        if not self.is_ending and one.phase is Phase.COMING:
            one.hurry()
            if one.is_up:
                self._take_over(one)

    def _take_over(self, new: Generation) -> None:
        """All its workers accept: from now on it serves, alone."""
        new.phase, self.coming = Phase.SERVING, None
        former, self.serving = self.serving, new
        new.tell_where(former.opened if self.is_up else [])
        if former is not new:
            former.phase = Phase.LEAVING
            former.send(LEAVE)
            self._close_unused(former.opened)
            self._log_as(new)
            logger.info("%s", Line("reloaded", generation=new.number, sessions_before=former.sessions))
            self._bound_the_past()
        else:
            logger.info("%s", Line("ready"))
        self.is_up = True
        self._done_reloading(self.status)

    def give_up(self, one: Generation) -> bool:
        """Its workers do not start; returns whether another serves."""
        self.coming = None
        if not self.is_up:
            return False
        one.end(MARGIN_S)
        self._close_unused(one.opened)
        self._refuse("the new configuration's workers do not start", "see what they logged")
        return True

    def _close_unused(self, sockets: Sequence[socket.socket]) -> None:
        passed = [one.sock for one in self._systemd.passed]
        for sock in sockets:
            if sock not in self.serving.opened and sock not in passed:
                sock.close()

    def _bound_the_past(self) -> None:
        leaving = [one for one in self.all if one.phase is Phase.LEAVING and one.kill_at is None]
        for one in leaving[:-MAX_LEAVING]:
            logger.warning("%s", Line("generation_drained", generation=one.number, sessions=one.sessions))
            one.end(MARGIN_S)

    # -- a reload ----------------------------------------------------------------------------------------------------

    def reload(self) -> None:
        """Have the configuration read again, and a generation come that serves by it."""
        if self.is_ending:
            self._turn_away()
            return
        if self.coming is not None:
            self._must_reload = True  # when the one that is under way has come or failed
            return
        self._systemd.reloading()
        self._askers.begin()
        try:
            config = load(self.serving.config.path)
            if config == self.serving.config:
                self.serving.certificates.renew()
                self.serving.send(RENEW)
                logger.info("%s", Line("reloaded", generation=self.serving.number))
                self._done_reloading(self.status)
            else:
                certificates = preflight(config)
                if certificates.digest != self.serving.certificates.digest:
                    certificates.require_unexpired()
                self._must_come_by = monotonic() + self._come_s
                self.coming = self.serving.next(config, certificates, self._systemd.passed)
                self.all.append(self.coming)
        except OperatorError as error:
            self._refuse(error.problem, error.remedy)
        except StoreUnavailable as error:
            self._refuse(str(error), error.remedy)
        except Exception:
            logger.exception("%s", Line("reload_crashed"))
            self._refuse("a bug", "see the log, and report it")

    def _refuse(self, problem: str, remedy: str) -> None:
        """One line; the old configuration lives on."""
        logger.error("%s", Line("reload_refused", error=problem, remedy=remedy))
        self._done_reloading(f"reload refused: {problem}"[: vigil.MAX_STATUS], problem, remedy)

    def _done_reloading(self, status: str, problem: str = "", remedy: str = "") -> None:
        self._systemd.ready(status)
        self._askers.answer(problem, remedy)
        if self._must_reload:
            self._must_reload = False
            self.reload()

    def _turn_away(self) -> None:
        self._askers.begin()
        self._askers.answer("the service is ending", "systemctl start gatepost")

    def _renew_certificates(self) -> None:
        try:
            if self.serving.certificates.renew():
                self.serving.send(RENEW)
                logger.info("%s", Line("certificate_changed"))
        except ConfigError as error:
            logger.error("%s", Line("certificate_refused", error=error.problem, remedy=error.remedy))  # noqa: TRY400
