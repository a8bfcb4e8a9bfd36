"""Queries on accounts, their login names and the state of their tokens. Each takes the transaction it runs in."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Select, bindparam, delete, func, insert, select, update

from proxy.errors import StoreError
from proxy.store.audit import Scribe
from proxy.store.audit_rows import Event
from proxy.store.revisions import raise_revision
from proxy.store.rows import Account, AccountState, NewAccount, TokenState
from proxy.store.schema import account, credential, lease, login_name
from proxy.store.types import SEPARATOR, split_words

# As an aggregate, so that an account is one row of one SELECT in every query.
_aliases = (
    select(func.aggregate_strings(login_name.c.name, SEPARATOR))
    .where(login_name.c.account_id == account.c.id, login_name.c.name != account.c.email)
    .correlate(account)
    .scalar_subquery()
)

ACCOUNT_COLUMNS = (
    account.c.id,
    account.c.email,
    account.c.upstream,
    account.c.upstream_user,
    account.c.state,
    account.c.sealed,
    account.c.token_state,
    account.c.token_since,
    account.c.token_detail,
    account.c.created,
    account.c.created_by,
)

_all = select(*ACCOUNT_COLUMNS, _aliases)
_by_name = (
    select(*ACCOUNT_COLUMNS, _aliases)
    .join(login_name, login_name.c.account_id == account.c.id)
    .where(login_name.c.name == bindparam("login"))
)

_AUDITED = {
    TokenState.NEEDS_CONSENT: Event.CONSENT_LOST,
    TokenState.UPSTREAM_REFUSES: Event.UPSTREAM_REFUSES,
}


def _account_of(row: Sequence[Any]) -> Account:
    fields = [*row[:-1], tuple(sorted(split_words(row[-1] or "")))]
    return Account(*fields)


def accounts(connection: Connection) -> list[Account]:
    found = [_account_of(row) for row in connection.execute(_all)]
    return sorted(found, key=lambda one: one.email)  # not by the database: collations differ


def account_named(connection: Connection, login: str) -> Account | None:
    row = connection.execute(_by_name, {"login": login}).one_or_none()
    return _account_of(row) if row else None


def add_account(connection: Connection, new: NewAccount, scribe: Scribe) -> Account:
    """Write the account, its login names and its lease. Raises StoreError naming the login name that is taken."""
    names = list(dict.fromkeys((new.email, *new.aliases)))
    taken = connection.scalars(select(login_name.c.name).where(login_name.c.name.in_(names))).first()
    if taken is not None:
        raise StoreError(f"the login name {taken} belongs to an account already", "see gatepost account list")
    values = {
        "email": new.email,
        "upstream": new.upstream,
        "upstream_user": new.upstream_user,
        "state": AccountState.ACTIVE,
        "sealed": new.sealed,
        "token_state": TokenState.NONE,
        "token_since": scribe.now,
        "token_detail": "",
        "created": scribe.now,
        "created_by": new.created_by,
    }
    account_id = connection.execute(insert(account).values(values).returning(account.c.id)).scalar_one()
    connection.execute(insert(login_name), [{"name": name, "account_id": account_id} for name in names])
    connection.execute(insert(lease).values(account_id=account_id, fence=0))
    scribe.note(connection, Event.ACCOUNT_ADDED, account=new.email, detail=" ".join(new.aliases))
    return _account_of(connection.execute(select(*ACCOUNT_COLUMNS, _aliases).where(account.c.id == account_id)).one())


def remove_account(connection: Connection, account_id: int, scribe: Scribe) -> None:
    """Delete the account; the foreign keys take all that it owns."""
    require_account(connection, account_id)
    connection.execute(_app_passwords_of(account_id).with_for_update()).all()
    gone = connection.scalars(delete(account).where(account.c.id == account_id).returning(account.c.email)).first()
    if gone is None:
        raise no_account(account_id)
    scribe.note(connection, Event.ACCOUNT_REMOVED, account=gone)
    raise_revision(connection)


def _app_passwords_of(account_id: int) -> Select[tuple[int]]:
    """In the order of everybody who locks them; a cascade, or an UPDATE, takes them as they lie."""
    return select(credential.c.id).where(credential.c.account_id == account_id).order_by(credential.c.id)


def set_account_state(connection: Connection, account_id: int, state: AccountState, scribe: Scribe) -> bool:
    require_account(connection, account_id)
    change = update(account).where(account.c.id == account_id, account.c.state != state).values(state=state)
    changed = connection.scalars(change.returning(account.c.email)).first()
    if changed is None:
        return False
    event = Event.ACCOUNT_ENABLED
    if state is AccountState.DISABLED:
        event = Event.ACCOUNT_DISABLED
        # Sessions end even if a worker looks again only when the account has been enabled since.
        connection.execute(_app_passwords_of(account_id).with_for_update(key_share=True)).all()
        owned = credential.c.account_id == account_id
        connection.execute(update(credential).where(owned).values(generation=credential.c.generation + 1))
    scribe.note(connection, event, account=changed)
    raise_revision(connection)
    return True


def add_alias(connection: Connection, account_id: int, name: str, most: int, scribe: Scribe) -> bool:
    """Let clients log in by one more name; False if they may already. Raises StoreError if it is another account's."""
    require_account(connection, account_id)
    owner = connection.scalars(select(login_name.c.account_id).where(login_name.c.name == name)).first()
    if owner == account_id:
        return False
    if owner is not None:
        raise StoreError(f"the login name {name} belongs to an account already", "see gatepost account list")
    count = select(func.count()).select_from(login_name).where(login_name.c.account_id == account_id)
    if connection.execute(count).scalar_one() > most:  # the e-mail is one of them
        raise StoreError(f"the account has {most} aliases already", "take one away with gatepost account alias remove")
    connection.execute(insert(login_name).values(name=name, account_id=account_id))
    scribe.note(connection, Event.ALIAS_ADDED, account=_email_of(connection, account_id), detail=name)
    return True


def remove_alias(connection: Connection, account_id: int, name: str, scribe: Scribe) -> bool:
    """Take a login name away; False if the account has no such alias. Live sessions go on: they are the account's."""
    require_account(connection, account_id)
    email = _email_of(connection, account_id)
    if name == email:
        return False
    this = (login_name.c.account_id == account_id) & (login_name.c.name == name)
    if connection.execute(delete(login_name).where(this)).rowcount == 0:
        return False
    scribe.note(connection, Event.ALIAS_REMOVED, account=email, detail=name)
    return True


def set_token_state(
    connection: Connection,
    account_id: int,
    state: TokenState,
    detail: str,
    scribe: Scribe,
    *,
    since: datetime | None = None,
    fence: int | None = None,
) -> bool:
    """Write what is known of the account's token; True if the state is another than before, False if it is gone.

    A new detail of the same state is kept, but is no change: the state's `since` stays and nobody is alerted again.
    since   when it began; now, if not given
    fence   write only while the lease still has it: what an outdated refresh learned must not hide a new deposit
    """
    if not lock_account(connection, account_id):
        return False
    this = account.c.id == account_id
    if fence is not None:
        this &= select(lease.c.fence).where(lease.c.account_id == account_id).scalar_subquery() == fence
    change = update(account).where(this, account.c.token_state != state)
    change = change.values(token_state=state, token_since=since or scribe.now, token_detail=detail)
    changed = connection.scalars(change.returning(account.c.email)).first()
    if changed is not None:
        if state in _AUDITED:
            scribe.note(connection, _AUDITED[state], account=changed, cause=detail)
        return True
    connection.execute(update(account).where(this, account.c.token_detail != detail).values(token_detail=detail))
    return False


def _email_of(connection: Connection, account_id: int) -> str:
    email: str = connection.scalars(select(account.c.email).where(account.c.id == account_id)).one()
    return email


def lock_account(connection: Connection, account_id: int) -> bool:
    """Be the only writer of this account until the transaction ends; False if there is no such account.

    On SQLite every writer is the only one. FOR NO KEY UPDATE leaves inserts that refer to the account alone.
    """
    locked = select(account.c.id).where(account.c.id == account_id).with_for_update(key_share=True)
    return connection.execute(locked).first() is not None


def require_account(connection: Connection, account_id: int) -> None:
    """lock_account, or StoreError."""
    if not lock_account(connection, account_id):
        raise no_account(account_id)


def no_account(account_id: int) -> StoreError:
    return StoreError(f"there is no account {account_id} any more", "see gatepost account list")
