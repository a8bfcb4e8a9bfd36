"""Every command of docs/operations.md is run, as it stands there, in a booted systemd of its own."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from tests.systemd.box import ROOT, UNITS, Box, base, booted, or_skipped, outside, require
from tests.test_docs import blocks

PAGE = ROOT / "docs" / "operations.md"
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
[[listen]]
protocol = "smtp"
address = "0.0.0.0:465"
tls = "implicit"
[upstream.main]
imap = "imaps://127.0.0.1:1"
smtp = "smtps://127.0.0.1:1"
auth = "password"
[workers]
count = 1
"""
HOOK = "#!/bin/sh"  # certbot runs it: the page has it before the service is started for the first time


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    """A Debian with the command at /usr/local/bin, and under /mnt a source and what certbot has renewed."""
    directory = tmp_path_factory.mktemp("operations")
    with or_skipped():
        require()
        root = base()
        wheel = [sys.executable, "-m", "pip", "--quiet", "wheel", "--no-deps", "--no-build-isolation"]
        with outside():
            subprocess.run([*wheel, "--wheel-dir", directory, ROOT], check=True, capture_output=True)
        shutil.copytree(UNITS, directory / "systemd")
        renew(directory)
        with booted(root, directory) as box:
            box.shell("/opt/gatepost/bin/pip --quiet install --no-index --no-deps /mnt/gatepost-*.whl")
            box.shell("ln -s /opt/gatepost/bin/gatepost /usr/local/bin/gatepost")
            yield box


def renew(directory: Path) -> None:
    leaf = trustme.CA().issue_cert("localhost")
    leaf.private_key_pem.write_to_path(str(directory / "privkey.pem"))
    leaf.cert_chain_pems[0].write_to_path(str(directory / "fullchain.pem"))


def test_the_page_from_top_to_bottom(bare: Box) -> None:
    box = bare
    scripts = [block.text for block in blocks(PAGE) if block.language == "sh"]
    hooks = [script for script in scripts if script.startswith(HOOK)]
    install, start, *others = [script for script in scripts if script not in hooks]
    assert (len(hooks), len(others)) == (1, 4)

    box.shell(f"cd /mnt\n{install}")
    (box.root / "etc/gatepost/gatepost.toml").write_text(CONFIG)
    box.shell(f"export RENEWED_LINEAGE=/mnt\n{hooks[0]}")
    box.shell(start)
    assert box.show("ActiveState") == ["active"]
    box.run("gatepost", "account", "add", "ann@example.com", "--upstream", "main", "--password-stdin", stdin="x\n")
    for script in others:
        box.shell(script)
    assert box.show("ActiveState", "Result") == ["active", "success"]

    # What stands in its sentences.
    key = box.run("systemd-creds", "decrypt", "--name=gatepost-master", "/etc/credstore.encrypted/gatepost-master", "-")
    assert len(key.split()) == 1, "the former key is out"
    assert box.run("gatepost", "reload") == "Reloaded /etc/gatepost/gatepost.toml.\n"
    box.run("systemctl", "reload", "gatepost")
    assert box.run("journalctl", "-u", "gatepost", "-p", "warning", "--no-pager", "--output=cat")
    (main,) = box.show("MainPID")
    box.signal("KILL", main)
    box.until(
        "it is started anew", lambda: box.show("MainPID", "ActiveState") not in ([main, "active"], ["0", "active"])
    )
    box.until("it serves", lambda: box.show("ActiveState", "SubState") == ["active", "running"])
    assert "ann@example.com" in box.run("gatepost", "account", "list")
    assert box.show("OOMPolicy") == ["continue"]
