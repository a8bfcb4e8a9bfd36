"""Queries on sealed upstream secrets, and the lease that refreshing them takes."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import Connection, bindparam, delete, insert, or_, select, update

from proxy.store.accounts import lock_account, no_account, require_account, set_token_state
from proxy.store.audit import Scribe
from proxy.store.audit_rows import Event
from proxy.store.recipients import add_app_key, add_wraps, require_recipients
from proxy.store.rows import AppKey, Deposit, Purpose, TokenState, Wrap
from proxy.store.schema import account, deposit, lease, wrap

HEIR_WAITS = timedelta(seconds=2)  # four times as long as a commit that failed waits for its next try
_HEIR = "heir "  # how the owner of a lease begins who waits for it

_by_purpose = (
    select(deposit.c.row_id, deposit.c.ciphertext, deposit.c.valid_until, wrap.c.key_id, wrap.c.blob)
    .join(wrap, wrap.c.row_id == deposit.c.row_id)
    .where(deposit.c.account_id == bindparam("account"), deposit.c.purpose == bindparam("purpose_"))
)


def deposit_of(connection: Connection, account_id: int, purpose: Purpose) -> Deposit | None:
    """The account's deposit, or None; one that has lost its last recipient counts as none."""
    rows = connection.execute(_by_purpose, {"account": account_id, "purpose_": purpose}).all()
    if not rows:
        return None
    row_id, ciphertext, valid_until, _, _ = rows[0]
    wraps = tuple(sorted((Wrap(key_id, blob) for _, _, _, key_id, blob in rows), key=lambda one: one.key_id))
    return Deposit(row_id, account_id, purpose, ciphertext, wraps, valid_until)


def put_deposit(connection: Connection, new: Deposit, scribe: Scribe) -> None:
    """Keep a deposit in place of the one of its purpose.

    A refresh token or password from outside is a new way in: the token state becomes fresh, and so anew if it was, by
    which every process knows that the access token it holds is of the former grant. The stored one is dropped, and a
    refresh that is under way loses its fence, so that its result cannot replace this deposit.

    raises  RecipientsChanged if it is not wrapped to whom it should be: see recipients
    """
    require_account(connection, new.account_id)
    _replace(connection, new, scribe.now)
    if new.purpose is Purpose.ACCESS_TOKEN:
        return
    former = (deposit.c.account_id == new.account_id) & (deposit.c.purpose == Purpose.ACCESS_TOKEN)
    connection.execute(delete(deposit).where(former))
    change = update(lease).where(lease.c.account_id == new.account_id)
    connection.execute(change.values(owner=None, until=None, fence=lease.c.fence + 1))
    set_token_state(connection, new.account_id, TokenState.FRESH, "", scribe)
    since = update(account).where(account.c.id == new.account_id).values(token_since=scribe.now)
    owner = connection.scalars(since.returning(account.c.email)).one()
    scribe.note(connection, Event.CONSENT_GIVEN, account=owner, cause=new.purpose.value)


def add_secret_key(
    connection: Connection,
    secret_id: int,
    account_id: int,
    scribe: Scribe,
    *,
    key: AppKey | None,
    opened: Sequence[tuple[Deposit, Wrap]],
    tokens: Sequence[Deposit],
) -> None:
    """Let the new secret of a sealed account open what the account has then: see Store.add_credential."""
    if key is not None:
        add_app_key(connection, secret_id, key, scribe.now)
        if not tokens:
            add_wraps(connection, account_id, opened)
    for one in tokens:
        put_deposit(connection, one, scribe)


def put_tokens(connection: Connection, account_id: int, fence: int, deposits: Sequence[Deposit], now: datetime) -> bool:
    """Keep what a refresh gave, all of it or, when the fence has moved on or the account is gone, nothing.

    A lease that ran out but that nobody took still counts: the identity provider has spent the old token already.

    raises  RecipientsChanged: seal them again, for the fence still stands
    """
    if any(one.account_id != account_id for one in deposits):
        raise ValueError("a deposit of another account")
    if not lock_account(connection, account_id):
        return False
    if connection.scalars(select(lease.c.fence).where(lease.c.account_id == account_id)).one() != fence:
        return False
    for one in deposits:
        _replace(connection, one, now)
    return True


def _replace(connection: Connection, new: Deposit, now: datetime) -> None:
    if not new.wraps:
        raise ValueError("a deposit that nobody can open")
    require_recipients(connection, new)
    former = (deposit.c.account_id == new.account_id) & (deposit.c.purpose == new.purpose)
    connection.execute(delete(deposit).where(former))  # and its wraps
    values = {
        "row_id": new.row,
        "account_id": new.account_id,
        "purpose": new.purpose,
        "ciphertext": new.ciphertext,
        "valid_until": new.valid_until,
        "created": now,
    }
    connection.execute(insert(deposit).values(values))
    wraps = [{"row_id": new.row, "key_id": one.key_id, "blob": one.blob} for one in new.wraps]
    connection.execute(insert(wrap), wraps)


def take_lease(connection: Connection, account_id: int, owner: str, now: datetime, until: datetime) -> int | None:
    """The new fence, or None while any lease runs, the owner's own included.

    One that ran out and was never given back runs HEIR_WAITS on, under the same fence: that the store takes this says
    that it can be written to again, and whoever has a new token that it would not take (locked, full) has time to
    commit it. Else the heir would show the provider a refresh token that is spent, and end the grant.
    """
    if until <= now:
        raise ValueError("a lease that is over before it starts")
    mine = lease.c.account_id == account_id
    is_over = lease.c.until <= now
    is_free = or_(lease.c.until.is_(None), is_over & lease.c.owner.startswith(_HEIR))
    taking = update(lease).where(mine, is_free).values(owner=owner, until=until, fence=lease.c.fence + 1)
    fence = connection.execute(taking.returning(lease.c.fence)).scalar_one_or_none()
    if fence is None:
        if connection.execute(select(lease.c.fence).where(mine)).first() is None:
            raise no_account(account_id)
        connection.execute(update(lease).where(mine, is_over).values(owner=_HEIR + owner, until=now + HEIR_WAITS))
    return fence


def release_lease(connection: Connection, account_id: int, fence: int) -> None:
    """Free the lease if it is still this one; the fence stays as it is."""
    this = (lease.c.account_id == account_id) & (lease.c.fence == fence)
    connection.execute(update(lease).where(this).values(owner=None, until=None))
