"""Certificates: makes a self-signed one for the listeners of a first set-up, and tells what is in those configured."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from proxy.errors import ConfigError
from proxy.secret import MAX_SECRET_FILE_BYTES, Secret

KEY_BITS = 2_048  # RSA, since the scanners and old Outlooks that Gatepost is for may lack elliptic curves
LIFETIME = timedelta(days=825)  # Apple's mail programs refuse certificates that last longer
CLOCK_SKEW = timedelta(hours=1)  # a scanner's clock may be behind


@dataclass(frozen=True, slots=True)
class CertificateFacts:
    """What `gatepost check` tells of a certificate. Times are aware and in UTC."""

    names: tuple[str, ...]
    not_before: datetime
    not_after: datetime
    is_self_signed: bool


def self_signed(names: Sequence[str], now: datetime) -> tuple[bytes, Secret]:
    """Make a key and a certificate for these host names and IP addresses.

    returns the certificate and the private key, both PEM
    raises  ValueError if no name can stand in a certificate
    """
    alternatives = [general for name in names if (general := _general_name(name)) is not None]
    if not alternatives:
        raise ValueError("a certificate needs a name")
    key = rsa.generate_private_key(public_exponent=65_537, key_size=KEY_BITS)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Gatepost (self-signed)")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + LIFETIME)
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        # Whoever imports it as trusted must not thereby trust a new authority.
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return certificate.public_bytes(serialization.Encoding.PEM), Secret(private.decode())


def inspect(certificate: Path, key: Path) -> CertificateFacts:
    """Read the configured pair. Raises ConfigError if one is unreadable or they don't belong together."""
    try:
        chain = x509.load_pem_x509_certificates(_read(certificate))
    except ValueError:
        raise ConfigError(f"{certificate} holds no PEM certificate", "name the right file") from None
    try:
        private = serialization.load_pem_private_key(_read(key), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):  # TypeError: it has a pass phrase
        raise ConfigError(
            f"{key} holds no PEM private key without a pass phrase",
            "name the right file, or remove the phrase",
        ) from None
    leaf = chain[0]  # RFC 8446 4.4.2: the server's own certificate comes first
    if _public_bytes(leaf.public_key()) != _public_bytes(private.public_key()):
        raise ConfigError(f"{key} is not the key of {certificate}", "name the pair that fits")
    return CertificateFacts(
        _names(leaf), leaf.not_valid_before_utc, leaf.not_valid_after_utc, leaf.issuer == leaf.subject
    )


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_SECRET_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}", "check that it exists and who owns it") from None
    if len(data) > MAX_SECRET_FILE_BYTES:
        raise ConfigError(f"{path} is longer than {MAX_SECRET_FILE_BYTES} bytes", "name the right file")
    return data


def _public_bytes(key: object) -> bytes:
    if not hasattr(key, "public_bytes"):
        return b""
    encoded = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return bytes(encoded)


def _names(certificate: x509.Certificate) -> tuple[str, ...]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):  # ValueError: an extension that can't be read
        return ()
    hosts = names.get_values_for_type(x509.DNSName)
    return (*hosts, *(str(address) for address in names.get_values_for_type(x509.IPAddress)))


def _general_name(name: str) -> x509.GeneralName | None:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        pass
    try:
        return x509.DNSName(name)
    except ValueError:  # not ASCII; a host may call itself anything
        return None
