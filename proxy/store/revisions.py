"""The revision row and what live sessions are compared with when it rises; what upstreams announced."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from sqlalchemy import Connection, bindparam, func, literal_column, select, update

from proxy.store.dialects import insert_for
from proxy.store.rows import Standing
from proxy.store.schema import account, credential, learned, revision, secret

CHANNEL = "gatepost_revision"  # of PostgreSQL's NOTIFY
IDS_AT_ONCE = 500  # bound parameters per SELECT: older SQLite takes 999

REVISION = select(revision.c.value).where(revision.c.id == literal_column("1"))
_standings = (
    select(
        secret.c.id,
        credential.c.id,
        account.c.state,
        credential.c.state,
        credential.c.expires,
        credential.c.generation,
        secret.c.valid_until,
    )
    .join(credential, credential.c.id == secret.c.credential_id)
    .join(account, account.c.id == credential.c.account_id)
    .where(secret.c.id.in_(bindparam("ids", expanding=True)))
)
_hint = select(func.pg_notify(CHANNEL, ""))
_extensions = select(learned.c.extensions).where(
    learned.c.upstream == bindparam("upstream_"), learned.c.protocol == bindparam("protocol_")
)


def current_revision(connection: Connection) -> int:
    value: int = connection.execute(REVISION).scalar_one()
    return value


def raise_revision(connection: Connection) -> None:
    """Tell live sessions to look again. Last in its transaction: its row lock makes commits follow one another."""
    connection.execute(update(revision).values(value=revision.c.value + 1))
    if connection.dialect.name == "postgresql":
        connection.execute(_hint)  # delivered with the commit; who misses it sees the row at the next look


def standings(connection: Connection, secret_ids: Collection[int]) -> dict[int, Standing]:
    """What these secrets are worth now; a secret that is gone is missing from the answer."""
    wanted = sorted(set(secret_ids))
    found: dict[int, Standing] = {}
    for start in range(0, len(wanted), IDS_AT_ONCE):
        for secret_id, *fields in connection.execute(_standings, {"ids": wanted[start : start + IDS_AT_ONCE]}):
            found[secret_id] = Standing(*fields)
    return found


def extensions(connection: Connection, upstream: str, protocol: str) -> tuple[str, ...] | None:
    return connection.scalars(_extensions, {"upstream_": upstream, "protocol_": protocol}).one_or_none()


def put_extensions(connection: Connection, upstream: str, protocol: str, words: tuple[str, ...], now: datetime) -> None:
    statement = insert_for(connection, learned).values(
        upstream=upstream, protocol=protocol, extensions=words, learned_at=now
    )
    new = {"extensions": statement.excluded.extensions, "learned_at": statement.excluded.learned_at}
    connection.execute(statement.on_conflict_do_update(index_elements=["upstream", "protocol"], set_=new))
