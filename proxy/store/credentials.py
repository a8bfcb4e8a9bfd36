"""Queries on app passwords and their secrets, among them the one SELECT of every login."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, and_, bindparam, func, insert, or_, select, update

from proxy.errors import StoreError
from proxy.store.accounts import ACCOUNT_COLUMNS, lock_account, require_account
from proxy.store.audit import Scribe
from proxy.store.audit_rows import Event
from proxy.store.recipients import drop_app_keys
from proxy.store.revisions import REVISION, raise_revision
from proxy.store.roster import ELSEWHERE
from proxy.store.rows import (
    Account,
    Credential,
    CredentialState,
    LastUse,
    LoginRow,
    NewCredential,
    NewSecret,
    SecretRow,
    Use,
)
from proxy.store.schema import account, credential, login_name, secret, spent

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
    select(*ACCOUNT_COLUMNS, *CREDENTIAL_COLUMNS, *_SECRET_COLUMNS, REVISION.scalar_subquery(), ELSEWHERE)
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


def find_login(
    connection: Connection, login: str, selector: str, *, protocol: str, worker_id: str, now: datetime
) -> LoginRow | None:
    values = {"login": login, "selector_": selector, "worker_": worker_id, "protocol_": protocol, "now_": now}
    found = connection.execute(FIND_LOGIN, values).one_or_none()
    if found is None:
        return None
    *row, revision, elsewhere = found
    owner = Account(*row[:_ACCOUNT_ENDS])
    if row[_ACCOUNT_ENDS] is None:
        return LoginRow(owner, None, None, revision, elsewhere)
    one = _credential_of(row[_ACCOUNT_ENDS:_CREDENTIAL_ENDS])
    return LoginRow(owner, one, SecretRow(*row[_CREDENTIAL_ENDS:]), revision, elsewhere)


def credentials(connection: Connection, account_id: int | None) -> list[Credential]:
    """App passwords of one account, or of all; in every state; by e-mail, then oldest first."""
    rows = connection.execute(_all if account_id is None else _by_account, {"account": account_id})
    return sorted(map(_credential_of, rows), key=lambda one: (one.email, one.created, one.id))


def credential_named(connection: Connection, public_id: str) -> Credential | None:
    row = connection.execute(_by_public_id, {"public": public_id}).one_or_none()
    return _credential_of(row) if row else None


def add_credential(
    connection: Connection, new: NewCredential, most: int | None, scribe: Scribe
) -> tuple[Credential, int]:
    """Write an app password with its first secret, whose id is returned beside it.

    most    live app passwords that an account may have; None: as many as it likes
    raises  StoreError if the account is gone, has a live app password of this name, or `most`; SelectorTaken;
            AlreadySpent
    """
    require_account(connection, new.account_id)
    if new.once is not None:
        connection.execute(insert(spent).values(token_hash=new.once.token_hash, until=new.once.until))
    of_account = credential.c.account_id == new.account_id
    is_live = and_(of_account, credential.c.name == new.name, credential.c.state != CredentialState.REVOKED)
    if (other := connection.scalars(select(credential.c.public_id).where(is_live)).first()) is not None:
        raise StoreError(
            f'the account has an app password named "{new.name}" already',
            f"choose another name, or run gatepost revoke {other} first",
        )
    if most is not None and _usable(connection, new.account_id, scribe.now) >= most:
        raise StoreError(
            f"the account has {most} app passwords already, as many as [limits] app_passwords allows",
            "revoke those that nobody uses: gatepost list shows when each was last used",
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
        "created": scribe.now,
        "created_by": new.created_by,
    }
    credential_id = connection.execute(insert(credential).values(values).returning(credential.c.id)).scalar_one()
    secret_id = _add_secret(connection, new.account_id, credential_id, NewSecret(new.selector, new.phc), scribe.now)
    made = _credential_of(connection.execute(_by_public_id, {"public": new.public_id}).one())
    _note(connection, Event.CREATED, made, scribe, detail=_scope(made))
    return made, secret_id


def _usable(connection: Connection, account_id: int, now: datetime) -> int:
    is_usable = (credential.c.account_id == account_id) & (credential.c.state != CredentialState.REVOKED)
    is_usable &= or_(credential.c.expires.is_(None), credential.c.expires > now)
    count: int = connection.execute(select(func.count()).select_from(credential).where(is_usable)).scalar_one()
    return count


def _add_secret(connection: Connection, account_id: int, credential_id: int, new: NewSecret, now: datetime) -> int:
    values = {
        "account_id": account_id,
        "credential_id": credential_id,
        "selector": new.selector,
        "phc": new.phc,
        "created": now,
    }
    secret_id: int = connection.execute(insert(secret).values(values).returning(secret.c.id)).scalar_one()
    return secret_id


def rotate(
    connection: Connection, public_id: str, new: NewSecret, until: datetime, scribe: Scribe
) -> tuple[Credential, int]:
    """Give an app password one more secret; those that it has are valid until then, or less.

    Its generation stays: live sessions of the former secret go on until then, too. Raises the revision.

    returns the app password and the new secret's id
    raises  StoreError if it is gone or revoked; SelectorTaken
    """
    found = connection.execute(_by_public_id, {"public": public_id}).one_or_none()
    if found is None:
        raise no_app_password(public_id)
    require_account(connection, found.account_id)
    one = _credential_of(connection.execute(_by_public_id, {"public": public_id}).one())
    if one.state is CredentialState.REVOKED:
        raise revoked_for_good(public_id)
    former = (secret.c.credential_id == one.id) & or_(secret.c.valid_until.is_(None), secret.c.valid_until > until)
    connection.execute(update(secret).where(former).values(valid_until=until))
    secret_id = _add_secret(connection, one.account_id, one.id, new, scribe.now)
    _note(connection, Event.ROTATED, one, scribe, detail=f"the former until {until.isoformat(timespec='seconds')}")
    raise_revision(connection)
    return one, secret_id


def end_secret(connection: Connection, account_id: int, selector: str, scribe: Scribe) -> None:
    """End a secret that nobody got to see: at once, and told of. Raises the revision."""
    this = (secret.c.account_id == account_id) & (secret.c.selector == selector)
    ended = update(secret).where(this).values(valid_until=scribe.now).returning(secret.c.credential_id)
    owner = connection.scalars(ended).first()
    if owner is None:
        return
    one = _credential_of(connection.execute(_all.where(credential.c.id == owner)).one())
    _note(connection, Event.ROTATED, one, scribe, detail="the new one was never shown, and has ended")
    raise_revision(connection)


def secret_ends(connection: Connection, credential_id: int, now: datetime) -> list[datetime | None]:
    """Until when each secret works that still does; the newest secret first."""
    still_works = or_(secret.c.valid_until.is_(None), secret.c.valid_until > now)
    query = select(secret.c.valid_until).where(secret.c.credential_id == credential_id, still_works)
    return list(connection.scalars(query.order_by(secret.c.id.desc())))


def no_app_password(public_id: str) -> StoreError:
    return StoreError(f"there is no app password {public_id}", "see gatepost list")


def revoked_for_good(public_id: str) -> StoreError:
    return StoreError(f"the app password {public_id} is revoked for good", "create a new one")


def set_states(
    connection: Connection, public_ids: Sequence[str], state: CredentialState, scribe: Scribe
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
    changed = _locked_to_change(connection, wanted, state)
    if changed:
        these = credential.c.id.in_(changed)
        connection.execute(update(credential).where(these).values(state=state, generation=credential.c.generation + 1))
        if state is CredentialState.REVOKED:
            drop_app_keys(connection, changed, scribe)
    rows = connection.execute(_all.where(credential.c.public_id.in_(wanted)))
    after = {one.public_id: one for one in map(_credential_of, rows)}
    for one in after.values():
        if one.id in changed:
            _note(connection, _EVENTS[state], one, scribe)
    if changed:
        raise_revision(connection)
    return [after[public_id] for public_id in wanted]


def _locked_to_change(connection: Connection, wanted: Sequence[str], state: CredentialState) -> list[int]:
    """Lock these app passwords; the ids of those that have another state. Raises StoreError: see set_states."""
    # In the order of ids, so that two of these never wait for each other.
    locked = (
        select(credential.c.id, credential.c.public_id, credential.c.state)
        .where(credential.c.public_id.in_(wanted))
        .order_by(credential.c.id)
        .with_for_update(key_share=True)
    )
    found = {public_id: (id_, before) for id_, public_id, before in connection.execute(locked)}
    for public_id in wanted:
        if public_id not in found:
            raise no_app_password(public_id)
        if found[public_id][1] is CredentialState.REVOKED and state is not CredentialState.REVOKED:
            raise revoked_for_good(public_id)
    return [id_ for id_, before in found.values() if before is not state]


_EVENTS = {
    CredentialState.ACTIVE: Event.RESUMED,
    CredentialState.SUSPENDED: Event.SUSPENDED,
    CredentialState.REVOKED: Event.REVOKED,
}


def _note(connection: Connection, event: Event, one: Credential, scribe: Scribe, detail: str = "") -> None:
    scribe.note(connection, event, account=one.email, app_password=one.public_id, name=one.name, detail=detail)


def _scope(one: Credential) -> str:
    """What an app password may do, for the audit."""
    expires = "never expires" if one.expires is None else f"expires {one.expires.isoformat(timespec='seconds')}"
    return f"{' '.join(sorted(one.protocols))}, from {' '.join(one.networks) or 'anywhere'}, {expires}"


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


def record_uses(connection: Connection, uses: Sequence[Use], scribe: Scribe, *, is_told: bool) -> None:
    """Note the newest use of each app password, and what is new to the audit. One that is gone meanwhile is left out.

    is_told whether an alert is to be sent of a use from a new network
    """
    newest = {use.credential_id: use.last_use for use in sorted(uses, key=lambda use: use.last_use.at)}
    values = [
        {"id_": id_, "at": use.at, "address": use.address, "protocol": use.protocol, "client": use.client}
        for id_, use in sorted(newest.items())  # in the order of ids: see set_states
    ]
    if values:
        # Held first and in that order, too: an app password that has a newer use already is not locked by the update,
        # but by its sighting later, when a removal may have it that waits for one of the others.
        held = select(credential.c.id).where(credential.c.id.in_(sorted(newest))).order_by(credential.c.id)
        connection.execute(held.with_for_update(read=True, key_share=True)).all()
        connection.execute(_note_use, values)
    scribe.note_uses(connection, [use for use in uses if use.network], is_told=is_told)
