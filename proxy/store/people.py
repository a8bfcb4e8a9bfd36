"""Queries on people: who signed in, whose mailbox an account is, and who else an administrator lets look after it.

An account is bound to one person, the first that its provider vouches for; a later person of the same address gets
nothing (addresses are given to somebody else one day). Grants to an e-mail wait for a person and are his from then on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, delete, insert, or_, select, union, update

from proxy.store.accounts import accounts, require_account
from proxy.store.audit import Scribe
from proxy.store.audit_rows import Actor, Event
from proxy.store.dialects import insert_for
from proxy.store.engine import Database
from proxy.store.people_rows import Access, Identity, Person
from proxy.store.rows import Account
from proxy.store.schema import access_grant, account, binding, person, web_session

PERSON_COLUMNS = (person.c.id, person.c.issuer, person.c.tenant, person.c.subject, person.c.address, person.c.display)


def person_of(row: Sequence[Any]) -> Person:
    id_, issuer, tenant, subject, address, display = row
    return Person(id_, Identity(issuer, tenant, subject), address, display)


class People:
    """A part of Store."""

    def __init__(self, database: Database, clock: Callable[[], datetime], actor: Actor) -> None:
        self._database = database
        self._clock = clock
        self._actor = actor

    def _scribe(self) -> Scribe:
        return Scribe(self._actor, self._clock())

    def find(self, identity: Identity) -> Person | None:
        with self._database.read() as connection:
            return find(connection, identity)

    def open_to(self, identity: Identity, address: str) -> list[int]:
        """Ids of accounts that this person owns or was granted, also by an address that the provider vouches for."""
        with self._database.read() as connection:
            known = find(connection, identity)
            mine = set(_ids_of(connection, known.id)) if known else set()
            waiting = select(access_grant.c.account_id).where(_waits_for(identity, address))
            return sorted(mine | set(connection.scalars(waiting)))

    def owners(self, account_ids: Sequence[int]) -> dict[int, int]:
        """Person id by account id, of those that are bound."""
        query = select(binding.c.account_id, binding.c.person_id).where(binding.c.account_id.in_(account_ids))
        with self._database.read() as connection:
            return {row.account_id: row.person_id for row in connection.execute(query)}

    def meet(self, identity: Identity, address: str, display: str) -> Person:
        """Somebody signs in: keep who it is, and let grants that waited for this person be theirs."""
        with self._database.write() as connection:
            return meet(connection, identity, address, display, self._scribe())

    def bind(self, account_id: int, person_id: int) -> bool:
        """Make the account this person's, for good; False if it is somebody else's."""
        with self._database.write() as connection:
            return bind(connection, account_id, person_id, self._scribe())

    def accounts_of(self, person_id: int) -> list[Account]:
        """What a person may look after, by e-mail."""
        with self._database.read() as connection:
            ids = set(_ids_of(connection, person_id))
            return [one for one in accounts(connection) if one.id in ids] if ids else []

    def access_to(self, account_id: int) -> list[Access]:
        """Who may look after an account: its owner first."""
        with self._database.read() as connection:
            return access_to(connection, account_id)

    def grant(self, account_id: int, grantee: str) -> bool:
        """Let an e-mail or ISSUER#SUBJECT look after the account; False if that is so already."""
        with self._database.write() as connection:
            return grant(connection, account_id, grantee, self._scribe())

    def revoke_grant(self, account_id: int, grantee: str) -> int:
        """Take grants and the binding of this name away; the person's browsers are signed out. How many there were."""
        with self._database.write() as connection:
            return revoke_grant(connection, account_id, grantee, self._scribe())


def find(connection: Connection, identity: Identity) -> Person | None:
    query = select(*PERSON_COLUMNS).where(
        person.c.issuer == identity.issuer, person.c.tenant == identity.tenant, person.c.subject == identity.subject
    )
    row = connection.execute(query).one_or_none()
    return person_of(row) if row else None


def _ids_of(connection: Connection, person_id: int) -> list[int]:
    owned = select(binding.c.account_id).where(binding.c.person_id == person_id)
    granted = select(access_grant.c.account_id).where(access_grant.c.person_id == person_id)
    return list(connection.scalars(union(owned, granted)))


def _waits_for(identity: Identity, address: str) -> Any:
    """Grants that nobody has taken yet and that are meant for this person."""
    names = [str(identity), *([address] if address else [])]
    return access_grant.c.person_id.is_(None) & access_grant.c.grantee.in_(names)


def meet(connection: Connection, identity: Identity, address: str, display: str, scribe: Scribe) -> Person:
    """Write or renew the person's row, and hand over the grants that waited."""
    statement = insert_for(connection, person).values(
        issuer=identity.issuer,
        tenant=identity.tenant,
        subject=identity.subject,
        address=address,
        display=display,
        created=scribe.now,
        last_seen=scribe.now,
    )
    fresh = statement.on_conflict_do_update(
        index_elements=["issuer", "tenant", "subject"],
        set_={"address": address, "display": display, "last_seen": scribe.now},
    ).returning(*PERSON_COLUMNS)
    met = person_of(connection.execute(fresh).one())
    connection.execute(update(access_grant).where(_waits_for(identity, address)).values(person_id=met.id))
    return met


def bind(connection: Connection, account_id: int, person_id: int, scribe: Scribe) -> bool:
    require_account(connection, account_id)
    owner = connection.scalars(select(binding.c.person_id).where(binding.c.account_id == account_id)).first()
    if owner is not None:
        return bool(owner == person_id)
    connection.execute(insert(binding).values(account_id=account_id, person_id=person_id, created=scribe.now))
    one = person_of(connection.execute(select(*PERSON_COLUMNS).where(person.c.id == person_id)).one())
    scribe.note(connection, Event.BOUND, account=_email_of(connection, account_id), detail=str(one.identity))
    return True


def access_to(connection: Connection, account_id: int) -> list[Access]:
    owner = select(*PERSON_COLUMNS, binding.c.created).join(binding, binding.c.person_id == person.c.id)
    found = [
        Access(person_of(row[:6]).name, person_of(row[:6]), True, row[6], "")
        for row in connection.execute(owner.where(binding.c.account_id == account_id))
    ]
    granted = (
        select(access_grant.c.grantee, access_grant.c.created, access_grant.c.created_by, *PERSON_COLUMNS)
        .outerjoin(person, person.c.id == access_grant.c.person_id)
        .where(access_grant.c.account_id == account_id)
        .order_by(access_grant.c.created, access_grant.c.grantee)
    )
    for name, created, by, *rest in connection.execute(granted):
        found.append(Access(name, None if rest[0] is None else person_of(rest), False, created, by))
    return found


def grant(connection: Connection, account_id: int, grantee: str, scribe: Scribe) -> bool:
    """Write a grant; it is a known person's at once if exactly one goes by this name."""
    require_account(connection, account_id)
    this = (access_grant.c.account_id == account_id) & (access_grant.c.grantee == grantee)
    if connection.execute(select(access_grant.c.grantee).where(this)).first() is not None:
        return False
    known = _persons_named(connection, grantee)
    values = {
        "account_id": account_id,
        "grantee": grantee,
        "person_id": known[0] if len(known) == 1 else None,
        "created": scribe.now,
        "created_by": scribe.actor.name,
    }
    connection.execute(insert(access_grant).values(values))
    scribe.note(connection, Event.GRANTED, account=_email_of(connection, account_id), detail=grantee)
    return True


def revoke_grant(connection: Connection, account_id: int, grantee: str, scribe: Scribe) -> int:
    require_account(connection, account_id)
    ids = _persons_named(connection, grantee)
    of_grant = access_grant.c.account_id == account_id
    of_grant &= or_(access_grant.c.grantee == grantee, access_grant.c.person_id.in_(ids))
    gone = connection.scalars(delete(access_grant).where(of_grant).returning(access_grant.c.person_id)).all()
    bound = (binding.c.account_id == account_id) & binding.c.person_id.in_(ids)
    unbound = connection.scalars(delete(binding).where(bound).returning(binding.c.person_id)).all()
    people = {one for one in (*gone, *unbound) if one is not None}
    # What a browser of theirs may hold for the account goes with its session.
    connection.execute(delete(web_session).where(web_session.c.person_id.in_(people)))
    if gone or unbound:
        scribe.note(connection, Event.GRANT_REVOKED, account=_email_of(connection, account_id), detail=grantee)
    return len(gone) + len(unbound)


def _persons_named(connection: Connection, grantee: str) -> list[int]:
    issuer, mark, subject = grantee.partition("#")
    query = select(person.c.id)
    if mark:
        query = query.where(person.c.issuer == issuer, person.c.subject == subject)
    else:
        query = query.where(person.c.address == grantee)
    return list(connection.scalars(query.order_by(person.c.id)))


def _email_of(connection: Connection, account_id: int) -> str:
    email: str = connection.scalars(select(account.c.email).where(account.c.id == account_id)).one()
    return email
