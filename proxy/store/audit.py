"""Queries on the audit: entries are written in the transaction of what they tell of, read, and one day let go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, and_, bindparam, delete, func, insert, or_, select, text, update

from proxy.store.audit_rows import CLIENT, NEW_NETWORK, Actor, Entry, Event, Refusals, Wanted
from proxy.store.dialects import insert_for
from proxy.store.rows import Use
from proxy.store.schema import account, audit, credential, sighting

DELETED_AT_ONCE = 1000  # rows of one transaction of housekeeping
AT_A_LOOK = 1000  # entries that a node's log takes at a time

_COLUMNS = (
    audit.c.at,
    audit.c.event,
    audit.c.actor,
    audit.c.node,
    audit.c.worker,
    audit.c.account,
    audit.c.app_password,
    audit.c.name,
    audit.c.protocol,
    audit.c.address,
    audit.c.cause,
    audit.c.detail,
    audit.c.count,
    audit.c.until,
    audit.c.id,
)
_EMPTY = dict.fromkeys(("account", "app_password", "name", "protocol", "address", "cause", "detail"), "")


@dataclass(frozen=True, slots=True)
class Old:
    """What housekeeping lets go of at a time: ids of entries, and app passwords with addresses."""

    before: datetime
    ids: tuple[int, ...]
    places: tuple[tuple[int, str], ...]

    def __len__(self) -> int:
        return len(self.ids) + len(self.places)


@dataclass(frozen=True, slots=True)
class Scribe:
    """Writes what one actor does at one moment into the transaction in which it is done."""

    actor: Actor
    now: datetime

    def note(self, connection: Connection, event: Event, **fields: str) -> None:
        """Write one entry; `fields` are Entry's texts."""
        connection.execute(insert(audit).values(self._values(event, self.now, address=self.actor.address, **fields)))

    def note_refusals(self, connection: Connection, refusals: Sequence[Refusals]) -> None:
        """Write what a worker counted."""
        rows = [
            self._values(
                Event.REFUSED,
                one.at,
                actor=CLIENT,
                account=one.account,
                app_password=one.app_password,
                name=one.name,
                protocol=one.protocol,
                address=one.address,
                cause=one.cause,
            )
            | {"count": one.count, "until": one.until}
            for one in refusals
        ]
        if rows:
            connection.execute(insert(audit), rows)

    def note_uses(self, connection: Connection, uses: Sequence[Use], *, is_told: bool) -> None:
        """Write the first use of a day of each app password from each address; those whose row is gone are left out.

        is_told whether an alert is to be sent when the network is new
        """
        newest = {
            (use.credential_id, use.last_use.address): use for use in sorted(uses, key=lambda one: one.last_use.at)
        }
        if not newest:
            return
        names = _names(connection, {credential_id for credential_id, _ in newest})
        known = _networks(connection, set(names))
        for (credential_id, address), use in sorted(newest.items()):
            if credential_id not in names or not _is_first_of_day(connection, use):
                continue
            public_id, name, email = names[credential_id]
            networks = known.setdefault(credential_id, set())
            is_new = bool(networks) and use.network not in networks
            networks.add(use.network)
            values = self._values(
                Event.USED,
                use.last_use.at,
                actor=CLIENT,
                account=email,
                app_password=public_id,
                name=name,
                protocol=use.last_use.protocol,
                address=address,
                cause=NEW_NETWORK if is_new else "",
                detail=use.last_use.client,
            )
            connection.execute(insert(audit).values(values | {"untold": is_new and is_told}))

    def _values(self, event: Event, at: datetime, **fields: str) -> dict[str, object]:
        return {
            **_EMPTY,
            "at": at,
            "event": event,
            "actor": self.actor.name,
            "node": self.actor.node,
            "worker": self.actor.worker,
            "count": 1,
            "until": None,
            "untold": False,
            **fields,
        }


def _names(connection: Connection, credential_ids: set[int]) -> dict[int, tuple[str, str, str]]:
    columns = (credential.c.id, credential.c.public_id, credential.c.name, account.c.email)
    query = select(*columns).join(account, account.c.id == credential.c.account_id)
    # FOR KEY SHARE: none of them may go before its sighting is written.
    query = query.where(credential.c.id.in_(sorted(credential_ids))).order_by(credential.c.id)
    rows = connection.execute(query.with_for_update(read=True, key_share=True, of=credential))
    return {id_: (public_id, name, email) for id_, public_id, name, email in rows}


def _networks(connection: Connection, credential_ids: set[int]) -> dict[int, set[str]]:
    """The networks that each was used from."""
    query = select(sighting.c.credential_id, sighting.c.network).distinct()
    found: dict[int, set[str]] = {}
    for credential_id, network in connection.execute(query.where(sighting.c.credential_id.in_(sorted(credential_ids)))):
        found.setdefault(credential_id, set()).add(network)
    return found


def _is_first_of_day(connection: Connection, use: Use) -> bool:
    """Note the sighting; True for one of all the workers that see an address on that day (UTC)."""
    values = {
        "credential_id": use.credential_id,
        "address": use.last_use.address,
        "network": use.network,
        "last_at": use.last_use.at,
    }
    midnight = use.last_use.at.replace(hour=0, minute=0, second=0, microsecond=0)
    statement = insert_for(connection, sighting).values(values)
    noted = statement.on_conflict_do_update(
        index_elements=["credential_id", "address"],
        set_={"last_at": statement.excluded.last_at},
        where=sighting.c.last_at < midnight,
    ).returning(sighting.c.credential_id)
    return connection.execute(noted).first() is not None


# Reading.


def entries(connection: Connection, wanted: Wanted, after: int, limit: int) -> list[Entry]:
    """A page of the entries asked for, oldest first, beyond the id `after`."""
    query = select(*_COLUMNS).where(audit.c.id > after).order_by(audit.c.id).limit(limit)
    if wanted.account is not None:
        query = query.where(audit.c.account == wanted.account)
    if wanted.since is not None:
        query = query.where(or_(audit.c.at >= wanted.since, audit.c.until >= wanted.since))
    if wanted.events:
        query = query.where(audit.c.event.in_(wanted.events))
    return _read(connection, query)


def latest(connection: Connection, wanted: Wanted, limit: int) -> list[Entry]:
    """The newest of the entries asked for, newest first."""
    query = select(*_COLUMNS).order_by(audit.c.id.desc()).limit(limit)
    if wanted.account is not None:
        query = query.where(audit.c.account == wanted.account)
    return _read(connection, query)


def deeds_on(connection: Connection, node: str, after: int) -> list[Entry]:
    """What was done on this node, beyond the id `after`, for its log: all but ordinary uses and refusals.

    Oldest first, AT_A_LOOK at most. By id, which needs no clock, and costs what is new however much there is.
    """
    is_login = audit.c.event.in_((Event.USED, Event.REFUSED)) & (audit.c.cause != NEW_NETWORK)
    query = select(*_COLUMNS).where(audit.c.id > after, audit.c.node == node, ~is_login)
    return _read(connection, query.order_by(audit.c.id).limit(AT_A_LOOK))


def last_id(connection: Connection) -> int:
    """The newest entry's id; 0: there is none."""
    return connection.execute(select(func.max(audit.c.id))).scalar_one() or 0


def last_id_before(connection: Connection, at: datetime) -> int:
    """The id behind which all entries are that were written since then."""
    first = select(audit.c.id).where(audit.c.at >= at).order_by(audit.c.at, audit.c.id).limit(1)
    found: int | None = connection.scalars(first).first()
    return last_id(connection) if found is None else found - 1


# As ix_audit_untold has it: SQLAlchemy writes a Boolean as "= 1" on SQLite, which then reads the whole table.
_is_untold = text("audit.untold")


def untold(connection: Connection, limit: int) -> list[Entry]:
    """Entries of which an alert is still to be sent, oldest first."""
    return _read(connection, select(*_COLUMNS).where(_is_untold).order_by(audit.c.id).limit(limit))


def is_untold(connection: Connection, entry_id: int) -> bool:
    return connection.scalars(select(audit.c.untold).where(audit.c.id == entry_id)).first() or False


def set_told(connection: Connection, entry_id: int) -> None:
    """An alert was sent of it."""
    connection.execute(update(audit).where(audit.c.id == entry_id).values(untold=False))


def _read(connection: Connection, query: Any) -> list[Entry]:
    return [Entry(*row) for row in connection.execute(query)]


# Housekeeping.

_of_refusals = audit.c.event == Event.REFUSED


def old_rows(connection: Connection, before: datetime, refusals_before: datetime) -> Old:
    """Some of what is older: entries, refusals, and sightings as old as entries."""
    old = or_(audit.c.at < before, and_(_of_refusals, audit.c.at < refusals_before))
    ids = connection.scalars(select(audit.c.id).where(old).limit(DELETED_AT_ONCE))
    places = connection.execute(
        select(sighting.c.credential_id, sighting.c.address).where(sighting.c.last_at < before).limit(DELETED_AT_ONCE)
    )
    return Old(before, tuple(sorted(ids)), tuple(sorted((one, address) for one, address in places)))


def drop(connection: Connection, old: Old) -> None:
    """Delete them, but for sightings that are new again."""
    if old.ids:
        connection.execute(delete(audit).where(audit.c.id == bindparam("id_")), [{"id_": one} for one in old.ids])
    if old.places:
        this = (sighting.c.credential_id == bindparam("id_")) & (sighting.c.address == bindparam("address_"))
        rows = [{"id_": credential_id, "address_": address} for credential_id, address in old.places]
        connection.execute(delete(sighting).where(this, sighting.c.last_at < old.before), rows)
