"""The connection to the database: URLs, pragmas, read and write transactions. Knows no table.

Reads run in autocommit, each one SELECT; writes are one transaction each, on SQLite a BEGIN IMMEDIATE, so that two
writers queue at the start and none fails half-way.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.pool import ConnectionPoolEntry

from proxy.errors import StoreError, StoreUnavailable
from proxy.store.faults import translated

if TYPE_CHECKING:
    from sqlalchemy.engine.interfaces import DBAPIConnection, DBAPICursor

POOL_SIZE = 8  # StorePool's threads, and some for direct callers
WAL_TRIES = 20
FORMS = 'it is "sqlite:////path/of/gatepost.db" or "postgresql://user@host/name"'


def parse_url(url: str) -> URL:
    """Read the `[store] url`.

    returns a URL with the driver filled in: sqlite, or postgresql+psycopg
    raises  StoreError, without repeating the text: it may hold a password
    """
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise StoreError("[store] url cannot be read", FORMS) from None
    if parsed.drivername in ("postgresql", "postgresql+psycopg"):
        return parsed.set(drivername="postgresql+psycopg")
    if parsed.drivername in ("sqlite", "sqlite+pysqlite"):
        if not parsed.database or parsed.database == ":memory:" or parsed.query:
            raise StoreError("[store] url must name a plain SQLite file", FORMS)
        return parsed.set(drivername="sqlite")
    raise StoreError(f"[store] url names {parsed.drivername}, which is not supported", FORMS)


def sqlite_file(url: URL) -> Path | None:
    """The database file, or None for a server."""
    return Path(url.database or "") if url.drivername == "sqlite" else None


def name_of(url: URL) -> str:
    """The database as messages name it: a path, or the URL without its password."""
    file = sqlite_file(url)
    return str(file) if file else url.render_as_string(hide_password=True).replace("+psycopg", "", 1)


class Database:
    """Two views of one engine: `read()` and `write()`. Every SQLAlchemy exception is translated here.

    wait_s          how long a lock, or a connection, is waited for
    foreign_keys    off only for migrations: SQLite copies a table to alter it, and dropping the old one must not
                    take the rows that refer to it
    """

    def __init__(self, url: URL, *, wait_s: float, foreign_keys: bool = True) -> None:
        self.name = name_of(url)
        self.is_sqlite = sqlite_file(url) is not None
        self._engine = _sqlite(url, wait_s, foreign_keys) if self.is_sqlite else _postgresql(url, wait_s)
        self._reading, self._writing = self._engine, self._engine
        if self.is_sqlite:
            self._writing = self._engine.execution_options()  # a view of its own, so that the listener is on it alone
            event.listen(self._writing, "begin", _begin_immediate)
        else:
            self._reading = self._engine.execution_options(isolation_level="AUTOCOMMIT")
        self._is_closed = False

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A connection in autocommit. Raises StoreUnavailable, StoreError."""
        with translated(self.name), self._open(self._reading).connect() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction: committed at the end, rolled back by any exception. Raises StoreUnavailable, StoreError."""
        with translated(self.name), self._open(self._writing).begin() as connection:
            yield connection

    @contextmanager
    def snapshot(self) -> Iterator[Connection]:
        """A transaction that only reads, sees one moment of the store, and may take its time. Raises as read()."""
        with translated(self.name), self._open(self._engine).connect() as connection:
            if self.is_sqlite:
                connection.exec_driver_sql("BEGIN")  # deferred: writers go on beside it
            else:
                connection = connection.execution_options(  # noqa: PLW2901 - the same connection
                    isolation_level="REPEATABLE READ", postgresql_readonly=True
                )
                connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
            yield connection

    def _open(self, engine: Engine) -> Engine:
        if self._is_closed:
            raise StoreUnavailable(f"{self.name}: closed")
        return engine

    def close(self) -> None:
        self._is_closed = True
        self._engine.dispose()


def _sqlite(url: URL, wait_s: float, foreign_keys: bool) -> Engine:
    # mode=rw: a connection never makes the file. A typing error in the URL must not give an empty store.
    target = url.set(database=f"file:{quote(url.database or '')}", query={"mode": "rw", "uri": "true"})
    engine = create_engine(
        target,
        connect_args={"timeout": wait_s},  # sqlite3's name for PRAGMA busy_timeout
        pool_size=POOL_SIZE,
        pool_timeout=wait_s,
        hide_parameters=True,
    )

    def prepare(connection: DBAPIConnection, entry: ConnectionPoolEntry) -> None:
        del entry
        # The driver's own transaction control begins late and DEFERRED: off, in every version of sqlite3.
        connection.isolation_level = None
        cursor = connection.cursor()
        try:
            _use_wal(cursor, name_of(url))
            cursor.execute("PRAGMA synchronous = FULL")  # a rotated token must survive a power cut
            cursor.execute(f"PRAGMA foreign_keys = {'ON' if foreign_keys else 'OFF'}")
            cursor.execute("PRAGMA trusted_schema = OFF")
        finally:
            cursor.close()

    event.listen(engine, "connect", prepare)
    return engine


def _use_wal(cursor: DBAPICursor, name: str) -> None:
    """Put the file into WAL mode, which it then keeps. Tries again only when others do the same at this moment."""
    for _ in range(WAL_TRIES):
        cursor.execute("PRAGMA journal_mode")
        if cursor.fetchone() == ("wal",):
            return
        try:
            cursor.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError:
            # This statement does not wait for a lock (7 of 900 tries failed, SQLite 3.40); a transaction does.
            cursor.execute("BEGIN IMMEDIATE")
            cursor.execute("ROLLBACK")
    raise StoreError(f"{name} cannot be put into WAL mode", "keep it on a local disk, or use PostgreSQL")


def _begin_immediate(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _postgresql(url: URL, wait_s: float) -> Engine:
    milliseconds = math.ceil(wait_s * 1000)
    defaults = {
        "connect_timeout": str(max(2, math.ceil(wait_s))),  # libpq takes no less than 2 s
        "tcp_user_timeout": str(milliseconds),  # a server that vanished without a word
        "application_name": "gatepost",
        "options": f"-c lock_timeout={milliseconds} -c statement_timeout={milliseconds}",
    }
    try:
        return create_engine(
            url,
            connect_args={key: value for key, value in defaults.items() if key not in url.query},
            pool_size=POOL_SIZE,
            pool_timeout=wait_s,
            pool_pre_ping=True,  # one round trip, and a restarted server costs nobody a login
            skip_autocommit_rollback=True,
            hide_parameters=True,
        )
    except ImportError:  # psycopg, or the libpq that it looks for
        raise StoreError(
            "PostgreSQL needs a driver that is not installed", "install the extra postgresql: docs/install.md"
        ) from None
