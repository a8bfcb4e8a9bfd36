"""The verify cache: spares argon2 for a password that was verified a moment ago, and bridges a store that is down.

While the store answers, an entry replaces argon2 alone: it counts only for the very account, secret row and
generation that the store names at this login, and state, expiry, protocol and network are judged from the store's
row. Only while the store is unreachable does the row kept here decide, until its time is over. Rows that the store is
known to have changed are not kept: what was revoked before the store went away must not come to life by that.

Keys are MACs under a random key of this process over length-prefixed fields, so that no two logins can share an
entry (Dovecot's CVE-2025-30189 was users sharing a key) and no password is kept.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import blake2b

from proxy.secret import Secret
from proxy.store.rows import AccountState, CredentialState, LoginRow, Standing
from proxy.vault.apppassword import AppPassword
from proxy.vault.sealed import Concealer, OpenKey

MAX_ENTRIES = 50_000  # about 30 MB with their rows; the least recently used go first


@dataclass(frozen=True, slots=True)
class Verified:
    """A login that succeeded, as the store described it then. `until` is monotonic."""

    row: LoginRow
    until: float
    concealed: bytes | None  # of a sealed account: its app key, under the app password

    def is_for(self, row: LoginRow) -> bool:
        """Whether `row` names the same account, secret row and generation."""
        return _identity(self.row) == _identity(row)


class VerifyCache:
    """Which (login name, password) were verified within the last `ttl_s` seconds, and what row they met."""

    def __init__(self, *, ttl_s: float, clock: Callable[[], float]) -> None:
        self._ttl_s = ttl_s
        self._clock = clock
        self._digests = Fingerprints()
        self._concealer = Concealer()
        self._entries: OrderedDict[bytes, Verified] = OrderedDict()
        self._reconsidered = -1  # the revision that every entry has been compared at

    def find(self, login: str, password: AppPassword) -> Verified | None:
        key = self._digests.of(login, password.whole)
        entry = self._entries.get(key)
        if entry is not None and entry.until <= self._clock():
            del self._entries[key]
            return None
        return entry

    def app_key(self, known: Verified, password: AppPassword) -> OpenKey | None:
        """The app key of a sealed account that was opened at that login, None for an ordinary one's."""
        return None if known.concealed is None else self._concealer.reveal(known.concealed, password)

    def remember(self, login: str, password: AppPassword, row: LoginRow, key: OpenKey | None = None) -> None:
        """Keep a success that the store has just confirmed; the key only under the password itself."""
        if row.revision < self._reconsidered:
            return  # read before the last comparison, which it missed: the next login of this password is kept
        digest = self._digests.of(login, password.whole)
        concealed = None if key is None else self._concealer.conceal(key, password)
        self._entries[digest] = Verified(row, self._clock() + self._ttl_s, concealed)
        self._entries.move_to_end(digest)
        while len(self._entries) > MAX_ENTRIES:
            self._entries.popitem(last=False)

    def secret_ids(self) -> set[int]:
        """Of the entries whose time is not over; the others go."""
        now = self._clock()
        self._entries = OrderedDict((key, one) for key, one in self._entries.items() if one.until > now)
        return {one.row.secret.id for one in self._entries.values() if one.row.secret is not None}

    def reconsider(self, standings: Mapping[int, Standing], revision: int) -> None:
        """Drop the entries whose app password is not what it was. `standings` were read at `revision`, or later."""
        self._reconsidered = revision
        stale = [
            key
            for key, one in self._entries.items()
            if one.row.revision < revision and not _still_stands(one.row, standings)
        ]
        for key in stale:
            del self._entries[key]


class Fingerprints:
    """Keyed digests that tell (login name, password) pairs apart without keeping them.

    The key is random: each process's own, or that of a node's workers, who compare what they met.
    """

    def __init__(self, key: bytes | None = None) -> None:
        self._key = secrets.token_bytes(32) if key is None else key

    def of(self, login: str, password: Secret) -> bytes:
        fields = (login.encode("utf-8", "surrogatepass"), password.reveal().encode("utf-8", "surrogatepass"))
        message = b"".join(len(field).to_bytes(4, "big") + field for field in fields)
        # Keyed BLAKE2 is a MAC (RFC 7693 2.9). HMAC by OpenSSL lets go of the GIL, and waits for it, for 5 us of work.
        return blake2b(message, key=self._key, digest_size=32).digest()


def _identity(row: LoginRow) -> tuple[int, int, int, str] | None:
    if row.credential is None or row.secret is None:
        return None
    return row.account.id, row.secret.id, row.credential.generation, row.secret.phc


def _still_stands(row: LoginRow, standings: Mapping[int, Standing]) -> bool:
    if row.credential is None or row.secret is None or (now := standings.get(row.secret.id)) is None:
        return False
    former = AccountState.ACTIVE, CredentialState.ACTIVE, row.credential.generation, row.secret.valid_until
    return (now.account_state, now.state, now.generation, now.secret_valid_until) == former
