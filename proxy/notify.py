"""What a service and systemd tell each other: sd_notify(3), sd_listen_fds(3), sd_watchdog_enabled(3); no library.

Knows nothing of Gatepost. Without systemd every call is harmless: nothing is sent, and no socket was passed.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import MutableMapping
from dataclasses import dataclass
from time import CLOCK_MONOTONIC, clock_gettime_ns

FIRST_PASSED = 3  # SD_LISTEN_FDS_START
_OURS = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES")


@dataclass(frozen=True, slots=True)
class Passed:
    """A socket that systemd opened for us; `name` is its FileDescriptorName, by default that of the socket unit."""

    sock: socket.socket
    name: str


@dataclass(frozen=True, slots=True)
class Manager:
    """The service manager as this process sees it.

    address         where messages go; None without a manager
    watchdog_s      it ends us after so long without alive(); None if it does not look
    passed          listening sockets, in the order of the units
    """

    address: str | bytes | None = None
    watchdog_s: float | None = None
    passed: tuple[Passed, ...] = ()

    def ready(self, status: str = "") -> None:
        """Started, or done with a reload."""
        self._send(f"READY=1\nSTATUS={status}" if status else "READY=1")

    def reloading(self) -> None:
        # systemd.service(5), Type=notify-reload: it must be later than the signal, by the same clock.
        self._send(f"RELOADING=1\nMONOTONIC_USEC={clock_gettime_ns(CLOCK_MONOTONIC) // 1000}")

    def stopping(self, status: str = "") -> None:
        self._send(f"STOPPING=1\nSTATUS={status}" if status else "STOPPING=1")

    def status(self, text: str) -> None:
        """One line for `systemctl status`."""
        self._send(f"STATUS={text}")

    def alive(self) -> None:
        self._send("WATCHDOG=1")

    def _send(self, message: str) -> None:
        if self.address is None:
            return
        # A manager that is gone or does not keep up must not stop the service: it will notice by itself.
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            sock.sendto(message.encode(), self.address)


def manager(environment: MutableMapping[str, str] = os.environ, first: int = FIRST_PASSED) -> Manager:
    """What the environment says, which is taken out of it: programs that we start are not the service.

    first   the descriptor of the first socket
    """
    said = {name: environment.pop(name, "") for name in _OURS}
    address: str | bytes | None = said["NOTIFY_SOCKET"] or None
    if address is not None and said["NOTIFY_SOCKET"].startswith("@"):
        address = b"\0" + os.fsencode(said["NOTIFY_SOCKET"][1:])  # unix(7): an abstract socket
    me = str(os.getpid())
    watchdog_s = None
    if said["WATCHDOG_USEC"].isdecimal() and said["WATCHDOG_PID"] in ("", me):
        watchdog_s = int(said["WATCHDOG_USEC"]) / 1_000_000
    is_ours = said["LISTEN_PID"] == me and said["LISTEN_FDS"].isdecimal()
    count = int(said["LISTEN_FDS"]) if is_ours else 0
    names = said["LISTEN_FDNAMES"].split(":")
    names += [""] * (count - len(names))
    return Manager(address, watchdog_s, tuple(_passed(first + number, names[number]) for number in range(count)))


def _passed(descriptor: int, name: str) -> Passed:
    os.set_inheritable(descriptor, False)  # forked workers keep it; programs that they run do not get it
    sock = socket.socket(fileno=descriptor)  # finds out its family and type
    sock.setblocking(False)
    return Passed(sock, name)
