"""TLS contexts, both sides. Verification towards the upstream cannot be switched off."""

from __future__ import annotations

import ssl
import warnings
from asyncio import sslproto

from proxy.config import TlsConfig, TlsVersion, UpstreamConfig
from proxy.errors import ConfigError

_MINIMUM: dict[TlsVersion, ssl.TLSVersion] = {
    "1.0": ssl.TLSVersion.TLSv1,
    "1.1": ssl.TLSVersion.TLSv1_1,
    "1.2": ssl.TLSVersion.TLSv1_2,
    "1.3": ssl.TLSVersion.TLSv1_3,
}
_LEGACY: tuple[TlsVersion, ...] = ("1.0", "1.1")
# Before TLS 1.2 there are only CBC ciphers with SHA-1, which Python's own list leaves out, and signatures by MD5 and
# SHA-1, which OpenSSL refuses above level 0. Old devices may lack Diffie-Hellman: hence RSA, last of all.
_LEGACY_CIPHERS = "ECDH+AESGCM:ECDH+CHACHA20:ECDH+AES:RSA+AESGCM:RSA+AES:!aNULL:!eNULL:@SECLEVEL=0"

# A key of another pair, and one of another kind, as an RSA key beside an ECDSA certificate.
_MISMATCHES = frozenset({"KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED"})


def server_context(tls: TlsConfig, minimum: TlsVersion | None = None) -> ssl.SSLContext:
    """The context of listeners whose oldest TLS is `minimum`, or that of [tls].

    raises  ConfigError naming the file and the remedy
    """
    if tls.certificate is None or tls.key is None:
        raise ConfigError("[tls] certificate and key are not set", "name the PEM files, or run gatepost init")
    for path in (tls.certificate, tls.key):
        try:
            path.open("rb").close()
        except OSError as error:
            raise ConfigError(f"cannot read {path}: {error.strerror}", "check that it exists and who owns it") from None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _accept_from(context, minimum or tls.minimum)
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.num_tickets = 1  # OpenSSL makes two for each client, and few ever come back with one
    try:
        # A pass phrase would make OpenSSL ask on the terminal of a service that has none.
        context.load_cert_chain(tls.certificate, tls.key, password=_refuse_pass_phrase)
    except ssl.SSLError as error:
        if error.reason in _MISMATCHES:
            raise ConfigError(f"{tls.key} is not the key of {tls.certificate}", "name the pair that fits") from None
        raise ConfigError(
            f"{tls.certificate} and {tls.key} are no PEM certificate and key without a pass phrase",
            "check the files",
        ) from None
    return context


def _accept_from(context: ssl.SSLContext, minimum: TlsVersion) -> None:
    with warnings.catch_warnings():
        # Python calls TLS 1.0 and 1.1 deprecated. So they are, and whoever wrote the configuration knows.
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = _MINIMUM[minimum]
    if minimum in _LEGACY:
        context.set_ciphers(_LEGACY_CIPHERS)


def _refuse_pass_phrase() -> str:
    return ""


def client_context(upstream: UpstreamConfig) -> ssl.SSLContext:
    """The context for an upstream's servers: system roots, or `tls_ca` in their place; always verified."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION  # no mail server needs it, and each one would cost us a handshake
    if upstream.tls_ca is None:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
        return context
    try:
        context.load_verify_locations(cafile=upstream.tls_ca)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"upstream.{upstream.name}.tls_ca: cannot use {upstream.tls_ca}: {error.strerror or error}",
            "name a readable PEM file",
        ) from None
    return context


def slim_buffers() -> None:
    """Let asyncio's own TLS keep 16 KiB per connection in place of 256 KiB.

    One TLS record is at most 16 KiB (RFC 8446 5.1). For the page, whose browsers keep connections open; mail has a
    transport of its own. uvloop has its own TLS, too. CPython 3.11 to 3.14 read the class attribute.
    """
    sslproto.SSLProtocol.max_size = 16 * 1024
