"""App passwords of sealed accounts: each gets a key of its own, which must open what the account has stored.

That needs the mailbox opened anew (`--sign-in`: what is stored is replaced), or an app password that opens it already
and the master key (`--unlock-stdin`); only while nothing is stored yet a key alone will do. See proxy/vault/sealed.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import TYPE_CHECKING

from proxy.admin.desk import Desk
from proxy.errors import ConfigError, OperatorError, StoreError
from proxy.secret import Secret
from proxy.store.rows import Account, AppKey, CredentialState, Deposit, Purpose, Wrap

if TYPE_CHECKING:
    from proxy.vault.apppassword import AppPassword
    from proxy.vault.hashing import Hasher
    from proxy.vault.sealed import Locked, OpenKey


class Way(Enum):
    """How an account is opened for a new app password. PLAIN: it need not be."""

    PLAIN = "plain"
    SIGN_IN = "sign_in"
    UNLOCK = "unlock"


def require_way(desk: Desk, account: Account, way: Way) -> None:
    """Raise OperatorError unless the way fits the account."""
    if not account.sealed:
        if way is not Way.PLAIN:
            raise OperatorError(
                f"{account.email} is not sealed", "leave out --sign-in and --unlock-stdin: it needs no unlocking"
            )
        return
    if not desk.store.masters():
        raise StoreError(
            "the store knows no master key",
            "start the service once, or run gatepost db upgrade as a user who can read [keys] master",
        )
    has_stored = bool(_deposits(desk, account))
    if way is Way.PLAIN and has_stored:
        raise OperatorError(
            f"{account.email} is sealed: Gatepost alone cannot open it for another app password",
            "add --sign-in, or --unlock-stdin and give one of its app passwords on stdin",
        )
    if way is Way.PLAIN and desk.config.upstreams[account.upstream].auth == "password":
        raise OperatorError(
            f"{account.email} is sealed and has no password stored yet", "add --sign-in, which asks for it"
        )
    if way is Way.UNLOCK and not has_stored:
        raise OperatorError(
            f"{account.email} has nothing stored that could be unlocked", "use --sign-in in place of --unlock-stdin"
        )


@dataclass(frozen=True, slots=True)
class Opening:
    """What opens a sealed account for a new app password: an app password of it, or a new token, or neither.

    purpose     what the token is: REFRESH_TOKEN or PASSWORD
    """

    unlock: Secret | None = None
    token: Secret | None = None
    purpose: Purpose = Purpose.REFRESH_TOKEN

    def keyring(self, desk: Desk, account: Account, hasher: Hasher) -> Keyring:
        """Raises OperatorError if the app password does not open the account, or the master key can't be read."""
        key = None if self.unlock is None else _unlocked(desk, account, self.unlock, hasher)
        return Keyring(desk, account, hasher, self, key)


@dataclass(frozen=True, slots=True)
class Keyed:
    """A new app password's key, and what goes into the store with it; None if the account is not sealed.

    See Store.add_credential.
    """

    key: AppKey | None
    opened: tuple[tuple[Deposit, Wrap], ...] = ()
    tokens: tuple[Deposit, ...] = ()


@dataclass(frozen=True, slots=True)
class Keyring:
    """Makes keys for one account that is open."""

    desk: Desk
    account: Account
    hasher: Hasher
    opening: Opening
    opener: OpenKey | None

    def cut(self, password: AppPassword) -> Keyed:
        """A key for this password that opens what the account has at this moment, or will have."""
        from proxy.vault.sealed import make_app_key, recipient_of  # noqa: PLC0415 - cryptography
        from proxy.vault.sealing import SealBroken, seal, wrap_for  # noqa: PLC0415 - cryptography

        store, account = self.desk.store, self.account
        key = make_app_key(account.id, password, store.masters()[0], self.hasher)
        if self.opening.token is not None:
            recipients = [*store.recipients(account.id), recipient_of(key)]
            return Keyed(key, tokens=(seal(self.opening.purpose, account.id, self.opening.token, recipients),))
        if self.opener is None:
            require_way(self.desk, account, Way.PLAIN)  # something may have been stored since
            return Keyed(key)
        deposits = _deposits(self.desk, account)
        try:
            return Keyed(key, tuple((one, wrap_for(one, self.opener, recipient_of(key))) for one in deposits))
        except SealBroken as error:
            raise OperatorError(f"what {account.email} has stored does not open: {error}", "use --sign-in") from None


def _deposits(desk: Desk, account: Account) -> list[Deposit]:
    found = [desk.store.deposit(account.id, purpose) for purpose in Purpose]
    return [deposit for deposit in found if deposit is not None]


def _unlocked(desk: Desk, account: Account, typed: Secret, hasher: Hasher) -> OpenKey:
    from proxy.vault.apppassword import parse  # noqa: PLC0415 - only here
    from proxy.vault.sealed import unlocked  # noqa: PLC0415 - cryptography
    from proxy.vault.sealing import SealBroken  # noqa: PLC0415 - cryptography

    password = parse(typed)
    if password is None:
        raise OperatorError("what is on stdin is no app password", "look for a typing error; it has 20 symbols")
    refusal = OperatorError(
        f"the app password on stdin does not open {account.email}",
        "use one that is active: gatepost list shows them; or use --sign-in",
    )
    row = desk.store.find_login(account.email, password.selector)
    if row is None or row.secret is None or row.credential is None:
        raise refusal
    is_good = hasher.verify(row.secret.phc, password)
    now = datetime.now(UTC)
    is_active = row.credential.state_at(now) == CredentialState.ACTIVE.value and not row.secret.is_over(now)
    key = desk.store.app_key(row.secret.id)
    if not is_good or not is_active or key is None:
        raise refusal
    try:
        locked = _locked(desk, key, row.secret.id)
        return unlocked(locked, hasher.stretched(locked.stretch, password))
    except SealBroken as error:
        raise OperatorError(f"{error}", "use --sign-in") from None


def _locked(desk: Desk, key: AppKey, secret_id: int) -> Locked:
    """The app key without the master's lock, by whoever has the master. Raises OperatorError, SealBroken."""
    from proxy.admin import service  # noqa: PLC0415 - only here
    from proxy.vault.sealed import locked_of, unwrapped  # noqa: PLC0415 - cryptography
    from proxy.vault.sealing import load_master  # noqa: PLC0415 - cryptography

    if service.must_ask(desk.config):
        return locked_of(key, service.unwrap(desk.config, secret_id, desk.by))
    try:
        master = load_master(desk.config.keys.master.read())
    except ConfigError as error:
        raise OperatorError(
            f"--unlock-stdin needs the master key too: {error.problem}", "run it as a user who can, or use --sign-in"
        ) from None
    return unwrapped(key, master)
