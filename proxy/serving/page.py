"""The web page's process beside the workers, `gatepost serve --web-only`: started, replaced, ended by the supervisor.

A program of its own and not a fork: nothing of the master key that the supervisor has looked at is in its memory. It
ends when its standard input does, which is a pipe that the supervisor alone holds open. The configuration that was
checked is given to it, as the workers have it; the file may have become another, or no good one.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path
from time import monotonic

from proxy.config import Config
from proxy.config.reader import load
from proxy.logs import Line

logger = logging.getLogger("gatepost.workers")

SOON_S = 10.0  # one that lived for less is not replaced at once
PAUSE_S = (1.0, 60.0)  # before its replacement: at first, doubled each time, at last
STOP_S = 15.0  # longer than the page gives to answers under way
# What systemd gave to the supervisor for itself alone.
_NOT_PASSED = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")
# In its environment: standard input ends with the supervisor, and this descriptor has the configuration's text.
SUPERVISED = "GATEPOST_SUPERVISED"


def given(path: Path) -> Config:
    """In the page's own process: the configuration that the supervisor runs by; without one, the file's.

    raises  ConfigError
    """
    descriptor = os.environ.get(SUPERVISED)
    if descriptor is None or int(descriptor) <= 2:  # 1: of a supervisor older than this code, which passes no text
        return load(path)
    with os.fdopen(int(descriptor), "rb") as stream:
        return load(path, stream.read())


class Page:
    """The process, if the configuration wants one. Owned by the supervisor; never blocks."""

    def __init__(self, supervised: int) -> None:
        """`supervised` is the pipe's end to read from."""
        self._supervised = supervised
        self._process: subprocess.Popen[bytes] | None = None
        self._config: Config | None = None  # what the running one was started with
        self._started_at = self._start_at = 0.0
        self._deaths = 0  # in a row, each soon after the start
        self._kill_at: float | None = None

    @property
    def is_running(self) -> bool:
        return self._process is not None

    def keep(self, config: Config) -> None:
        """Once a turn: reap it, start it, or have it start anew for another configuration."""
        self._reap()
        if self._process is None:
            if config.web is not None and monotonic() >= self._start_at:
                self._start(config)
        elif config != self._config:
            self.stop()

    def stop(self) -> None:
        """Ask it to end, and see to it. Told again, it does not mind."""
        self._reap()
        if self._process is None:
            return
        if self._kill_at is None:
            self._kill_at = monotonic() + STOP_S
            self._process.terminate()
        elif monotonic() >= self._kill_at:
            self._process.kill()

    def disown(self) -> None:
        """In a new worker: it is not ours."""
        if self._process is not None:
            self._process.returncode = 0  # else Popen would complain of a child that nobody waited for

    def _start(self, config: Config) -> None:
        command = [sys.executable, "-m", "proxy", "serve", "--web-only", "--config", str(config.path)]
        environment = {key: value for key, value in os.environ.items() if key not in _NOT_PASSED}
        self._started_at = monotonic()
        try:
            with os.fdopen(os.memfd_create("gatepost.toml"), "w+b") as text:
                text.write(config.text)
                text.seek(0)
                environment[SUPERVISED] = str(text.fileno())
                self._process = subprocess.Popen(  # noqa: S603 - ourselves
                    command, stdin=self._supervised, env=environment, pass_fds=[text.fileno()]
                )
        except OSError as error:
            self._put_off()
            logger.error("%s", Line("web_not_started", error=error.strerror))  # noqa: TRY400
            return
        self._config, self._kill_at = config, None

    def _reap(self) -> None:
        if self._process is None or self._process.poll() is None:
            return
        status, was_told = self._process.returncode, self._kill_at is not None
        self._process = self._kill_at = None
        if was_told:
            self._start_at = 0.0
            return
        self._put_off()
        logger.error("%s", Line("web_died", status=status))

    def _put_off(self) -> None:
        first_s, last_s = PAUSE_S
        self._deaths = self._deaths + 1 if monotonic() - self._started_at < SOON_S else 1
        self._start_at = monotonic() + min(first_s * 2 ** min(self._deaths - 1, 16), last_s)
