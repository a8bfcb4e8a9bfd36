"""Which claims make somebody who they are, and whose address counts: every way to be taken for somebody else."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from proxy.admin.claims import Turned, TurnedAway, exact, judge
from proxy.config import WebConfig
from proxy.store.people_rows import Identity

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
ISSUER = "https://login.example.com"
TENANT = "11111111-2222-3333-4444-555555555555"
ENTRA_ISSUER = f"https://login.microsoftonline.com/{TENANT}/v2.0"
WEB = WebConfig("127.0.0.1", 0, "https://mail.example.com", "office")
ENTRA = replace(WEB, is_entra=True, tenants=(TENANT,))
CLAIMS = {"iss": ISSUER, "sub": "ann-1", "email": "Ann@X.test", "email_verified": True, "amr": ["pwd", "mfa"]}
ENTRA_CLAIMS = {
    "iss": ENTRA_ISSUER,
    "sub": "pairwise",
    "tid": TENANT,
    "oid": "AAAA-1",
    "email": "victim@x.test",
    "email_verified": True,
    "xms_edov": True,
    "preferred_username": "ann@x.test",
    "amr": ["mfa"],
}


def cause(web: WebConfig, claims: dict[str, object]) -> Turned:
    with pytest.raises(TurnedAway) as caught:
        judge(web, claims, NOW)
    return caught.value.cause


def test_somebody_is_issuer_and_subject_and_a_verified_address():
    found = judge(WEB, CLAIMS, NOW)
    assert found.identity == Identity(ISSUER, "", "ann-1")
    assert (found.address, found.display, found.amr, found.is_admin) == (
        "ann@x.test",
        "Ann@X.test",
        ("pwd", "mfa"),
        False,
    )


@pytest.mark.parametrize("verified", [False, None, "true", 1, "yes"])
def test_an_address_that_is_not_verified_is_for_reading_alone(verified):
    found = judge(WEB, {**CLAIMS, "email_verified": verified}, NOW)
    assert (found.address, found.display) == ("", "Ann@X.test")


def test_entra_is_tenant_and_object_and_its_email_is_nobodys():
    found = judge(ENTRA, ENTRA_CLAIMS, NOW)
    assert found.identity == Identity(ENTRA_ISSUER, TENANT, "aaaa-1")
    assert found.address == "ann@x.test"
    without = {name: value for name, value in ENTRA_CLAIMS.items() if name != "preferred_username"}
    assert judge(ENTRA, without, NOW).address == ""


@pytest.mark.parametrize("idp", ["https://sts.windows.net/99999999-2222-3333-4444-555555555555/", "live.com", None])
def test_a_guests_name_is_given_elsewhere_and_counts_for_nothing(idp):
    assert judge(ENTRA, {**ENTRA_CLAIMS, "idp": idp}, NOW).address == ""
    assert judge(ENTRA, {**ENTRA_CLAIMS, "idp": ENTRA_ISSUER}, NOW).address == "ann@x.test"


@pytest.mark.parametrize("web", [WEB, ENTRA])
def test_a_tenant_that_is_not_listed_is_turned_away(web):
    other = "99999999-2222-3333-4444-555555555555"
    assert cause(web, {**ENTRA_CLAIMS, "tid": other}) is Turned.OTHER_TENANT
    if web is WEB:  # where nobody said that it is Entra, and the tokens do
        assert cause(web, ENTRA_CLAIMS) is Turned.OTHER_TENANT


@pytest.mark.parametrize("missing", ["tid", "oid"])
def test_a_token_of_entra_without_its_names_is_nobodys(missing):
    claims = {name: value for name, value in ENTRA_CLAIMS.items() if name != missing}
    assert cause(ENTRA, claims) is Turned.NO_IDENTITY


@pytest.mark.parametrize("subject", ["", None, 17, "x" * 256, "with\nline", ["ann-1"]])
def test_without_a_subject_nobody_is_there(subject):
    assert cause(WEB, {**CLAIMS, "sub": subject}) is Turned.NO_IDENTITY


@pytest.mark.parametrize(
    ("hd", "email", "address"),
    [
        ("x.test", "ann@x.test", "ann@x.test"),
        (None, "ann@gmail.com", "ann@gmail.com"),
        (None, "ann@x.test", ""),  # a Google account with an address from elsewhere, verified some day
        ("y.test", "ann@x.test", ""),
    ],
)
def test_google_vouches_for_its_own_mailboxes(hd, email, address):
    claims = {**CLAIMS, "iss": "https://accounts.google.com", "email": email, "hd": hd}
    assert judge(WEB, claims, NOW).address == address


def test_an_operator_may_name_the_claim_that_is_vouched_for():
    web = replace(WEB, mailbox_claim="mailbox")
    assert judge(web, {**CLAIMS, "mailbox": "team@x.test"}, NOW).address == "team@x.test"
    assert judge(web, CLAIMS, NOW).address == ""


@pytest.mark.parametrize("claim", ["ann@x.test", "ANN@X.TEST", "ann", "jörg@x.test"])
def test_a_claim_is_matched_whatever_its_case(claim):
    assert exact(claim) == claim.lower()


@pytest.mark.parametrize(
    "claim",
    [
        "EVIL\\ann@x.test",  # login names lose such a domain
        "\uff41nn@x.test",  # full width a
        "strae\u00df@x.test".replace("ae", "a"),  # sharp s folds to ss
        "\u212aim@x.test",  # the Kelvin sign folds to k
        " ann@x.test",
        "ann@x.test@y.test",
        "ann\u200b@x.test",
        "",
    ],
)
def test_a_claim_that_would_have_to_be_folded_is_nobodys_mailbox(claim):
    assert exact(claim) == ""


# MFA


@pytest.mark.parametrize(
    ("amr", "acr", "is_let_in"),
    [
        (["mfa"], None, True),
        ("mfa", None, True),
        (["pwd"], None, False),
        (["pwd", "otp"], None, False),
        (None, None, False),
        ([], "urn:mfa", True),
        (["pwd"], "urn:pwd", False),
        ([["mfa"]], None, False),
        ({"mfa": True}, None, False),
    ],
)
def test_mfa_is_shown_or_nobody_comes_in(amr, acr, is_let_in):
    web = replace(WEB, acr=("urn:mfa",))
    claims = {**CLAIMS, "amr": amr, "acr": acr}
    if is_let_in:
        judge(web, claims, NOW)
    else:
        assert cause(web, claims) is Turned.NO_MFA


@pytest.mark.parametrize("change", [{"mfa_enforced_by_provider": True}, {"require_mfa": False}])
def test_an_operator_may_answer_for_mfa(change):
    judge(replace(WEB, **change), {**CLAIMS, "amr": None}, NOW)


# Groups


def test_a_group_is_in_the_claim_that_is_named():
    web = replace(WEB, group="mail", admin_group="admins", group_claim="roles")
    assert not judge(web, {**CLAIMS, "roles": ["mail"]}, NOW).is_admin
    assert judge(web, {**CLAIMS, "roles": ["admins"]}, NOW).is_admin
    assert cause(web, {**CLAIMS, "groups": ["mail"]}) is Turned.NOT_IN_GROUP
    # More groups than fit into Entra's token: it says where to ask, and names none.
    assert cause(web, {**CLAIMS, "_claim_names": {"roles": "src1"}}) is Turned.NOT_IN_GROUP


def test_without_an_admin_group_nobody_is_admin():
    assert not judge(WEB, {**CLAIMS, "groups": [""]}, NOW).is_admin


# When


def test_the_provider_says_when_somebody_showed_who_they_are():
    an_hour_ago = NOW - timedelta(hours=1)
    assert judge(WEB, {**CLAIMS, "auth_time": an_hour_ago.timestamp()}, NOW).auth_time == an_hour_ago
    assert judge(WEB, CLAIMS, NOW).auth_time == NOW
    assert judge(WEB, {**CLAIMS, "auth_time": (NOW + timedelta(seconds=60)).timestamp()}, NOW).auth_time == NOW


@pytest.mark.parametrize("value", [(NOW + timedelta(hours=1)).timestamp(), 1e30])
def test_a_time_to_come_is_not_believed(value):
    assert cause(WEB, {**CLAIMS, "auth_time": value}) is Turned.NOT_FRESH
