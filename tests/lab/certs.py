"""The lab's certificates: its own CA, a server certificate for localhost, and two that a careful client must refuse."""

from dataclasses import dataclass
from pathlib import Path

import trustme

from tests.lab.process import Account

NAMES = ("localhost", "127.0.0.1")
WRONG_NAME = "mail.wrong.test"


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate chain and its private key, as PEM files."""

    chain_file: Path
    key_file: Path


@dataclass(frozen=True, slots=True)
class Certificates:
    """All certificates of one lab.

    ca_file     the CA to trust
    server      for localhost and 127.0.0.1: what the servers show unless told otherwise
    wrong_name  by the same CA, for another host
    untrusted   for localhost and 127.0.0.1, by a CA nobody trusts
    """

    ca_file: Path
    server: Certificate
    wrong_name: Certificate
    untrusted: Certificate


def issue(directory: Path, account: Account) -> Certificates:
    """Write a new CA and its certificates below `directory`, the keys readable by `account` alone (and root)."""
    authority = trustme.CA(organization_name="Gatepost lab")
    stranger = trustme.CA(organization_name="Gatepost lab, untrusted")
    ca_file = directory / "ca.pem"
    authority.cert_pem.write_to_path(ca_file)
    return Certificates(
        ca_file=ca_file,
        # fetchmail 6.4 refuses a certificate without a common name, whatever names it has otherwise.
        server=_write(directory, "server", authority.issue_cert(*NAMES, common_name=NAMES[0]), account),
        wrong_name=_write(directory, "wrong-name", authority.issue_cert(WRONG_NAME), account),
        untrusted=_write(directory, "untrusted", stranger.issue_cert(*NAMES), account),
    )


def _write(directory: Path, name: str, leaf: trustme.LeafCert, account: Account) -> Certificate:
    written = Certificate(directory / f"{name}.pem", directory / f"{name}.key")
    written.key_file.touch(mode=0o600)
    leaf.private_key_pem.write_to_path(written.key_file)
    for number, blob in enumerate(leaf.cert_chain_pems):
        blob.write_to_path(written.chain_file, append=number > 0)
    account.own(written.key_file)
    return written
