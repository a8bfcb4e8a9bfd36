"""proxy/admin/examine.py: what gatepost check finds on this host, each fault with its remedy."""

from __future__ import annotations

import os
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from proxy.admin.examine import SOON, local
from proxy.admin.finding import Finding
from proxy.admin.setup import init
from proxy.config.reader import load
from proxy.errors import OperatorError
from proxy.store.rows import NewAccount
from proxy.store.store import Store
from proxy.vault.certificate import LIFETIME

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


@pytest.fixture(scope="session")
def template(tmp_path_factory) -> Path:
    return init(tmp_path_factory.mktemp("template") / "gate" / "gatepost.toml", NOW, "test").config.parent


@pytest.fixture
def setup(template, tmp_path) -> Path:
    shutil.copytree(template, tmp_path / "gate")
    return tmp_path / "gate"


def look(setup: Path, now: datetime = NOW) -> dict[str, Finding]:
    findings = local(load(setup / "gatepost.toml"), now)
    assert len({finding.name for finding in findings}) == len(findings)
    for finding in findings:
        assert (finding.name + finding.detail + finding.remedy).isprintable()
        assert finding.ok or finding.remedy
    return {finding.name: finding for finding in findings}


def edit(setup: Path, old: str, new: str) -> None:
    file = setup / "gatepost.toml"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def test_fresh_set_up_is_fine_but_for_the_app(setup):
    findings = look(setup)
    assert list(findings) == ["configuration", "certificate", "store", "master key", "upstream main client_id"]
    assert findings.pop("upstream main client_id").verdict == "failed"
    assert {finding.verdict for finding in findings.values()} == {"ok"}
    assert findings["configuration"].detail.endswith("3 listeners, 1 upstream")
    assert "localhost" in findings["certificate"].detail
    assert f"{LIFETIME.days} days left" in findings["certificate"].detail
    assert "self-signed" in findings["certificate"].detail
    assert findings["store"].detail == "0 accounts, 0 app passwords"


def test_check_changes_nothing(setup):
    before = {file.name: file.read_bytes() for file in setup.iterdir()}
    look(setup)
    assert {file.name: file.read_bytes() for file in setup.iterdir()} == before


def test_certificate_about_to_end_is_a_warning(setup):
    finding = look(setup, NOW + LIFETIME - SOON + timedelta(seconds=1))["certificate"]
    assert (finding.verdict, finding.remedy[:8]) == ("warning", "renew it")


def test_certificate_that_ended_failed(setup):
    finding = look(setup, NOW + LIFETIME)["certificate"]
    assert finding.verdict == "failed"
    assert "ended on" in finding.detail
    assert finding.remedy == "renew it"


def test_certificate_of_tomorrow_failed(setup):
    finding = look(setup, NOW - timedelta(days=1))["certificate"]
    assert finding.verdict == "failed"
    assert "clock" in finding.remedy


def test_certificate_of_another_key_failed(setup, tmp_path):
    other = init(tmp_path / "other" / "gatepost.toml", NOW, "test").config.parent
    shutil.copy(other / "key.pem", setup / "key.pem")
    finding = look(setup)["certificate"]
    assert finding.verdict == "failed"
    assert f"{setup}/key.pem is not the key of {setup}/cert.pem" in finding.detail


def test_certificate_of_the_page_is_looked_at(setup, tmp_path):
    for name in ("cert.pem", "key.pem"):
        shutil.copy(setup / name, setup / f"web-{name}")
    page = '[web]\naddress = "127.0.0.1:8443"\npublic_url = "https://localhost:8443"\nmfa_enforced_by_provider = true\n'
    pair = 'certificate = "web-cert.pem"\nkey = "web-key.pem"\n'
    edit(setup, 'preset = "microsoft365"', 'preset = "gmail"')  # which needs no tenant
    with (setup / "gatepost.toml").open("a") as file:
        file.write(page + pair)
    assert look(setup)["web certificate"].ok
    (setup / "web-cert.pem").unlink()
    findings = look(setup)
    assert findings["certificate"].ok
    assert "web-cert.pem" in findings["web certificate"].detail


def test_key_that_all_can_read_is_a_warning(setup):
    (setup / "key.pem").chmod(0o644)
    (setup / "master.key").chmod(0o604)
    findings = look(setup)
    assert findings["certificate"].remedy.startswith(f"chmod 600 {setup}/key.pem")
    assert findings["master key"].remedy.startswith(f"chmod 600 {setup}/master.key")
    assert findings["master key"].verdict == "warning"


@pytest.mark.parametrize(
    ("name", "content", "check", "words"),
    [
        ("cert.pem", None, "certificate", "cannot read"),
        ("cert.pem", "nothing", "certificate", "no PEM certificate"),
        ("key.pem", "nothing", "certificate", "no PEM private key"),
        ("master.key", None, "master key", "cannot read"),
        ("master.key", "nothing", "master key", "does not hold a Gatepost master key"),
        ("master.key", "", "master key", "is empty"),
        ("gatepost.db", None, "store", "does not exist"),
        ("gatepost.db", "nothing" * 1000, "store", "gatepost.db"),
    ],
)
def test_broken_file_fails_its_check(name, content, check, words, setup):
    (setup / name).unlink()
    if content is not None:
        (setup / name).write_text(content)
    finding = look(setup)[check]
    assert finding.verdict == "failed"
    assert words in finding.detail


def test_store_that_cannot_be_read_leaves_the_other_checks(setup):
    (setup / "gatepost.db").unlink()
    findings = look(setup)
    assert findings["certificate"].ok
    assert not findings["store"].ok
    assert "gatepost restore" in findings["store"].remedy
    assert not findings["master key"].ok
    assert findings["master key"].remedy == "first mend the store"


def test_client_id_of_the_operator_is_no_finding(setup):
    edit(setup, 'client_id = "your-client-id" ', 'client_id = "the-app" ')
    assert "upstream main client_id" not in look(setup)


def test_master_key_of_another_store_failed(setup, tmp_path):
    other = init(tmp_path / "other" / "gatepost.toml", NOW, "test").config.parent
    shutil.copy(other / "master.key", setup / "master.key")
    finding = look(setup)["master key"]
    assert finding.verdict == "failed"
    assert "the store is sealed to" in finding.detail
    assert "restore the key file" in finding.remedy


def test_clear_text_listener_is_a_warning(setup):
    edit(setup, '"0.0.0.0:993"\ntls = "implicit"', '"127.0.0.1:1143"\ntls = "none"')
    edit(setup, '"0.0.0.0:465"\ntls = "implicit"', '"0.0.0.0:465"\ninsecure = true\ntls = "none"')
    findings = look(setup)
    assert findings["listener imap://127.0.0.1:1143"].verdict == "warning"
    assert "not on loopback" not in findings["listener imap://127.0.0.1:1143"].detail
    assert "not on loopback" in findings["listener smtp://0.0.0.0:465"].detail


def test_certificate_is_not_asked_for_where_nobody_uses_it(setup):
    (setup / "gatepost.toml").write_text(
        '[store]\nurl = "sqlite:///gatepost.db"\n[keys]\nmaster = "file:master.key"\n'
        '[[listen]]\nprotocol = "imap"\naddress = "127.0.0.1:0"\ntls = "none"\n'
        '[upstream.one]\nimap = "imaps://h.example"\nauth = "password"\n'
    )
    assert "certificate" not in look(setup)


def test_account_of_a_removed_upstream_is_a_warning(setup):
    store = Store.open(f"sqlite:///{setup}/gatepost.db", migrate=False)
    store.add_account(NewAccount("ann@example.com", "gone", "ann@example.com", (), "test"))
    store.close()
    finding = look(setup)["store"]
    assert finding.verdict == "warning"
    assert "[upstream.gone]" in finding.remedy


def test_client_secret_and_private_authority(setup):
    edit(setup, '# client_secret = "file:client.secret" ', 'client_secret = "file:client.secret" ')
    edit(setup, "[upstream.main]\n", '[upstream.main]\ntls_ca = "ca.pem"\n')
    findings = look(setup)
    assert findings["upstream main client_secret"].verdict == "failed"
    assert findings["upstream main tls_ca"].verdict == "failed"
    (setup / "client.secret").write_text("hunter2")
    (setup / "client.secret").chmod(0o600)
    (setup / "ca.pem").write_text("nothing")
    findings = look(setup)
    assert findings["upstream main client_secret"].verdict == "ok"
    assert "hunter2" not in str(findings)
    assert findings["upstream main tls_ca"].verdict == "failed"
    assert "no PEM certificate" in findings["upstream main tls_ca"].detail
    shutil.copy(setup / "cert.pem", setup / "ca.pem")
    assert look(setup)["upstream main tls_ca"].verdict == "ok"


def test_init_tells_what_stands_in_the_way(tmp_path):
    config = tmp_path / "gate" / "gatepost.toml"
    init(config, NOW, "test")
    with pytest.raises(OperatorError, match="exists already"):
        init(config, NOW, "test")


def test_init_keeps_a_directory_that_was_there(tmp_path, monkeypatch):
    def refuse(*_arguments: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("os.link", refuse)
    with pytest.raises(OperatorError, match=r"cannot set up .*: No space left on device"):
        init(tmp_path / "gatepost.toml", NOW, "test")
    assert list(tmp_path.iterdir()) == []


def use_certificate(setup: Path) -> None:
    edit(
        setup,
        'client_id = "your-client-id" ',
        'client_id = "your-client-id"\nclient_certificate = "cert.pem"\nclient_key = "file:key.pem" ',
    )


def test_client_certificate_is_looked_at_with_its_key(setup):
    use_certificate(setup)
    findings = look(setup)
    assert findings["upstream main client_key"].verdict == "ok"
    assert "fits its key" in findings["upstream main client_certificate"].detail
    soon = look(setup, NOW + LIFETIME - timedelta(days=10))["upstream main client_certificate"]
    assert soon.verdict == "warning"
    assert "upload a new one" in soon.remedy
    assert look(setup, NOW + LIFETIME + timedelta(days=1))["upstream main client_certificate"].verdict == "failed"
    (setup / "key.pem").write_text("hunter2")
    findings = look(setup)
    assert findings["upstream main client_certificate"].verdict == "failed"
    assert "hunter2" not in str(findings)


def test_client_key_from_elsewhere_is_only_read(setup, monkeypatch):
    use_certificate(setup)
    edit(setup, '"file:key.pem" ', '"env:CLIENT_KEY" ')
    assert look(setup)["upstream main client_key"].verdict == "failed"
    monkeypatch.setenv("CLIENT_KEY", "hunter2")
    findings = look(setup)
    assert findings["upstream main client_key"].verdict == "ok"
    assert "upstream main client_certificate" not in findings


def test_alert_command_has_to_be_a_program(setup):
    edit(setup, "[keys]\n", '[alerts]\ncommand = ["bin/tell", "root"]\n[keys]\n')
    assert look(setup)["alerts command"].verdict == "failed"
    (setup / "bin").mkdir()
    (setup / "bin" / "tell").write_text("#!/bin/sh\n")
    assert look(setup)["alerts command"].verdict == "failed"
    (setup / "bin" / "tell").chmod(0o755)
    assert look(setup)["alerts command"].verdict == "ok"


def test_listener_for_old_devices_is_a_warning_beyond_loopback(setup):
    edit(setup, '"0.0.0.0:993"\n', '"0.0.0.0:993"\nminimum_tls = "1.0"\n')
    edit(setup, '"0.0.0.0:465"\n', '"127.0.0.1:465"\nminimum_tls = "1.1"\n')
    edit(setup, '"0.0.0.0:587"\n', '"0.0.0.0:587"\nminimum_tls = "1.2"\n')
    (finding,) = (finding for name, finding in look(setup).items() if name.endswith("minimum_tls"))
    assert (finding.name, finding.verdict) == ("listener imap://0.0.0.0:993 minimum_tls", "warning")
    assert "TLS 1.0" in finding.detail
    assert "firewall" in finding.remedy


@pytest.mark.parametrize("network", ["0.0.0.0/0", "::/0"])
def test_believing_everybody_is_a_warning(setup, network):
    edit(setup, '"0.0.0.0:993"\n', f'"0.0.0.0:993"\nproxy_protocol_from = ["10.0.0.0/8", "{network}"]\n')
    edit(setup, '"0.0.0.0:465"\n', '"0.0.0.0:465"\nproxy_protocol_from = ["10.0.0.0/8"]\n')
    (finding,) = (finding for name, finding in look(setup).items() if name.endswith("proxy_protocol_from"))
    assert (finding.name, finding.verdict) == ("listener imap://0.0.0.0:993 proxy_protocol_from", "warning")
    assert finding.detail.startswith(f"{network} is everybody")
