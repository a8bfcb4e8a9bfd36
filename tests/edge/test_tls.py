"""proxy/edge/tls.py: contexts, and what is said of files that do not fit."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import tempfile
import threading
import warnings
from asyncio import sslproto
from collections.abc import Iterator
from pathlib import Path
from subprocess import DEVNULL, PIPE

import pytest
import trustme
from cryptography.hazmat.primitives import serialization

from proxy.config import TlsConfig, UpstreamConfig
from proxy.edge.tls import client_context, server_context, slim_buffers
from proxy.errors import ConfigError

NOBODY = 65_534


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tls")
    ca = trustme.CA()
    ca.cert_pem.write_to_path(str(directory / "ca.pem"))
    for name in ("one", "two"):
        leaf = ca.issue_cert("localhost")
        leaf.private_key_pem.write_to_path(str(directory / f"{name}.key"))
        leaf.cert_chain_pems[0].write_to_path(str(directory / f"{name}.pem"))
    ca.issue_cert("localhost", key_type=trustme.KeyType.RSA).private_key_pem.write_to_path(str(directory / "rsa.key"))
    key = serialization.load_pem_private_key((directory / "one.key").read_bytes(), None)
    (directory / "locked.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"pass phrase"),
        )
    )
    (directory / "text").write_text("nothing")
    return directory


def refused(certificate: Path | None, key: Path | None) -> str:
    with pytest.raises(ConfigError) as caught:
        server_context(TlsConfig(certificate, key))
    assert caught.value.remedy
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_files_that_do_not_fit_are_named(made):
    assert "certificate and key are not set" in refused(None, None)
    assert f"cannot read {made}/nothing: No such file" in refused(made / "nothing", made / "one.key")
    assert f"cannot read {made}/nothing: No such file" in refused(made / "one.pem", made / "nothing")
    assert f"{made}/two.key is not the key of {made}/one.pem" in refused(made / "one.pem", made / "two.key")
    assert f"{made}/rsa.key is not the key of {made}/one.pem" in refused(made / "one.pem", made / "rsa.key")
    assert "no PEM certificate and key" in refused(made / "text", made / "one.key")
    assert "no PEM certificate and key" in refused(made / "one.pem", made / "text")
    assert "no PEM certificate and key" in refused(made / "one.key", made / "one.pem")
    assert f"cannot read {made}: Is a directory" in refused(made, made / "one.key")


def test_key_with_a_pass_phrase_is_refused_and_nobody_is_asked(made):
    assert "without a pass phrase" in refused(made / "one.pem", made / "locked.key")


@pytest.fixture
def as_nobody() -> Iterator[None]:
    """Root reads everything, so it becomes somebody who does not; anybody else stays who he is."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(NOBODY)
    yield
    os.seteuid(user)


def test_key_that_may_not_be_read_is_named(made, as_nobody):
    # Not below pytest's own folder, which nobody else may enter.
    with tempfile.TemporaryDirectory() as open_folder:
        key, certificate = Path(open_folder, "key"), Path(open_folder, "certificate")
        key.touch(mode=0)
        certificate.touch()
        assert f"cannot read {key}: Permission denied" in refused(certificate, key)


def shake_hands(server: ssl.SSLContext, client: ssl.SSLContext, name: str = "localhost") -> str | None:
    """The version that they agree on. Raises the client's SSLError."""
    near, far = socket.socketpair()

    def serve() -> None:
        try:
            server.wrap_socket(near, server_side=True).close()
        except OSError:
            near.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with far, client.wrap_socket(far, server_hostname=name) as tls:
            return tls.version()
    finally:
        thread.join(10)


def trusting(made: Path, **limits: ssl.TLSVersion) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(made / "ca.pem"))
    for name, version in limits.items():
        setattr(context, name, version)
    return context


def test_minimum_is_1_2_unless_1_3_is_asked_for(made):
    usual = server_context(TlsConfig(made / "one.pem", made / "one.key"))
    strict = server_context(TlsConfig(made / "one.pem", made / "one.key", "1.3"))
    old = trusting(made, maximum_version=ssl.TLSVersion.TLSv1_2)
    assert shake_hands(usual, trusting(made)) == "TLSv1.3"
    assert shake_hands(usual, old) == "TLSv1.2"
    with pytest.raises(ssl.SSLError):
        shake_hands(strict, old)


def knowing_nothing_newer_than(made: Path, version: ssl.TLSVersion, ciphers: str = "ALL") -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(made / "ca.pem"))
    context.set_ciphers(f"{ciphers}:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = context.maximum_version = version
    return context


def test_legacy_context_takes_old_devices_and_the_others_do_not(made):
    tls = TlsConfig(made / "one.pem", made / "one.key")
    oldest, old, usual = server_context(tls, "1.0"), server_context(tls, "1.1"), server_context(tls)
    tls_1_0 = knowing_nothing_newer_than(made, ssl.TLSVersion.TLSv1)
    tls_1_1 = knowing_nothing_newer_than(made, ssl.TLSVersion.TLSv1_1)
    assert shake_hands(oldest, tls_1_0) == "TLSv1"
    assert shake_hands(oldest, tls_1_1) == "TLSv1.1"
    assert shake_hands(old, tls_1_1) == "TLSv1.1"
    for server, client in ((old, tls_1_0), (usual, tls_1_0), (usual, tls_1_1), (server_context(tls, "1.3"), tls_1_1)):
        with pytest.raises(ssl.SSLError):
            shake_hands(server, client)


def test_legacy_context_gives_newer_clients_all_they_can(made):
    tls = TlsConfig(made / "one.pem", made / "one.key")
    assert shake_hands(server_context(tls, "1.0"), trusting(made)) == "TLSv1.3"
    names = [cipher["name"] for cipher in server_context(tls, "1.0").get_ciphers()]
    assert names.index("ECDHE-RSA-AES128-GCM-SHA256") < names.index("ECDHE-RSA-AES128-SHA") < names.index("AES128-SHA")
    assert not [name for name in names if any(weak in name for weak in ("RC4", "DES", "NULL", "EXP", "ADH", "AECDH"))]


def test_a_listeners_own_minimum_may_be_stricter_than_that_of_all(made):
    strict = server_context(TlsConfig(made / "one.pem", made / "one.key"), "1.3")
    with pytest.raises(ssl.SSLError):
        shake_hands(strict, trusting(made, maximum_version=ssl.TLSVersion.TLSv1_2))


def test_upstream_is_verified_always(made):
    server = server_context(TlsConfig(made / "one.pem", made / "one.key"))
    private = client_context(UpstreamConfig(name="up", tls_ca=made / "ca.pem"))
    public = client_context(UpstreamConfig(name="up"))
    assert shake_hands(server, private) == "TLSv1.3"
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        shake_hands(server, private, "elsewhere.example")
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(server, public)
    for context in (private, public):
        assert context.verify_mode is ssl.CERT_REQUIRED
        assert context.check_hostname
        assert context.minimum_version is ssl.TLSVersion.TLSv1_2


def test_an_upstream_cannot_renegotiate(made):
    command = ["openssl", "s_server", "-tls1_2", "-accept", "127.0.0.1:0", "-cert", made / "one.pem"]
    context = client_context(UpstreamConfig(name="up", tls_ca=made / "ca.pem"))
    with subprocess.Popen([*command, "-key", made / "one.key"], stdin=PIPE, stdout=PIPE, stderr=DEVNULL) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        try:
            line = next(line for line in server.stdout if line.startswith(b"ACCEPT "))
            address = ("127.0.0.1", int(line.rpartition(b":")[2]))
            with (
                socket.create_connection(address, 10) as sock,
                context.wrap_socket(sock, server_hostname="localhost") as tls,
            ):
                assert tls.version() == "TLSv1.2"
                server.stdin.write(b"R\n")  # s_server asks for it, and gives up when the client will not
                server.stdin.flush()
                with pytest.raises(ssl.SSLError, match="HANDSHAKE_FAILURE"):
                    tls.recv(1)
        finally:
            server.kill()


def test_private_authority_takes_the_place_of_the_systems(made):
    context = client_context(UpstreamConfig(name="up", tls_ca=made / "ca.pem"))
    assert len(context.get_ca_certs()) == 1


@pytest.mark.parametrize("name", ["nothing", "text"])
def test_authority_that_is_no_file_of_certificates_is_named(made, name):
    with pytest.raises(ConfigError, match=rf"upstream\.up\.tls_ca: cannot use .*{name}") as caught:
        client_context(UpstreamConfig(name="up", tls_ca=made / name))
    assert caught.value.remedy


def test_slim_buffers_reach_the_attribute_that_asyncio_reads():
    slim_buffers()
    protocol = sslproto.SSLProtocol.__new__(sslproto.SSLProtocol)
    assert protocol.max_size == 16_384
