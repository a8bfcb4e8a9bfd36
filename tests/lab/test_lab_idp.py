"""The lab's identity provider: tokens, faults, and the sign-in pages as a person walks them."""

import base64
import hashlib
import imaplib
import secrets
import time
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest

from tests.lab import Lab
from tests.lab.idp import FaultKind
from tests.lab.person import typed_by, walk
from tests.lab.talk import ANN, BOB, TIMEOUT_S, Bearer, open_imap, refresh


def test_refresh_rotates_and_replay_kills_the_family(lab: Lab, http: httpx2.Client) -> None:
    first = lab.refresh_token(ANN)
    lab.idp.token_requests(reset=True)
    answer = refresh(http, lab, first).json()
    assert answer["refresh_token"] != first
    with open_imap(lab, lab.imaps) as imap:
        imap.authenticate("XOAUTH2", Bearer("XOAUTH2", ANN, answer["access_token"]).answer)

    replay = refresh(http, lab, first)
    assert (replay.status_code, replay.json()["error"]) == (400, "invalid_grant")
    assert refresh(http, lab, answer["refresh_token"]).json()["error"] == "invalid_grant"
    with open_imap(lab, lab.imaps) as imap, pytest.raises(imaplib.IMAP4.error, match="AUTHENTICATIONFAILED"):
        imap.authenticate("XOAUTH2", Bearer("XOAUTH2", ANN, answer["access_token"]).answer)
    counts = lab.idp.token_requests()
    assert counts.refreshes == 3
    assert counts.refresh_by_user == {ANN: 2, "": 1}  # the last token died with its family


def test_revoked_user_cannot_refresh_while_others_can(lab: Lab, http: httpx2.Client) -> None:
    anns, bobs = lab.refresh_token(ANN), lab.refresh_token(BOB)
    lab.idp.revoke(ANN)
    assert refresh(http, lab, anns).json()["error"] == "invalid_grant"
    assert refresh(http, lab, bobs).status_code == 200


def test_access_token_lives_as_long_as_it_was_told_to(lab: Lab, http: httpx2.Client) -> None:
    lab.idp.set_ttl(1)
    try:
        answer = refresh(http, lab, lab.refresh_token(ANN)).json()
    finally:
        lab.idp.set_ttl(3600)
    assert answer["expires_in"] == 1
    client = (lab.idp.introspection_client_id, lab.idp.introspection_client_secret)
    deadline = time.monotonic() + TIMEOUT_S
    while http.post(lab.idp.introspection_url, data={"token": answer["access_token"]}, auth=client).json()["active"]:
        assert time.monotonic() < deadline


def test_access_tokens_can_be_long(lab: Lab) -> None:
    lab.idp.set_token_length(2500)
    try:
        token = lab.access_token(ANN)
    finally:
        lab.idp.set_token_length(43)
    assert len(token) == 2500
    with open_imap(lab, lab.imaps) as imap:
        imap.authenticate("XOAUTH2", Bearer("XOAUTH2", ANN, token).answer)


@pytest.mark.parametrize(("kind", "status"), [("500", 500), ("429", 429), ("invalid_client", 401)])
def test_fault_answers_instead_and_does_no_work(lab: Lab, http: httpx2.Client, kind: FaultKind, status: int) -> None:
    token = lab.refresh_token(ANN)
    lab.idp.set_fault(kind, times=1)
    assert refresh(http, lab, token).status_code == status
    assert refresh(http, lab, token).status_code == 200


def test_fault_drops_the_connection_before_the_work(lab: Lab, http: httpx2.Client) -> None:
    token = lab.refresh_token(ANN)
    lab.idp.set_fault("drop")
    with pytest.raises(httpx2.TransportError):
        refresh(http, lab, token)
    lab.idp.clear_fault()
    assert refresh(http, lab, token).status_code == 200


def test_fault_loses_the_answer_after_the_work(lab: Lab, http: httpx2.Client) -> None:
    token = lab.refresh_token(ANN)
    lab.idp.set_fault("lose_answer", times=1)
    with pytest.raises(httpx2.TransportError):
        refresh(http, lab, token)
    assert refresh(http, lab, token).json()["error"] == "invalid_grant"  # it was rotated and nobody knows to what


def test_fault_delays_or_withholds_the_answer(lab: Lab, http: httpx2.Client) -> None:
    token = lab.refresh_token(ANN)
    lab.idp.set_fault("hang", times=1)
    with pytest.raises(httpx2.TimeoutException):
        http.post(lab.idp.token_url, data={"grant_type": "refresh_token"}, timeout=0.2)
    lab.idp.set_fault("late", delay_ms=300, times=1)
    started = time.monotonic()
    assert refresh(http, lab, token).status_code == 200
    assert time.monotonic() - started >= 0.3


def test_client_credentials_give_a_token_for_the_mailbox_of_the_app(lab: Lab, http: httpx2.Client) -> None:
    lab.idp.set_app_mailbox(BOB)
    form = {"grant_type": "client_credentials", "scope": "mail"}
    answer = http.post(lab.idp.token_url, data=form, auth=(lab.idp.client_id, lab.idp.client_secret)).json()
    assert answer["scope"] == "mail"
    assert "refresh_token" not in answer
    with open_imap(lab, lab.imaps) as imap:
        imap.authenticate("XOAUTH2", Bearer("XOAUTH2", BOB, answer["access_token"]).answer)


def authorize_url(lab: Lab, challenge: str) -> str:
    query = {
        "client_id": lab.idp.client_id,
        "response_type": "code",
        "redirect_uri": lab.idp.redirect_uri,
        "scope": lab.idp.scope,
        "state": "s1",
        "code_challenge": challenge,
        "code_challenge_method": "S256",
    }
    return str(httpx2.URL(lab.idp.authorize_url, params=query))


def test_password_and_totp_lead_to_a_code_and_tokens(lab: Lab, http: httpx2.Client) -> None:
    verifier = secrets.token_urlsafe(40)
    challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
    end = walk(http, lab, authorize_url(lab, challenge), typed_by(lab, ANN))
    answer = parse_qs(urlsplit(end.headers["location"]).query)
    assert answer["state"] == ["s1"]
    form = {
        "grant_type": "authorization_code",
        "code": answer["code"][0],
        "redirect_uri": lab.idp.redirect_uri,
        "code_verifier": verifier,
        "client_id": lab.idp.client_id,
        "client_secret": lab.idp.client_secret,
    }
    tokens = http.post(lab.idp.token_url, data=form).json()
    with open_imap(lab, lab.imaps) as imap:
        imap.authenticate("XOAUTH2", Bearer("XOAUTH2", ANN, tokens["access_token"]).answer)
    assert refresh(http, lab, tokens["refresh_token"]).status_code == 200


@pytest.mark.parametrize("wrong", ["password", "code"])
def test_sign_in_needs_both_factors(lab: Lab, http: httpx2.Client, wrong: str) -> None:
    end = walk(http, lab, authorize_url(lab, "a" * 43), typed_by(lab, ANN) | {wrong: "000000x"})
    assert end.status_code == 401
    assert 'role="alert"' in end.text


def test_unknown_redirect_address_is_refused(lab: Lab, http: httpx2.Client) -> None:
    address = "http://127.0.0.1:1/other"
    url = authorize_url(lab, "a" * 43)
    other = str(httpx2.URL(url).copy_set_param("redirect_uri", address))
    assert http.get(other).status_code == 400
    lab.idp.allow_redirect(address)
    assert http.get(other).is_redirect


def test_device_flow_waits_for_the_person(lab: Lab, http: httpx2.Client) -> None:
    client = (lab.idp.client_id, lab.idp.client_secret)
    asked = http.post(lab.idp.device_url, data={"scope": lab.idp.scope}, auth=client).json()
    form = {"grant_type": "urn:ietf:params:oauth:grant-type:device_code", "device_code": asked["device_code"]}
    assert http.post(lab.idp.token_url, data=form, auth=client).json()["error"] == "authorization_pending"
    end = walk(http, lab, asked["verification_uri"], {"user_code": asked["user_code"], **typed_by(lab, BOB)})
    assert "You are signed in" in end.text
    tokens = http.post(lab.idp.token_url, data=form, auth=client).json()
    with open_imap(lab, lab.imaps) as imap:
        imap.authenticate("XOAUTH2", Bearer("XOAUTH2", BOB, tokens["access_token"]).answer)
    assert refresh(http, lab, tokens["refresh_token"]).status_code == 200
