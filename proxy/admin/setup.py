"""`gatepost init`, a first set-up in one directory, and `gatepost db upgrade`."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from proxy.admin.desk import node_of
from proxy.admin.first_config import FIRST_CONFIG
from proxy.config import Config, reader
from proxy.config.reader import load
from proxy.errors import ConfigError, OperatorError
from proxy.store.audit_rows import Actor

EXAMPLE = "gatepost.example.toml"
CERTIFICATE, KEY, MASTER, DATABASE = "cert.pem", "key.pem", "master.key", "gatepost.db"


@dataclass(frozen=True, slots=True)
class Setup:
    """A set-up that was made. `files` are absolute, the configuration first."""

    config: Path
    files: tuple[Path, ...]
    names: tuple[str, ...]  # that the certificate is for


def init(config: Path, now: datetime, by: str) -> Setup:
    """Make a working set-up in the directory of `config`, which is made if it is missing: all of it or nothing.

    by      whose deed the audit will tell of, for example "cli:root"
    raises  OperatorError if any of the files exists (none is ever overwritten), or the directory can't be written
    """
    directory = Path(os.path.abspath(config.parent))  # noqa: PTH100 - links stay as the operator named them
    names = (config.name, MASTER, DATABASE, CERTIFICATE, KEY)
    for name in names:
        if os.path.lexists(directory / name):
            raise OperatorError(
                f"{directory / name} exists already, and init never overwrites", "name another directory, or move it"
            )
    hosts = host_names()
    try:
        with contextlib.ExitStack() as undo:
            _make_directory(directory, undo)
            workshop = Path(tempfile.mkdtemp(prefix=".init-", dir=directory))  # 0700
            try:
                _make_files(workshop, config.name, hosts, now, by)
                for name in names:
                    # Unlike a rename, a link refuses to replace a file that came meanwhile.
                    os.link(workshop / name, directory / name)
                    undo.callback((directory / name).unlink, missing_ok=True)
            finally:
                shutil.rmtree(workshop, ignore_errors=True)
            undo.pop_all()
    except OSError as error:
        raise OperatorError(
            f"cannot set up {directory}: {error.strerror or error}", "name a directory that this user may write"
        ) from None
    return Setup(directory / config.name, tuple(directory / name for name in names), hosts)


def _make_directory(directory: Path, undo: contextlib.ExitStack) -> None:
    for path in reversed((directory, *directory.parents)):
        if not path.is_dir():
            path.mkdir(mode=0o755)
            undo.callback(_remove_empty, path)


def _remove_empty(directory: Path) -> None:
    with contextlib.suppress(OSError):  # somebody else put something in
        directory.rmdir()


def _make_files(workshop: Path, config_name: str, hosts: tuple[str, ...], now: datetime, by: str) -> None:
    from proxy.store.store import Store  # noqa: PLC0415 - SQLAlchemy, Alembic
    from proxy.vault.certificate import self_signed  # noqa: PLC0415 - cryptography
    from proxy.vault.files import write_private  # noqa: PLC0415 - with the others
    from proxy.vault.sealing import generate_master  # noqa: PLC0415 - cryptography

    (workshop / config_name).write_text(FIRST_CONFIG, encoding="utf-8")
    config = load(workshop / config_name)
    text, master = generate_master()
    write_private(workshop / MASTER, text)
    certificate, key = self_signed(hosts, now)
    (workshop / CERTIFICATE).write_bytes(certificate)
    write_private(workshop / KEY, key)
    store = Store.create(config.store.url, actor=Actor(by, node_of(config)))
    try:
        store.add_master(master)
    finally:
        store.close()  # the last connection takes the -wal file into the database
    (workshop / DATABASE).chmod(0o600)


def host_names() -> tuple[str, ...]:
    """What this host may be reached as, without asking the network."""
    own = socket.gethostname()
    return tuple(dict.fromkeys(name for name in (own, "localhost", "127.0.0.1", "::1") if name))


def example_file() -> Path:
    """The example that shows every key: in an installed wheel, else in the checkout."""
    shipped = Path(reader.__file__).parent / EXAMPLE
    return shipped if shipped.is_file() else shipped.parents[2] / "config" / EXAMPLE


@dataclass(frozen=True, slots=True)
class Upgraded:
    """What `db upgrade` did. Versions are four digits; `before` is "" for a database that was empty."""

    before: str
    now: str
    master: str  # key id of the master that deposits are sealed to; "" if none is known yet


def upgrade(config: Config, by: str) -> Upgraded:
    """Bring the database to this version's schema; tell an empty store the master's public half.

    raises  StoreError, StoreUnavailable
    """
    from proxy.store.store import Store  # noqa: PLC0415 - SQLAlchemy, Alembic

    before, now = Store.upgrade(config.store.url)
    store = Store.open(config.store.url, migrate=False, actor=Actor(by, node_of(config)))
    try:
        known = store.masters()
        if not known:
            from proxy.vault.sealing import load_master  # noqa: PLC0415 - cryptography

            # Whoever may migrate need not be whoever may read the key: the caller says what is left to do.
            with contextlib.suppress(ConfigError):
                store.add_master(load_master(config.keys.master.read()).newest_public(datetime.now(UTC)))
                known = store.masters()
        return Upgraded(before, now, known[0].key_id if known else "")
    finally:
        store.close()
