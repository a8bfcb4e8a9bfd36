"""What the store keeps, as plain data: no SQLAlchemy here, so every floor may hold these."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import Enum

from proxy.errors import StoreError

LAST_REVOKED = "last_app_password_revoked"  # token_detail of a sealed account that nobody can open any more


class SelectorTaken(StoreError):
    """The account has, or once had, a secret of this selector: draw another and try again."""


class AlreadySpent(StoreError):
    """What counts once was done before: a form that was sent twice, a sign-in whose end was."""


class RecipientsChanged(StoreError):
    """The keys to seal to, or the deposit that was opened, are not what they were: read them again, and seal again."""


class AccountState(Enum):
    ACTIVE = "active"
    DISABLED = "disabled"


class CredentialState(Enum):
    """As stored. "expired" is not stored: it follows from the clock (see Credential.state_at)."""

    ACTIVE = "active"
    SUSPENDED = "suspended"
    RESTORED = "restored"  # suspended by a restore, until `resume --all`; shown as "suspended"
    REVOKED = "revoked"


class TokenState(Enum):
    """What is known of an account's way into its upstream."""

    NONE = "none"  # nothing deposited yet: needs `account connect` or an import
    FRESH = "fresh"
    FAILING = "failing"  # the provider is down for us; the token is kept and tried again
    NEEDS_CONSENT = "needs_consent"  # the grant is gone; a person must sign in again
    UPSTREAM_REFUSES = "upstream_refuses"  # a fresh token was refused; no dialling until something changes


class Purpose(Enum):
    """What a deposit holds; part of its associated data."""

    REFRESH_TOKEN = "refresh_token"
    ACCESS_TOKEN = "access_token"
    PASSWORD = "password"


@dataclass(frozen=True, slots=True)
class Account:
    """A mailbox upstream. Times are aware and in UTC, here and in every row."""

    id: int
    email: str  # canonical; also its first login name
    upstream: str
    upstream_user: str  # what the upstream calls the mailbox; the e-mail unless told otherwise
    state: AccountState
    sealed: bool
    token_state: TokenState
    token_since: datetime
    token_detail: str  # error code of the provider or upstream, never a token
    created: datetime
    created_by: str
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LastUse:
    at: datetime
    address: str
    protocol: str
    client: str


@dataclass(frozen=True, slots=True)
class Credential:
    """One app password as people see it: named, scoped, with a state. Its secrets are rows of their own."""

    id: int
    public_id: str
    account_id: int
    email: str
    name: str
    protocols: frozenset[str]
    networks: tuple[str, ...]  # CIDR, canonical; empty means anywhere
    state: CredentialState
    expires: datetime | None
    generation: int  # raised by every change that live sessions must notice
    created: datetime
    created_by: str
    last_use: LastUse | None = None

    def is_expired(self, now: datetime) -> bool:
        return self.expires is not None and self.expires <= now

    @property
    def is_suspended(self) -> bool:
        return self.state in (CredentialState.SUSPENDED, CredentialState.RESTORED)

    def state_at(self, now: datetime) -> str:
        """What `list` shows: "active", "suspended", "expired" or "revoked"."""
        if self.state is CredentialState.ACTIVE and self.is_expired(now):
            return "expired"
        return (CredentialState.SUSPENDED if self.is_suspended else self.state).value


@dataclass(frozen=True, slots=True)
class SecretRow:
    """One secret of a credential: what argon2 verifies. `selector` is unique in the account and never reused."""

    id: int
    selector: str
    phc: str
    valid_until: datetime | None  # set on the old secret of a rotation

    def is_over(self, now: datetime) -> bool:
        return self.valid_until is not None and self.valid_until <= now


@dataclass(frozen=True, slots=True)
class LoginRow:
    """Everything one login needs from one SELECT; credential and secret are None for an unknown selector.

    `revision` is the store's revision at that moment, so that a change right after it is noticed. The account's
    aliases are left out: the SELECT finds the account by whichever login name was used.

    elsewhere   live sessions of this mailbox at this protocol that other workers have published
    """

    account: Account
    credential: Credential | None
    secret: SecretRow | None
    revision: int
    elsewhere: int = 0


@dataclass(frozen=True, slots=True)
class Wrap:
    """A deposit's data key, wrapped (HPKE, RFC 9180) to one recipient."""

    key_id: str
    blob: bytes


@dataclass(frozen=True, slots=True)
class Deposit:
    """An upstream secret at rest. `row` is random, chosen before sealing, and bound into the ciphertext."""

    row: str
    account_id: int
    purpose: Purpose
    ciphertext: bytes
    wraps: tuple[Wrap, ...]
    valid_until: datetime | None = None  # of an access token


@dataclass(frozen=True, slots=True)
class Recipient:
    """A public half that deposits are wrapped to."""

    key_id: str
    public: bytes


@dataclass(frozen=True, slots=True)
class AppKey:
    """The key pair of one secret of a sealed account's app password, as it rests. See proxy/vault/sealed.

    selector    of the secret; with the account it is bound into `locked`
    master      key id of the master that `locked` is wrapped to
    locked      the private half, under the app password, and that under the master
    """

    key_id: str
    public: bytes
    account_id: int
    selector: str
    master: str
    locked: bytes


@dataclass(frozen=True, slots=True)
class MasterKey:
    """The public half of a master key; its private half never enters the store."""

    key_id: str
    public: bytes
    created: datetime


@dataclass(frozen=True, slots=True)
class NewAccount:
    email: str
    upstream: str
    upstream_user: str
    aliases: tuple[str, ...]
    created_by: str
    sealed: bool = False


@dataclass(frozen=True, slots=True)
class Once:
    """What may happen a single time: spent in the transaction in which it does. Only its hash is kept, until then."""

    token_hash: str
    until: datetime


@dataclass(frozen=True, slots=True)
class NewCredential:
    public_id: str
    account_id: int
    name: str
    protocols: frozenset[str]
    networks: tuple[str, ...]
    expires: datetime | None
    created_by: str
    selector: str
    phc: str
    once: Once | None = None


@dataclass(frozen=True, slots=True)
class NewSecret:
    """What `rotate` gives an app password beside the secret that it has."""

    selector: str
    phc: str


@dataclass(frozen=True, slots=True)
class Use:
    """A successful login, for `last used` and the audit; written in batches.

    network     the network of the address, as the audit tells old from new
    """

    credential_id: int
    last_use: LastUse
    network: str


@dataclass(frozen=True, slots=True)
class Seat:
    """A worker process among all nodes. `id` is random: a replacement has the same node and number, not the id."""

    id: str
    node: str
    number: int


@dataclass(frozen=True, slots=True)
class LiveSession:
    """A live session as its worker published it, at most a second late."""

    id: str
    account_id: int
    email: str
    public_id: str
    name: str
    protocol: str
    upstream: str
    upstream_user: str
    address: str
    client: str
    since: datetime


@dataclass(frozen=True, slots=True)
class SeatedSession:
    """A live session, and whose it is."""

    session: LiveSession
    node: str
    worker: int


@dataclass(frozen=True, slots=True)
class Told:
    """Trouble that people were told of by an alert; the same state since another time is another trouble."""

    state: str
    since: datetime


@dataclass(frozen=True, slots=True)
class Claim:
    """A right to tell people of something: whose it is, and when others may take it because he seems to be gone."""

    owner: str
    taken: datetime
    until: datetime


@dataclass(frozen=True, slots=True)
class Standing:
    """What a live session must be compared with after a revision. A secret that is gone has no Standing."""

    credential_id: int
    account_state: AccountState
    state: CredentialState
    expires: datetime | None
    generation: int
    secret_valid_until: datetime | None
