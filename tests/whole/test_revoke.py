"""Outcomes E31 with real servers: revoking ends what is open, delivers nothing half-sent, and touches nobody else."""

from __future__ import annotations

import imaplib
import smtplib
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress

import pytest

from tests.gate import Gate
from tests.lab import Lab
from tests.leaks import leaked

DEE, EVE = "dee@example.test", "eve@example.test"
PATIENCE_S = 10


@pytest.fixture(scope="module")
def own_gate(lab: Lab, tmp_path_factory: pytest.TempPathFactory):
    """A Gatepost of this module's own, as accounts are removed."""
    gate = Gate.prepare(lab, tmp_path_factory.mktemp("gate"), workers=2)
    for user in (DEE, EVE):
        gate.add_account(user)
    gate.start()
    yield gate
    gate.kill()


def trust(lab: Lab) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(lab.ca_file))


def idle(lab: Lab, gate: Gate, user: str, password: str) -> imaplib.IMAP4_SSL:
    imap = imaplib.IMAP4_SSL(*gate.imaps, ssl_context=trust(lab), timeout=PATIENCE_S)
    try:
        imap.login(user, password)
    except imaplib.IMAP4.error:
        imap.shutdown()
        raise
    imap.select()
    imap.send(b"x1 IDLE\r\n")
    assert imap.readline().startswith(b"+ ")
    return imap


def until_closed(read: Callable[[], bytes]) -> bytes:
    """What still comes until the end, which must come."""
    rest = b""
    while data := read():
        rest += data
    return rest


def in_data(lab: Lab, gate: Gate, user: str, password: str, mark: str) -> smtplib.SMTP:
    """An SMTP session amid a message: all but its final dot is sent."""
    smtp = smtplib.SMTP_SSL(*gate.smtps, context=trust(lab), timeout=PATIENCE_S)
    smtp.login(user, password)
    smtp.mail(user)
    smtp.rcpt(user)
    assert smtp.docmd("DATA")[0] == 354
    smtp.send(f"From: {user}\r\nTo: {user}\r\nSubject: {mark}\r\n\r\nhalf a mail\r\n")
    return smtp


def test_revoking_ends_idle_and_data_and_leaves_the_others(lab: Lab, own_gate: Gate) -> None:
    doomed, spared = own_gate.create(DEE, "doomed"), own_gate.create(DEE, "spared")
    imap = idle(lab, own_gate, DEE, doomed["password"])
    smtp = in_data(lab, own_gate, DEE, doomed["password"], "never to arrive")
    other = idle(lab, own_gate, DEE, spared["password"])
    own_gate.cli("revoke", doomed["id"])
    assert until_closed(imap.readline) == b""  # ends, and without a word
    assert until_closed(lambda: smtp.sock.recv(1000)) == b""
    with suppress(OSError):
        smtp.send("\r\n.\r\n")  # too late
    lab.deliver(DEE, b"Subject: to everyone who is still here\r\n\r\nhello\r\n")
    assert b"EXISTS" in other.readline()
    other.send(b"DONE\r\n")
    other.shutdown()
    smtp.close()
    imap.shutdown()
    with pytest.raises(imaplib.IMAP4.error, match="AUTHENTICATIONFAILED"):
        idle(lab, own_gate, DEE, doomed["password"])
    assert own_gate.log().count("reason=revoked") >= 2
    assert not [mail for mail in lab.inbox(DEE) if b"never to arrive" in mail]
    assert leaked(own_gate.log(), [doomed["password"], spared["password"]]) == []


def test_removing_an_account_ends_its_sessions_and_no_others(lab: Lab, own_gate: Gate) -> None:
    eve, dee = own_gate.create(EVE, "phone"), own_gate.create(DEE, "phone")
    hers, other = idle(lab, own_gate, EVE, eve["password"]), idle(lab, own_gate, DEE, dee["password"])
    own_gate.cli("account", "remove", EVE)
    assert until_closed(hers.readline) == b""
    hers.shutdown()
    with pytest.raises(imaplib.IMAP4.error, match="AUTHENTICATIONFAILED"):
        idle(lab, own_gate, EVE, eve["password"])
    other.send(b"DONE\r\n")
    assert other.readline().startswith(b"x1 OK")
    other.shutdown()


def test_revoking_is_felt_by_a_session_that_is_downloading(lab: Lab, own_gate: Gate) -> None:
    made = own_gate.create(DEE, "busy")
    lab.deliver(DEE, b"Subject: big\r\n\r\n" + b"0123456789abcdef" * 4 * 16_384 + b"\r\n")
    imap = idle(lab, own_gate, DEE, made["password"])
    imap.send(b"DONE\r\n")
    revoking = threading.Thread(target=own_gate.cli, args=("revoke", made["id"]))
    revoking.start()
    with suppress(OSError):
        while imap.sock.recv(65_536):  # the same mail over and over, until the end
            imap.send(b"x2 FETCH 1:* BODY.PEEK[]\r\n")
    revoking.join()
    imap.shutdown()
    own_gate.await_log(f"event=session_end .*reason=revoked .*app_password={made['id']}")
