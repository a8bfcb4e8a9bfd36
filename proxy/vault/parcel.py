"""A secret that waits in the store for one browser: sealed under a key that follows from a text it alone holds.

AES-256-GCM with a 12-byte random nonce in front; the account is bound in, so that it opens for no other.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from proxy.secret import Secret
from proxy.vault.sealing import NONCE_BYTES, SealBroken

_INFO = b"gatepost web parcel 1"


def wrap_up(held_by: Secret, account_id: int, text: Secret) -> bytes:
    """Seal `text` for whoever presents `held_by`, a random text of 256 bits or more."""
    nonce = secrets.token_bytes(NONCE_BYTES)
    return nonce + AESGCM(_key(held_by)).encrypt(nonce, text.reveal().encode(), _bound(account_id))


def unwrap(held_by: Secret, account_id: int, parcel: bytes) -> Secret:
    """What was wrapped up. Raises SealBroken for another holder or account, or an altered parcel."""
    try:
        data = AESGCM(_key(held_by)).decrypt(parcel[:NONCE_BYTES], parcel[NONCE_BYTES:], _bound(account_id))
    except (InvalidTag, ValueError):
        raise SealBroken("what this browser held cannot be opened") from None
    return Secret(data.decode())


def _key(held_by: Secret) -> bytes:
    # One HMAC is HKDF-Extract (RFC 5869 2.2), enough for a single key out of a random text.
    return hmac.digest(_INFO, held_by.reveal().encode(), hashlib.sha256)


def _bound(account_id: int) -> bytes:
    return b"web_session\n%d" % account_id
