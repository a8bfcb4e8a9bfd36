"""Grants that nobody signs in for, through a running Gatepost: app-only with a secret, with a key, service account."""

from __future__ import annotations

import imaplib
import json
import smtplib
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from joserfc.jwk import RSAKey

from tests.connecting import prepare, stored
from tests.gate import Gate
from tests.lab import Lab
from tests.lab.talk import ANN, BOB, TIMEOUT_S


@pytest.fixture(scope="module")
def key() -> RSAKey:
    return RSAKey.import_key(rsa.generate_private_key(65_537, 2048), {"kid": "key-1"})


@contextmanager
def serving(lab: Lab, directory: Path, oauth2: str, **files: str) -> Iterator[Gate]:
    gate = prepare(lab, directory / "gate", oauth2, token_url=lab.idp.token_url)
    for name, text in files.items():
        (gate.directory / name).write_text(text)
    gate.start()
    try:
        yield gate
    finally:
        gate.kill()
    assert gate.leaked() == []


def log_in(gate: Gate, user: str, password: str) -> None:
    context = ssl.create_default_context(cafile=str(gate.lab.ca_file))
    with imaplib.IMAP4_SSL(*gate.imaps, ssl_context=context, timeout=TIMEOUT_S) as imap:
        imap.login(user, password)
        assert imap.select("INBOX")[0] == "OK"
    with smtplib.SMTP_SSL(*gate.smtps, context=context, timeout=TIMEOUT_S) as smtp:
        smtp.login(user, password)


def requests(lab: Lab, grant: str) -> int:
    return lab.idp.token_requests().by_grant.get(grant, 0)


CLIENT_CREDENTIALS = """\
client_id = "{client_id}"
client_secret = "file:client.secret"
grant = "client_credentials"
token_url = "{token_url}"
scopes = ["mail"]
"""


def test_an_app_only_mailbox_needs_no_sign_in_and_one_token_serves_all(lab: Lab, tmp_path: Path) -> None:
    lab.idp.set_app_mailbox(ANN)
    before = requests(lab, "client_credentials")
    with serving(lab, tmp_path, CLIENT_CREDENTIALS) as gate:
        gate.cli("account", "add", ANN, "--upstream", "lab")
        assert stored(gate, ANN)["state"] == "none"
        password = gate.create(ANN, "scanner")["password"]
        for _ in range(3):
            log_in(gate, ANN, password)
        assert requests(lab, "client_credentials") == before + 1
        assert stored(gate, ANN)["state"] == "fresh"
        # Another mailbox that the app may not open: that is the mail server's word, and costs no further token.
        gate.cli("account", "add", BOB, "--upstream", "lab")
        with pytest.raises(imaplib.IMAP4.error, match="CONTACTADMIN"):
            log_in(gate, BOB, gate.create(BOB, "scanner")["password"])
        assert requests(lab, "client_credentials") == before + 1
        assert stored(gate, BOB)["state"] == "upstream_refuses"
        log_in(gate, ANN, password)
        findings = json.loads(gate.run("check", "--login", ANN, "--json").out)["findings"]
        assert [one["result"] for one in findings if one["name"].startswith("login ")] == ["ok"] * 3


def test_a_rejected_app_is_one_alarm_and_no_hot_loop(lab: Lab, tmp_path: Path) -> None:
    lab.idp.set_app_mailbox(ANN)
    with serving(lab, tmp_path, CLIENT_CREDENTIALS) as gate:
        (gate.directory / "client.secret").write_text("expired")
        gate.cli("account", "add", ANN, "--upstream", "lab")
        password = gate.create(ANN, "scanner")["password"]
        before = requests(lab, "client_credentials")
        for _ in range(3):
            with pytest.raises(imaplib.IMAP4.error, match="UNAVAILABLE"):
                log_in(gate, ANN, password)
        assert requests(lab, "client_credentials") == before + 1
        assert gate.log().count("event=provider_rejects_client") == 1


SIGNED = """\
client_id = "signed app"
client_key = "file:client.key"
client_certificate = "client.crt"
grant = "client_credentials"
issuer = "{issuer}"
scopes = ["mail"]
"""


def test_a_certificate_in_place_of_a_client_secret(lab: Lab, tmp_path: Path, key: RSAKey) -> None:
    lab.idp.add_signed_client("signed app", key.as_dict(private=False))
    lab.idp.set_app_mailbox(ANN)
    certificate = Path(lab.certificates.server.chain_file).read_text()  # any will do: oidc-provider goes by the key
    files = {"client.key": key.as_pem(private=True).decode(), "client.crt": certificate}
    with serving(lab, tmp_path, SIGNED, **files) as gate:
        gate.cli("account", "add", ANN, "--upstream", "lab")
        log_in(gate, ANN, gate.create(ANN, "scanner")["password"])


SERVICE_ACCOUNT = """\
service_account = "file:robot.json"
grant = "service_account"
token_url = "{token_url}"
scopes = ["https://mail.example/"]
"""


def test_a_service_account_opens_the_mailboxes_it_was_given(lab: Lab, tmp_path: Path, key: RSAKey) -> None:
    robot = "robot@project.test"
    lab.idp.add_service_account(robot, "key-1", key.as_dict(private=False), [ANN, BOB])
    file = {"client_email": robot, "private_key_id": "key-1", "private_key": key.as_pem(private=True).decode()}
    with serving(lab, tmp_path, SERVICE_ACCOUNT, **{"robot.json": json.dumps(file)}) as gate:
        for user in (ANN, BOB):
            gate.cli("account", "add", user, "--upstream", "lab")
            log_in(gate, user, gate.create(user, "scanner")["password"])
        gate.cli("account", "add", "cy@example.test", "--upstream", "lab")
        with pytest.raises(imaplib.IMAP4.error, match="UNAVAILABLE"):
            log_in(gate, "cy@example.test", gate.create("cy@example.test", "scanner")["password"])
        assert stored(gate, "cy@example.test")["state"] == "failing"
        assert stored(gate, ANN)["state"] == "fresh"
        assert "provider_rejects_client" not in gate.log()  # it is about one mailbox
