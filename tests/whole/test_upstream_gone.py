"""The mail server goes away and comes back: with real servers, in a lab of its own."""

from __future__ import annotations

import base64
import imaplib
import smtplib
import ssl

import pytest

from tests.gate import Gate
from tests.lab import Lab

USER = "flo@example.test"
TIMEOUT_S = 15


@pytest.fixture(scope="module")
def frail_lab():
    with Lab.start([USER]) as lab:
        yield lab


@pytest.fixture(scope="module")
def frail_gate(frail_lab: Lab, tmp_path_factory: pytest.TempPathFactory):
    gate = Gate.prepare(frail_lab, tmp_path_factory.mktemp("gate"))
    gate.add_account(USER)
    gate.start()
    yield gate
    gate.kill()


def test_upstream_that_is_down_is_unavailable_and_its_return_needs_nothing_from_us(
    frail_lab: Lab, frail_gate: Gate
) -> None:
    password = frail_gate.create(USER, "phone")["password"]
    trust = ssl.create_default_context(cafile=str(frail_lab.ca_file))

    def imap() -> imaplib.IMAP4_SSL:
        client = imaplib.IMAP4_SSL(*frail_gate.imaps, ssl_context=trust, timeout=TIMEOUT_S)
        try:
            client.login(USER, password)
        except imaplib.IMAP4.error:
            client.shutdown()
            raise
        return client

    def smtp_answer() -> tuple[int, bytes]:
        with smtplib.SMTP_SSL(*frail_gate.smtps, context=trust, timeout=TIMEOUT_S) as client:
            client.ehlo()
            return client.docmd("AUTH PLAIN", base64.b64encode(f"\0{USER}\0{password}".encode()).decode())

    session = imap()
    frail_lab.dovecot.stop()
    frail_lab.postfix.stop()
    rest = b""
    while data := session.readline():  # Dovecot says BYE when it is stopped; nothing is added
        rest += data
    assert rest in (b"", b"* BYE Server shutting down.\r\n")
    session.shutdown()

    with pytest.raises(imaplib.IMAP4.error, match="UNAVAILABLE"):
        imap()
    code, said = smtp_answer()
    assert (code, said[:6]) == (454, b"4.7.0 ")

    frail_lab.dovecot.start()
    frail_lab.postfix.start()
    imap().logout()
    assert smtp_answer()[0] == 235


def test_identity_provider_that_is_down_is_unavailable_and_comes_back(frail_lab: Lab, frail_gate: Gate) -> None:
    """Outcomes E33. A new process has no token in memory; the stored one is too old to be of use."""
    trust = ssl.create_default_context(cafile=str(frail_lab.ca_file))
    frail_lab.idp.set_ttl(30)  # below the margin at which a token counts as spent
    frail_gate.cli("account", "remove", USER)
    frail_gate.add_account(USER)
    password = frail_gate.create(USER, "tablet")["password"]
    frail_lab.idp.set_fault("500", times=1)
    with (
        imaplib.IMAP4_SSL(*frail_gate.imaps, ssl_context=trust, timeout=TIMEOUT_S) as client,
        pytest.raises(imaplib.IMAP4.error, match="UNAVAILABLE"),
    ):
        client.login(USER, password)
    frail_lab.idp.set_ttl(3600)
