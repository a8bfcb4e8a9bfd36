"""Which workers are alive on all nodes, and the live sessions that each has published.

A worker holds a lease that it renews; one whose lease is over is dead, and its sessions are no more. The tables are
what workers said, a second late at most: who must know exactly about a session asks the worker's own registry.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Select, bindparam, delete, func, insert, select, update

from proxy.store.audit import Scribe
from proxy.store.audit_rows import Actor, Event
from proxy.store.dialects import insert_for
from proxy.store.engine import Database
from proxy.store.revisions import IDS_AT_ONCE, raise_revision
from proxy.store.rows import LiveSession, Seat, SeatedSession
from proxy.store.schema import account, session, worker

LEASE = timedelta(seconds=15)  # how long a worker that says nothing counts as alive
FORGET_AFTER = timedelta(minutes=1)  # a dead worker's rows are deleted: not at once, for it may only have been slow

_COLUMNS = (
    session.c.id,
    session.c.account_id,
    session.c.email,
    session.c.public_id,
    session.c.name,
    session.c.protocol,
    session.c.upstream,
    session.c.upstream_user,
    session.c.address,
    session.c.client,
    session.c.since,
)
_of_others = (session.c.worker_id != bindparam("worker_")) & (worker.c.until > bindparam("now_"))

# For the SELECT of a login: how many sessions of its mailbox other workers have.
ELSEWHERE = (
    select(func.count())
    .select_from(session)
    .join(worker, worker.c.id == session.c.worker_id)
    .where(
        session.c.upstream == account.c.upstream,
        session.c.upstream_user == account.c.upstream_user,
        session.c.protocol == bindparam("protocol_"),
        _of_others,
    )
    .correlate(account)
    .scalar_subquery()
)
_elsewhere = (
    select(func.count())
    .select_from(session)
    .join(worker, worker.c.id == session.c.worker_id)
    .where(
        session.c.upstream == bindparam("upstream_"),
        session.c.upstream_user == bindparam("user_"),
        session.c.protocol == bindparam("protocol_"),
        _of_others,
    )
)


class Roster:
    """Workers and their live sessions; a part of Store. See the functions below."""

    def __init__(self, database: Database, clock: Callable[[], datetime], actor: Actor) -> None:
        self._database = database
        self._clock = clock
        self._actor = actor

    def publish(
        self, seat: Seat, started: Sequence[LiveSession], ended: Collection[str], *, is_all: bool = True
    ) -> bool:
        """Renew the lease and say what has changed. False: the store did not know the worker.

        is_all  `started` is all that there is; without it nothing is written for a worker that is not known
        """
        with self._database.write() as connection:
            return publish(connection, seat, self._clock() + LEASE, started, ended, is_all=is_all)

    def retire(self, seat: Seat) -> None:
        """The worker ends, and its sessions have."""
        with self._database.write() as connection:
            retire(connection, seat)

    def forget_dead(self) -> int:
        """Delete what workers left that died a while ago. Returns how many there were."""
        with self._database.write() as connection:
            return forget_dead(connection, self._clock())

    def sessions(self, account_id: int | None) -> list[SeatedSession]:
        """Live sessions of all workers, of one account or (None) of all; oldest first."""
        with self._database.read() as connection:
            return sessions(connection, account_id, self._clock())

    def sessions_elsewhere(self, seat: Seat, upstream: str, user: str, protocol: str) -> int:
        """How many sessions of a mailbox other workers have."""
        with self._database.read() as connection:
            mailbox = {"upstream_": upstream, "user_": user, "protocol_": protocol}
            values: dict[str, object] = {**mailbox, "worker_": seat.id, "now_": self._clock()}
            count: int = connection.execute(_elsewhere, values).scalar_one()
            return count

    def kick(self, session_id: str) -> SeatedSession | None:
        """Ask for the end of a session, wherever it is. None if there is none of this id. Raises the revision."""
        with self._database.write() as connection:
            return kick(connection, session_id, Scribe(self._actor, self._clock()))

    def kicked(self, seat: Seat) -> set[str]:
        """Ids of this worker's sessions that somebody wants to end."""
        with self._database.read() as connection:
            return kicked(connection, seat)


def publish(
    connection: Connection,
    seat: Seat,
    until: datetime,
    started: Sequence[LiveSession],
    ended: Collection[str],
    *,
    is_all: bool = True,
) -> bool:
    """Renew the worker's lease, and add and take away sessions.

    A worker and all its sessions come in one transaction: known with a part of them, it would never be asked for more.
    returns False if the store did not know this worker (any more)
    """
    renewed = connection.execute(update(worker).where(worker.c.id == seat.id).values(until=until)).rowcount > 0
    if not renewed and not is_all:
        return False
    if not renewed:
        values = {"id": seat.id, "node": seat.node, "number": seat.number, "until": until}
        connection.execute(insert(worker).values(values))
    for ids in _pages(sorted(ended)):
        connection.execute(delete(session).where(session.c.id.in_(ids), session.c.worker_id == seat.id))
    if started:
        # What was written already, by a call whose answer was lost, stays.
        statement = insert_for(connection, session).on_conflict_do_nothing(index_elements=["id"])
        connection.execute(statement, [_values(seat, one) for one in started])
    return renewed


def _values(seat: Seat, one: LiveSession) -> dict[str, object]:
    return {
        "id": one.id,
        "worker_id": seat.id,
        "account_id": one.account_id,
        "email": one.email,
        "public_id": one.public_id,
        "name": one.name,
        "protocol": one.protocol,
        "upstream": one.upstream,
        "upstream_user": one.upstream_user,
        "address": one.address,
        "client": one.client,
        "since": one.since,
        "is_kicked": False,
    }


def retire(connection: Connection, seat: Seat) -> None:
    """Forget a worker and its sessions."""
    connection.execute(delete(worker).where(worker.c.id == seat.id))


def forget_dead(connection: Connection, now: datetime) -> int:
    return connection.execute(delete(worker).where(worker.c.until < now - FORGET_AFTER)).rowcount


def sessions(connection: Connection, account_id: int | None, now: datetime) -> list[SeatedSession]:
    """Live sessions of one account, or (None) of all; oldest first."""
    query = _alive(now)
    if account_id is not None:
        query = query.where(session.c.account_id == account_id)
    return [_seated(row) for row in connection.execute(query.order_by(session.c.since, session.c.id))]


def _alive(now: datetime) -> Select[Any]:
    query = select(*_COLUMNS, worker.c.node, worker.c.number)
    return query.join(worker, worker.c.id == session.c.worker_id).where(worker.c.until > now)


def _seated(row: Sequence[Any]) -> SeatedSession:
    return SeatedSession(LiveSession(*row[:-2]), row[-2], row[-1])


def kick(connection: Connection, session_id: str, scribe: Scribe) -> SeatedSession | None:
    """Ask the session's worker to end it; None if there is no live session of this id. Raises the revision."""
    row = connection.execute(_alive(scribe.now).where(session.c.id == session_id)).one_or_none()
    if row is None:
        return None
    found = _seated(row)
    connection.execute(update(session).where(session.c.id == session_id).values(is_kicked=True))
    one = found.session
    scribe.note(
        connection,
        Event.KICKED,
        account=one.email,
        app_password=one.public_id,
        name=one.name,
        protocol=one.protocol,
        detail=f"session {one.id} from {one.address} on {found.node}",
    )
    raise_revision(connection)
    return found


def kicked(connection: Connection, seat: Seat) -> set[str]:
    """Ids of this worker's sessions that somebody wants to end."""
    query = select(session.c.id).where(session.c.worker_id == seat.id, session.c.is_kicked)
    return set(connection.scalars(query))


def _pages(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(ids), IDS_AT_ONCE):
        yield ids[start : start + IDS_AT_ONCE]
