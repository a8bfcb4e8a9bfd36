"""Queries of what runs by itself: accounts whose tokens are to be looked after, and what people were told of them."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Select, delete, func, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from proxy.store.accounts import ACCOUNT_COLUMNS
from proxy.store.engine import Database
from proxy.store.revisions import IDS_AT_ONCE
from proxy.store.rows import Account, AccountState, Claim, Purpose, TokenState, Told
from proxy.store.schema import account, deposit, told

# How the subject of a row begins that says who is telling of what follows: its `state` is his name, `since` is when the
# others may do it because he seems to be gone. In one table, as told is what it is about.
_CLAIM = "claim:"
CLAIM_AT_MOST = timedelta(minutes=10)  # one that runs longer was made by a clock that has been set back since
_is_claim = told.c.subject.startswith(_CLAIM)

TROUBLES = (TokenState.FAILING, TokenState.NEEDS_CONSENT, TokenState.UPSTREAM_REFUSES)

_newest = (  # when the account last got or gave something: a refresh replaces at least the access token
    select(func.max(deposit.c.created)).where(deposit.c.account_id == account.c.id).correlate(account).scalar_subquery()
)
_has_grant = (
    select(deposit.c.row_id)
    .where(deposit.c.account_id == account.c.id, deposit.c.purpose == Purpose.REFRESH_TOKEN)
    .correlate(account)
    .exists()
)
# Nobody but a login opens a sealed account, and a disabled one gets no new tokens.
_upheld: Select[Any] = select(*ACCOUNT_COLUMNS).where(
    account.c.state == AccountState.ACTIVE, account.c.sealed.is_(False)
)

_states = select(account.c.token_state, func.count(), func.min(account.c.token_since)).group_by(account.c.token_state)


class Upkeep:
    """A part of Store."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def upheld_accounts(self, ids: Collection[int]) -> list[Account]:
        """Those of these accounts whose tokens may be renewed in the background. See the functions below."""
        with self._database.read() as connection:
            return upheld_accounts(connection, ids)

    def failing_accounts(self, limit: int) -> list[Account]:
        with self._database.read() as connection:
            return failing_accounts(connection, limit)

    def idle_accounts(self, before: datetime, limit: int) -> list[Account]:
        """Accounts whose refresh token nobody used since then."""
        with self._database.read() as connection:
            return idle_accounts(connection, before, limit)

    def census(self) -> tuple[int, int]:
        """How many accounts there are, and how many of them need their owner's consent."""
        needy = func.count().filter(account.c.token_state == TokenState.NEEDS_CONSENT)
        with self._database.read() as connection:
            accounts, needs_consent = connection.execute(select(func.count(), needy).select_from(account)).one()
            return int(accounts), int(needs_consent)

    def accounts_to_tell_of(self) -> list[tuple[Account, Told | None]]:
        """Accounts in trouble and those that people believe to be, each with what they were told."""
        with self._database.read() as connection:
            return accounts_to_tell_of(connection)

    def token_states(self) -> dict[TokenState, tuple[int, datetime]]:
        """How many accounts are in each state, and since when the one that is longest in it."""
        with self._database.read() as connection:
            rows = connection.execute(_states)
            return {state: (count, since) for state, count, since in rows}

    def upstreams_told_of(self) -> dict[str, Told]:
        with self._database.read() as connection:
            return upstreams_told_of(connection)

    def replace_told(self, subject: str, account_id: int | None, former: Told | None, new: Told | None) -> bool:
        """Note what people were told, without telling; False if it was noted already."""
        with self._database.write() as connection:
            return replace_told(connection, subject, account_id, former, new)

    def claim_change(self, subject: str, former: Told | None, claim: Claim) -> bool:
        """Claim the telling of a change; False if somebody else has it, or has told it already."""
        with self._database.write() as connection:
            return claim_change(connection, subject, former, claim)

    def settle_change(
        self, subject: str, account_id: int | None, former: Told | None, new: Told | None, owner: str
    ) -> None:
        """It was told: note that, and end the claim. Once too often is harmless."""
        with self._database.write() as connection:
            replace_told(connection, subject, account_id, former, new)
            drop_claim(connection, subject, owner)

    def drop_claim(self, subject: str, owner: str) -> None:
        """It was not told: let all tell it again."""
        with self._database.write() as connection:
            drop_claim(connection, subject, owner)


def upheld_accounts(connection: Connection, ids: Collection[int]) -> list[Account]:
    """Those of these accounts that are active, not sealed, and fresh or failing; without their aliases."""
    found: list[Account] = []
    wanted = sorted(set(ids))
    states = (TokenState.FRESH, TokenState.FAILING)
    for start in range(0, len(wanted), IDS_AT_ONCE):
        these = _upheld.where(account.c.id.in_(wanted[start : start + IDS_AT_ONCE]), account.c.token_state.in_(states))
        found += _read(connection, these)
    return found


def failing_accounts(connection: Connection, limit: int) -> list[Account]:
    """Active accounts, not sealed, whose provider failed last time; those that fail longest first."""
    failing = _upheld.where(account.c.token_state == TokenState.FAILING).order_by(account.c.token_since).limit(limit)
    return _read(connection, failing)


def idle_accounts(connection: Connection, before: datetime, limit: int) -> list[Account]:
    """Active accounts, not sealed, with a refresh token that was neither used nor renewed since `before`."""
    idle = _upheld.where(
        account.c.token_state.in_((TokenState.FRESH, TokenState.FAILING, TokenState.UPSTREAM_REFUSES)),
        _has_grant,
        _newest < before,
    ).order_by(_newest)
    return _read(connection, idle.limit(limit))


def accounts_to_tell_of(connection: Connection) -> list[tuple[Account, Told | None]]:
    """Every account in trouble, and every one whose trouble people were told of."""
    either = or_(account.c.token_state.in_(TROUBLES), told.c.state.is_not(None))
    rows = connection.execute(
        select(*ACCOUNT_COLUMNS, told.c.state, told.c.since)
        .outerjoin(told, told.c.account_id == account.c.id)
        .where(either)
        .order_by(account.c.token_since)
    )
    return [(Account(*row[:-2]), None if row[-2] is None else Told(row[-2], row[-1])) for row in rows]


def upstreams_told_of(connection: Connection) -> dict[str, Told]:
    """By subject."""
    are_upstreams = told.c.account_id.is_(None) & ~_is_claim
    rows = connection.execute(select(told.c.subject, told.c.state, told.c.since).where(are_upstreams))
    return {subject: Told(state, since) for subject, state, since in rows}


def replace_told(
    connection: Connection, subject: str, account_id: int | None, former: Told | None, new: Told | None
) -> bool:
    """Put `new` in place of `former`; False if something else stood there: somebody else tells people.

    account_id  of an account's subject; None for an upstream's
    """
    this = told.c.subject == subject
    if former is None:
        if new is None or connection.execute(select(told.c.subject).where(this)).first() is not None:
            return False
        return _is_inserted(connection, subject, account_id, new)
    this &= (told.c.state == former.state) & (told.c.since == former.since)
    if new is None:
        return connection.execute(delete(told).where(this)).rowcount > 0
    return connection.execute(update(told).where(this).values(state=new.state, since=new.since)).rowcount > 0


def take_claim(connection: Connection, subject: str, claim: Claim) -> bool:
    """Claim the telling of something; False while anybody has it, its owner included."""
    is_over = (told.c.since <= claim.taken) | (told.c.since > claim.taken + CLAIM_AT_MOST)
    connection.execute(delete(told).where(_is_claim, is_over))
    return _is_inserted(connection, _CLAIM + subject, None, Told(claim.owner, claim.until))


def claim_change(connection: Connection, subject: str, former: Told | None, claim: Claim) -> bool:
    if not take_claim(connection, subject, claim):
        return False
    # Behind the claim, which waits for whoever is about to end his: else he had told it between our look and this.
    row = connection.execute(select(told.c.state, told.c.since).where(told.c.subject == subject)).first()
    if (None if row is None else Told(*row)) == former:
        return True
    drop_claim(connection, subject, claim.owner)
    return False


def drop_claim(connection: Connection, subject: str, owner: str) -> None:
    """End a claim, if it is still the owner's."""
    connection.execute(delete(told).where(told.c.subject == _CLAIM + subject, told.c.state == owner))


def _is_inserted(connection: Connection, subject: str, account_id: int | None, row: Told) -> bool:
    values = {"subject": subject, "account_id": account_id, "state": row.state, "since": row.since}
    try:
        with connection.begin_nested():
            connection.execute(insert(told).values(values))
    except IntegrityError:  # another node was quicker, or the account is gone
        return False
    return True


def _read(connection: Connection, statement: Select[Any]) -> list[Account]:
    return [Account(*row) for row in connection.execute(statement)]
