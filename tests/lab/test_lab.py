"""The lab's mail servers keep their promises: what other tests take for granted about their upstream is shown here."""

import base64
import imaplib
import json
import secrets
import smtplib

import pytest

from tests.lab import Endpoint, Lab
from tests.lab.talk import ANN, BOB, MECHANISMS, Bearer, message, open_imap, open_smtp

MAX_LINES = 15  # untagged lines until EXISTS comes


@pytest.fixture(params=["imap", "imaps"])
def imap_port(lab: Lab, request: pytest.FixtureRequest) -> Endpoint:
    endpoint: Endpoint = getattr(lab, request.param)
    return endpoint


@pytest.fixture(params=["submission", "submissions"])
def smtp_port(lab: Lab, request: pytest.FixtureRequest) -> Endpoint:
    endpoint: Endpoint = getattr(lab, request.param)
    return endpoint


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_token_logs_in_by_imap(lab: Lab, imap_port: Endpoint, mechanism: str) -> None:
    with open_imap(lab, imap_port) as imap:
        imap.authenticate(mechanism, Bearer(mechanism, ANN, lab.access_token(ANN)).answer)
        assert imap.select()[0] == "OK"


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_token_logs_in_by_smtp(lab: Lab, smtp_port: Endpoint, mechanism: str) -> None:
    with open_smtp(lab, smtp_port) as smtp:
        assert set(smtp.esmtp_features["auth"].split()) == set(MECHANISMS)
        bearer = Bearer(mechanism, ANN, lab.access_token(ANN))
        assert smtp.auth(mechanism, bearer.for_smtp, initial_response_ok=False)[0] == 235


@pytest.mark.parametrize(("port", "mechanism"), [("imap", "XOAUTH2"), ("imaps", "OAUTHBEARER")])
def test_wrong_token_is_refused_by_imap_with_a_json_challenge(lab: Lab, port: str, mechanism: str) -> None:
    bearer = Bearer(mechanism, ANN, "wrong")
    with open_imap(lab, getattr(lab, port)) as imap, pytest.raises(imaplib.IMAP4.error, match="AUTHENTICATIONFAILED"):
        imap.authenticate(mechanism, bearer.answer)
    assert json.loads(bearer.challenge)["status"] == ("401" if mechanism == "XOAUTH2" else "invalid_token")


@pytest.mark.parametrize(("port", "mechanism"), [("submission", "OAUTHBEARER"), ("submissions", "XOAUTH2")])
def test_wrong_token_is_refused_by_smtp_with_a_json_challenge(lab: Lab, port: str, mechanism: str) -> None:
    bearer = Bearer(mechanism, ANN, "wrong")
    with open_smtp(lab, getattr(lab, port)) as smtp, pytest.raises(smtplib.SMTPAuthenticationError) as refused:
        smtp.auth(mechanism, bearer.for_smtp, initial_response_ok=False)
    assert refused.value.smtp_code == 535
    assert json.loads(bearer.challenge)["status"] == ("401" if mechanism == "XOAUTH2" else "invalid_token")


def test_token_opens_no_other_mailbox(lab: Lab) -> None:
    bearer = Bearer("XOAUTH2", BOB, lab.access_token(ANN))
    with open_imap(lab, lab.imaps) as imap, pytest.raises(imaplib.IMAP4.error, match="AUTHENTICATIONFAILED"):
        imap.authenticate("XOAUTH2", bearer.answer)


def test_password_alone_opens_no_imap(lab: Lab, imap_port: Endpoint) -> None:
    password = lab.password(ANN)
    with open_imap(lab, imap_port) as imap:
        offered = {name.removeprefix("AUTH=") for name in imap.capabilities if name.startswith("AUTH=")}
        assert offered == set(MECHANISMS)
        with pytest.raises(imaplib.IMAP4.error):
            imap.login(ANN, password)
        with pytest.raises(imaplib.IMAP4.error):
            imap.authenticate("PLAIN", lambda _: f"\0{ANN}\0{password}".encode())


@pytest.mark.parametrize("which", ["lab", "rootless"])
@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
def test_password_alone_opens_no_smtp(request: pytest.FixtureRequest, which: str, mechanism: str) -> None:
    lab: Lab = request.getfixturevalue(which)
    for endpoint in (lab.submission, lab.submissions):
        with open_smtp(lab, endpoint) as smtp:
            secret = base64.b64encode(f"\0{ANN}\0{lab.password(ANN)}".encode()).decode()
            code, _ = smtp.docmd("AUTH", f"PLAIN {secret}" if mechanism == "PLAIN" else "LOGIN")
            assert code in (504, 535)
            assert smtp.mail(ANN)[0] == 530 or smtp.rcpt(BOB)[0] == 554


@pytest.mark.parametrize("which", ["lab", "rootless"])
def test_mail_to_a_local_lands_in_the_inbox_and_to_an_outsider_in_the_sink(
    request: pytest.FixtureRequest, which: str
) -> None:
    lab: Lab = request.getfixturevalue(which)
    before, sent_before = len(lab.inbox(ANN)), len(lab.sent())
    subject = secrets.token_hex(8)
    with open_smtp(lab, lab.submissions) as smtp:
        smtp.auth("XOAUTH2", Bearer("XOAUTH2", BOB, lab.access_token(BOB)).for_smtp, initial_response_ok=False)
        smtp.sendmail(BOB, [ANN], message(f"local {subject}"))
        smtp.sendmail(BOB, ["someone@elsewhere.test"], message(f"away {subject}"))
    inbox = lab.await_mail(lambda: lab.inbox(ANN), before + 1)
    sent = lab.await_mail(lab.sent, sent_before + 1)
    assert f"local {subject}".encode() in inbox[-1]
    assert f"away {subject}".encode() in sent[-1]
    assert (len(inbox), len(sent)) == (before + 1, sent_before + 1)


def test_delivery_is_seen_by_an_idle_session(lab: Lab) -> None:
    with open_imap(lab, lab.imaps) as imap:
        imap.authenticate("XOAUTH2", Bearer("XOAUTH2", BOB, lab.access_token(BOB)).answer)
        imap.select()
        imap.send(b"i1 IDLE\r\n")
        assert imap.readline().startswith(b"+ ")
        lab.deliver(BOB, message("idle"))
        lines = (imap.readline() for _ in range(MAX_LINES))
        assert any(line.endswith(b" EXISTS\r\n") for line in lines)
        imap.send(b"DONE\r\n")
        while not imap.readline().startswith(b"i1 OK"):
            pass


def test_two_labs_share_nothing(lab: Lab, rootless: Lab) -> None:
    token = rootless.access_token(ANN)
    with open_imap(rootless, rootless.imaps) as imap:
        imap.authenticate("XOAUTH2", Bearer("XOAUTH2", ANN, token).answer)
    with open_imap(lab, lab.imaps) as imap, pytest.raises(imaplib.IMAP4.error, match="AUTHENTICATIONFAILED"):
        imap.authenticate("XOAUTH2", Bearer("XOAUTH2", ANN, token).answer)
