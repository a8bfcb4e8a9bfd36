"""Connecting an account: what is checked before anybody signs in, and what is kept afterwards."""

from __future__ import annotations

from dataclasses import dataclass

from proxy.admin import accounts, deposits
from proxy.admin.accounts import AccountView
from proxy.admin.desk import Desk
from proxy.config import UpstreamConfig
from proxy.errors import OperatorError, StoreError
from proxy.secret import Secret
from proxy.store.rows import Account


@dataclass(frozen=True, slots=True)
class Mailbox:
    """An account that a sign-in may be kept for."""

    account: Account
    upstream: UpstreamConfig


def prepare(desk: Desk, name: str) -> Mailbox:
    """Check everything that can be checked before a person is troubled.

    raises  StoreError: no such account, no master key to seal to; OperatorError: its upstream needs no sign-in, or
            nobody could open what it would give
    """
    mailbox = mailbox_of(desk, name)
    deposits.require_ready(desk, mailbox.account)
    return mailbox


def mailbox_of(desk: Desk, name: str) -> Mailbox:
    """The account, if a sign-in is what gives it its tokens. Raises OperatorError."""
    account = accounts.find(desk, name)
    upstream = accounts.upstream_named(desk, account.upstream)
    if upstream.auth != "oauth2" or upstream.oauth2 is None:
        raise OperatorError(
            f'upstream {upstream.name} has auth = "{upstream.auth}"',
            "nobody signs in there: remove the account, and add it with --password-stdin",
        )
    if upstream.is_app_only:
        raise OperatorError(
            f'upstream {upstream.name} has grant = "{upstream.oauth2.grant}": nobody signs in there',
            f"gatepost check --login {account.email} tells whether it works",
        )
    return Mailbox(account, upstream)


def deposit(desk: Desk, account: Account, refresh_token: Secret) -> AccountView:
    """Keep the refresh token in place of any other; running servers use it from the next login on.

    raises  StoreError if the account was removed or changed meanwhile
    """
    now = accounts.find(desk, account.email)
    if (now.id, now.upstream, now.upstream_user) != (account.id, account.upstream, account.upstream_user):
        raise StoreError(f"{account.email} was changed during the sign-in", "nothing was stored: start again")
    deposits.deposit_token(desk, now, refresh_token)
    return accounts.show(desk, account.email)
