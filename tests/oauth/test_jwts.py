"""What we sign, read back by a stranger; and which ID tokens are believed."""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import json
import time
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from joserfc import jwt
from joserfc.jwk import ECKey, OctKey, RSAKey

from proxy.config import OAuth2Config
from proxy.errors import ConfigError
from proxy.oauth.jwts import (
    ASSERTION_S,
    BadIdToken,
    address_in,
    claims_in,
    client_assertion,
    service_account_assertion,
)
from proxy.secret import Secret, SecretSource
from tests.oauth.scripted_provider import CLIENT_ID, KEY, OTHER_KEY, ScriptedProvider

AUDIENCE = "https://login.test/token"
ISSUER = ScriptedProvider("https://issuer.test")
JWKS = {"keys": [KEY.as_dict(private=False)]}


@pytest.fixture(scope="module")
def rsa_key() -> RSAKey:
    return RSAKey.import_key(rsa.generate_private_key(65_537, 2048))


def source(path: Path, text: bytes | str) -> SecretSource:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return SecretSource("file", str(path))


def read(token: str, key: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    opened = jwt.decode(token, key, algorithms=["PS256", "RS256", "ES256", "ES384"])
    return dict(opened.header), opened.claims


def certificate(path: Path, key: RSAKey) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "gatepost")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key)
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + dt.timedelta(days=1))
        .sign(key.private_key, hashes.SHA256())
    )
    path.write_bytes(b"Bag Attributes\n  x: 1\n" + made.public_bytes(Encoding.PEM))
    return made


def test_a_certificate_s_assertion_is_what_entra_documents(tmp_path: Path, rsa_key: RSAKey) -> None:
    cert = certificate(tmp_path / "cert.pem", rsa_key)
    oauth2 = OAuth2Config(
        CLIENT_ID,
        AUDIENCE,
        client_certificate=tmp_path / "cert.pem",
        client_key=source(tmp_path / "key.pem", rsa_key.as_pem(private=True)),
    )
    header, claims = read(client_assertion(oauth2, AUDIENCE, frozenset()), rsa_key)
    der = cert.public_bytes(Encoding.DER)
    assert header == {
        "typ": "JWT",
        "alg": "PS256",
        "x5t": base64.urlsafe_b64encode(hashlib.sha1(der).digest()).decode().rstrip("="),
        "x5t#S256": base64.urlsafe_b64encode(hashlib.sha256(der).digest()).decode().rstrip("="),
    }
    assert (claims["iss"], claims["sub"], claims["aud"]) == (CLIENT_ID, CLIENT_ID, AUDIENCE)
    assert claims["exp"] - claims["nbf"] == ASSERTION_S
    assert abs(claims["iat"] - time.time()) < 60
    again = read(client_assertion(oauth2, AUDIENCE, frozenset()), rsa_key)[1]
    assert again["jti"] != claims["jti"]


@pytest.mark.parametrize(
    ("known", "algorithm"),
    [(frozenset(), "PS256"), ({"RS256", "ES256"}, "RS256"), ({"RS256", "PS256"}, "PS256"), ({"ES256"}, "PS256")],
)
def test_an_rsa_key_signs_with_what_the_server_takes(
    tmp_path: Path, rsa_key: RSAKey, known: set[str], algorithm: str
) -> None:
    oauth2 = OAuth2Config(CLIENT_ID, AUDIENCE, client_key=source(tmp_path / "k", rsa_key.as_pem(private=True)))
    assert read(client_assertion(oauth2, AUDIENCE, known), rsa_key)[0] == {"typ": "JWT", "alg": algorithm}


def test_an_elliptic_key_signs_with_its_curve_s_algorithm(tmp_path: Path) -> None:
    key = ECKey.generate_key("P-384")
    oauth2 = OAuth2Config(CLIENT_ID, AUDIENCE, client_key=source(tmp_path / "k", key.as_pem(private=True)))
    assert read(client_assertion(oauth2, AUDIENCE, frozenset()), key)[0]["alg"] == "ES384"


@pytest.mark.parametrize("what", ["garbage", "public", "pass phrase"])
def test_a_key_that_cannot_sign_is_the_operator_s_mistake(tmp_path: Path, rsa_key: RSAKey, what: str) -> None:
    text = {
        "garbage": b"not a key",
        "public": rsa_key.as_pem(private=False),
        "pass phrase": rsa_key.as_pem(private=True, password="x"),
    }[what]
    oauth2 = OAuth2Config(CLIENT_ID, AUDIENCE, client_key=source(tmp_path / "k", text))
    with pytest.raises(ConfigError, match="no PEM private key"):
        client_assertion(oauth2, AUDIENCE, frozenset())


def test_a_certificate_that_is_none_is_the_operator_s_mistake(tmp_path: Path, rsa_key: RSAKey) -> None:
    (tmp_path / "cert.pem").write_bytes(b"-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n\xff")
    key = source(tmp_path / "k", rsa_key.as_pem(private=True))
    for path in (tmp_path / "cert.pem", tmp_path / "k", tmp_path / "nowhere"):
        oauth2 = OAuth2Config(CLIENT_ID, AUDIENCE, client_key=key, client_certificate=path)
        with pytest.raises(ConfigError):
            client_assertion(oauth2, AUDIENCE, frozenset())


def test_a_service_account_asks_in_the_name_of_a_mailbox(tmp_path: Path, rsa_key: RSAKey) -> None:
    file = {
        "type": "service_account",
        "client_email": "robot@project.test",
        "private_key_id": "key-7",
        "private_key": rsa_key.as_pem(private=True).decode(),
    }
    oauth2 = OAuth2Config(
        "", AUDIENCE, scopes=("a", "b"), service_account=source(tmp_path / "sa.json", json.dumps(file))
    )
    header, claims = read(service_account_assertion(oauth2, AUDIENCE, "ann@x.test"), rsa_key)
    assert header == {"typ": "JWT", "alg": "RS256", "kid": "key-7"}
    named = {name: claims[name] for name in ("iss", "sub", "aud", "scope")}
    assert named == {"iss": "robot@project.test", "sub": "ann@x.test", "aud": AUDIENCE, "scope": "a b"}


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"client_email": 7, "private_key_id": "k", "private_key": "x"}', "[" * 9000]
)
def test_a_file_that_is_no_service_account_is_the_operator_s_mistake(tmp_path: Path, text: str) -> None:
    oauth2 = OAuth2Config("", AUDIENCE, service_account=source(tmp_path / "sa.json", text))
    with pytest.raises(ConfigError):
        service_account_assertion(oauth2, AUDIENCE, "ann@x.test")


def who(token: str, *, issuer: str = ISSUER.url, nonce: str | None = "n1", jwks: Any = JWKS) -> str:
    wanted = None if nonce is None else Secret(nonce)
    return address_in(claims_in(Secret(token), jwks, issuer=issuer, client_id=CLIENT_ID, nonce=wanted))


def test_a_good_id_token_says_who_signed_in() -> None:
    assert who(ISSUER.id_token(nonce="n1")) == "ann@x.test"
    assert who(ISSUER.id_token(nonce="n1", aud=[CLIENT_ID, "other"], azp=CLIENT_ID)) == "ann@x.test"
    assert who(ISSUER.id_token(), nonce=None) == "ann@x.test"
    assert who(ISSUER.id_token(nonce="n1", without="email")) == ""
    assert who(ISSUER.id_token(nonce="n1", without="email", preferred_username="bob@x.test")) == "bob@x.test"
    assert who(ISSUER.id_token(nonce="n1", email="a\x1b[2Jnn@x.test")) == ""
    assert who(ISSUER.id_token(nonce="n1", email=["ann@x.test"])) == ""


def test_entra_s_template_is_filled_in_by_the_token_s_tenant() -> None:
    template = "https://login.test/{tenantid}/v2.0"
    good = ISSUER.id_token(nonce="n1", iss="https://login.test/t-1/v2.0", tid="t-1")
    assert who(good, issuer=template) == "ann@x.test"
    with pytest.raises(BadIdToken):
        who(ISSUER.id_token(nonce="n1", iss="https://login.test/t-1/v2.0", tid="t-2"), issuer=template)


@pytest.mark.parametrize(
    "token",
    [
        ISSUER.id_token(nonce="n1", iss="https://evil.test"),
        ISSUER.id_token(nonce="n1", without="iss"),
        ISSUER.id_token(nonce="n1", aud="somebody else"),
        ISSUER.id_token(nonce="n1", without="aud"),
        ISSUER.id_token(nonce="n1", azp="somebody else"),
        ISSUER.id_token(nonce="n1", exp=int(time.time()) - 3600),
        ISSUER.id_token(nonce="n1", without="exp"),
        ISSUER.id_token(nonce="another"),
        ISSUER.id_token(),
        ISSUER.id_token(nonce="n1", key=OTHER_KEY),
        ISSUER.id_token(nonce="n1", key=OctKey.import_key("our client secret, long enough for it"), alg="HS256"),
        ISSUER.id_token(nonce="n1")[:-4] + "AAAA",
        ".".join(
            (base64.urlsafe_b64encode(b'{"alg":"none"}').decode().rstrip("="), ISSUER.id_token().split(".")[1], "")
        ),
        "a.b.c",
        "x",
        "." * 50_000,
    ],
)
def test_an_id_token_that_breaks_a_rule_is_not_believed(token: str) -> None:
    with pytest.raises(BadIdToken) as caught:
        who(token)
    assert "ann" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    "jwks", [{}, {"keys": []}, {"keys": 7}, {"keys": ["x"]}, {"keys": [{"kty": "EC"}]}, {"keys": [{}]}]
)
def test_a_broken_key_set_opens_nothing(jwks: Any) -> None:
    with pytest.raises(BadIdToken):
        who(ISSUER.id_token(nonce="n1"), jwks=jwks)
