"""The Debian package in a booted systemd of its own: installed, upgraded while it serves, removed, purged."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from proxy import __version__
from tests.systemd.box import ROOT, Box, base, booted, or_skipped, outside, require

BUILD_S = 600.0
# ca-certificates is not in the box, and nothing in it asks for a public authority.
INSTALL = "dpkg --install --ignore-depends=ca-certificates"
CONFIG = """\
[store]
url = "sqlite:////var/lib/gatepost/gatepost.db"
[keys]
master = "credential:gatepost-master"
[tls]
certificate = "tls/cert.pem"
key = "tls/key.pem"
[[listen]]
protocol = "imap"
address = "0.0.0.0:993"
tls = "implicit"
[upstream.main]
imap = "imaps://127.0.0.1:1"
auth = "password"
[workers]
count = 1
"""


def build(directory: Path) -> Path:
    """What `make deb` does, into a folder of its own."""
    wheel = directory / "wheel"
    for command in (
        ["bin/python", "-m", "hatchling", "build", "-t", "wheel", "-d", wheel],
        [ROOT / "config/debian/build.sh", wheel / f"gatepost-{__version__}-py3-none-any.whl", directory],
    ):
        done = subprocess.run(
            [str(word).replace("bin/python", f"{os.environ.get('VENV', '.venv')}/bin/python", 1) for word in command],
            check=False, cwd=ROOT, capture_output=True, text=True, timeout=BUILD_S,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    (package,) = directory.glob("gatepost_*.deb")
    return package


def next_version(package: Path, directory: Path) -> Path:
    """The same under a higher version, as an upgrade comes."""
    unpacked = directory / "next"
    subprocess.run(["dpkg-deb", "--raw-extract", package, unpacked], check=True)
    control = unpacked / "DEBIAN" / "control"
    control.write_text(control.read_text().replace(f"Version: {__version__}", f"Version: {__version__}+next"))
    target = directory / "next.deb"
    subprocess.run(["dpkg-deb", "--root-owner-group", "-Znone", "--build", unpacked, target], check=True)
    shutil.rmtree(unpacked)
    return target


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    """A Debian without Gatepost, which sees both packages under /mnt."""
    directory = tmp_path_factory.mktemp("package")
    with or_skipped():
        require()
        root = base()
        with outside():  # pip asks an index, and other tests here stay in their container's network
            package = build(directory)
        shutil.copy(package, directory / "first.deb")
        next_version(directory / "first.deb", directory)
        leaf = trustme.CA().issue_cert("localhost")
        leaf.private_key_pem.write_to_path(str(directory / "key.pem"))
        leaf.cert_chain_pems[0].write_to_path(str(directory / "cert.pem"))
        with booted(root, directory) as box:
            box.shell("rm -rf /opt/gatepost")
            yield box


def test_it_installs_serves_upgrades_and_goes(bare: Box) -> None:
    box = bare
    box.shell(f"{INSTALL} /mnt/first.deb")
    assert box.run("gatepost", "--version") == f"gatepost {__version__}\n"
    assert box.run("id", "-gn", "gatepost") == "gatepost\n"
    assert box.run("stat", "-c", "%U:%G %a", "/etc/gatepost/tls") == "root:gatepost 750\n"
    assert box.show("UnitFileState", "ActiveState") == ["disabled", "inactive"]
    assert box.run("dpkg", "--verify", "gatepost") == ""
    assert "ExecStart=/usr/bin/gatepost serve --web-only" in box.run("systemctl", "cat", "gatepost-web.service")
    assert "ExecReload=/usr/bin/gatepost reload" in box.run("systemctl", "cat", "gatepost.service")

    (box.root / "etc/gatepost/gatepost.toml").write_text(CONFIG)
    box.shell(
        """
        install -g gatepost -m 0640 /mnt/cert.pem /mnt/key.pem /etc/gatepost/tls/
        mkdir -p -m 0700 /etc/credstore.encrypted
        gatepost key new | systemd-creds encrypt --name=gatepost-master - /etc/credstore.encrypted/gatepost-master
        install -d -o gatepost -g gatepost -m 0700 /var/lib/gatepost
        install -o gatepost -g gatepost -m 0600 /dev/null /var/lib/gatepost/gatepost.db
        systemctl enable --now gatepost-imaps.socket gatepost.service
        """
    )
    assert box.show("ActiveState", "User") == ["active", "gatepost"]
    (before,) = box.show("MainPID")
    box.run("gatepost", "account", "add", "ann@example.org", "--upstream", "main", "--password-stdin", stdin="secret\n")

    box.shell(f"{INSTALL} /mnt/next.deb")
    assert box.run("dpkg-query", "-W", "-f", "${Version}", "gatepost") == f"{__version__}+next"
    (after,) = box.show("MainPID")
    assert box.show("ActiveState") == ["active"]
    assert before != after
    assert box.show("ActiveState", unit="gatepost-imaps.socket") == ["active"]
    assert "ann@example.org" in box.run("gatepost", "account", "list")

    box.run("dpkg", "--remove", "gatepost")
    for unit in ("gatepost.service", "gatepost-imaps.socket"):
        assert box.show("ActiveState", unit=unit) == ["inactive"]
    assert (box.root / "var/lib/gatepost/gatepost.db").is_file()
    assert not (box.root / "usr/lib/gatepost").exists()

    box.run("dpkg", "--purge", "gatepost")
    left = box.shell("find / -xdev -path /proc -prune -o -path /sys -prune -o -iname '*gatepost*' -print").split()
    ours = [path for path in left if not path.startswith(("/mnt", "/var/log", "/.gatepost-lock"))]
    assert ours == []
    assert box.run("id", "-un", "gatepost") == "gatepost\n"
