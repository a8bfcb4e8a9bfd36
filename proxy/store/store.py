"""The store's public face: every read is one SELECT, every write one transaction.

Synchronous and safe to share between threads; the event loop goes through StorePool. Open it after a fork, never
before. Any method may raise StoreUnavailable (down, locked, no connection) or StoreError (with the remedy). Login
names come in their canonical form. Times are aware; they come back in UTC.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime
from typing import Self

from sqlalchemy import text

from proxy.errors import StoreError
from proxy.store import accounts, credentials, deposits, migrate as _migrate, recipients, revisions
from proxy.store.audit import Scribe
from proxy.store.audit_rows import SYSTEM, Actor
from proxy.store.engine import Database, parse_url
from proxy.store.faults import RESTORE
from proxy.store.roster import Roster
from proxy.store.rows import (
    Account,
    AccountState,
    AppKey,
    Credential,
    CredentialState,
    Deposit,
    LoginRow,
    MasterKey,
    NewAccount,
    NewCredential,
    NewSecret,
    Purpose,
    Recipient,
    SelectorTaken,
    Standing,
    TokenState,
    Use,
    Wrap,
)
from proxy.store.schema import HEAD
from proxy.store.seldom import Seldom
from proxy.store.trail import Trail
from proxy.store.upkeep import Upkeep

__all__ = ["SelectorTaken", "Store"]

_NOBODY_ELSE = Actor(SYSTEM)
WAIT_S = 5.0  # for a lock that another process holds; the server's StorePool answers earlier


def utc_now() -> datetime:
    return datetime.now(UTC)


class Store(Seldom):
    """An open database whose schema is the one this code needs. Made by `open`, `create`.

    trail   the audit; what is done here is written there in the same transaction, in the actor's name
    roster  workers and their live sessions
    upkeep  what runs by itself looks at: tokens to renew, people to tell
    people, web, backups    see Seldom
    """

    def __init__(
        self, database: Database, clock: Callable[[], datetime] = utc_now, actor: Actor = _NOBODY_ELSE
    ) -> None:
        super().__init__(database, clock, actor)
        self._read, self._write = database.read, database.write
        self.trail = Trail(database, clock, actor)
        self.roster = Roster(database, clock, actor)
        self.upkeep = Upkeep(database)

    @classmethod
    def open(
        cls,
        url: str,
        *,
        migrate: bool,
        wait_s: float = WAIT_S,
        clock: Callable[[], datetime] = utc_now,
        actor: Actor = _NOBODY_ELSE,
    ) -> Self:
        """Open what exists.

        migrate bring an older schema, or a database without tables, up to date; else that is a StoreError
        wait_s  how long a lock, or a free connection, is waited for
        actor   whose deeds the audit will tell of
        raises  StoreError for a missing or read-only file, somebody else's database, a newer schema, a missing
                driver; StoreUnavailable
        """
        parsed = parse_url(url)
        _migrate.require_file(parsed)
        database = Database(parsed, wait_s=wait_s)
        try:
            with database.read() as connection:
                found = _migrate.version(connection, database.name)
            if migrate and found != HEAD:
                _, found = _migrate.upgrade(parsed)
            _migrate.require(found, database.name)
        except BaseException:
            database.close()
            raise
        return cls(database, clock, actor)

    @classmethod
    def create(
        cls, url: str, *, wait_s: float = WAIT_S, clock: Callable[[], datetime] = utc_now, actor: Actor = _NOBODY_ELSE
    ) -> Self:
        """Make the database (a SQLite file gets mode 0600) and open it. Raises StoreError if it holds anything."""
        _migrate.create(parse_url(url))
        return cls.open(url, migrate=False, wait_s=wait_s, clock=clock, actor=actor)

    @classmethod
    def upgrade(cls, url: str) -> tuple[str, str]:
        """Migrate to this code's schema: (version before, version now); "" stands for a database without tables."""
        return _migrate.upgrade(parse_url(url))

    def close(self) -> None:
        self._database.close()

    def acting(self, actor: Actor) -> Self:
        """The same open database in another's name; only one of the two is to be closed."""
        return type(self)(self._database, self._clock, actor)

    def _scribe(self) -> Scribe:
        return Scribe(self._actor, self._clock())

    def check(self, *, deep: bool = False) -> None:
        """Find out whether the store answers; `deep` also reads every page and takes the write lock."""
        with self._read() as connection:
            revisions.current_revision(connection)
        if not deep:
            return
        with self._write() as connection:
            if self._database.is_sqlite:
                said = connection.execute(text("PRAGMA quick_check(1)")).scalar_one()
                if said != "ok":
                    raise StoreError(f"{self._database.name} is damaged: {said}", RESTORE)

    # Accounts

    def add_account(self, new: NewAccount, seal: Callable[[int], Sequence[Deposit]] | None = None) -> Account:
        """Add an account, and what it can log in with.

        seal    given the new account's id, makes its first deposits inside the transaction: all or nothing
        raises  StoreError if a login name is taken
        """
        scribe = self._scribe()
        with self._write() as connection:
            account = accounts.add_account(connection, new, scribe)
            first = seal(account.id) if seal else ()
            for one in first:
                deposits.put_deposit(connection, one, scribe)
            return accounts.account_named(connection, account.email) or account

    def accounts(self) -> list[Account]:
        """All accounts, by e-mail."""
        with self._read() as connection:
            return accounts.accounts(connection)

    def account(self, email_or_alias: str) -> Account | None:
        with self._read() as connection:
            return accounts.account_named(connection, email_or_alias)

    def remove_account(self, account_id: int) -> None:
        """Delete the account with everything it owns. Raises the revision. StoreError if it is gone."""
        with self._write() as connection:
            accounts.remove_account(connection, account_id, self._scribe())

    def set_account_state(self, account_id: int, state: AccountState) -> bool:
        """Disable or enable; True if that changed anything. Raises the revision."""
        with self._write() as connection:
            return accounts.set_account_state(connection, account_id, state, self._scribe())

    def add_alias(self, account_id: int, name: str, most: int) -> bool:
        """One more login name, if there are fewer than `most`; False if the account has it. StoreError: taken, full."""
        with self._write() as connection:
            return accounts.add_alias(connection, account_id, name, most, self._scribe())

    def remove_alias(self, account_id: int, name: str) -> bool:
        """Take a login name away; False if the account has no such alias."""
        with self._write() as connection:
            return accounts.remove_alias(connection, account_id, name, self._scribe())

    def set_token_state(
        self, account_id: int, state: TokenState, detail: str, now: datetime, *, fence: int | None = None
    ) -> bool:
        """Note what is known of the account's token; True if the state changed (one alert, then). See accounts."""
        with self._write() as connection:
            return accounts.set_token_state(
                connection, account_id, state, detail, self._scribe(), since=now, fence=fence
            )

    # App passwords

    def add_credential(
        self,
        new: NewCredential,
        key: AppKey | None = None,
        *,
        opened: Sequence[tuple[Deposit, Wrap]] = (),
        tokens: Sequence[Deposit] = (),
        most: int | None = None,
    ) -> Credential:
        """Add an app password; in a sealed account with its key, which must open whatever the account has then.

        opened  what the account has, each with a wrap to the new key
        tokens  or what takes its place: new tokens, sealed to all keys of the account and the new one
        most    live app passwords that an account may have
        raises  StoreError for a live one of this name, and for too many; SelectorTaken: draw again;
                RecipientsChanged: read again
        """
        scribe = self._scribe()
        with self._write() as connection:
            credential, secret_id = credentials.add_credential(connection, new, most, scribe)
            deposits.add_secret_key(
                connection, secret_id, new.account_id, scribe, key=key, opened=opened, tokens=tokens
            )
            return credential

    def rotate(
        self,
        public_id: str,
        new: NewSecret,
        until: datetime,
        key: AppKey | None = None,
        *,
        opened: Sequence[tuple[Deposit, Wrap]] = (),
        tokens: Sequence[Deposit] = (),
    ) -> Credential:
        """Give an app password a new secret; the former is valid until then. The rest is as of add_credential.

        raises  StoreError if it is gone or revoked; SelectorTaken: draw again; RecipientsChanged: read again
        """
        scribe = self._scribe()
        with self._write() as connection:
            credential, secret_id = credentials.rotate(connection, public_id, new, until, scribe)
            deposits.add_secret_key(
                connection, secret_id, credential.account_id, scribe, key=key, opened=opened, tokens=tokens
            )
            return credential

    def end_secret(self, account_id: int, selector: str) -> None:
        """End one secret at once; the others of its app password stay as they are. Raises the revision."""
        with self._write() as connection:
            credentials.end_secret(connection, account_id, selector, self._scribe())

    def secret_ends(self, credential_id: int) -> list[datetime | None]:
        """Until when (None: for good) each secret of an app password works that still does; newest secret first."""
        with self._read() as connection:
            return credentials.secret_ends(connection, credential_id, self._clock())

    def credentials(self, account_id: int | None) -> list[Credential]:
        """App passwords in every state, of one account or (None) of all; by e-mail, then oldest first."""
        with self._read() as connection:
            return credentials.credentials(connection, account_id)

    def credential(self, public_id: str) -> Credential | None:
        with self._read() as connection:
            return credentials.credential_named(connection, public_id)

    def revoke(self, public_ids: Sequence[str]) -> list[Credential]:
        """Revoke for good, all or (one id is unknown: StoreError) none. Twice is as good as once."""
        return self.set_credential_states(public_ids, CredentialState.REVOKED)

    def set_credential_states(self, public_ids: Sequence[str], state: CredentialState) -> list[Credential]:
        """Suspend, resume or revoke. What changes raises its generation, and the revision."""
        with self._write() as connection:
            return credentials.set_states(connection, public_ids, state, self._scribe())

    def find_login(self, name: str, selector: str, protocol: str = "", worker_id: str = "") -> LoginRow | None:
        """Everything that one login needs, in one SELECT; None if nobody logs in by this name.

        protocol, worker_id     for the number of the mailbox's sessions elsewhere: at that protocol, of other workers
        """
        with self._read() as connection:
            return credentials.find_login(
                connection, name, selector, protocol=protocol, worker_id=worker_id, now=self._clock()
            )

    def replace_phc(self, secret_id: int, old: str, new: str) -> bool:
        """Keep a better hash of the same password; False if the row holds another than `old` by now."""
        with self._write() as connection:
            return credentials.replace_phc(connection, secret_id, old, new)

    def record_uses(self, uses: Sequence[Use], *, is_told: bool = False) -> None:
        """Note last uses, in one transaction; an older use never replaces a newer one. The audit gets what is new.

        is_told whether an alert is to be sent of a use from a new network
        """
        with self._write() as connection:
            credentials.record_uses(connection, uses, self._scribe(), is_told=is_told)

    # Upstream secrets

    def deposit(self, account_id: int, purpose: Purpose) -> Deposit | None:
        with self._read() as connection:
            return deposits.deposit_of(connection, account_id, purpose)

    def put_deposit(self, deposit: Deposit) -> None:
        """Keep a deposit from outside. A new way in also outdates a refresh that is under way. See deposits."""
        with self._write() as connection:
            deposits.put_deposit(connection, deposit, self._scribe())

    def put_tokens(self, account_id: int, fence: int, tokens: Sequence[Deposit]) -> bool:
        """Keep what a refresh gave, if the lease still has this fence; else nothing is written and it is False."""
        with self._write() as connection:
            return deposits.put_tokens(connection, account_id, fence, tokens, self._clock())

    def take_lease(self, account_id: int, owner: str, now: datetime, until: datetime) -> int | None:
        """Take the right to refresh this account's token until then.

        owner   for people and logs; a second taking by the same owner is refused like anybody's
        returns the fence, higher than any before; None while a lease runs, and a moment beyond its end
        """
        with self._write() as connection:
            return deposits.take_lease(connection, account_id, owner, now, until)

    def release_lease(self, account_id: int, fence: int) -> None:
        """Give the lease back; without effect if it is somebody else's by now."""
        with self._write() as connection:
            deposits.release_lease(connection, account_id, fence)

    # Keys that these are sealed to

    def recipients(self, account_id: int) -> list[Recipient]:
        """Whom a deposit of this account is to be wrapped to; empty for a sealed one without an app password."""
        with self._read() as connection:
            return recipients.recipients_of(connection, account_id)

    def app_key(self, secret_id: int) -> AppKey | None:
        """The key of a sealed account's app password, None if it has none any more."""
        with self._read() as connection:
            return recipients.app_key_of(connection, secret_id)

    def add_master(self, key: MasterKey) -> None:
        with self._write() as connection:
            recipients.add_master(connection, key, self._scribe())

    def masters(self) -> list[MasterKey]:
        """The masters' public halves, newest first."""
        with self._read() as connection:
            return recipients.masters(connection)

    def wraps_under(self, master: str, after: str, limit: int) -> list[Deposit]:
        """A page of the deposits that are wrapped to this master, by row, each with that one wrap."""
        with self._read() as connection:
            return recipients.wraps_under(connection, master, after, limit)

    def app_keys_under(self, master: str, after: str, limit: int) -> list[AppKey]:
        """A page of the app keys that are locked under this master, by key id."""
        with self._read() as connection:
            return recipients.app_keys_under(connection, master, after, limit)

    def replace_wraps(self, pairs: Sequence[tuple[Deposit, Wrap]]) -> int:
        """Put new wraps in place of old ones that are still there; returns how many were."""
        with self._write() as connection:
            return recipients.replace_wraps(connection, pairs)

    def replace_app_keys(self, pairs: Sequence[tuple[AppKey, AppKey]]) -> int:
        """The same for app keys."""
        with self._write() as connection:
            return recipients.replace_app_keys(connection, pairs)

    def drop_master(self, key_id: str) -> int:
        """Forget a master. Returns how many wraps and app keys are still under it: with any, nothing is done."""
        with self._write() as connection:
            return recipients.drop_master(connection, key_id, self._scribe())

    # What live sessions and fronts look at

    def revision(self) -> int:
        with self._read() as connection:
            return revisions.current_revision(connection)

    def standings(self, secret_ids: Collection[int]) -> dict[int, Standing]:
        """By secret id; a secret that is gone is missing."""
        with self._read() as connection:
            return revisions.standings(connection, secret_ids)

    def extensions(self, upstream: str, protocol: str) -> tuple[str, ...] | None:
        """What this upstream was last seen to offer, None if never seen."""
        with self._read() as connection:
            return revisions.extensions(connection, upstream, protocol)

    def put_extensions(self, upstream: str, protocol: str, words: tuple[str, ...]) -> None:
        """Keep what an upstream offers; what is known already costs no write."""
        if self.extensions(upstream, protocol) == words:
            return
        with self._write() as connection:
            revisions.put_extensions(connection, upstream, protocol, words, self._clock())
