"""A whole store into a file and back: what one snapshot shows, and all of it or nothing.

A part of Store. A backup has what people made and what was learned; not what lives (workers, sessions, leases,
sign-ins). It is the way from one kind of database to the other, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import BinaryIO

from sqlalchemy import Connection, Table, delete, func, insert, select, text, update
from sqlalchemy.exc import IntegrityError

from proxy.errors import StoreError
from proxy.store.archive import ANOTHER, BadArchive, Head, Part, Reader, Row, Value, Writer, Written
from proxy.store.audit import Scribe
from proxy.store.audit_rows import Actor, Event
from proxy.store.engine import Database
from proxy.store.recipients import masters
from proxy.store.revisions import raise_revision
from proxy.store.rows import CredentialState
from proxy.store.schema import (
    HEAD,
    access_grant,
    account,
    audit,
    binding,
    credential,
    deposit,
    learned,
    lease,
    login_name,
    person,
    recipient,
    revision,
    secret,
    sighting,
    told,
    worker,
    wrap,
)

AT_ONCE = 1000  # rows in memory
# Each before those that refer to it. Ids of the numbered ones are never used twice.
TABLES = (
    account, login_name, credential, secret, recipient, deposit, wrap, learned, told, audit, sighting, person, binding,
    access_grant, revision,
)  # fmt: skip
NUMBERED = (account, credential, secret, audit, person)
_OF_AN_EMPTY_STORE = (Event.KEY_ADDED, Event.KEY_DROPPED, Event.RESTORED, Event.BACKED_UP)


class Backups:
    """Backs up, restores, and resumes what a restore suspended."""

    def __init__(self, database: Database, clock: Callable[[], datetime], actor: Actor) -> None:
        self._database = database
        self._clock = clock
        self._actor = actor

    def write(self, out: BinaryIO, gatepost: str) -> Written:
        """Write everything, as it is at one moment, while others go on. Memory is flat.

        gatepost    this version, for people
        raises      StoreUnavailable; OSError of `out`
        """
        with self._database.snapshot() as connection:
            made_at = self._clock().isoformat(timespec="seconds")
            keys = tuple(key.key_id for key in masters(connection))
            writer = Writer(out, Head(HEAD, gatepost, made_at, self._actor.name, keys))
            for table in TABLES:
                writer.table(table, _rows(connection, table), _last_id(connection, table))
            return writer.end()

    def wrote(self, written: Written) -> None:
        """Tell the audit of a backup that is on the disk: every hash and every sealed token left the store in it."""
        with self._database.write() as connection:
            scribe = Scribe(self._actor, self._clock())
            scribe.note(connection, Event.BACKED_UP, detail=f"sha256 {written.sha256}")

    def restore(self, source: BinaryIO, name: str) -> Written:
        """Put a backup into this store, which must be as `init` or `db upgrade` made it. All or nothing.

        Every app password that was active is suspended until resume_restored(); the states of tokens are as they were.
        raises  BadArchive; StoreError if the store holds something or serves; StoreUnavailable
        """
        reader = Reader(source, name)
        _require_this_schema(reader.head, name)
        with self._database.write() as connection:
            _take_time(connection)
            _require_empty(connection, self._database.name, self._clock())
            for table in (recipient, audit, learned, told):
                connection.execute(delete(table))
            for part in reader.parts(TABLES):
                try:
                    _fill(connection, part)
                except IntegrityError:  # rows that refer to what is not there, or that are there twice
                    raise BadArchive(f"{name} is damaged: its {part.table.name} rows don't fit", ANOTHER) from None
                if part.last_id is not None:
                    _set_last_id(connection, part.table, part.last_id)
            scribe = Scribe(self._actor, self._clock())
            scribe.note(connection, Event.RESTORED, detail=f"made {reader.head.made_at} by {reader.head.made_by}")
            raise_revision(connection)
        return Written(reader.head, dict(reader.rows), reader.sha256)

    def resume_restored(self) -> int:
        """Let all work again that a restore suspended; what somebody suspended stays so. Returns how many."""
        with self._database.write() as connection:
            _take_time(connection)
            these = credential.c.state == CredentialState.RESTORED
            new = {"state": CredentialState.ACTIVE, "generation": credential.c.generation + 1}
            count: int = connection.execute(update(credential).where(these).values(new)).rowcount
            if count:
                scribe = Scribe(self._actor, self._clock())
                scribe.note(connection, Event.RESUMED, detail=f"all {count} that a restore had suspended")
                raise_revision(connection)
            return count


def _rows(connection: Connection, table: Table) -> Iterator[tuple[Value, ...]]:
    query = select(table).order_by(*table.primary_key.columns).execution_options(yield_per=AT_ONCE)
    for row in connection.execute(query):
        yield tuple(row)


def _last_id(connection: Connection, table: Table) -> int | None:
    """The highest id that was ever given; None for tables without such."""
    if table not in NUMBERED:
        return None
    if connection.dialect.name == "sqlite":
        found = connection.execute(text("SELECT seq FROM sqlite_sequence WHERE name = :name"), {"name": table.name})
        last: int | None = found.scalar_one_or_none()
        return last or 0
    last, is_used = connection.execute(text(f"SELECT last_value, is_called FROM {table.name}_id_seq")).one()  # noqa: S608 - names of ours
    return last if is_used else 0


def _set_last_id(connection: Connection, table: Table, last_id: int) -> None:
    highest: int = connection.execute(select(func.coalesce(func.max(table.c.id), 0))).scalar_one()
    last_id = max(last_id, highest)
    if connection.dialect.name == "sqlite":
        connection.execute(text("DELETE FROM sqlite_sequence WHERE name = :name"), {"name": table.name})
        values = {"name": table.name, "last": last_id}
        connection.execute(text("INSERT INTO sqlite_sequence (name, seq) VALUES (:name, :last)"), values)
        return
    values = {"name": f"{table.name}_id_seq", "last": max(last_id, 1), "used": last_id > 0}
    connection.execute(text("SELECT setval(CAST(:name AS regclass), :last, :used)"), values)


def _take_time(connection: Connection) -> None:
    """A statement over all rows may take longer than a login would wait."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SET LOCAL statement_timeout = 0"))


def _require_this_schema(head: Head, name: str) -> None:
    if head.schema != HEAD:
        raise StoreError(
            f"{name} has schema {head.schema}, this Gatepost needs {HEAD}",
            f"restore it with Gatepost {head.gatepost}, which made it"
            + (", then run gatepost db upgrade with this one" if head.schema < HEAD else ""),
        )


def _require_empty(connection: Connection, where: str, now: datetime) -> None:
    remedy = "restore into a new database: gatepost init in another directory, or an empty one and gatepost db upgrade"
    if connection.dialect.name == "postgresql":
        # Nobody adds an account between this look and the commit. SQLite has one writer.
        connection.execute(text("LOCK TABLE account, worker IN EXCLUSIVE MODE"))
    if connection.execute(select(worker.c.id).where(worker.c.until > now).limit(1)).first() is not None:
        raise StoreError(f"a Gatepost serves with {where}", "stop it, wait for its end, and restore then")
    if connection.execute(select(account.c.id).limit(1)).first() is not None:
        raise StoreError(f"{where} has accounts already", remedy)
    if connection.execute(select(person.c.id).limit(1)).first() is not None:
        raise StoreError(f"{where} was in use: somebody has signed in at its page", remedy)
    if connection.execute(select(audit.c.id).where(audit.c.event.not_in(_OF_AN_EMPTY_STORE)).limit(1)).first():
        raise StoreError(f"{where} was in use: its audit tells of more than a master key", remedy)


def _fill(connection: Connection, part: Part) -> None:
    if part.table is revision:
        for row in part.rows:  # one, which is there already; it only ever rises
            connection.execute(update(revision).where(revision.c.value < row["value"]).values(value=row["value"]))
        return
    batch: list[Row] = []
    for row in part.rows:
        batch.append(_suspended(row) if part.table is credential else row)
        if len(batch) == AT_ONCE:
            _insert(connection, part.table, batch)
            batch = []
    _insert(connection, part.table, batch)


def _suspended(row: Row) -> Row:
    """A row of an app password that works no more until somebody says so: it may have been revoked since."""
    generation = row["generation"]
    if row["state"] is not CredentialState.ACTIVE or not isinstance(generation, int):
        return row
    return {**row, "state": CredentialState.RESTORED, "generation": generation + 1}


def _insert(connection: Connection, table: Table, batch: list[Row]) -> None:
    if not batch:
        return
    values: list[Mapping[str, Value]] = [dict(row) for row in batch]
    connection.execute(insert(table), values)
    if table is account:
        connection.execute(insert(lease), [{"account_id": row["id"], "fence": 0} for row in batch])
