"""The audit as plain data: who did what, when, from where, and why it was refused. Never a secret."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import Enum


class Event(Enum):
    """What an entry tells of."""

    ACCOUNT_ADDED = "account_added"
    ACCOUNT_REMOVED = "account_removed"
    ACCOUNT_DISABLED = "account_disabled"
    ACCOUNT_ENABLED = "account_enabled"
    ALIAS_ADDED = "alias_added"
    ALIAS_REMOVED = "alias_removed"
    CREATED = "created"
    ROTATED = "rotated"
    SUSPENDED = "suspended"
    RESUMED = "resumed"
    REVOKED = "revoked"
    USED = "used"  # the first use of a day (UTC) of an app password from an address
    REFUSED = "refused"  # logins of one kind, counted
    KICKED = "kicked"
    CONSENT_GIVEN = "consent_given"  # a refresh token or password was deposited
    CONSENT_LOST = "consent_lost"
    UPSTREAM_REFUSES = "upstream_refuses"
    BACKED_UP = "backed_up"
    RESTORED = "restored"  # from a backup: all before it in the audit came with that
    KEY_ADDED = "key_added"  # a master key
    KEY_DROPPED = "key_dropped"
    SIGNED_IN = "signed_in"  # at the web page
    SIGN_IN_REFUSED = "sign_in_refused"
    SIGNED_OUT = "signed_out"
    BOUND = "bound"  # an account to the person who owns it, at the first sign-in
    GRANTED = "granted"  # somebody else may look after an account
    GRANT_REVOKED = "grant_revoked"


NEW_NETWORK = "new_network"  # cause of USED: the app password was never used from that network, but from others
CLIENT = "client"  # actor of USED and REFUSED: whoever held, or guessed at, an app password
SYSTEM = "system"  # actor of what Gatepost did by itself


@dataclass(frozen=True, slots=True)
class Actor:
    """Who works at the store: "cli:ann", "web:ann@example.com" or "system"; on which node, from which address.

    worker  its number, if it is a worker process of `gatepost serve`
    """

    name: str
    node: str = ""
    address: str = ""
    worker: int | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the audit. Empty texts stand for what does not apply.

    account         the account's e-mail; of a refusal without an account, the login name as it was typed
    app_password    its public id
    address         of the client, or of the person at the web page
    count           how many refusals, all alike, from `at` to `until`
    """

    at: datetime
    event: Event
    actor: str
    node: str = ""
    worker: int | None = None
    account: str = ""
    app_password: str = ""
    name: str = ""
    protocol: str = ""
    address: str = ""
    cause: str = ""
    detail: str = ""
    count: int = 1
    until: datetime | None = None
    id: int = 0  # given by the store; rises


@dataclass(frozen=True, slots=True)
class Refusals:
    """Refused logins that are all alike, from one worker."""

    at: datetime
    until: datetime
    account: str
    app_password: str
    name: str
    protocol: str
    address: str
    cause: str
    count: int


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which entries a reader asks for: all that fit every field that is set."""

    account: str | None = None
    since: datetime | None = None
    events: tuple[Event, ...] = ()
