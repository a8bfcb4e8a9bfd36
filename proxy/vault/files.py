"""Secret files on disk, written private from their first byte."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from proxy.secret import Secret


def write_private(path: Path, secret: Secret) -> None:
    """Write a new file that its owner alone can read (0600), through to the disk.

    raises  FileExistsError rather than touch a file that is there, OSError as the system says
    """
    _write(path, secret, 0o600)


def replace_private(path: Path, secret: Secret) -> None:
    """Put another text in place of a private file's, at once and whole, through to the disk.

    The owner stays, and the mode but for what it allowed to everybody. A crash leaves the one text or the other;
    what it may leave beside it, just as private, goes with the next call. One caller at a time: see alone_in.

    raises  OSError as the system says
    """
    path = Path(os.path.realpath(path))  # a link keeps pointing where it does
    before = path.stat()
    beside = path.with_name(f".{path.name}.new")
    beside.unlink(missing_ok=True)
    _write(beside, secret, stat.S_IMODE(before.st_mode) & 0o660, (before.st_uid, before.st_gid))
    beside.replace(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _write(path: Path, secret: Secret, mode: int, owner: tuple[int, int] | None = None) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        if owner is not None:  # before anything is in it
            os.fchown(file.fileno(), *owner)
        # The umask may have taken bits away, which a service that must read its own key would not forgive.
        os.fchmod(file.fileno(), mode)
        file.write(secret.reveal().rstrip("\n").encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def hand_over(secret: Secret, stream: TextIO) -> None:
    """Write it to a pipe or file. Raises OSError, or ValueError for a terminal, in whose history it would stay."""
    if stream.isatty():
        raise ValueError("a terminal")
    stream.write(secret.reveal() + "\n")
    stream.flush()


@contextlib.contextmanager
def alone_in(directory: Path) -> Iterator[bool]:
    """Whether this process is the only one here in this directory, for as long as it lasts; the lock dies with it.

    raises  OSError as the system says
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)
