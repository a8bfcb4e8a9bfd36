"""Certificates that change in their files: what is served, and what is refused."""

from __future__ import annotations

import os
import ssl
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trustme

from proxy.config import ListenConfig, Tls, TlsConfig
from proxy.edge.certificates import Certificates
from proxy.errors import ConfigError

LISTENER = ListenConfig("imap", "127.0.0.1", 0, Tls.IMPLICIT, ("main",))
LEGACY = ListenConfig("imap", "127.0.0.1", 0, Tls.IMPLICIT, ("main",), minimum_tls="1.0")
CLEAR = ListenConfig("imap", "127.0.0.1", 0, Tls.NONE, ("main",))
AUTHORITY = trustme.CA()
PAST = datetime(2020, 1, 1, tzinfo=UTC)


class Files:
    def __init__(self, directory: Path) -> None:
        self.config = TlsConfig(directory / "cert.pem", directory / "key.pem")
        self._changes = 0
        self.write(AUTHORITY.issue_cert("localhost"))

    def write(self, certificate: trustme.LeafCert, key: trustme.LeafCert | None = None) -> None:
        assert self.config.certificate is not None
        assert self.config.key is not None
        self.config.certificate.write_bytes(certificate.cert_chain_pems[0].bytes())
        self.config.key.write_bytes((key or certificate).private_key_pem.bytes())
        self.touch()

    def touch(self) -> None:
        """Another time, even if the file system's clock did not move."""
        self._changes += 1
        for path in (self.config.certificate, self.config.key):
            assert path is not None
            os.utime(path, ns=(0, self._changes))


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def test_new_connections_get_the_new_one_under_their_own_oldest_tls(files: Files) -> None:
    certificates = Certificates(files.config, [LISTENER, LEGACY, CLEAR])
    before = certificates.of(LISTENER), certificates.of(LEGACY)
    files.write(AUTHORITY.issue_cert("localhost"))
    assert certificates.renew()
    after = certificates.of(LISTENER), certificates.of(LEGACY)
    assert not set(before) & set(after)
    assert [context.minimum_version for context in after if context] == [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1]
    assert certificates.of(CLEAR) is None


def test_a_change_counts_when_it_has_stayed_for_two_looks(files: Files) -> None:
    certificates = Certificates(files.config, [LISTENER])
    assert not certificates.have_changed()
    files.write(AUTHORITY.issue_cert("localhost"))
    assert not certificates.have_changed()  # the other file may be still to come
    files.write(AUTHORITY.issue_cert("localhost"))
    assert not certificates.have_changed()
    assert certificates.have_changed()
    assert not certificates.have_changed()  # told once


def test_files_that_were_only_touched_have_not_changed(files: Files) -> None:
    certificates = Certificates(files.config, [LISTENER])
    files.touch()
    assert [certificates.have_changed() for _ in range(3)] == [False, False, False]
    assert not certificates.renew()


def test_a_pair_that_does_not_fit_is_refused_and_the_old_one_lives_on(files: Files) -> None:
    certificates = Certificates(files.config, [LISTENER])
    before = certificates.of(LISTENER)
    files.write(AUTHORITY.issue_cert("localhost"), key=AUTHORITY.issue_cert("localhost"))
    with pytest.raises(ConfigError, match="is not the key of"):
        certificates.renew()
    assert certificates.of(LISTENER) is before


def test_one_that_has_expired_is_not_put_into_use(files: Files) -> None:
    certificates = Certificates(files.config, [LISTENER])
    before = certificates.of(LISTENER)
    files.write(AUTHORITY.issue_cert("localhost", not_before=PAST, not_after=PAST.replace(year=2021)))
    with pytest.raises(ConfigError, match="expired on 2021-01-01"):
        certificates.renew()
    assert certificates.of(LISTENER) is before


def test_files_that_are_gone_are_refused_and_the_old_ones_live_on(files: Files) -> None:
    certificates = Certificates(files.config, [LISTENER])
    before = certificates.of(LISTENER)
    assert files.config.key is not None
    files.config.key.unlink()
    assert [certificates.have_changed() for _ in range(3)] == [False, True, False]
    with pytest.raises(ConfigError, match="cannot read"):
        certificates.renew()
    assert certificates.of(LISTENER) is before


def test_without_tls_nothing_is_looked_at() -> None:
    certificates = Certificates(TlsConfig(), [CLEAR])
    assert not certificates.have_changed()
    assert not certificates.renew()
    certificates.require_unexpired()
