"""Which schema a database has, and how it gets the one this code needs. Alembic is imported only to change one."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, inspect, text

from proxy.errors import StoreError
from proxy.store.engine import Database, name_of, sqlite_file
from proxy.store.faults import PERMIT, RESTORE, UPGRADE
from proxy.store.schema import HEAD

if TYPE_CHECKING:
    from sqlalchemy import URL

EMPTY = ""  # the version of a database without tables
MIGRATION_WAIT_S = 60.0  # another process may be migrating now
PG_LOCK = 0x6761_7465_706F_7374  # "gatepost": the advisory lock that migrations hold

_alembic = threading.Lock()  # alembic.context is one per process


def require_file(url: URL) -> None:
    """Raise StoreError unless a SQLite database is a file that this process may write."""
    file = sqlite_file(url)
    if file is None:
        return
    try:
        if not file.is_file():
            raise StoreError(
                f"{file} does not exist", "correct [store] url, put the file back, or gatepost restore a backup"
            )
    except OSError as error:
        raise StoreError(f"{file} cannot be opened: {error.strerror}", PERMIT) from None
    # SQLite would open what it may only read, and fail at the first login that it should record.
    if not os.access(file, os.R_OK | os.W_OK) or not os.access(file.parent, os.W_OK | os.X_OK):
        raise StoreError(f"{file} cannot be written", PERMIT)


def version(connection: Connection, name: str) -> str:
    """The schema's version, EMPTY for a database without tables.

    name    the database in messages
    raises  StoreError for somebody else's database, and for one of a newer Gatepost
    """
    tables = inspect(connection).get_table_names()
    if not tables:
        return EMPTY
    if "alembic_version" not in tables or "login_name" not in tables:
        raise StoreError(f"{name} holds something else", "give Gatepost a database of its own")
    found = connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one_or_none() or EMPTY
    if found > HEAD:  # revisions are numbers of four digits
        raise StoreError(
            f"{name} was written by a newer Gatepost (schema {found}, this one knows {HEAD})",
            "install that version, or restore a backup made before it",
        )
    return found


def upgrade(url: URL) -> tuple[str, str]:
    """Bring the schema to HEAD, or find it there. One process does it, others wait, in one transaction.

    returns (version before, version now)
    raises  StoreError, StoreUnavailable; the database is then as it was
    """
    require_file(url)
    database = Database(url, wait_s=MIGRATION_WAIT_S, foreign_keys=False)
    try:
        with database.write() as connection:
            if not database.is_sqlite:
                connection.execute(text("SET LOCAL statement_timeout = 0"))
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": PG_LOCK})
            found = version(connection, database.name)
            if found != HEAD:
                _run(connection)
                if database.is_sqlite and connection.exec_driver_sql("PRAGMA foreign_key_check").first():
                    raise StoreError(f"{database.name} has rows that belong to nothing", RESTORE)
            return found, HEAD
    finally:
        database.close()


def create(url: URL) -> None:
    """Make the database: a new SQLite file (0600), or the tables in an empty one or in an empty PostgreSQL database.

    raises  StoreError if it holds anything already, or the directory is missing; nothing is then left behind
    """
    file = sqlite_file(url)
    is_ours = _make_file(file) if file else False
    try:
        found, _ = upgrade(url)
    except BaseException:
        if file and is_ours:
            _remove(file)
        raise
    if found != EMPTY:
        raise StoreError(f"{name_of(url)} holds Gatepost's tables already", "use it as it is, or name another")


def _make_file(file: Path) -> bool:
    """Make an empty file of mode 0600; False if there is one."""
    try:
        # The mode is given at the birth of the file; SQLite gives its -wal and -shm the same.
        os.close(os.open(file, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    except FileExistsError:
        return False
    except FileNotFoundError:
        raise StoreError(
            f"the directory {file.parent} does not exist", "make it, or let gatepost init make one"
        ) from None
    except OSError as error:
        raise StoreError(f"{file} cannot be made: {error.strerror}", PERMIT) from None
    return True


def _remove(file: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        Path(f"{file}{suffix}").unlink(missing_ok=True)


def _run(connection: Connection, to: str = "head") -> None:
    from alembic import command  # noqa: PLC0415 - 0.4 s that only a migration pays
    from alembic.config import Config  # noqa: PLC0415

    config = Config()
    directory = str(Path(__file__).parent / "migrations")
    config.set_main_option("script_location", directory.replace("%", "%%"))  # configparser's escape
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    with _alembic:
        command.upgrade(config, to)


def require(found: str, name: str) -> None:
    """Raise StoreError with the remedy unless `found` is what this code needs."""
    if found != HEAD:
        state = f"has schema {found}, this Gatepost needs {HEAD}" if found else "has no tables yet"
        raise StoreError(f"{name} {state}", UPGRADE)
