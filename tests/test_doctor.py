"""`gatepost check`, the part that goes to the network: against real servers, and against scripted faults."""

from __future__ import annotations

import base64
import json
from dataclasses import replace

import pytest

from proxy.admin.finding import Finding
from proxy.config.reader import load
from proxy.doctor.checks import check_login, check_upstreams
from tests.edge.scripted import make_certificates
from tests.gate import Gate
from tests.lab import Lab
from tests.whole.kit import Line, MailServer, make_house, make_template, write_config

USER = "ann@example.test"
LOCAL = "ann@example.org"


@pytest.fixture(scope="module")
def checked(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Gate:
    """A set-up that does not run, with one account."""
    gate = Gate.prepare(lab, tmp_path_factory.mktemp("gate"))
    gate.add_account(USER)
    return gate


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    for finding in findings:
        assert finding.ok or finding.remedy, finding
        assert (finding.name + finding.detail + finding.remedy).isprintable()
    return {finding.name: finding for finding in findings}


async def test_good_upstreams_are_good(checked: Gate) -> None:
    found = by_name(await check_upstreams(load(checked.config)))
    assert set(found) == {"upstream lab imap", "upstream lab smtp"}
    assert all(finding.verdict == "ok" for finding in found.values())


async def test_certificate_of_an_unknown_authority_is_told(checked: Gate, tmp_path) -> None:
    config = load(checked.config)
    other = make_certificates(tmp_path)
    upstream = replace(config.upstreams["lab"], tls_ca=other.ca_file)
    found = by_name(await check_upstreams(replace(config, upstreams={"lab": upstream})))
    for finding in found.values():
        assert finding.verdict == "failed"
        assert "untrusted: certificate: " in finding.detail
        assert "tls_ca" in finding.remedy


async def test_server_that_is_down_is_told(checked: Gate) -> None:
    config = load(checked.config)
    upstream = config.upstreams["lab"]
    assert upstream.imap is not None
    upstream = replace(upstream, imap=replace(upstream.imap, port=1))
    found = by_name(await check_upstreams(replace(config, upstreams={"lab": upstream})))
    assert found["upstream lab imap"].detail.startswith("localhost:1: unreachable: Connect")
    assert found["upstream lab smtp"].ok


async def test_authority_file_that_is_gone_is_told(checked: Gate, tmp_path) -> None:
    config = load(checked.config)
    upstream = replace(config.upstreams["lab"], tls_ca=tmp_path / "gone.pem")
    for finding in await check_upstreams(replace(config, upstreams={"lab": upstream})):
        assert not finding.ok
        assert "gone.pem" in finding.detail


async def test_good_login_is_proved_to_the_mailbox(checked: Gate) -> None:
    found = by_name(await check_login(load(checked.config), USER, "test"))
    assert list(found) == [f"login {USER} token", f"login {USER} imap", f"login {USER} smtp"]
    assert all(finding.verdict == "ok" for finding in found.values())


async def test_login_that_nobody_has_is_told(checked: Gate) -> None:
    for name in ("nobody@example.test", "", "a@b@c"):
        (finding,) = await check_login(load(checked.config), name, "test")
        assert not finding.ok
        assert "no such account" in finding.detail


async def test_upstream_that_left_the_configuration_is_told(checked: Gate) -> None:
    (finding,) = await check_login(replace(load(checked.config), upstreams={}), USER, "test")
    assert not finding.ok
    assert "[upstream.lab]" in finding.remedy


@pytest.fixture
def frail(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Gate:
    """A set-up of the test's own, whose account has no token yet."""
    gate = Gate.prepare(lab, tmp_path_factory.mktemp("gate"))
    gate.add_account(USER)
    return gate


async def test_identity_provider_that_is_down_is_told(frail: Gate) -> None:
    frail.lab.idp.set_fault("500", times=1)
    (finding,) = await check_login(load(frail.config), USER, "test")
    assert (finding.name, finding.verdict) == (f"login {USER} token", "failed")
    assert "provider" in finding.remedy


async def test_client_secret_that_is_wrong_is_told(frail: Gate) -> None:
    frail.lab.idp.set_fault("invalid_client", times=1)
    (finding,) = await check_login(load(frail.config), USER, "test")
    assert not finding.ok
    assert "client_secret" in finding.remedy


async def test_consent_that_is_lost_is_told(frail: Gate) -> None:
    frail.cli("account", "remove", USER)
    frail.cli(
        "account", "add", USER, "--upstream", "lab", "--refresh-token-stdin", stdin="a-refresh-token-of-long-ago\n"
    )
    (finding,) = await check_login(load(frail.config), USER, "test")
    assert not finding.ok
    assert "sign in again" in finding.remedy


def test_check_tells_by_its_exit_status_and_in_json(checked: Gate, frail: Gate) -> None:
    good = checked.run("check", "--login", USER, "--json")
    assert good.code == 0, good.err
    assert good.json["ok"] is True
    names = [finding["name"] for finding in good.json["findings"]]
    assert f"login {USER} imap" in names
    frail.lab.idp.set_fault("500", times=1)
    bad = frail.run("check", "--login", USER, "--json")
    assert bad.code == 1
    assert bad.err.count("\n") == 1
    document = json.loads(bad.out)
    assert document["ok"] is False
    (failed,) = [finding for finding in document["findings"] if finding["result"] == "failed"]
    assert failed["name"] == f"login {USER} token"
    assert failed["remedy"]


# -- scripted faults, by password -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scripted(tmp_path_factory: pytest.TempPathFactory):
    directory = tmp_path_factory.mktemp("scripted")
    certificates = make_certificates(directory)
    return make_template(directory / "gate", certificates), certificates


def not_connected(line: Line) -> None:
    tag, command = line.line().split(b" ", 1)
    assert command.startswith((b"SELECT", b"EXAMINE", b"STATUS"))
    line.send(b"%b BAD User is authenticated but not connected.\r\n" % tag)
    line.until_gone()


async def test_exchange_that_lets_in_and_has_no_mailbox_is_told(scripted, tmp_path) -> None:
    """Outcomes E42."""
    template, certificates = scripted
    house = make_house(template, tmp_path / "gate")
    server = MailServer(certificates, "imap", not_connected)
    try:
        write_config(house, certificates, imap=server.port)
        found = by_name(await check_login(load(house.config), LOCAL, "test"))
        finding = found[f"login {LOCAL} imap"]
        assert finding.verdict == "failed"
        assert finding.detail == "let in, but: BAD User is authenticated but not connected."
        assert "scopes" in finding.remedy
    finally:
        server.close()


async def test_server_that_refuses_the_credential_is_told_without_the_credential(scripted, tmp_path) -> None:
    template, certificates = scripted
    house = make_house(template, tmp_path / "gate")

    def refuse(line: Line) -> bool:
        line.send(b"* OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN] ready\r\n")
        tag, _, said = line.line().partition(b" ")
        line.send(b"%b NO [AUTHENTICATIONFAILED] you said %b\r\n" % (tag, said))
        return False

    server = MailServer(certificates, "imap", lambda _: None)
    server._login = refuse
    try:
        write_config(house, certificates, imap=server.port)
        finding = by_name(await check_login(load(house.config), LOCAL, "test"))[f"login {LOCAL} imap"]
        assert finding.verdict == "failed"
        assert finding.detail.startswith("refused: ")
        assert base64.b64encode(f"\0{LOCAL}\0".encode())[:12].decode() not in finding.detail
        assert "upstream_user" in finding.remedy
    finally:
        server.close()
