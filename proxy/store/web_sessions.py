"""Sessions of browsers at the web page, and what counts once. Only hashes of ids are kept."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

from sqlalchemy import Connection, delete, exists, insert, select, update

from proxy.store.audit import Scribe
from proxy.store.audit_rows import Actor, Event
from proxy.store.engine import Database
from proxy.store.people import PERSON_COLUMNS, person_of
from proxy.store.people_rows import NewWebSession, WebSession
from proxy.store.rows import Once
from proxy.store.schema import person, spent, web_session

SEEN_AGAIN = timedelta(minutes=1)  # how old `last_seen` gets before it is written anew

_COLUMNS = (
    web_session.c.id_hash,
    web_session.c.is_admin,
    web_session.c.created,
    web_session.c.last_seen,
    web_session.c.expires,
    web_session.c.auth_time,
    web_session.c.address,
    web_session.c.held_for,
    web_session.c.held,
)


class WebSessions:
    """A part of Store."""

    def __init__(self, database: Database, clock: Callable[[], datetime], actor: Actor) -> None:
        self._database = database
        self._clock = clock
        self._actor = actor

    def open(self, new: NewWebSession, former: str = "") -> None:
        """Begin a session; the browser's former one, if it had any, ends with it."""
        scribe = Scribe(self._actor, self._clock())
        with self._database.write() as connection:
            connection.execute(delete(web_session).where(web_session.c.id_hash == former))
            open_session(connection, new, scribe)

    def find(self, id_hash: str) -> WebSession | None:
        """A session that is not over; notes now and then that it is used."""
        now = self._clock()
        query = select(*_COLUMNS, *PERSON_COLUMNS).join(person, person.c.id == web_session.c.person_id)
        query = query.where(web_session.c.id_hash == id_hash, web_session.c.expires > now)
        with self._database.read() as connection:
            row = connection.execute(query).one_or_none()
        if row is None:
            return None
        id_, is_admin, created, last_seen, expires, auth_time, address, held_for, held = row[:9]
        if now - last_seen > SEEN_AGAIN:
            with self._database.write() as connection:
                this = web_session.c.id_hash == id_hash
                connection.execute(update(web_session).where(this).values(last_seen=now))
        return WebSession(
            id_, person_of(row[9:]), is_admin, created, last_seen, expires, auth_time, address, held_for, held
        )

    def hold(self, id_hash: str, account_id: int | None, held: bytes | None) -> None:
        """Keep a sealed account's new token with the session, or (None) let it go."""
        with self._database.write() as connection:
            change = update(web_session).where(web_session.c.id_hash == id_hash)
            connection.execute(change.values(held_for=account_id, held=held))

    def close(self, id_hash: str) -> None:
        """End one session."""
        with self._database.write() as connection:
            connection.execute(delete(web_session).where(web_session.c.id_hash == id_hash))

    def close_all(self, person_id: int) -> int:
        """End all sessions of a person; how many there were."""
        with self._database.write() as connection:
            ended = connection.execute(delete(web_session).where(web_session.c.person_id == person_id)).rowcount
            Scribe(self._actor, self._clock()).note(connection, Event.SIGNED_OUT, detail=f"{ended} browsers")
            return ended

    def refuse(self, who: str, cause: str, detail: str) -> None:
        """Tell the audit of a sign-in that was turned away. `who` is no account: anybody may call himself so."""
        with self._database.write() as connection:
            scribe = Scribe(self._actor, self._clock())
            scribe.note(connection, Event.SIGN_IN_REFUSED, cause=cause, detail=f"{who}: {detail}")

    def spend(self, once: Once) -> None:
        """Raises AlreadySpent the second time."""
        with self._database.write() as connection:
            connection.execute(insert(spent).values(token_hash=once.token_hash, until=once.until))

    def is_spent(self, token_hash: str) -> bool:
        with self._database.read() as connection:
            return bool(connection.scalar(select(exists().where(spent.c.token_hash == token_hash))))

    def drop_old(self) -> int:
        """Forget sessions that are over, and what was spent so long ago that it is refused for its age."""
        now = self._clock()
        with self._database.write() as connection:
            gone = connection.execute(delete(web_session).where(web_session.c.expires <= now)).rowcount
            return gone + connection.execute(delete(spent).where(spent.c.until <= now)).rowcount


def open_session(connection: Connection, new: NewWebSession, scribe: Scribe) -> None:
    values = {
        "id_hash": new.id_hash,
        "person_id": new.person_id,
        "is_admin": new.is_admin,
        "created": scribe.now,
        "last_seen": scribe.now,
        "expires": new.expires,
        "auth_time": new.auth_time,
        "amr": new.amr,
        "acr": new.acr,
        "address": new.address,
    }
    connection.execute(insert(web_session).values(values))
    detail = " ".join(("admin",) * new.is_admin + new.amr)
    scribe.note(connection, Event.SIGNED_IN, detail=detail)
