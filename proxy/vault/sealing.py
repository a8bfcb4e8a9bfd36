"""Sealing of upstream secrets: a fresh data key per deposit, wrapped to every recipient's public half.

The public half of the master key lies in the store, so whoever holds no secret at all (CLI, web page) can deposit;
only the serving process holds the private half and opens. Ciphertexts are bound to their table, row and purpose,
wraps to these and the recipient's key id, so that no row can be passed off as another.

Formats. Deposit: 12-byte nonce, then AES-256-GCM ciphertext and tag. Wrap: RFC 9180 single-shot base mode with
DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM: encapsulated key, then ciphertext and tag.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from proxy.errors import ConfigError, GatepostError
from proxy.secret import Secret
from proxy.store.rows import Deposit, MasterKey, Purpose, Wrap

NONCE_BYTES = 12  # NIST SP 800-38D; random is safe, since every deposit has a key of its own
KEY_BYTES = 32
_FILE_PREFIX = "gatepost-master-1:"
_SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


class SealBroken(GatepostError):
    """A deposit cannot be opened: not for this key, or altered. Says which row, never what was in it."""


@dataclass(frozen=True, slots=True)
class Recipient:
    """A public half that deposits are wrapped to."""

    key_id: str
    public: bytes


class MasterPrivate:
    """The private halves that this process holds, newest first; older ones open what was not re-wrapped yet."""

    __slots__ = ("_keys",)

    def __init__(self, keys: Mapping[str, X25519PrivateKey]) -> None:
        self._keys = dict(keys)

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

    def _of(self, key_id: str) -> X25519PrivateKey | None:
        return self._keys.get(key_id)


def generate_master() -> tuple[Secret, MasterKey]:
    """A new master key: the text of its file, and its public half for the store."""
    private = X25519PrivateKey.generate()
    public = private.public_key().public_bytes_raw()
    text = _FILE_PREFIX + base64.b64encode(private.private_bytes_raw()).decode()
    return Secret(text), MasterKey(key_id_of(public), public, datetime.now(UTC))


def key_id_of(public: bytes) -> str:
    """A key's name: the first 16 hexadecimal digits of its public half's SHA-256."""
    return hashlib.sha256(public).hexdigest()[:16]


def load_master(text: Secret) -> MasterPrivate:
    """Read a master key file: one line per key, newest first. Raises ConfigError with the remedy."""
    keys: dict[str, X25519PrivateKey] = {}
    for line in text.reveal().split():
        try:
            if not line.startswith(_FILE_PREFIX):
                raise ValueError
            raw = base64.b64decode(line.removeprefix(_FILE_PREFIX), validate=True)
            private = X25519PrivateKey.from_private_bytes(raw)
        except (ValueError, binascii.Error):
            raise ConfigError(
                "keys.master does not hold a Gatepost master key", "restore the file, or run gatepost init"
            ) from None
        keys[key_id_of(private.public_key().public_bytes_raw())] = private
    if not keys:
        raise ConfigError("keys.master is empty", "restore the file, or run gatepost init")
    return MasterPrivate(keys)


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


def unseal(deposit: Deposit, master: MasterPrivate) -> Secret:
    """Decrypt with a private half. Raises SealBroken if none fits or anything was altered."""
    bound_to = _associated(deposit.row, deposit.account_id, deposit.purpose)
    for wrap in deposit.wraps:
        private = master._of(wrap.key_id)  # noqa: SLF001 - this module is the one that may open it
        if private is None:
            continue
        try:
            data_key = _SUITE.decrypt(wrap.blob, private, info=_wrap_info(bound_to, wrap.key_id))
            nonce, sealed = deposit.ciphertext[:NONCE_BYTES], deposit.ciphertext[NONCE_BYTES:]
            return Secret(AESGCM(data_key).decrypt(nonce, sealed, bound_to).decode())
        except (InvalidTag, ValueError):
            raise SealBroken(f"deposit {deposit.row} ({deposit.purpose.value}) was altered") from None
    raise SealBroken(f"deposit {deposit.row} ({deposit.purpose.value}) is not sealed to our master key")


def _wrap(data_key: bytes, bound_to: bytes, recipient: Recipient) -> Wrap:
    public = X25519PublicKey.from_public_bytes(recipient.public)
    blob = _SUITE.encrypt(data_key, public, info=_wrap_info(bound_to, recipient.key_id))
    return Wrap(recipient.key_id, blob)


def _associated(row: str, account_id: int, purpose: Purpose) -> bytes:
    # No field can hold a newline: hexadecimal, a number, an enumeration.
    return f"gatepost deposit 1\n{row}\n{account_id}\n{purpose.value}".encode()


def _wrap_info(bound_to: bytes, key_id: str) -> bytes:
    return bound_to + b"\n" + key_id.encode()
