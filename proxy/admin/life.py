"""The life of an app password between its making and its end: rotated, suspended, resumed."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from proxy.admin import accounts, inputs, passwords
from proxy.admin.desk import Desk
from proxy.admin.sealed import Keyed, Opening, Way, require_way
from proxy.errors import StoreError, StoreUnavailable
from proxy.store.rows import Account, Credential, CredentialState, NewSecret


@dataclass(frozen=True, slots=True)
class Rotation:
    """A rotation that was found good, before anybody is asked for a secret."""

    credential: Credential
    account: Account
    overlap: timedelta


@dataclass(frozen=True, slots=True)
class Rotated:
    """An app password with its new text. `password` is its only copy, in groups: show it once and forget it.

    selector        of the new secret
    former_until    when the former password ends, or has ended
    """

    credential: Credential
    account: Account
    selector: str
    former_until: datetime
    password: str = field(repr=False)


def prepare_rotation(desk: Desk, public_id: str, overlap: str, way: Way = Way.PLAIN) -> Rotation:
    """Check everything that can be checked before anybody signs in.

    A suspended app password may be rotated, and stays suspended.
    raises  StoreError: no such app password, or one that is revoked or has expired, which no new text would revive;
            OperatorError: no such period, a way that does not fit the account
    """
    credential = passwords.show(desk, public_id)
    make_another = f'gatepost create {credential.email} --name "{credential.name}"'
    if credential.state is CredentialState.REVOKED:
        raise StoreError(f"{said(credential)} is revoked for good", make_another)
    if credential.is_expired(desk.now):
        raise StoreError(
            f"{said(credential)} expired on {credential.expires:%Y-%m-%d}, and would with a new password, too",
            f"gatepost revoke {credential.public_id}, then {make_another}",
        )
    account = accounts.find(desk, credential.email)
    require_way(desk, account, way)
    return Rotation(credential, account, inputs.overlap(overlap))


def rotate(desk: Desk, prepared: Rotation, opening: Opening | None = None) -> Rotated:
    """Give an app password a new text, and its former one until the overlap is over.

    Show it, then call `shown` or `not_shown`.
    opening what lets it open a sealed account that has something stored
    raises  StoreError: it was revoked meanwhile; OperatorError: the opening does not open the account
    """
    until = desk.now + prepared.overlap
    public_id = prepared.credential.public_id

    def add(secret: NewSecret, keyed: Keyed) -> Credential:
        return desk.store.rotate(public_id, secret, until, keyed.key, opened=keyed.opened, tokens=keyed.tokens)

    drawn = passwords.draw(desk, prepared.account, opening or Opening(), add)
    ends = _at_most(until, drawn.credential.expires)
    return Rotated(drawn.credential, prepared.account, drawn.selector, ends, drawn.password)


def shown(desk: Desk, rotated: Rotated) -> None:
    """The new text was seen: a former one whose time is over opens nothing of a sealed account any more."""
    if rotated.account.sealed and rotated.former_until <= desk.now:
        # The new text must not be lost for this: servers look for outlived keys, too.
        with contextlib.suppress(StoreUnavailable):
            desk.store.trail.drop_outlived_keys()


def not_shown(desk: Desk, rotated: Rotated) -> None:
    """Nobody has seen the new text and nobody ever can: it ends, and the former one as it would have."""
    desk.store.end_secret(rotated.account.id, rotated.selector)


@dataclass(frozen=True, slots=True)
class Texts:
    """Which texts of an app password work, apart from its state and expiry.

    has_lasting     whether one does that no rotation has put an end to
    former_until    until when a former one does, None if none does any more
    """

    has_lasting: bool
    former_until: datetime | None


def texts(desk: Desk, credential: Credential) -> Texts:
    ends = desk.store.secret_ends(credential.id)
    former = [end for end in ends if end is not None]
    return Texts(None in ends, _at_most(max(former), credential.expires) if former else None)


def _at_most(end: datetime, expires: datetime | None) -> datetime:
    return end if expires is None else min(end, expires)


def suspend(desk: Desk, public_ids: Sequence[str]) -> list[Credential]:
    """Let nobody log in by these, until they are resumed: all of them, or none. Suspending again is no error.

    One that has expired is suspended as well: who closes in haste need not sort out first.
    raises  StoreError: an unknown id, a revoked one
    """
    found = [passwords.show(desk, public_id) for public_id in public_ids]
    for one in found:
        if one.state is CredentialState.REVOKED:
            raise StoreError(f"{said(one)} is revoked for good already", "leave it out: nobody logs in by it")
    return _set_states(desk, found, CredentialState.SUSPENDED)


def resume(desk: Desk, public_ids: Sequence[str]) -> list[Credential]:
    """Let suspended ones work again: all of them, or none. Resuming an active one is no error.

    raises  StoreError: an unknown id, a revoked one, one that has expired and so would not work
    """
    found = [passwords.show(desk, public_id) for public_id in public_ids]
    for one in found:
        make_another = f'gatepost create {one.email} --name "{one.name}"'
        if one.state is CredentialState.REVOKED:
            raise StoreError(f"{said(one)} is revoked for good, and cannot be resumed", make_another)
        if one.is_expired(desk.now):
            raise StoreError(
                f"{said(one)} expired on {one.expires:%Y-%m-%d}, so resuming it would let nobody in",
                f"gatepost revoke {one.public_id}, then {make_another}",
            )
    return _set_states(desk, found, CredentialState.ACTIVE)


def _set_states(desk: Desk, found: Sequence[Credential], state: CredentialState) -> list[Credential]:
    wanted = list(dict.fromkeys(one.public_id for one in found))
    return desk.store.set_credential_states(wanted, state)


def said(one: Credential) -> str:
    """An app password as an error names it."""
    return f'{one.public_id} "{one.name}" of {one.email}'
