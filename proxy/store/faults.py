"""Where the database's exceptions become Gatepost's, once: StoreUnavailable, StoreError, or a bug left as it is.

Knows SQLite's result codes and PostgreSQL's SQLSTATE classes. Repeats no parameter of a statement: they hold secrets.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import (
    DataError,
    DBAPIError,
    IntegrityError,
    SQLAlchemyError,
    StatementError,
    TimeoutError as PoolTimeout,
)

from proxy.errors import StoreBroken, StoreDenied, StoreError, StoreUnavailable
from proxy.store.rows import AlreadySpent, SelectorTaken

RESTORE = "stop Gatepost and restore a backup"
UPGRADE = "run gatepost db upgrade"
PERMIT = "run it as root or as the file's owner, who must be able to write its directory, too"

_DOWN = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_INTERRUPT,
    }
)
# PostgreSQL appendix A. Connection lost, transaction rolled back, lock not got, no resources, shut down or cancelled,
# read-only (a standby after a failover), system error: each may be over at the next try.
_DOWN_STATES = ("08", "40", "55P03", "53", "57", "25006", "58")

# Constraint -> what SQLite names in its message, and what was asked for. The queries look first where they can name
# the thing; what comes here lost a race, or is a name drawn twice.
_CONSTRAINTS: dict[str, tuple[str, type[StoreError], str, str]] = {
    "pk_login_name": ("login_name.name", StoreError, "this login name is taken", "see gatepost account list"),
    "uq_credential_live_name": (
        "credential.account_id, credential.name",
        StoreError,
        "the account has an app password of this name",
        "choose another name, or revoke that one first",
    ),
    "uq_secret_account_id_selector": (
        "secret.account_id, secret.selector",
        SelectorTaken,
        "the account had an app password that starts like this one",
        "try again: a new one is drawn",
    ),
    "uq_credential_public_id": (
        "credential.public_id",
        StoreError,
        "this id is taken",
        "try again: a new one is drawn",
    ),
    "pk_spent": ("spent.token_hash", AlreadySpent, "this was done already", "it is not done twice"),
    "pk_recipient": ("recipient.key_id", StoreError, "this key is in the store already", ""),
}


@contextmanager
def translated(where: str) -> Iterator[None]:
    """Let no SQLAlchemy exception out that has a meaning. `where` names the database, without its password."""
    try:
        yield
    except SQLAlchemyError as error:
        # No chain: a driver's own text may quote the row that it refused.
        raise translate(error, where) from None
    except UnicodeEncodeError:  # a lone surrogate: drivers raise it as it is
        raise unfit_text() from None


def translate(error: SQLAlchemyError, where: str) -> BaseException:
    """The exception to raise in place of `error`: StoreUnavailable, StoreError, or the bug itself."""
    if isinstance(error, PoolTimeout):
        return StoreUnavailable(f"{where}: every connection is in use")
    if not isinstance(error, DBAPIError):
        # A value that the types refuse (a time without a zone) is the caller's bug.
        return error.orig if isinstance(error, StatementError) and error.orig is not None else error
    if isinstance(error, IntegrityError):
        return _violated(error)
    code = getattr(error.orig, "sqlite_errorcode", None)
    if code is not None:
        return _of_sqlite(error, code & 0xFF, where)  # the low byte is the primary code
    return _of_postgresql(error, getattr(error.orig, "sqlstate", None), where)


def _of_sqlite(error: DBAPIError, code: int, where: str) -> Exception:
    if code in _DOWN:
        return StoreUnavailable(f"{where}: {error.orig}")
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM):
        return StoreDenied(f"{where} cannot be written", PERMIT)
    if code == sqlite3.SQLITE_NOTADB:
        return StoreBroken(f"{where} is not a database", "name the right file in [store] url, or restore a backup")
    if code == sqlite3.SQLITE_CORRUPT:
        return StoreBroken(f"{where} is damaged", RESTORE)
    if code == sqlite3.SQLITE_ERROR and str(error.orig).startswith("no such"):  # table or column
        return StoreBroken(f"{where} lacks a part of Gatepost's schema ({error.orig})", UPGRADE)
    return StoreBroken(f"{where}: {type(error.orig).__name__}", RESTORE)


def _of_postgresql(error: DBAPIError, state: str | None, where: str) -> Exception:
    if isinstance(error.orig, sqlite3.Error):  # raised by the module, not the library: a closed connection
        return StoreUnavailable(f"{where}: {error.orig}")
    if isinstance(error, DataError):
        return unfit_text()
    if state is None or error.connection_invalidated or state.startswith(_DOWN_STATES):
        lines = str(error.orig).strip().splitlines()
        return StoreUnavailable(f"{where}: {lines[0] if lines else 'no connection'}")
    if state in ("42P01", "42703"):  # undefined table, undefined column
        return StoreBroken(f"{where} lacks a part of Gatepost's schema", UPGRADE)
    if state == "42501":
        return StoreDenied(f"{where} refuses Gatepost's user a right", "grant it, or make that user the owner")
    return StoreBroken(f"{where}: SQLSTATE {state}", RESTORE)


def unfit_text() -> StoreError:
    return StoreError("the store cannot hold this text", "use printable characters")


def _violated(error: IntegrityError) -> StoreError:
    name = getattr(getattr(error.orig, "diag", None), "constraint_name", None)
    said = str(error.orig).removeprefix("UNIQUE constraint failed: ")
    for constraint, (columns, kind, problem, remedy) in _CONSTRAINTS.items():
        if constraint == name or columns == said:
            return kind(problem, remedy)
    if (name or "").startswith("fk_") or said.startswith("FOREIGN KEY"):
        return StoreError("what this belongs to is not in the store any more", "see gatepost account list")
    return StoreError("the store's rules forbid this", "see gatepost check")
