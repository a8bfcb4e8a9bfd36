"""proxy/vault/certificate.py and files.py: the first certificate, and private files."""

from __future__ import annotations

import os
import ssl
import stat
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from proxy.errors import ConfigError
from proxy.secret import Secret
from proxy.vault.certificate import LIFETIME, inspect, self_signed
from proxy.vault.files import write_private
from proxy.vault.sealing import generate_master, load_master

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
NAMES = ("gate.example.com", "localhost", "192.0.2.1", "::1")


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    directory = tmp_path_factory.mktemp("pair")
    certificate, key = self_signed(NAMES, NOW)
    (directory / "cert.pem").write_bytes(certificate)
    write_private(directory / "key.pem", key)
    return directory / "cert.pem", directory / "key.pem"


def test_self_signed_pair_is_what_it_says(pair):
    facts = inspect(*pair)
    assert facts.names == NAMES
    assert facts.not_before == NOW - timedelta(hours=1)
    assert facts.not_after == NOW + LIFETIME
    assert facts.is_self_signed


def test_tls_takes_the_pair(pair):
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(*pair)


def test_name_that_no_certificate_can_hold_is_left_out(pair, tmp_path):
    certificate, _ = self_signed(("r\u00e4chner", "localhost"), NOW)
    (tmp_path / "cert.pem").write_bytes(certificate)
    with pytest.raises(ConfigError, match="is not the key of"):  # another certificate's key
        inspect(tmp_path / "cert.pem", pair[1])
    with pytest.raises(ValueError, match="needs a name"):
        self_signed(("r\u00e4chner",), NOW)


def test_other_kinds_of_keys_are_compared_too(pair, tmp_path):
    key = ec.generate_private_key(ec.SECP256R1())
    (tmp_path / "key.pem").write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"phrase"))
    )
    with pytest.raises(ConfigError, match="without a pass phrase"):
        inspect(pair[0], tmp_path / "key.pem")


def test_endless_file_is_not_read_to_its_end(pair):
    with pytest.raises(ConfigError, match="longer than"):
        inspect(pair[0].parent / pair[0].name, pair[1].parent / "../../../../../../dev/zero")


def test_private_file_is_private_whatever_the_umask(tmp_path):
    before = os.umask(0o777)
    try:
        write_private(tmp_path / "key", Secret("tok"))
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600
    assert (tmp_path / "key").read_text() == "tok\n"


def test_private_file_never_overwrites_or_follows(tmp_path):
    (tmp_path / "key").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for name in ("key", "link"):
        with pytest.raises(FileExistsError):
            write_private(tmp_path / name, Secret("tok"))
    assert (tmp_path / "key").read_text() == "mine"
    assert not (tmp_path / "elsewhere").exists()


def test_private_key_is_pkcs8_pem(pair):
    assert load_pem_private_key(pair[1].read_bytes(), password=None).key_size == 2048


def test_public_half_is_that_of_the_newest_key():
    newer, key = generate_master()
    older, _ = generate_master()
    master = load_master(Secret(f"{newer.reveal()}\n{older.reveal()}\n"))
    public = master.newest_public(NOW)
    assert (public.key_id, public.public, public.created) == (key.key_id, key.public, NOW)
