"""One booted container for all tests here, with Gatepost set up in it as an administrator would."""

from __future__ import annotations

import json
import shutil
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme

from tests.edge.scripted import Certificates, make_certificates
from tests.lab import Endpoint
from tests.systemd.box import ROOT, UNITS, Box, base, booted, or_skipped, require
from tests.whole.kit import UPSTREAM_PASSWORD, USER, House, Line, MailServer, mail_server

CONFIG = """\
[keys]
master = "credential:gatepost-master"
[tls]
certificate = "tls/cert.pem"
key = "tls/key.pem"
{listeners}
[upstream.main]
imap = "imaps://localhost:{imap}"
smtp = "smtps://localhost:{smtp}"
tls_ca = "upstream-ca.pem"
auth = "password"
[workers]
count = 2
[limits]
argon2_memory_kib = 8
argon2_time = 1
{limits}
"""
LISTENER = '[[listen]]\nprotocol = "{}"\naddress = "{}"\ntls = "{}"\n'
LISTENERS = (
    ("imap", "0.0.0.0:993", "implicit"), ("imap", "0.0.0.0:143", "starttls"),
    ("smtp", "0.0.0.0:465", "implicit"), ("smtp", "[::]:587", "starttls"),
)  # fmt: skip
SOCKETS = ("imaps", "imap", "submissions", "submission")
QUICK_WATCHDOG = "[Service]\nWatchdogSec=6\n"


@dataclass
class Installed:
    """Gatepost in the box, and clients of it. `house` has the clients' words."""

    box: Box
    house: House
    authority: trustme.CA
    imap: MailServer
    smtp: MailServer
    listeners: tuple[tuple[str, str, str], ...] = LISTENERS

    @property
    def etc(self) -> Path:
        return self.box.root / "etc/gatepost"

    def write_config(self, *, limits: str = "", imap: int | None = None, more: str = "") -> None:
        listeners = "".join(LISTENER.format(*each) for each in self.listeners)
        text = (
            CONFIG.format(listeners=listeners, imap=imap or self.imap.port, smtp=self.smtp.port, limits=limits) + more
        )
        (self.etc / "gatepost.toml").write_text(text)

    def write_certificate(self) -> int:
        """A new certificate, as a deploy hook puts it there; its serial number."""
        leaf = self.authority.issue_cert("localhost", "127.0.0.1")
        directory = self.house.directory
        leaf.private_key_pem.write_to_path(str(directory / "key.pem.new"))
        (directory / "cert.pem.new").write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
        for name in ("key", "cert"):
            self.box.run(
                "install", "--owner=root", "--group=gatepost", "--mode=0640",
                f"/mnt/house/{name}.pem.new", f"/etc/gatepost/tls/{name}.pem",
            )  # fmt: skip
        return serial_of(leaf.cert_chain_pems[0].bytes())

    def served_serial(self) -> int:
        with self.house.connect(self.house.imaps).sock as sock:
            assert isinstance(sock, ssl.SSLSocket)
            der = sock.getpeercert(binary_form=True)
        assert der is not None
        return serial_of(ssl.DER_cert_to_PEM_cert(der).encode())

    def workers(self) -> list[int]:
        """Their process ids in the container: the supervisor's children."""
        (main,) = self.box.show("MainPID")
        assert main != "0"
        return [int(pid) for pid in self.box.run("cat", f"/proc/{main}/task/{main}/children").split()]

    def idle(self) -> Line:
        """A session that idles."""
        client = self.house.imap_session()
        assert client.ask(b"a2 IDLE") == b"+ idling"
        return client

    def still_idles(self, client: Line) -> bool:
        return client.ask(b"DONE") == b"a2 OK" and client.ask(b"a2 IDLE") == b"+ idling"


def serial_of(pem: bytes) -> int:
    done = subprocess.run(["openssl", "x509", "-noout", "-serial"], check=True, input=pem, capture_output=True)
    return int(done.stdout.split(b"=")[1], 16)


def imap_mailbox(line: Line) -> None:
    """What the scripted upstream does with a session: IDLE as often as it is asked, and OK to all else."""
    line.sock.settimeout(None)
    while command := line.sock.recv(1000):
        if command == b"a2 IDLE\r\n":
            line.send(b"+ idling\r\n")
        else:
            tag = b"a2" if command == b"DONE\r\n" else command.split()[0]
            line.send(tag + b" OK\r\n")


def smtp_mailbox(line: Line) -> None:
    line.sock.settimeout(None)
    while line.sock.recv(1000):
        line.send(b"250 OK\r\n")


@pytest.fixture(scope="session")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    directory = tmp_path_factory.mktemp("box")
    with or_skipped():
        require()
        root = base()
        wheel = [sys.executable, "-m", "pip", "--quiet", "wheel", "--no-deps", "--no-build-isolation"]
        subprocess.run([*wheel, "--wheel-dir", directory, ROOT], check=True, capture_output=True)
        (directory / "house").mkdir()
        shutil.copytree(UNITS, directory / "systemd")
        with booted(root, directory) as box:
            yield box


@pytest.fixture(scope="session")
def installed(box: Box) -> Iterator[Installed]:
    directory = box.directory / "house"
    certificates = make_certificates(directory)
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(directory / "cert.pem"))  # what House's clients trust
    house = House(directory)
    house.imaps, house.imap = Endpoint("localhost", 993), Endpoint("localhost", 143)
    house.smtps, house.smtp = Endpoint("localhost", 465), Endpoint("localhost", 587)
    with box.network(), servers(certificates) as (imap, smtp):
        gate = Installed(box, house, authority, imap, smtp)
        install(gate, certificates)
        yield gate


@contextmanager
def servers(certificates: Certificates) -> Iterator[tuple[MailServer, MailServer]]:
    with (
        mail_server(certificates, "imap", imap_mailbox) as imap,
        mail_server(certificates, "smtp", smtp_mailbox) as smtp,
    ):
        yield imap, smtp


def install(gate: Installed, certificates: Certificates) -> None:
    """As docs/operations.md says, step by step."""
    box = gate.box
    box.shell(
        """
        /opt/gatepost/bin/pip --quiet install --no-index --no-deps /mnt/gatepost-*.whl
        /opt/gatepost/bin/pip check
        ln -s /opt/gatepost/bin/gatepost /usr/local/bin/gatepost
        cp /mnt/systemd/*.service /mnt/systemd/*.socket /etc/systemd/system/
        cp /mnt/systemd/gatepost.sysusers.conf /usr/lib/sysusers.d/gatepost.conf
        cp /mnt/systemd/gatepost.tmpfiles.conf /usr/lib/tmpfiles.d/gatepost.conf
        systemd-sysusers
        systemd-tmpfiles --create gatepost.conf
        mkdir -p -m 0700 /etc/credstore.encrypted
        gatepost key new | systemd-creds encrypt --name=gatepost-master - /etc/credstore.encrypted/gatepost-master
        install -d -o gatepost -g gatepost -m 0700 /var/lib/gatepost
        install -o gatepost -g gatepost -m 0600 /dev/null /var/lib/gatepost/gatepost.db
        """
    )
    (box.root / "etc/hosts").write_text("127.0.0.1 localhost\n")  # a minimal Debian has none
    gate.write_config()
    shutil.copy(certificates.ca_file, gate.etc / "upstream-ca.pem")
    gate.write_certificate()
    drop_in = box.root / "etc/systemd/system/gatepost.service.d"
    drop_in.mkdir()
    (drop_in / "watchdog.conf").write_text(QUICK_WATCHDOG)
    box.run("systemctl", "daemon-reload")
    box.run("systemctl", "start", *(f"gatepost-{name}.socket" for name in SOCKETS), "gatepost.service")
    box.run(
        "gatepost", "account", "add", USER, "--upstream", "main", "--password-stdin", stdin=UPSTREAM_PASSWORD + "\n"
    )
    made = json.loads(box.run("gatepost", "create", USER, "--name", "test", "--json"))
    gate.house.password = made["password"]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """A failure comes with what the service logged."""
    report = yield
    box = getattr(item, "funcargs", {}).get("installed")
    if isinstance(report, pytest.TestReport) and report.failed and isinstance(box, Installed):
        report.sections.append(
            ("journal of gatepost", box.box.run("journalctl", "--no-pager", "--lines=60", code=None))
        )
    return report
