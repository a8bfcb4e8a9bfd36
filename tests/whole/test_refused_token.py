"""Outcomes E38, E39 with real servers: a token that the mail server refuses is renewed, and the client never knows."""

from __future__ import annotations

import imaplib
import smtplib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from proxy.secret import Secret
from proxy.store.rows import Purpose
from proxy.store.store import Store
from proxy.vault.sealing import Recipient, seal
from tests.gate import Gate
from tests.lab import Lab
from tests.lab.talk import TIMEOUT_S, tls

ANN, BOB = "ann@example.test", "bob@example.test"
STALE = "a-token-that-the-mail-server-does-not-know-0815"


@pytest.fixture
def gate(lab: Lab, tmp_path: Path) -> Iterator[Gate]:
    """Both accounts have an access token that looks good for an hour and is not."""
    gate = Gate.prepare(lab, tmp_path / "gate")
    for user in (ANN, BOB):
        gate.add_account(user)
    gate.secrets.append(STALE)
    store = Store.open(f"sqlite:///{gate.directory / 'gatepost.db'}", migrate=False)
    try:
        newest = store.masters()[0]
        to = [Recipient(newest.key_id, newest.public)]
        until = datetime.now(UTC) + timedelta(hours=1)
        for account in store.accounts():
            store.put_deposit(seal(Purpose.ACCESS_TOKEN, account.id, Secret(STALE), to, valid_until=until))
    finally:
        store.close()
    gate.start()
    yield gate
    gate.kill()


def renewals(gate: Gate) -> int:
    return gate.log().count("event=token_refreshed")


def test_a_refused_token_is_renewed_once_and_the_login_goes_on(lab: Lab, gate: Gate) -> None:
    password = gate.create(ANN, "reader")["password"]
    with imaplib.IMAP4_SSL(*gate.imaps, ssl_context=tls(lab), timeout=TIMEOUT_S) as imap:
        assert imap.login(ANN, password)[0] == "OK"
        assert imap.select()[0] == "OK"
    assert renewals(gate) == 1
    password = gate.create(BOB, "sender")["password"]
    with smtplib.SMTP_SSL(*gate.smtps, context=tls(lab), timeout=TIMEOUT_S) as smtp:
        smtp.login(BOB, password)
        assert smtp.noop()[0] == 250
    assert renewals(gate) == 2
    assert lab.idp.token_requests().refresh_by_user[BOB] >= 1
    assert gate.leaked() == []
