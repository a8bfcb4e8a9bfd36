"""Signed statements: assertions that say who we are, and ID tokens that say who signed in. joserfc does the signing.

Source: RFC 7523 2.1 (authorization grant) and 2.2 (client authentication), OpenID Connect Core 1.0 3.1.3.7.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import secrets
import ssl
import time
from collections.abc import Mapping, Set as AbstractSet
from pathlib import Path

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, KeySet, RSAKey

from proxy.config import OAuth2Config
from proxy.errors import ConfigError
from proxy.oauth.discovery import TENANT
from proxy.secret import MAX_SECRET_FILE_BYTES, Secret

ASSERTION_S = 300  # Entra asks for 5 to 10 minutes, Google takes up to an hour
CLOCK_SKEW_S = 120
# Asymmetric ones only: with HS256 the client secret would be a key, and "none" no signature at all.
ID_TOKEN_ALGORITHMS = [
    *(f"{kind}{bits}" for kind in ("RS", "PS", "ES") for bits in (256, 384, 512)),
    "Ed25519",
    "EdDSA",
]
_ADDRESS_CLAIMS = ("email", "preferred_username", "upn")  # the last two are Entra's

# Entra's documentation wants PS256 with x5t#S256; RS256 is for servers that say they can't.
_RSA_ALGORITHMS = ("PS256", "RS256")
_PEM_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----")
_EC_ALGORITHMS = {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512"}


class BadIdToken(Exception):
    """An ID token that must not be believed; the text says which rule it breaks, never what it holds."""


def client_assertion(oauth2: OAuth2Config, audience: str, algorithms: AbstractSet[str]) -> str:
    """A private_key_jwt for this client. `algorithms` are what the server takes, empty if it does not say.

    raises  ConfigError for a certificate or key that can't be used
    """
    assert oauth2.client_key is not None
    key = _private_key(oauth2.client_key.read(), str(oauth2.client_key))
    header = {"alg": _algorithm(key, algorithms), **_thumbprints(oauth2.client_certificate)}
    return _signed(header, {"iss": oauth2.client_id, "sub": oauth2.client_id, "aud": audience}, key)


def service_account_assertion(oauth2: OAuth2Config, audience: str, mailbox: str) -> str:
    """A Google service account's request for a token in the name of a mailbox (domain-wide delegation).

    raises  ConfigError for a key file that is not one
    """
    source = oauth2.service_account
    assert source is not None
    try:
        file = json.loads(source.read().reveal())
        address, key_id, pem = (file[name] for name in ("client_email", "private_key_id", "private_key"))
        if not all(isinstance(value, str) for value in (address, key_id, pem)):
            raise TypeError("not texts")
    except (ValueError, TypeError, KeyError, RecursionError):
        raise ConfigError(
            f"{source} is no service account's key", "download the JSON key in the Google Cloud console again"
        ) from None
    key = _private_key(Secret(pem), str(source))
    claims = {"iss": address, "sub": mailbox, "scope": " ".join(oauth2.scopes), "aud": audience}
    return _signed({"alg": "RS256", "kid": key_id}, claims, key)


def claims_in(
    id_token: Secret, jwks: Mapping[str, object], *, issuer: str, client_id: str, nonce: Secret | None
) -> dict[str, object]:
    """What a believable ID token says; "iss" is the issuer itself, with the tenant in the place of a template's.

    nonce   that the authorization request had; None for flows that have none
    raises  BadIdToken
    """
    try:
        keys = KeySet.import_key_set(jwks)  # type: ignore[arg-type]  # it checks the shape itself
        claims = jwt.decode(id_token.reveal(), keys, algorithms=ID_TOKEN_ALGORITHMS).claims
        if TENANT in issuer:
            issuer = issuer.replace(TENANT, str(claims.get("tid", "")))
        rules: dict[str, jwt.ClaimsOption] = {
            "iss": {"essential": True, "value": issuer},
            "aud": {"essential": True, "value": client_id},
            "exp": {"essential": True},
        }
        if nonce is not None:
            rules["nonce"] = {"essential": True, "value": nonce.reveal()}
        if "azp" in claims:
            rules["azp"] = {"value": client_id}
        jwt.JWTClaimsRegistry(None, CLOCK_SKEW_S, **rules).validate(claims)
    except JoseError as error:
        raise BadIdToken(type(error).__name__) from None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):  # a key set or token of another shape
        raise BadIdToken("unreadable") from None
    return dict(claims)


def address_in(claims: Mapping[str, object]) -> str:
    """The address in an ID token, "" if it has none; for people to read, not to decide access by."""
    for name in _ADDRESS_CLAIMS:
        value = claims.get(name)
        if isinstance(value, str) and value.isprintable() and 3 <= len(value) <= 254 and "@" in value:
            return value
    return ""


def _signed(header: dict[str, str], claims: dict[str, str | int], key: RSAKey | ECKey) -> str:
    now = int(time.time())
    times: dict[str, str | int] = {"iat": now, "nbf": now, "exp": now + ASSERTION_S, "jti": secrets.token_hex(16)}
    return jwt.encode({"typ": "JWT", **header}, {**claims, **times}, key, algorithms=[header["alg"]])


def _private_key(pem: Secret, where: str) -> RSAKey | ECKey:
    for kind in (RSAKey, ECKey):
        try:
            key: RSAKey | ECKey = kind.import_key(pem.reveal())
        except (JoseError, ValueError, TypeError):  # TypeError: it has a pass phrase
            continue
        if key.is_private:
            return key
    raise ConfigError(f"{where} holds no PEM private key", "name an RSA or EC key without a pass phrase")


def _algorithm(key: RSAKey | ECKey, known: AbstractSet[str]) -> str:
    if isinstance(key, ECKey):
        return _EC_ALGORITHMS.get(key.curve_name, "ES256")
    return next((one for one in _RSA_ALGORITHMS if one in known), _RSA_ALGORITHMS[0])


def _thumbprints(certificate: Path | None) -> dict[str, str]:
    """The certificate's names in a JWT header (RFC 7515 4.1.7 and 4.1.8), by which Entra finds it."""
    if certificate is None:
        return {}
    try:
        with certificate.open("rb") as file:
            text = file.read(MAX_SECRET_FILE_BYTES).decode("ascii", "replace")
    except OSError as error:
        raise ConfigError(
            f"cannot read {certificate}: {error.strerror}", "check that it exists and who owns it"
        ) from None
    first = _PEM_CERTIFICATE.search(text)
    try:
        der = ssl.PEM_cert_to_DER_cert(first.group()) if first else b""
    except ValueError:
        der = b""
    if not der:
        raise ConfigError(f"{certificate} holds no PEM certificate", "name the file that the provider knows")
    sha1 = hashlib.sha1(der, usedforsecurity=False).digest()
    return {"x5t": _base64url(sha1), "x5t#S256": _base64url(hashlib.sha256(der).digest())}


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
