"""Queries on app passwords and their secrets, among them the one SELECT of every login."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, and_, bindparam, insert, or_, select, update

from proxy.errors import StoreError
from proxy.store.accounts import ACCOUNT_COLUMNS, lock_account, require_account
from proxy.store.recipients import drop_app_keys
from proxy.store.revisions import REVISION, raise_revision
from proxy.store.rows import Account, Credential, CredentialState, LastUse, LoginRow, NewCredential, SecretRow, Use
from proxy.store.schema import account, credential, login_name, secret

CREDENTIAL_COLUMNS = (
    credential.c.id,
    credential.c.public_id,
    credential.c.account_id,
    account.c.email,
    credential.c.name,
    credential.c.protocols,
    credential.c.networks,
    credential.c.state,
    credential.c.expires,
    credential.c.generation,
    credential.c.created,
    credential.c.created_by,
    credential.c.last_at,
    credential.c.last_address,
    credential.c.last_protocol,
    credential.c.last_client,
)
_SECRET_COLUMNS = (secret.c.id, secret.c.selector, secret.c.phc, secret.c.valid_until)
_ACCOUNT_ENDS = len(ACCOUNT_COLUMNS)
_CREDENTIAL_ENDS = _ACCOUNT_ENDS + len(CREDENTIAL_COLUMNS)

_all = select(*CREDENTIAL_COLUMNS).join(account, account.c.id == credential.c.account_id)
_by_account = _all.where(credential.c.account_id == bindparam("account"))
_by_public_id = _all.where(credential.c.public_id == bindparam("public"))

# Primary keys and one unique index all the way; tests/store/test_find_login.py reads SQLite's plan.
FIND_LOGIN = (
    select(*ACCOUNT_COLUMNS, *CREDENTIAL_COLUMNS, *_SECRET_COLUMNS, REVISION.scalar_subquery())
    .select_from(login_name)
    .join(account, account.c.id == login_name.c.account_id)
    .outerjoin(secret, and_(secret.c.account_id == account.c.id, secret.c.selector == bindparam("selector_")))
    # The account again: a secret that points at another account's app password would open nothing.
    .outerjoin(credential, and_(credential.c.id == secret.c.credential_id, credential.c.account_id == account.c.id))
    .where(login_name.c.name == bindparam("login"))
)


def _credential_of(row: Sequence[Any]) -> Credential:
    at, address, protocol, client = row[-4:]
    last_use = None if at is None else LastUse(at, address, protocol, client)
    fields = [*row[:5], frozenset(row[5]), *row[6:-4], last_use]
    return Credential(*fields)


def find_login(connection: Connection, login: str, selector: str) -> LoginRow | None:
    row = connection.execute(FIND_LOGIN, {"login": login, "selector_": selector}).one_or_none()
    if row is None:
        return None
    owner = Account(*row[:_ACCOUNT_ENDS])
    if row[_ACCOUNT_ENDS] is None:
        return LoginRow(owner, None, None, row[-1])
    found = _credential_of(row[_ACCOUNT_ENDS:_CREDENTIAL_ENDS])
    return LoginRow(owner, found, SecretRow(*row[_CREDENTIAL_ENDS:-1]), row[-1])


def credentials(connection: Connection, account_id: int | None) -> list[Credential]:
    """App passwords of one account, or of all; in every state; by e-mail, then oldest first."""
    rows = connection.execute(_all if account_id is None else _by_account, {"account": account_id})
    return sorted(map(_credential_of, rows), key=lambda one: (one.email, one.created, one.id))


def credential_named(connection: Connection, public_id: str) -> Credential | None:
    row = connection.execute(_by_public_id, {"public": public_id}).one_or_none()
    return _credential_of(row) if row else None


def add_credential(connection: Connection, new: NewCredential, now: datetime) -> tuple[Credential, int]:
    """Write an app password with its first secret, whose id is returned beside it.

    raises  StoreError if the account is gone or has a live app password of this name; SelectorTaken
    """
    require_account(connection, new.account_id)
    is_live = and_(
        credential.c.account_id == new.account_id,
        credential.c.name == new.name,
        credential.c.state != CredentialState.REVOKED,
    )
    if (other := connection.scalars(select(credential.c.public_id).where(is_live)).first()) is not None:
        raise StoreError(
            f'the account has an app password named "{new.name}" already',
            f"choose another name, or run gatepost revoke {other} first",
        )
    values = {
        "public_id": new.public_id,
        "account_id": new.account_id,
        "name": new.name,
        "protocols": tuple(sorted(new.protocols)),
        "networks": new.networks,
        "state": CredentialState.ACTIVE,
        "expires": new.expires,
        "generation": 1,
        "created": now,
        "created_by": new.created_by,
    }
    credential_id = connection.execute(insert(credential).values(values).returning(credential.c.id)).scalar_one()
    first = {
        "account_id": new.account_id,
        "credential_id": credential_id,
        "selector": new.selector,
        "phc": new.phc,
        "created": now,
    }
    secret_id = connection.execute(insert(secret).values(first).returning(secret.c.id)).scalar_one()
    return _credential_of(connection.execute(_by_public_id, {"public": new.public_id}).one()), secret_id


def set_states(
    connection: Connection, public_ids: Sequence[str], state: CredentialState, now: datetime
) -> list[Credential]:
    """Give these app passwords a state, all or none; those that have it already stay as they are.

    returns them in the order asked for
    raises  StoreError for an unknown id, and for a revoked one that should live again
    """
    wanted = list(dict.fromkeys(public_ids))
    if state is CredentialState.REVOKED:
        # Before anything else, like every writer of deposits: of two that revoke the last two keys, one must see it.
        owners = select(credential.c.account_id).where(credential.c.public_id.in_(wanted)).distinct()
        for account_id in sorted(connection.scalars(owners)):
            lock_account(connection, account_id)
    # Locked in the order of ids, so that two of these never wait for each other.
    locked = (
        select(credential.c.id, credential.c.public_id, credential.c.state)
        .where(credential.c.public_id.in_(wanted))
        .order_by(credential.c.id)
        .with_for_update(key_share=True)
    )
    found = {public_id: (id_, before) for id_, public_id, before in connection.execute(locked)}
    for public_id in wanted:
        if public_id not in found:
            raise StoreError(f"there is no app password {public_id}", "see gatepost list")
        if found[public_id][1] is CredentialState.REVOKED and state is not CredentialState.REVOKED:
            raise StoreError(f"the app password {public_id} is revoked for good", "create a new one")
    changed = [id_ for id_, before in found.values() if before is not state]
    if changed:
        these = credential.c.id.in_(changed)
        connection.execute(update(credential).where(these).values(state=state, generation=credential.c.generation + 1))
        if state is CredentialState.REVOKED:
            drop_app_keys(connection, changed, now)
        raise_revision(connection)
    rows = connection.execute(_all.where(credential.c.public_id.in_(wanted)))
    after = {one.public_id: one for one in map(_credential_of, rows)}
    return [after[public_id] for public_id in wanted]


def replace_phc(connection: Connection, secret_id: int, old: str, new: str) -> bool:
    """Keep a better hash of the same password, unless somebody else did meanwhile."""
    change = update(secret).where(secret.c.id == secret_id, secret.c.phc == old).values(phc=new)
    return connection.execute(change).rowcount == 1


_note_use = (
    update(credential)
    .where(
        credential.c.id == bindparam("id_"),
        # Batches of several workers come in any order.
        or_(credential.c.last_at.is_(None), credential.c.last_at < bindparam("at")),
    )
    .values(
        last_at=bindparam("at"),
        last_address=bindparam("address"),
        last_protocol=bindparam("protocol"),
        last_client=bindparam("client"),
    )
)


def record_uses(connection: Connection, uses: Sequence[Use]) -> None:
    """Note the newest use of each app password. One that is gone meanwhile is left out."""
    newest = {use.credential_id: use.last_use for use in sorted(uses, key=lambda use: use.last_use.at)}
    values = [
        {"id_": id_, "at": use.at, "address": use.address, "protocol": use.protocol, "client": use.client}
        for id_, use in sorted(newest.items())  # in the order of ids: see set_states
    ]
    if values:
        connection.execute(_note_use, values)
