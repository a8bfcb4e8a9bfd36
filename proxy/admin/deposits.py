"""Depositing what opens a mailbox upstream, for any account, without being able to read it afterwards.

`account connect` and every other way in end here: `require_ready` before the person is bothered with a sign-in,
`deposit_token` once the token has shown that it opens the mailbox. Nothing here needs the master's private half.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from proxy.admin.desk import Desk
from proxy.errors import OperatorError, StoreError
from proxy.secret import Secret
from proxy.store.rows import Account, Purpose, Recipient, RecipientsChanged

SEAL_TRIES = 10  # each is lost only to a `create`, `revoke` or `key rotate` in the same instant

T = TypeVar("T")


def require_ready(desk: Desk, account: Account) -> None:
    """Raise OperatorError, with the remedy, if nothing could be deposited for this account right now."""
    _recipients(desk, account)


def deposit_token(desk: Desk, account: Account, secret: Secret, purpose: Purpose = Purpose.REFRESH_TOKEN) -> None:
    """Keep a refresh token (or, for an upstream without OAuth2, a password) in place of what the account had.

    Ordinary or sealed: it is sealed to whoever may open this account's deposits. The token state becomes fresh, the
    former access token is dropped, and a refresh that is under way can no longer replace this.

    raises  OperatorError if nobody could open it (a sealed account without an app password); StoreUnavailable
    """
    from proxy.vault.sealing import seal  # noqa: PLC0415 - cryptography takes 0.1 s to import

    def put() -> None:
        desk.store.put_deposit(seal(purpose, account.id, secret, _recipients(desk, account)))

    until_unchanged(put)


def until_unchanged(work: Callable[[], T]) -> T:
    """Do what reads keys and then writes, again as long as they change in between."""
    tries = 0
    while True:
        tries += 1
        try:
            return work()
        except RecipientsChanged:
            if tries == SEAL_TRIES:
                raise


def _recipients(desk: Desk, account: Account) -> list[Recipient]:
    found = desk.store.recipients(account.id)
    if not found and account.sealed:
        raise OperatorError(
            f"{account.email} is sealed, and has no app password that could open what is stored",
            f'run gatepost create {account.email} --name "..." --sign-in',
        )
    if not found:
        raise StoreError(
            "the store knows no master key",
            "start the service once, or run gatepost db upgrade as a user who can read [keys] master",
        )
    return found
