"""The INSERT that may say what happens on a conflict: not standard SQL, so each dialect of SQLAlchemy has its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import Connection, Table
from sqlalchemy.dialects import sqlite

if TYPE_CHECKING:
    from sqlalchemy.dialects import postgresql


def insert_for(connection: Connection, table: Table) -> sqlite.Insert | postgresql.Insert:
    """An INSERT with on_conflict_do_update and on_conflict_do_nothing, for the database behind `connection`."""
    if connection.dialect.name == "postgresql":
        from sqlalchemy.dialects import postgresql  # noqa: PLC0415 - with five drivers: 0.1 s of each command

        return postgresql.insert(table)
    return sqlite.insert(table)
