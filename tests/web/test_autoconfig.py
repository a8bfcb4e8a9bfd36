"""What mail programs are told: the same for everybody, and right."""

from __future__ import annotations

import plistlib
import subprocess
from xml.etree import ElementTree as ET

import pytest

from tests.web.conftest import ANN
from tests.web.kit import Visitor, WebGate

THUNDERBIRD = ("/.well-known/autoconfig/mail/config-v1.1.xml", "/mail/config-v1.1.xml")
OUTLOOK = ("/autodiscover/autodiscover.xml", "/Autodiscover/Autodiscover.xml")
ASKED = (
    "<Autodiscover><Request><EMailAddress>{}</EMailAddress><AcceptableResponseSchema>x</AcceptableResponseSchema>"
    "</Request></Autodiscover>"
)


@pytest.mark.parametrize("path", THUNDERBIRD)
def test_thunderbird_is_told_the_servers(visitor: Visitor, path: str) -> None:
    answer = visitor.http.get(path, headers={"host": "autoconfig.example.test"})
    tree = ET.fromstring(answer.text)
    assert answer.headers["content-type"].startswith("text/xml")
    gate = visitor.gate
    for kind, endpoint in (("incomingServer", gate.imaps), ("outgoingServer", gate.smtps)):
        (server,) = tree.iter(kind)
        told = {child.tag: child.text for child in server}
        assert told == {
            "hostname": "localhost",
            "port": str(endpoint.port),
            "socketType": "SSL",
            "authentication": "password-cleartext",
            "username": "%EMAILADDRESS%",
        }


@pytest.mark.parametrize("path", OUTLOOK)
def test_outlook_is_told_the_servers(visitor: Visitor, path: str) -> None:
    answer = visitor.http.post(path, content=ASKED.format(ANN), headers={"content-type": "text/xml"})
    tree = ET.fromstring(answer.text)
    space = "{http://schemas.microsoft.com/exchange/autodiscover/outlook/responseschema/2006a}"
    told = [
        {child.tag.removeprefix(space): child.text for child in protocol} for protocol in tree.iter(f"{space}Protocol")
    ]
    gate = visitor.gate
    assert [(one["Type"], one["Server"], one["Port"], one["SSL"]) for one in told] == [
        ("IMAP", "localhost", str(gate.imaps.port), "on"),
        ("SMTP", "localhost", str(gate.smtps.port), "on"),
    ]


def test_every_address_gets_the_same_answer(visitor: Visitor) -> None:
    addresses = (ANN, "nobody@example.test", "", "<x>&amp;")
    for path in (*THUNDERBIRD, "/apple.mobileconfig"):
        answers = {visitor.http.get(path, params={"emailaddress": address}).content for address in addresses}
        assert len(answers) == 1
        assert ANN.encode() not in answers.pop()
    for path in OUTLOOK:
        answers = {visitor.http.post(path, content=ASKED.format(address)).content for address in addresses}
        assert len(answers) == 1
    assert visitor.http.post(OUTLOOK[0], content="x" * 100_000).status_code == 413


def test_the_profile_is_signed_and_holds_no_password(visitor: Visitor, web: WebGate) -> None:
    answer = visitor.http.get("/apple.mobileconfig")
    assert answer.headers["content-type"] == "application/x-apple-aspen-config"
    opened = subprocess.run(
        ["openssl", "cms", "-verify", "-inform", "DER", "-CAfile", str(web.lab.ca_file), "-purpose", "any"],
        input=answer.content,
        capture_output=True,
        check=True,
    )
    (mail,) = plistlib.loads(opened.stdout)["PayloadContent"]
    assert (mail["IncomingMailServerPortNumber"], mail["OutgoingMailServerPortNumber"]) == (
        web.imaps.port,
        web.smtps.port,
    )
    assert mail["IncomingMailServerUseSSL"]
    assert not [name for name in mail if name.endswith("Password") and name != "OutgoingPasswordSameAsIncomingPassword"]


def test_the_records_to_publish_are_printed(web: WebGate) -> None:
    done = web.run("check", "--dns")
    for line in (
        f"_imaps._tcp.example.test. 3600 IN SRV 0 1 {web.imaps.port} localhost.",
        f"_imap._tcp.example.test. 3600 IN SRV 10 1 {web.imap.port} localhost.",
        f"_submissions._tcp.example.test. 3600 IN SRV 0 1 {web.smtps.port} localhost.",
        f"_submission._tcp.example.test. 3600 IN SRV 10 1 {web.smtp.port} localhost.",
        f"_autodiscover._tcp.example.test. 3600 IN SRV 0 1 {web.web.rpartition(':')[2]} localhost.",
    ):
        assert line in done.out.splitlines()
    assert len(web.run("check", "--dns", "--json").json["dns"]) == 5
    assert "dns" not in web.run("check", "--json").json
