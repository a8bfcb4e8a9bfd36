"""One server process of the lab: started in its own process group, watched until it answers, ended for certain.

Knows no protocol beyond "the first bytes a server sends", and no configuration.
"""

import abc
import grp
import os
import pwd
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

START_DEADLINE_S = 20.0  # a start takes a second; this leaves room for a machine busy with other work
STOP_DEADLINE_S = 10.0
GROUP_DEADLINE_S = 5.0  # for what the server started itself, once it is gone and they were killed
CHILD_GRACE_S = 1.0  # for them to end by themselves before that
POLL_S = 0.02
TAIL_LINES = 15
SERVICE_USER = "nobody"  # exists on every machine before any package, and owns nothing worth having


class LabError(Exception):
    """A server of the lab did not start, or did not do what was asked."""


class LabUnavailable(LabError):
    """This machine lacks programs that the lab runs; the text names them and the remedy."""


@dataclass(frozen=True, slots=True)
class Account:
    """The Unix account a server runs under."""

    uid: int
    gid: int
    user: str
    group: str

    @classmethod
    def current(cls) -> "Account":
        """Return the account this process has."""
        return cls._of(pwd.getpwuid(os.geteuid()), os.getegid())

    @classmethod
    def for_servers(cls) -> "Account":
        """Return the unprivileged account for servers: our own, unless we are root."""
        if os.geteuid() != 0:
            return cls.current()
        entry = pwd.getpwnam(SERVICE_USER)
        return cls._of(entry, entry.pw_gid)

    @classmethod
    def _of(cls, entry: pwd.struct_passwd, gid: int) -> "Account":
        return cls(entry.pw_uid, gid, entry.pw_name, grp.getgrgid(gid).gr_name)

    def own(self, path: Path) -> None:
        """Make a file or directory this account's."""
        if os.geteuid() == 0:
            os.chown(path, self.uid, self.gid)

    def reaches(self, *paths: Path) -> bool:
        """Tell whether the account may read these files: a checkout or venv below /root is closed to it."""
        if self.uid == os.geteuid():
            return True
        for path in map(Path.resolve, paths):
            if not path.stat().st_mode & stat.S_IROTH:
                return False
            if not all(parent.stat().st_mode & stat.S_IXOTH for parent in path.parents):
                return False
        return True


class Server:
    """A child process with a log file. It can be started again after it was stopped.

    lingerer    how the command ends of a child that the server waits for long after all work is done; "" for none
    """

    def __init__(self, name: str, *, log_file: Path, pid_directory: Path, account: Account, lingerer: str = "") -> None:
        self.name = name
        self.log_file = log_file
        self._pid_file = pid_directory / name
        self._account = account
        self._lingerer = lingerer
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def is_running(self) -> bool:
        """Whether the process lives."""
        return self._child is not None and self._child.poll() is None

    def launch(self, command: Sequence[str | Path], *, cwd: Path, env: Mapping[str, str] | None = None) -> None:
        """Start the process and return at once."""
        if self.is_running:
            raise LabError(f"{self.name} is running already")
        is_root = os.geteuid() == 0
        with self.log_file.open("ab") as log:
            self._account.own(self.log_file)
            self._child = subprocess.Popen(
                [str(word) for word in command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=cwd,
                env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", "HOME": str(cwd), **(env or {})},
                start_new_session=True,  # its own group, and deaf to Ctrl-C: the lab ends it in order
                user=self._account.uid if is_root else None,
                group=self._account.gid if is_root else None,
                extra_groups=[] if is_root else None,
            )
        self._pid_file.write_text(f"{self._child.pid} {start_ticks(self._child.pid)}")

    def wait_until(self, is_ready: Callable[[], bool]) -> None:
        """Poll until `is_ready`; raises LabError, with the log's end, when the process dies or the deadline passes."""
        deadline = time.monotonic() + START_DEADLINE_S
        while not is_ready():
            if not self.is_running:
                status = self._child.returncode if self._child else "never started"
                raise LabError(self._failure(f"ended at once (status {status})"))
            if time.monotonic() > deadline:
                raise LabError(self._failure(f"did not answer within {START_DEADLINE_S:.0f} s"))
            time.sleep(POLL_S)

    def stop(self) -> None:
        """End the process and everything it started, and wait for it; does nothing if it is not running."""
        child, self._child = self._child, None
        if child is None:
            return
        if child.poll() is None:
            child.terminate()
            deadline = time.monotonic() + STOP_DEADLINE_S
            while child.poll() is None and self._has_work(child.pid) and time.monotonic() < deadline:
                time.sleep(POLL_S)
        self._bury(child, CHILD_GRACE_S)

    def kill(self) -> None:
        """End the process and everything it started by force: for the end of the lab, when nothing is worth saving."""
        child, self._child = self._child, None
        if child is not None:
            self._bury(child)

    def _has_work(self, leader: int) -> bool:
        if not self._lingerer:
            return True
        others = (pid for pid in group_members(leader) if pid != leader)
        return any(not _command(pid).endswith(self._lingerer) for pid in others)

    def _bury(self, child: subprocess.Popen[bytes], grace_s: float = 0) -> None:
        if child.poll() is None:
            child.kill()
            child.wait(STOP_DEADLINE_S)
        end_group(child.pid, grace_s)
        self._pid_file.unlink(missing_ok=True)

    def log(self) -> str:
        """Return what the server has logged so far."""
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    def _failure(self, what: str) -> str:
        tail = "\n".join(f"    {line}" for line in self.log().splitlines()[-TAIL_LINES:]) or "    (nothing)"
        return (
            f"lab: {self.name} {what}. The last lines of its log:\n{tail}\n"
            "What to do: run `make lab` (it repairs what is missing) and try again; "
            "`python -m tests.lab` starts a lab by hand."
        )


class Part(abc.ABC):
    """A part of the lab that can be taken away and come back on the same port."""

    server: Server

    @abc.abstractmethod
    def launch(self) -> None:
        """Write the configuration and start the server, without waiting for it."""

    @abc.abstractmethod
    def await_ready(self) -> None:
        """Wait until the launched server answers."""

    def start(self) -> None:
        """Start the server and wait until it answers."""
        self.launch()
        self.await_ready()

    def stop(self) -> None:
        """End the server, and wait until it and its children are gone."""
        self.server.stop()

    @property
    def is_running(self) -> bool:
        """Whether the server's process lives."""
        return self.server.is_running


def greets(port: int, greeting: bytes) -> bool:
    """Tell whether the server on a loopback port says `greeting` first."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
            return connection.recv(len(greeting), socket.MSG_WAITALL) == greeting
    except OSError:
        return False


def start_ticks(pid: int) -> str:
    """Return when a process started, in clock ticks since boot, or "" if it is gone; pid and start name it for good."""
    try:
        # The second field, the command's name, may hold spaces and parentheses; the rest follows its last ")".
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return fields[19]


def group_members(group: int) -> list[int]:
    """Return the living processes (zombies are not) of a process group."""
    members = []
    for entry in Path("/proc").iterdir():  # glob looks at what it found, and raises if that is gone
        if not entry.name.isdigit():
            continue
        try:
            pid, _, rest = (entry / "stat").read_text().partition(" (")
        except OSError:
            continue
        state, _, its_group = rest.rpartition(")")[2].split()[:3]
        if its_group == str(group) and state != "Z":
            members.append(int(pid))
    return members


def end_group(group: int, grace_s: float = 0) -> None:
    """End what is left of a process group, politely at first if `grace_s` is given, and return when it is empty."""
    for number, patience_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, GROUP_DEADLINE_S)):
        deadline = time.monotonic() + patience_s
        while group_members(group) and time.monotonic() < deadline:
            try:
                os.killpg(group, number)
            except ProcessLookupError:
                return
            time.sleep(POLL_S)


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace").strip("\0 ")
    except OSError:
        return ""
