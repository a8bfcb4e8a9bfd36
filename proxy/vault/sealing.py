"""Sealing of upstream secrets: a fresh data key per deposit, wrapped to every recipient's public half.

The public half of the master key lies in the store, so whoever holds no secret at all (CLI, web page) can deposit;
only the serving process holds the private half and opens. A sealed account has other recipients: see sealed.
Ciphertexts are bound to their table, row and purpose, wraps to these and the recipient's key id, so that no row can
be passed off as another.

Formats. Deposit: 12-byte nonce, then AES-256-GCM ciphertext and tag. Wrap: RFC 9180 single-shot base mode with
DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM: encapsulated key, then ciphertext and tag.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import secrets
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from time import monotonic
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from proxy.errors import ConfigError, GatepostError
from proxy.secret import Secret
from proxy.store.rows import Deposit, MasterKey, Purpose, Recipient, Wrap

__all__ = ["Keys", "MasterPrivate", "NotForUs", "Recipient", "SealBroken", "seal", "unseal"]

NONCE_BYTES = 12  # NIST SP 800-38D; random is safe, since every deposit has a key of its own
KEY_BYTES = 32
REREAD_S = 1.0  # a key id that nobody knows, again and again, makes us read the master key's source this often
_FILE_PREFIX = "gatepost-master-1:"
SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


class SealBroken(GatepostError):
    """A deposit cannot be opened: not for this key, or altered. Says which row, never what was in it."""


class NotForUs(SealBroken):
    """It is sealed to other keys than those at hand."""


class Keys(Protocol):
    """Private halves that open wraps: the master's, or an app key."""

    def private_half(self, key_id: str) -> X25519PrivateKey | None: ...


class MasterPrivate:
    """The private halves that this process holds, newest first; older ones open what was not re-wrapped yet.

    A key id that is not among them is one that `key rotate` made meanwhile: the source is read again, but after a miss
    not for REREAD_S. Keys that it no longer has are kept: a login under way may have read a row of theirs.
    """

    __slots__ = ("_clock", "_keys", "_missed_at", "_reread")

    def __init__(
        self,
        keys: Mapping[str, X25519PrivateKey],
        reread: Callable[[], Secret] | None = None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._keys = dict(keys)
        self._reread = reread
        self._clock = clock
        self._missed_at = -REREAD_S

    @property
    def key_ids(self) -> tuple[str, ...]:
        return tuple(self._keys)

    def newest_public(self, now: datetime) -> MasterKey:
        """The public half of the newest key, for a store that does not know it yet."""
        key_id, private = next(iter(self._keys.items()))
        return MasterKey(key_id, private.public_key().public_bytes_raw(), now)

    def __repr__(self) -> str:
        return f"MasterPrivate({', '.join(self._keys)})"

    def __reduce__(self) -> str:
        raise TypeError("a master key is never pickled")

    def private_half(self, key_id: str) -> X25519PrivateKey | None:
        if key_id not in self._keys and self._reread is not None:
            now = self._clock()
            if now - self._missed_at >= REREAD_S:
                with contextlib.suppress(ConfigError):  # what we hold still opens what it opened
                    self._keys = {**_read_keys(self._reread()), **self._keys}
                if key_id not in self._keys:
                    self._missed_at = now
        return self._keys.get(key_id)

    def text(self, *key_ids: str) -> Secret:
        """These keys, or all, as the file holds them: newest first."""
        return Secret("\n".join(_line(self._keys[key_id]) for key_id in key_ids or self._keys))

    def with_newest(self, text: Secret) -> MasterPrivate:
        """These and, in front of them, the keys of another text."""
        return MasterPrivate({**_read_keys(text), **self._keys})


def generate_master() -> tuple[Secret, MasterKey]:
    """A new master key: the text of its file, and its public half for the store."""
    private = X25519PrivateKey.generate()
    public = private.public_key().public_bytes_raw()
    return Secret(_line(private)), MasterKey(key_id_of(public), public, datetime.now(UTC))


def _line(private: X25519PrivateKey) -> str:
    return _FILE_PREFIX + base64.b64encode(private.private_bytes_raw()).decode()


def key_id_of(public: bytes) -> str:
    """A key's name: the first 16 hexadecimal digits of its public half's SHA-256."""
    return hashlib.sha256(public).hexdigest()[:16]


def load_master(text: Secret, reread: Callable[[], Secret] | None = None) -> MasterPrivate:
    """Read a master key file: one line per key, newest first. Raises ConfigError with the remedy.

    reread  gives the text anew, for a process that lives through a `key rotate`
    """
    return MasterPrivate(_read_keys(text), reread)


def _read_keys(text: Secret) -> dict[str, X25519PrivateKey]:
    keys: dict[str, X25519PrivateKey] = {}
    for line in text.reveal().split():
        try:
            if not line.startswith(_FILE_PREFIX):
                raise ValueError
            raw = base64.b64decode(line.removeprefix(_FILE_PREFIX), validate=True)
            private = X25519PrivateKey.from_private_bytes(raw)
        except (ValueError, binascii.Error):
            raise ConfigError(
                "keys.master does not hold a Gatepost master key", "restore the key file that belongs to the database"
            ) from None
        keys[key_id_of(private.public_key().public_bytes_raw())] = private
    if not keys:
        raise ConfigError("keys.master is empty", "restore the key file that belongs to the database")
    return keys


def seal(
    purpose: Purpose,
    account_id: int,
    plaintext: Secret,
    recipients: Iterable[Recipient],
    *,
    row: str | None = None,
    valid_until: datetime | None = None,
) -> Deposit:
    """Encrypt for the recipients.

    row     the deposit's row if it has one already; otherwise a new random one
    raises  ValueError without recipients: a deposit that nobody can open would be lost
    """
    row = row or secrets.token_hex(16)
    data_key = secrets.token_bytes(KEY_BYTES)
    nonce = secrets.token_bytes(NONCE_BYTES)
    bound_to = _associated(row, account_id, purpose)
    ciphertext = nonce + AESGCM(data_key).encrypt(nonce, plaintext.reveal().encode(), bound_to)
    wraps = tuple(_wrap(data_key, bound_to, recipient) for recipient in recipients)
    if not wraps:
        raise ValueError("a deposit needs a recipient")
    return Deposit(row, account_id, purpose, ciphertext, wraps, valid_until)


def unseal(deposit: Deposit, keys: Keys) -> Secret:
    """Decrypt with a private half. Raises NotForUs if none fits, SealBroken if anything was altered."""
    return Secret(_opened(deposit, keys)[1])


def wrap_for(deposit: Deposit, keys: Keys, recipient: Recipient) -> Wrap:
    """A wrap that lets one more recipient open a deposit, whose ciphertext stays as it is.

    raises  NotForUs, SealBroken: what does not open is not passed on
    """
    data_key, _ = _opened(deposit, keys)
    return _wrap(data_key, _associated(deposit.row, deposit.account_id, deposit.purpose), recipient)


def _opened(deposit: Deposit, keys: Keys) -> tuple[bytes, str]:
    """The data key, and what it protects."""
    bound_to = _associated(deposit.row, deposit.account_id, deposit.purpose)
    for wrap in deposit.wraps:
        private = keys.private_half(wrap.key_id)
        if private is None:
            continue
        try:
            data_key = SUITE.decrypt(wrap.blob, private, info=_wrap_info(bound_to, wrap.key_id))
            nonce, sealed = deposit.ciphertext[:NONCE_BYTES], deposit.ciphertext[NONCE_BYTES:]
            return data_key, AESGCM(data_key).decrypt(nonce, sealed, bound_to).decode()
        except (InvalidTag, ValueError):
            raise SealBroken(f"deposit {deposit.row} ({deposit.purpose.value}) was altered") from None
    raise NotForUs(f"deposit {deposit.row} ({deposit.purpose.value}) is not sealed to our master key or app key")


def _wrap(data_key: bytes, bound_to: bytes, recipient: Recipient) -> Wrap:
    public = X25519PublicKey.from_public_bytes(recipient.public)
    blob = SUITE.encrypt(data_key, public, info=_wrap_info(bound_to, recipient.key_id))
    return Wrap(recipient.key_id, blob)


def _associated(row: str, account_id: int, purpose: Purpose) -> bytes:
    # No field can hold a newline: hexadecimal, a number, an enumeration.
    return f"gatepost deposit 1\n{row}\n{account_id}\n{purpose.value}".encode()


def _wrap_info(bound_to: bytes, key_id: str) -> bytes:
    return bound_to + b"\n" + key_id.encode()
