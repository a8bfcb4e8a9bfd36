"""Accounts: mailboxes upstream, their login names and the sealed secret that opens them."""

from __future__ import annotations

from dataclasses import dataclass

from proxy.admin import inputs
from proxy.admin.desk import Desk
from proxy.config import UpstreamConfig
from proxy.errors import OperatorError, StoreError
from proxy.secret import Secret
from proxy.store.rows import Account, AccountState, CredentialState, NewAccount, Purpose


@dataclass(frozen=True, slots=True)
class AccountRequest:
    """An account as typed. `purpose` says what `secret` is: REFRESH_TOKEN or PASSWORD; None: nothing is stored yet."""

    email: str
    upstream: str
    upstream_user: str | None = None
    aliases: tuple[str, ...] = ()
    purpose: Purpose | None = None
    sealed: bool = False


@dataclass(frozen=True, slots=True)
class AccountView:
    """An account as people see it: with the number of its app passwords that are not revoked."""

    account: Account
    app_passwords: int


def prepare(desk: Desk, request: AccountRequest) -> NewAccount:
    """Check everything that can be checked before the secret is asked for.

    raises  OperatorError: bad e-mail or alias, unknown upstream, a secret that does not fit the upstream, a login
            name that is taken, no master key to seal to
    """
    address = inputs.email(request.email)
    upstream = upstream_named(desk, request.upstream)
    if request.purpose is Purpose.REFRESH_TOKEN and upstream.auth != "oauth2":
        raise OperatorError(f'upstream {upstream.name} has auth = "{upstream.auth}"', "use --password-stdin")
    if request.purpose is Purpose.REFRESH_TOKEN and upstream.is_app_only:
        raise OperatorError(f"upstream {upstream.name} gets its tokens itself", "leave --refresh-token-stdin out")
    if request.purpose is Purpose.PASSWORD and upstream.auth != "password":
        raise OperatorError(f'upstream {upstream.name} has auth = "{upstream.auth}"', "use --refresh-token-stdin")
    if request.sealed and upstream.is_app_only:
        raise OperatorError(
            f"upstream {upstream.name} gets its tokens itself: none could be sealed", "leave --sealed out"
        )
    if request.sealed and request.purpose is not None:
        then = "then gatepost create, then gatepost account connect"
        if upstream.auth == "password":
            then = "then gatepost create with --sign-in, which asks for it"
        raise OperatorError(
            "a sealed account has nobody to seal to before its first app password", f"add it without the secret, {then}"
        )
    if request.purpose is not None and not desk.store.masters():
        raise StoreError(
            "the store knows no master key",
            "start the service once, or run gatepost db upgrade as a user who can read [keys] master",
        )
    aliases = inputs.aliases(request.aliases, address)
    for name in (address, *aliases):
        taken = desk.store.account(name)
        if taken is not None:
            what = f"account {name} exists already" if taken.email == name else f"{name} is an alias of {taken.email}"
            raise StoreError(what, f"gatepost account show {taken.email}")
    user = inputs.upstream_user(request.upstream_user) if request.upstream_user is not None else address
    return NewAccount(address, upstream.name, user, aliases, desk.by, request.sealed)


def add(desk: Desk, new: NewAccount, purpose: Purpose | None, secret: Secret | None) -> AccountView:
    """Make the account and deposit its secret, sealed to the master's public half; both or neither."""
    if purpose is None or secret is None:
        return AccountView(desk.store.add_account(new), 0)

    from proxy.vault.sealing import Recipient, seal  # noqa: PLC0415 - cryptography takes 0.1 s to import

    newest = desk.store.masters()[0]
    recipient = Recipient(newest.key_id, newest.public)
    return AccountView(desk.store.add_account(new, lambda account: [seal(purpose, account, secret, [recipient])]), 0)


def listing(desk: Desk) -> list[AccountView]:
    """All accounts, by e-mail."""
    live: dict[int, int] = {}
    for credential in desk.store.credentials(None):
        if credential.state is not CredentialState.REVOKED:
            live[credential.account_id] = live.get(credential.account_id, 0) + 1
    accounts = sorted(desk.store.accounts(), key=lambda account: account.email)
    return [AccountView(account, live.get(account.id, 0)) for account in accounts]


def show(desk: Desk, name: str) -> AccountView:
    """One account, by its e-mail or an alias. Raises StoreError if there is none."""
    account = find(desk, name)
    credentials = desk.store.credentials(account.id)
    return AccountView(account, sum(row.state is not CredentialState.REVOKED for row in credentials))


def remove(desk: Desk, name: str) -> AccountView:
    """Remove an account with its app passwords and its sealed secret. Returns it as it was."""
    view = show(desk, name)
    desk.store.remove_account(view.account.id)
    return view


def set_state(desk: Desk, name: str, state: AccountState) -> tuple[AccountView, bool]:
    """Disable or enable an account; and whether that changed anything. Raises StoreError if there is none."""
    account = find(desk, name)
    has_changed = desk.store.set_account_state(account.id, state)
    return show(desk, account.email), has_changed


def add_alias(desk: Desk, name: str, alias: str) -> tuple[AccountView, bool]:
    """Let clients log in to an account by one more name; and whether that is new.

    raises  OperatorError: it can't be a login name; StoreError: no such account, another account's login name, or
            there are too many already
    """
    account = find(desk, name)
    new = inputs.aliases([alias], account.email)
    if new and (taken := desk.store.account(new[0])) is not None and taken.id != account.id:
        what = f"{new[0]} is {'another account' if taken.email == new[0] else f'an alias of {taken.email}'}"
        raise StoreError(what, f"gatepost account show {taken.email}")
    has_changed = bool(new) and desk.store.add_alias(account.id, new[0], inputs.MAX_ALIASES)
    return show(desk, account.email), has_changed


def remove_alias(desk: Desk, name: str, alias: str) -> AccountView:
    """Let nobody log in by this alias any more. Raises StoreError, with the nearest, if the account has no such."""
    account = find(desk, name)
    wanted = inputs.login(alias)
    if wanted == account.email:
        raise StoreError(f"{wanted} is its e-mail, which stays", "gatepost account remove takes away the whole account")
    if not desk.store.remove_alias(account.id, wanted):
        remedy = inputs.suggestion(wanted, account.aliases, f"gatepost account show {account.email}")
        raise StoreError(f"{account.email} has no alias {inputs.repeated(alias)}", remedy)
    return show(desk, account.email)


def find(desk: Desk, name: str) -> Account:
    """The account with this login name. Raises StoreError with the nearest name if there is none."""
    wanted = inputs.login(name)
    account = desk.store.account(wanted)
    if account is None:
        known = [email for each in desk.store.accounts() for email in (each.email, *each.aliases)]
        otherwise = "gatepost account list shows them, gatepost account add makes one"
        # Higher than for words: e-mails of one domain are all much alike.
        remedy = inputs.suggestion(wanted, known, otherwise, cutoff=0.9)
        raise StoreError(f"there is no account {inputs.repeated(name)}", remedy)
    return account


def upstream_named(desk: Desk, name: str) -> UpstreamConfig:
    """An upstream of the configuration. Raises OperatorError with the nearest name if there is none."""
    upstream = desk.config.upstreams.get(name)
    if upstream is None:
        known = tuple(desk.config.upstreams)
        remedy = inputs.suggestion(name, known, f"{desk.config.path} has {', '.join(known)}")
        raise OperatorError(f"there is no upstream {inputs.repeated(name)}", remedy)
    return upstream
