"""A booted systemd: a minimal Debian in systemd-nspawn, with Gatepost installed there from the built wheel.

The container has a network of its own, with loopback alone. `Box.network()` puts the calling thread into it, so that
sockets and threads that a test makes then are the container's.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
UNITS = ROOT / "systemd"
BOOT_S = 60.0
COMMAND_S = 120.0
PATIENCE_S = 60.0
BASE_S = 900.0
CLONE_NEWNET = 0x40000000  # sched.h
_MACHINE = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)  # the network that the tests were started in
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class BoxUnavailable(Exception):
    """What is missing here, and how to get it."""


@contextlib.contextmanager
def or_skipped() -> Iterator[None]:
    """Skip where nothing can be booted: that takes rights and a kernel that no installation gives."""
    try:
        yield
    except BoxUnavailable as error:
        pytest.skip(str(error))


class Box:
    """A running container; `run` executes in it, `root` is its file system as seen from here.

    directory   one of this machine that it sees as /mnt
    """

    def __init__(self, init: int, directory: Path) -> None:
        self._init = init
        self.directory = directory
        self.root = Path(f"/proc/{init}/root")

    def run(self, *words: str, stdin: str = "", code: int | None = 0) -> str:
        """What a command in the container printed. `code` is the exit status that is right, None for any."""
        done = subprocess.run(
            ["nsenter", "-a", "-t", str(self._init), "--", "env", "-i", f"PATH={_PATH}", "LANG=C.UTF-8", *words],
            check=False, input=stdin, capture_output=True, text=True, timeout=COMMAND_S,
        )  # fmt: skip
        assert code is None or done.returncode == code, (words, done.returncode, done.stdout[-2000:], done.stderr)
        return done.stdout if done.returncode == 0 else done.stderr

    def shell(self, script: str) -> str:
        return self.run("bash", "-euo", "pipefail", "-c", script)

    def signal(self, name: str, pid: int | str) -> None:
        self.shell(f"kill -{name} {pid}")  # the shell's own: there is no procps

    def show(self, *names: str, unit: str = "gatepost.service") -> list[str]:
        """Properties of a unit, in their order."""
        said = self.run("systemctl", "show", unit, *(f"--property={name}" for name in names))
        found = dict(line.split("=", 1) for line in said.splitlines())
        return [found[name] for name in names]

    def journal(self, *words: str) -> str:
        self.run("journalctl", "--sync")
        return self.run("journalctl", "--unit=gatepost", "--output=cat", "--no-pager", *words)

    def until(self, claim: str, is_so: Callable[[], object]) -> None:
        """Wait until a function returns something true."""
        end = time.monotonic() + PATIENCE_S
        while not is_so():
            assert time.monotonic() < end, f"never: {claim}\n{self.journal()[-3000:]}"
            time.sleep(0.05)

    @contextlib.contextmanager
    def network(self) -> Iterator[None]:
        """This thread, and those it starts meanwhile, are in the container's network."""
        with Path("/proc/thread-self/ns/net").open() as ours, Path(f"/proc/{self._init}/ns/net").open() as theirs:
            _enter(theirs.fileno())
            try:
                yield
            finally:
                _enter(ours.fileno())


@contextlib.contextmanager
def outside() -> Iterator[None]:
    """This thread is in the machine's own network, whatever `Box.network` it was in."""
    with Path("/proc/thread-self/ns/net").open() as now:
        _enter(_MACHINE)
        try:
            yield
        finally:
            _enter(now.fileno())


def _enter(namespace: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(namespace, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def require() -> None:
    """Raises BoxUnavailable."""
    if not os.environ.get("GATEPOST_SYSTEMD"):
        raise BoxUnavailable("boots a container, which CI does by a target of its own: make test-systemd")
    if os.geteuid() != 0:
        raise BoxUnavailable("not root: booting a container needs it; run as root, CI does")
    missing = [name for name in ("systemd-nspawn", "mmdebstrap", "nsenter") if shutil.which(name) is None]
    if missing:
        raise BoxUnavailable(f"missing: {', '.join(missing)}; make test-systemd installs them")


def base() -> Path:
    """The file system that is booted, made once and kept in the temporary folder. Raises BoxUnavailable."""
    home = Path(tempfile.gettempdir()) / "gatepost-systemd"
    home.mkdir(mode=0o700, exist_ok=True)
    if home.is_symlink() or home.stat().st_uid != 0:
        raise BoxUnavailable(f"{home} is not root's: remove it, and it is made anew")
    done = subprocess.run(
        [ROOT / "tests" / "systemd" / "base.sh", home / "root"],
        check=False, cwd=ROOT, capture_output=True, text=True, timeout=BASE_S,
    )  # fmt: skip
    if done.returncode != 0:
        raise BoxUnavailable(f"no Debian to boot: {done.stderr.strip()[-500:]}")
    return home / "root"


@contextlib.contextmanager
def booted(root: Path, directory: Path) -> Iterator[Box]:
    """Boot a copy of it that is gone afterwards. Raises BoxUnavailable."""
    log = directory / "boot.log"
    with log.open("wb") as output, subprocess.Popen(
        [
            "systemd-nspawn", "--quiet", "--boot", f"--directory={root}", "--volatile=overlay", "--private-network",
            "--register=no", "--keep-unit", f"--machine=gatepost-{os.getpid()}", f"--bind-ro={directory}:/mnt",
            "--console=pipe",
        ],
        stdin=subprocess.DEVNULL, stdout=output, stderr=output,
    ) as nspawn:  # fmt: skip
        try:
            yield _await_boot(nspawn, log, directory)
        finally:
            nspawn.send_signal(signal.SIGTERM)  # a clean shutdown of the container
            try:
                nspawn.wait(30)
            except subprocess.TimeoutExpired:
                nspawn.kill()


def _await_boot(nspawn: subprocess.Popen[bytes], log: Path, directory: Path) -> Box:
    end = time.monotonic() + BOOT_S
    while time.monotonic() < end and nspawn.poll() is None:
        for init in _children(nspawn.pid):
            box = Box(init, directory)
            with contextlib.suppress(AssertionError, OSError, subprocess.TimeoutExpired):
                if box.run("systemctl", "show", "--property=SystemState", "--value").strip() in ("running", "degraded"):
                    return box
        time.sleep(0.1)
    nspawn.kill()
    raise BoxUnavailable(f"nothing boots here: {log.read_text(errors='replace').strip()[-500:]}")


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
