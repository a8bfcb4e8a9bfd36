"""App passwords: making them (their text is seen here once and never again), listing and revoking them."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from threading import Thread
from typing import TYPE_CHECKING

from proxy.admin import accounts, inputs
from proxy.admin.desk import Desk
from proxy.admin.sealed import Keyed, Opening, Way, require_way
from proxy.config import Config
from proxy.errors import StoreError
from proxy.store.rows import (
    Account,
    Credential,
    CredentialState,
    NewCredential,
    NewSecret,
    Once,
    RecipientsChanged,
    SelectorTaken,
)

if TYPE_CHECKING:
    from proxy.vault.apppassword import AppPassword
    from proxy.vault.hashing import Hasher  # brings argon2

ID_BYTES = 5  # 40 random bits: short enough to type, no two alike in a hundred thousand
TRIES = 20  # 2^20 selectors in an account: even with 10,000 used, twenty failures are past believing
_NEAR = 0.75  # of ten symbols, two are wrong


@dataclass(frozen=True, slots=True)
class PasswordRequest:
    """An app password as asked for; every field as typed. `once`: what must not make a second one."""

    account: str
    name: str
    protocols: tuple[str, ...] = ()
    expires: str | None = None
    networks: tuple[str, ...] = ()
    once: Once | None = None


@dataclass(frozen=True, slots=True)
class Created:
    """A new app password. `password` is its only copy, in groups: show it once and forget it."""

    credential: Credential
    account: Account
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request that was found good, before anybody is asked for a secret."""

    new: NewCredential
    account: Account


def prepare(desk: Desk, request: PasswordRequest, way: Way = Way.PLAIN) -> Prepared:
    """Check everything that can be checked before anybody signs in.

    way     how a sealed account is opened for it
    raises  OperatorError: unknown account, bad name, expiry, network or protocol, a way that does not fit the account;
            StoreError: the name is in use, the account has as many app passwords as it may
    """
    account = accounts.find(desk, request.account)
    upstream = accounts.upstream_named(desk, account.upstream)
    new = NewCredential(
        public_id="",
        account_id=account.id,
        name=inputs.name(request.name),
        protocols=frozenset(inputs.protocols(request.protocols, upstream)),
        networks=inputs.networks(request.networks),
        expires=None if request.expires is None else inputs.expiry(request.expires, desk.now),
        created_by=desk.by,
        selector="",
        phc="",
        once=request.once,
    )
    live = _live(desk, account)
    for credential in live:
        if credential.name == new.name:
            raise StoreError(
                f'{account.email} has an app password "{new.name}" already',
                f"take another name, or gatepost revoke {credential.public_id}",
            )
    most = desk.config.limits.app_passwords
    if sum(not credential.is_expired(desk.now) for credential in live) >= most:
        raise StoreError(
            f"{account.email} has {most} app passwords already, as many as [limits] app_passwords allows",
            f"revoke those that nobody uses: gatepost list {account.email} shows when each was last used",
        )
    require_way(desk, account, way)
    return Prepared(new, account)


def create(desk: Desk, prepared: Prepared, opening: Opening | None = None, *, draft: Draft | None = None) -> Created:
    """Make an app password.

    opening what lets it open a sealed account that has something stored
    draft   what `drafted` began; for one app password only
    raises  StoreError: the name is in use by now, or the account full; OperatorError: the opening does not open the
            account
    """

    def add(secret: NewSecret, keyed: Keyed) -> Credential:
        row = replace(prepared.new, public_id=secrets.token_hex(ID_BYTES), selector=secret.selector, phc=secret.phc)
        most = desk.config.limits.app_passwords
        return desk.store.add_credential(row, keyed.key, opened=keyed.opened, tokens=keyed.tokens, most=most)

    drawn = draw(desk, prepared.account, opening or Opening(), add, draft)
    return Created(drawn.credential, prepared.account, drawn.password)


@dataclass(frozen=True, slots=True)
class Drawn:
    """A secret that was drawn and written."""

    credential: Credential
    selector: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Draft:
    """A secret that was drawn and is being hashed, on a thread of its own; nobody has seen or stored it."""

    password: AppPassword
    phc: Future[str] = field(repr=False)


def drafted(config: Config) -> Draft:
    """Begin a secret ahead of the store: a command's imports take a core for longer than argon2id does."""
    from proxy.vault.apppassword import generate  # noqa: PLC0415 - only here

    password, hasher = generate(), hasher_of(config)
    phc: Future[str] = Future()

    def work() -> None:
        try:
            phc.set_result(hasher.hash(password))
        except Exception as error:  # noqa: BLE001 - it is that of whoever asks for the result
            phc.set_exception(error)

    try:
        Thread(target=work, daemon=True).start()  # whoever gives up does not wait for it
    except RuntimeError:  # no thread is to be had
        work()
    return Draft(password, phc)


def draw(
    desk: Desk,
    account: Account,
    opening: Opening,
    write: Callable[[NewSecret, Keyed], Credential],
    draft: Draft | None = None,
) -> Drawn:
    """Draw a secret for an app password of this account and write it; another one for as long as the store asks.

    draft   the first one to try
    raises  OperatorError: the opening does not open the account, HashFailed; what `write` raises
    """
    keyring = opening.keyring(desk, account, hasher_of(desk.config)) if account.sealed else None
    tries = 0
    while True:
        tries += 1
        drawn = draft if draft and tries == 1 else drafted(desk.config)
        secret = NewSecret(drawn.password.selector, drawn.phc.result())
        try:
            credential = write(secret, keyring.cut(drawn.password) if keyring else Keyed(None))
        except (SelectorTaken, RecipientsChanged):  # the latter: a refresh, `revoke` or `key rotate` in this instant
            if tries == TRIES:
                raise
        else:
            return Drawn(credential, drawn.password.selector, drawn.password.shown())


def hasher_of(config: Config) -> Hasher:
    """argon2id with the configured parameters."""
    from proxy.vault.hashing import Hasher  # noqa: PLC0415 - brings argon2

    limits = config.limits
    return Hasher(memory_kib=limits.argon2_memory_kib, time=limits.argon2_time, lanes=limits.argon2_lanes)


def listing(desk: Desk, account: str | None) -> list[Credential]:
    """App passwords of one account or of all, by account and name; revoked ones too."""
    account_id = None if account is None else accounts.find(desk, account).id
    rows = desk.store.credentials(account_id)
    return sorted(rows, key=lambda row: (row.email, row.name, row.created, row.id))


def show(desk: Desk, public_id: str) -> Credential:
    """One app password. Raises StoreError, with the nearest id, if there is none with this one."""
    wanted = public_id.strip().lower()
    credential = desk.store.credential(wanted)
    if credential is None:
        raise _no_app_password(desk, public_id, wanted)
    return credential


def _no_app_password(desk: Desk, typed: str, wanted: str) -> StoreError:
    if inputs.is_app_password(typed):
        # Not repeated. On a command line it is in the shell's history already.
        return StoreError(
            "this is an app password, not the id of one",
            "gatepost list shows the ids: rotate it with --overlap 0h, for the shell's history has it now",
        )
    known = [row.public_id for row in desk.store.credentials(None)]
    remedy = inputs.suggestion(wanted, known, "gatepost list shows the ids", cutoff=_NEAR)
    return StoreError(f"there is no app password {inputs.repeated(typed)}", remedy)


def revoke(desk: Desk, public_ids: Sequence[str]) -> list[Credential]:
    """Revoke by id: all of them, or none if one is unknown. Revoking again is no error."""
    wanted = list(dict.fromkeys(show(desk, public_id).public_id for public_id in public_ids))
    return desk.store.revoke(wanted)


def revoke_of(desk: Desk, account: str, name: str | None) -> list[Credential]:
    """Revoke the app password of this name, or all live ones of the account if `name` is None.

    returns what was revoked: nothing if all were revoked before
    raises  StoreError: unknown account, or it never had an app password of this name
    """
    found = accounts.find(desk, account)
    wanted = _live(desk, found)
    if name is not None:
        plain = inputs.name(name)
        wanted = [row for row in wanted if row.name == plain]
        if not wanted and not any(row.name == plain for row in desk.store.credentials(found.id)):
            remedy = inputs.suggestion(
                plain, [row.name for row in _live(desk, found)], f"gatepost list {found.email} shows them"
            )
            raise StoreError(f"{found.email} has no app password {inputs.repeated(name)}", remedy)
    return desk.store.revoke([row.public_id for row in wanted]) if wanted else []


def locked_out(desk: Desk, revoked: Sequence[Credential]) -> list[str]:
    """E-mails of the sealed accounts among these that no app password opens any more."""
    emails = sorted({row.email for row in revoked})
    found = [account for email in emails if (account := desk.store.account(email)) is not None]
    return [account.email for account in found if account.sealed and not _live(desk, account)]


def _live(desk: Desk, account: Account) -> list[Credential]:
    return [row for row in desk.store.credentials(account.id) if row.state is not CredentialState.REVOKED]
