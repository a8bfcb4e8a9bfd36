"""App keys: what lets only an app password, together with the master, open a sealed account.

Each live app password has an X25519 pair, and deposits of its account are wrapped to the public half of every pair.
The private half rests locked twice: under a key that argon2id makes of the app password (with a salt of its own: what
the verifying hash shows of the password is no help), and that whole wrapped to the master (HPKE). So the database
opens nothing with the master, nor with an app password, alone; and since only the outer lock names the master,
`key rotate` renews it without the app password, and a refresh never needs the master's public half.

Formats. Inner lock: version, argon2id parameters and salt, then 12-byte nonce and AES-256-GCM ciphertext and tag.
Outer lock: RFC 9180 as in sealing. Both are bound to account, selector and key id.
"""

from __future__ import annotations

import secrets
import struct
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from proxy.store.rows import AppKey, MasterKey, Recipient
from proxy.vault.apppassword import AppPassword
from proxy.vault.hashing import Hasher, Stretch
from proxy.vault.sealing import KEY_BYTES, NONCE_BYTES, SUITE, MasterPrivate, NotForUs, SealBroken, key_id_of

VERSION = 1
# version, memory in KiB, passes, lanes, salt
_HEAD = struct.Struct(">BIIB16s")
MAX_MEMORY_KIB, MAX_TIME = 2**21, 64  # a damaged row must not ask for all the memory there is


class OpenKey:
    """The private half of an app key, for as long as one login needs it."""

    __slots__ = ("_private", "key_id")

    def __init__(self, key_id: str, private: X25519PrivateKey) -> None:
        self.key_id = key_id
        self._private = private

    def private_half(self, key_id: str) -> X25519PrivateKey | None:
        return self._private if key_id == self.key_id else None

    def __repr__(self) -> str:
        return f"OpenKey({self.key_id})"

    def __reduce__(self) -> str:
        raise TypeError("an app key is never pickled")


@dataclass(frozen=True, slots=True)
class Locked:
    """An app key without its outer lock: what must be computed from the app password, and what that opens."""

    key: AppKey
    stretch: Stretch
    sealed: bytes


def make_app_key(account_id: int, password: AppPassword, master: MasterKey, hasher: Hasher) -> AppKey:
    """A new pair for a new app password. Computes one argon2id; needs no secret but the password."""
    private = X25519PrivateKey.generate()
    public = private.public_key().public_bytes_raw()
    stretch = hasher.new_stretch()
    key = AppKey(key_id_of(public), public, account_id, password.selector, master.key_id, b"")
    head = _HEAD.pack(VERSION, stretch.memory_kib, stretch.time, stretch.lanes, stretch.salt)
    nonce = secrets.token_bytes(NONCE_BYTES)
    inner = AESGCM(hasher.stretched(stretch, password)).encrypt(nonce, private.private_bytes_raw(), head + _bound(key))
    return _locked_under(key, head + nonce + inner, Recipient(master.key_id, master.public))


def recipient_of(key: AppKey) -> Recipient:
    return Recipient(key.key_id, key.public)


def unwrapped(key: AppKey, master: MasterPrivate) -> Locked:
    """Take the outer lock off. Raises NotForUs without the right master, SealBroken if it was altered."""
    return locked_of(key, _outer_opened(key, master))


def locked_of(key: AppKey, inner: bytes) -> Locked:
    """What `unwrapped` found, from its bytes: they open nothing without the app password. Raises SealBroken."""
    if len(inner) < _HEAD.size + NONCE_BYTES:
        raise _altered(key)
    version, memory_kib, time, lanes, salt = _HEAD.unpack_from(inner)
    if version != VERSION or not (8 * lanes <= memory_kib <= MAX_MEMORY_KIB and 0 < time <= MAX_TIME and lanes):
        raise _altered(key)
    return Locked(key, Stretch(salt, memory_kib, time, lanes), inner)


def unlocked(locked: Locked, stretched: bytes) -> OpenKey:
    """Take the inner lock off with what the password was stretched to. Raises SealBroken if that does not fit."""
    head, rest = locked.sealed[: _HEAD.size], locked.sealed[_HEAD.size :]
    nonce, sealed = rest[:NONCE_BYTES], rest[NONCE_BYTES:]
    try:
        raw = AESGCM(stretched).decrypt(nonce, sealed, head + _bound(locked.key))
        private = X25519PrivateKey.from_private_bytes(raw)
    except (InvalidTag, ValueError):
        raise _altered(locked.key) from None
    return OpenKey(locked.key.key_id, private)


def relocked(key: AppKey, master: MasterPrivate, newest: MasterKey) -> AppKey:
    """The same app key under another master: what `key rotate` does, without any app password."""
    return _locked_under(key, _outer_opened(key, master), Recipient(newest.key_id, newest.public))


class Concealer:
    """Hides app keys in this process's memory under their app passwords, for the verify cache.

    75 random bits need no stretching here: the salt never leaves the process.
    """

    def __init__(self) -> None:
        self._salt = secrets.token_bytes(32)

    def conceal(self, key: OpenKey, password: AppPassword) -> bytes:
        raw = key._private.private_bytes_raw()  # noqa: SLF001 - its own module
        nonce = secrets.token_bytes(NONCE_BYTES)
        hidden = AESGCM(self._key(password)).encrypt(nonce, key.key_id.encode() + raw, None)
        return nonce + hidden

    def reveal(self, concealed: bytes, password: AppPassword) -> OpenKey:
        """Raises SealBroken for another password than it was concealed under."""
        try:
            plain = AESGCM(self._key(password)).decrypt(concealed[:NONCE_BYTES], concealed[NONCE_BYTES:], None)
        except InvalidTag:
            raise SealBroken("a concealed app key does not open with this password") from None
        key_id, raw = plain[:-KEY_BYTES], plain[-KEY_BYTES:]
        return OpenKey(key_id.decode(), X25519PrivateKey.from_private_bytes(raw))

    def _key(self, password: AppPassword) -> bytes:
        derive = HKDF(hashes.SHA256(), KEY_BYTES, self._salt, b"gatepost concealed app key 1")
        return derive.derive(password.whole.reveal().encode())


def _locked_under(key: AppKey, inner: bytes, master: Recipient) -> AppKey:
    public = X25519PublicKey.from_public_bytes(master.public)
    blob = SUITE.encrypt(inner, public, info=_outer_info(key, master.key_id))
    return AppKey(key.key_id, key.public, key.account_id, key.selector, master.key_id, blob)


def _outer_opened(key: AppKey, master: MasterPrivate) -> bytes:
    private = master.private_half(key.master)
    if private is None:
        raise NotForUs(f"app key {key.key_id} is not sealed to our master key")
    try:
        return SUITE.decrypt(key.locked, private, info=_outer_info(key, key.master))
    except (InvalidTag, ValueError):
        raise _altered(key) from None


def _bound(key: AppKey) -> bytes:
    # No field can hold a newline: a number, a selector, hexadecimal.
    return f"gatepost app key 1\n{key.account_id}\n{key.selector}\n{key.key_id}".encode()


def _outer_info(key: AppKey, master_id: str) -> bytes:
    return _bound(key) + b"\n" + master_id.encode()


def _altered(key: AppKey) -> SealBroken:
    return SealBroken(f"app key {key.key_id} was altered, or is not of this app password")
