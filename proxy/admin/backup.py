"""`gatepost backup` and `restore`: the whole store in one file, written whole or not at all, and back."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from proxy import __version__
from proxy.admin.desk import Desk
from proxy.errors import ConfigError, OperatorError

if TYPE_CHECKING:
    from proxy.store.archive import Written  # SQLAlchemy

BUFFER_BYTES = 1_048_576


@dataclass(frozen=True, slots=True)
class Kept:
    """A backup that was made or restored.

    rows        how many, by table
    masters     ids of the master keys that open what is sealed in it, newest first
    has_master  whether the configured master key is the newest of them; None if it can't be read by who asks
    """

    file: Path
    schema: str
    made_at: str
    made_by: str
    rows: dict[str, int]
    sha256: str
    masters: tuple[str, ...]
    has_master: bool | None


def backup(desk: Desk, file: Path) -> Kept:
    """Write everything into a new file (0600), while servers go on.

    raises  OperatorError: the file exists, the directory can't be written, the disk is full; nothing is then left
    """
    with _new_file(file) as out:
        written = desk.store.backups.write(out, __version__)
    desk.store.backups.wrote(written)
    return _kept(desk, file, written)


def restore(desk: Desk, file: Path) -> Kept:
    """Put a backup into the configured store, which must be new. All or nothing.

    raises  OperatorError: the file can't be read, is none, is damaged, or the store is in use
    """
    try:
        with file.open("rb", buffering=BUFFER_BYTES) as source:
            written = desk.store.backups.restore(source, str(file))
    except OSError as error:
        raise OperatorError(
            f"cannot read {file}: {error.strerror or error}", "name a file that gatepost backup made"
        ) from None
    return _kept(desk, file, written)


def resume_restored(desk: Desk) -> int:
    """Let all app passwords work again that a restore suspended. Returns how many."""
    return desk.store.backups.resume_restored()


def _kept(desk: Desk, file: Path, written: Written) -> Kept:
    head = written.head
    return Kept(
        file,
        head.schema,
        head.made_at,
        head.made_by,
        dict(written.rows),
        written.sha256,
        head.masters,
        _has_master(desk, head.masters),
    )


def _has_master(desk: Desk, masters: tuple[str, ...]) -> bool | None:
    from proxy.vault.sealing import load_master  # noqa: PLC0415 - cryptography

    try:
        return bool(masters) and masters[0] in load_master(desk.config.keys.master.read()).key_ids
    except ConfigError:
        return None


@contextlib.contextmanager
def _new_file(file: Path) -> Iterator[BinaryIO]:
    """A file that is there when it is whole and on the disk, and private from its first byte. Never replaces one."""
    beside = file.with_name(f".{file.name}.part")
    try:
        if os.path.lexists(file):
            raise OperatorError(f"{file} exists already, and backup never overwrites", "name another file")
        beside.unlink(missing_ok=True)  # of a backup that was killed
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        try:
            with os.fdopen(descriptor, "wb", buffering=BUFFER_BYTES) as out:
                yield out
                out.flush()
                os.fsync(out.fileno())
            os.link(beside, file)  # unlike a rename it refuses to replace a file that came meanwhile
        finally:
            beside.unlink(missing_ok=True)
        _sync(file.absolute().parent)
    except OSError as error:
        raise OperatorError(
            f"cannot write {file}: {error.strerror or error}", "name a new file in a directory with room"
        ) from None


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
