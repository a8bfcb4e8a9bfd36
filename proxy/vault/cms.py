"""Signing a document whole, so that whoever gets it sees who made it (CMS, RFC 5652)."""

from __future__ import annotations

from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import pkcs7

from proxy.errors import ConfigError


def signed(data: bytes, certificate: Path, key: Path) -> bytes:
    """The data inside of a signature by the first certificate of the chain; DER. Raises ConfigError."""
    try:
        own, *chain = x509.load_pem_x509_certificates(certificate.read_bytes())
        private = serialization.load_pem_private_key(key.read_bytes(), None)
    except (OSError, ValueError, TypeError):
        raise ConfigError(f"cannot sign with {certificate} and {key}", "name a certificate and its key, PEM") from None
    if not isinstance(private, RSAPrivateKey | EllipticCurvePrivateKey):
        raise ConfigError(f"{key} holds a key that CMS has no signature for", "use an RSA or EC key")
    builder = pkcs7.PKCS7SignatureBuilder().set_data(data).add_signer(own, private, hashes.SHA256())
    for issuer in chain:
        builder = builder.add_certificate(issuer)
    return builder.sign(serialization.Encoding.DER, [pkcs7.PKCS7Options.Binary])
