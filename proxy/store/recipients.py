"""Queries on the keys that deposits are sealed to: masters, and the app keys of sealed accounts.

An ordinary deposit is wrapped to the newest master, a sealed one to every app key of its account; whoever seals reads
the keys first and writes later, so every write looks again, under locks: a deposit for keys that have changed is
refused (RecipientsChanged) and sealed anew. That is what lets `key rotate`, `create` and `revoke` run beside a refresh.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Select, delete, exists, func, insert, select, update

from proxy.store.accounts import lock_account, no_account, set_token_state
from proxy.store.audit import Scribe
from proxy.store.audit_rows import Event
from proxy.store.rows import (
    LAST_REVOKED,
    AppKey,
    Deposit,
    MasterKey,
    Recipient,
    RecipientsChanged,
    TokenState,
    Wrap,
)
from proxy.store.schema import account, deposit, recipient, secret, wrap

_SEAL_AGAIN = "try again"

_app_keys = select(
    recipient.c.key_id, recipient.c.public, secret.c.account_id, secret.c.selector, recipient.c.sealed_private
).join(secret, secret.c.id == recipient.c.secret_id)


def add_master(connection: Connection, key: MasterKey, scribe: Scribe) -> None:
    connection.execute(insert(recipient).values(key_id=key.key_id, public=key.public, created=key.created))
    scribe.note(connection, Event.KEY_ADDED, detail=key.key_id)


def masters(connection: Connection) -> list[MasterKey]:
    return [MasterKey(*row) for row in connection.execute(_masters())]


def _masters() -> Select[Any]:
    columns = (recipient.c.key_id, recipient.c.public, recipient.c.created)
    newest_first = (recipient.c.created.desc(), recipient.c.key_id)
    return select(*columns).where(recipient.c.secret_id.is_(None)).order_by(*newest_first)


def recipients_of(connection: Connection, account_id: int) -> list[Recipient]:
    """What a deposit of this account is to be wrapped to; empty for a sealed account without an app password."""
    return _recipients(connection, account_id, _is_sealed(connection, account_id))


def _is_sealed(connection: Connection, account_id: int) -> bool:
    query = select(account.c.sealed).where(account.c.id == account_id)
    is_sealed: bool | None = connection.scalars(query).one_or_none()
    if is_sealed is None:
        raise no_account(account_id)
    return is_sealed


def _recipients(connection: Connection, account_id: int, is_sealed: bool, *, hold: bool = False) -> list[Recipient]:
    """`hold` keeps the keys from being dropped until the transaction ends (PostgreSQL; SQLite has one writer)."""
    query: Select[Any] = _masters()
    if is_sealed:
        query = _app_keys.where(secret.c.account_id == account_id).order_by(recipient.c.key_id)
    if hold:
        query = query.with_for_update(read=True, key_share=True, of=recipient)
    found = [Recipient(row[0], row[1]) for row in connection.execute(query)]
    return found if is_sealed else found[:1]


def require_recipients(connection: Connection, new: Deposit) -> None:
    """Raise RecipientsChanged unless the deposit is wrapped to whom it should be at this moment."""
    is_sealed = _is_sealed(connection, new.account_id)
    wanted = {one.key_id for one in _recipients(connection, new.account_id, is_sealed, hold=True)}
    given = {one.key_id for one in new.wraps}
    if not is_sealed:
        known = {one.key_id for one in masters(connection)}
        if not given <= known:
            raise RecipientsChanged("what this belongs to is not in the store any more", _SEAL_AGAIN)
    if not wanted <= given or (is_sealed and wanted != given):
        raise RecipientsChanged("the keys to seal to have changed", _SEAL_AGAIN)


def app_key_of(connection: Connection, secret_id: int) -> AppKey | None:
    row = connection.execute(_app_keys.where(recipient.c.secret_id == secret_id)).one_or_none()
    return _app_key(row) if row else None


def _app_key(row: Sequence[Any]) -> AppKey:
    key_id, public, account_id, selector, at_rest = row
    master, _, locked = at_rest.partition(b"\n")  # a key id holds no newline
    return AppKey(key_id, public, account_id, selector, master.decode(), locked)


def _at_rest(key: AppKey) -> bytes:
    return key.master.encode() + b"\n" + key.locked


def add_app_key(connection: Connection, secret_id: int, key: AppKey, now: datetime) -> None:
    """Make the key of a new secret a recipient. Raises RecipientsChanged if it is locked under an older master."""
    newest = connection.execute(_masters().with_for_update(read=True, key_share=True)).first()
    if newest is None or newest[0] != key.master:
        raise RecipientsChanged("the master key has changed", _SEAL_AGAIN)
    values = {
        "key_id": key.key_id,
        "public": key.public,
        "created": now,
        "secret_id": secret_id,
        "sealed_private": _at_rest(key),
    }
    connection.execute(insert(recipient).values(values))


def add_wraps(connection: Connection, account_id: int, opened: Sequence[tuple[Deposit, Wrap]]) -> None:
    """Let a new app key open what the account has: one wrap for each deposit that is there, as it was opened.

    raises  RecipientsChanged if a deposit was replaced meanwhile, or one has no wrap here
    """
    rows = connection.execute(
        select(deposit.c.row_id, deposit.c.ciphertext).where(deposit.c.account_id == account_id)
    ).all()
    # A refresh keeps the row's id, so the ciphertext tells whether it is the one that was opened.
    if {(row_id, bytes(text)) for row_id, text in rows} != {(one.row, one.ciphertext) for one, _ in opened}:
        raise RecipientsChanged("what the account has stored has changed", _SEAL_AGAIN)
    values = [{"row_id": one.row, "key_id": new.key_id, "blob": new.blob} for one, new in opened]
    if values:
        connection.execute(insert(wrap), values)


def drop_app_keys(connection: Connection, credential_ids: Sequence[int], scribe: Scribe) -> None:
    """Nothing is sealed to these app passwords any more, and their wraps go with their keys.

    A sealed account that loses its last key so has lost what it stored: that is deleted, and needs consent.
    """
    _drop_keys_of(connection, select(secret.c.id).where(secret.c.credential_id.in_(credential_ids)), scribe)


def drop_outlived_keys(connection: Connection, scribe: Scribe) -> int:
    """The same for secrets that `rotate` replaced and whose time is over. Returns how many accounts had any."""
    is_over = secret.c.valid_until <= scribe.now
    owners = select(secret.c.account_id).join(recipient, recipient.c.secret_id == secret.c.id).where(is_over).distinct()
    found = sorted(connection.scalars(owners))
    for account_id in found:  # as every writer of deposits does, and in order
        lock_account(connection, account_id)
    if found:
        _drop_keys_of(connection, select(secret.c.id).where(secret.c.account_id.in_(found), is_over), scribe)
    return len(found)


def _drop_keys_of(connection: Connection, secrets: Select[Any], scribe: Scribe) -> None:
    dropped = delete(recipient).where(recipient.c.secret_id.in_(secrets)).returning(recipient.c.secret_id)
    secret_ids = connection.scalars(dropped).all()
    owners = select(secret.c.account_id).where(secret.c.id.in_(secret_ids)).distinct()
    for account_id in sorted(connection.scalars(owners)):
        if _recipients(connection, account_id, is_sealed=True):
            continue
        if connection.execute(delete(deposit).where(deposit.c.account_id == account_id)).rowcount:
            set_token_state(connection, account_id, TokenState.NEEDS_CONSENT, LAST_REVOKED, scribe)


# What `key rotate` walks through, a page at a time.


def wraps_under(connection: Connection, master: str, after: str, limit: int) -> list[Deposit]:
    """Deposits wrapped to this master, by row, beyond the row `after`; each with that one wrap."""
    columns = (
        deposit.c.row_id,
        deposit.c.account_id,
        deposit.c.purpose,
        deposit.c.ciphertext,
        deposit.c.valid_until,
        wrap.c.blob,
    )
    query = select(*columns).join(wrap, wrap.c.row_id == deposit.c.row_id)
    query = query.where(wrap.c.key_id == master, deposit.c.row_id > after).order_by(deposit.c.row_id).limit(limit)
    return [
        Deposit(row, owner, purpose, text, (Wrap(master, blob),), until)
        for row, owner, purpose, text, until, blob in connection.execute(query)
    ]


def app_keys_under(connection: Connection, master: str, after: str, limit: int) -> list[AppKey]:
    """App keys locked under this master, by key id, beyond `after`."""
    query = _app_keys.where(_is_locked_under(master), recipient.c.key_id > after)
    return [_app_key(row) for row in connection.execute(query.order_by(recipient.c.key_id).limit(limit))]


def _is_locked_under(master: str) -> Any:
    prefix = master.encode() + b"\n"
    return func.substr(recipient.c.sealed_private, 1, len(prefix)) == prefix


def replace_wraps(connection: Connection, pairs: Sequence[tuple[Deposit, Wrap]]) -> int:
    """Put a new wrap in place of each deposit's one; what was replaced or removed meanwhile is left alone."""
    for account_id in sorted({one.account_id for one, _ in pairs}):  # as every writer of deposits does, and in order
        lock_account(connection, account_id)
    replaced = 0
    for one, new in pairs:
        (old,) = one.wraps
        this = (wrap.c.row_id == one.row) & (wrap.c.key_id == old.key_id) & (wrap.c.blob == old.blob)
        has_both = exists().where(wrap.c.row_id == one.row, wrap.c.key_id == new.key_id)
        if connection.scalar(select(has_both)):
            replaced += connection.execute(delete(wrap).where(this)).rowcount
        else:
            change = update(wrap).where(this).values(key_id=new.key_id, blob=new.blob)
            replaced += connection.execute(change).rowcount
    return replaced


def replace_app_keys(connection: Connection, pairs: Sequence[tuple[AppKey, AppKey]]) -> int:
    """The same for app keys, whose public half stays."""
    replaced = 0
    for old, new in pairs:
        this = (recipient.c.key_id == old.key_id) & (recipient.c.sealed_private == _at_rest(old))
        replaced += connection.execute(update(recipient).where(this).values(sealed_private=_at_rest(new))).rowcount
    return replaced


def drop_master(connection: Connection, key_id: str, scribe: Scribe) -> int:
    """Forget a master that nothing is under any more; else how much still is, and it stays."""
    # Held first: from here on nobody can seal to it.
    connection.execute(select(recipient.c.key_id).where(recipient.c.key_id == key_id).with_for_update()).all()
    wraps = select(func.count()).select_from(wrap).where(wrap.c.key_id == key_id)
    keys = (
        select(func.count()).select_from(recipient).where(recipient.c.secret_id.is_not(None), _is_locked_under(key_id))
    )
    left = connection.execute(wraps).scalar_one() + connection.execute(keys).scalar_one()
    if left == 0:
        this = (recipient.c.key_id == key_id) & recipient.c.secret_id.is_(None)
        if connection.execute(delete(recipient).where(this)).rowcount:
            scribe.note(connection, Event.KEY_DROPPED, detail=key_id)
    return int(left)
