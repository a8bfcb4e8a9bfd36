"""What providers and mail servers are seen to say, and the remedy that `gatepost check` gives for it."""

from __future__ import annotations

import string
from datetime import UTC, datetime
from io import BytesIO, TextIOWrapper

import pytest

from proxy.admin.setup import init
from proxy.cli.run import main
from proxy.config import Endpoint, OAuth2Config, Tls, UpstreamConfig
from proxy.config.presets import preset_names
from proxy.config.reader import load
from proxy.doctor import words as doctor_words
from proxy.doctor.checks import check_login
from proxy.doctor.words import Case
from proxy.errors import Refusal, Refused, UpstreamError, UpstreamFault
from proxy.oauth.remedies import remedy_of
from proxy.wire.said import fault_in_words
from tests.oauth.scripted_provider import provider_listening

EMAIL, MAILBOX = "ann@example.com", "ann@mail.example.com"
REFUSED, OFF, BUSY = UpstreamFault.REFUSED, UpstreamFault.PROTOCOL_OFF, UpstreamFault.BUSY


def case(preset="", grant="user", **changes):
    oauth2 = None if grant == "password" else OAuth2Config(client_id="id", token_url="https://x.test/t", grant=grant)
    auth = "password" if grant == "password" else "oauth2"
    return Case(UpstreamConfig(name="main", preset=preset, auth=auth, oauth2=oauth2, **changes), EMAIL, MAILBOX)


M365, M365_APP, M365_PASSWORD = (case("microsoft365", way) for way in ("user", "client_credentials", "password"))
GMAIL, GOOGLE_APP = case("gmail"), case("google-workspace", "service_account")
GOOGLE_PASSWORD, OTHER = case("gmail", "password"), case()

TOKENS = [
    # Every code that the shared facts name.
    (M365, "invalid_grant/AADSTS70043", "Conditional Access wants a sign-in"),
    (M365, "invalid_grant/AADSTS700082", "not used for too long"),
    (M365, "invalid_grant/AADSTS50173", "password was changed"),
    (M365, "invalid_grant/AADSTS50076", "MFA"),
    (M365, "invalid_grant/AADSTS50079", "MFA"),
    (M365, "invalid_grant/AADSTS53003", "Conditional Access blocks"),
    (M365, "invalid_grant/AADSTS65001", "consent"),
    (M365, "unauthorized_client/AADSTS700016", "unknown in this tenant"),
    (M365, "invalid_client/AADSTS7000215", "value, not its id"),
    (M365, "invalid_client/AADSTS7000222", "expired"),
    (M365, "invalid_grant/AADSTS54005", "used before"),
    (M365, "left alone after invalid_client/AADSTS7000222", "expired"),
    (M365, "interaction_required", "account connect"),
    (M365_APP, "invalid_scope/AADSTS70011", "/.default"),
    (M365_APP, "invalid_scope/AADSTS1002012", "/.default"),
    (GMAIL, "invalid_grant", "7 days"),
    (GMAIL, "invalid_client", "client_id and client_secret"),
    (GOOGLE_APP, "unauthorized_client", "Domain-wide delegation"),
    (GOOGLE_APP, "invalid_grant", f"does not know {MAILBOX}"),
    (OTHER, "invalid_grant", "account connect"),
    (OTHER, "http_503", "in trouble"),
]


@pytest.mark.parametrize(("whose", "code", "words"), TOKENS)
def test_codes_of_token_endpoints(whose, code, words) -> None:
    assert words in doctor_words.of_token(Refused(Refusal.NEEDS_CONSENT, code), whose)


def test_a_code_that_means_the_same_everywhere_is_the_one_table_s() -> None:
    code = "invalid_client/AADSTS7000222"
    assert doctor_words.of_token(Refused(Refusal.CLIENT_REJECTED, code), M365) == remedy_of(code)


@pytest.mark.parametrize(
    ("refusal", "detail", "whose", "words"),
    [
        (Refusal.NEEDS_CONSENT, "no refresh token deposited", M365, f"gatepost account connect {EMAIL}"),
        (Refusal.NEEDS_CONSENT, "no password deposited", M365_PASSWORD, "--password-stdin"),
        (Refusal.NEEDS_CONSENT, "the deposit cannot be opened", M365, "restore the master key"),
        (Refusal.NEEDS_CONSENT, "something new", GOOGLE_APP, MAILBOX),
        (Refusal.PROVIDER_DOWN, "no token in time", M365, "token_url"),
        (Refusal.CLIENT_REJECTED, "left alone after a rejected client", M365, "client_secret"),
        (Refusal.STORE_DOWN, "locked", M365, "start the database"),
        (Refusal.INTERNAL, "", M365, "see the log"),
    ],
)
def test_what_gatepost_itself_says(refusal, detail, whose, words) -> None:
    assert words in doctor_words.of_token(Refused(refusal, detail), whose)


MAIL = [
    (
        M365,
        "smtp",
        "535 5.7.139 Authentication unsuccessful, SmtpClientAuthentication is disabled for the Tenant. Visit",
        "-SmtpClientAuthenticationDisabled $false",
    ),
    (
        M365,
        "smtp",
        "535 5.7.139 Authentication unsuccessful, SmtpClientAuthentication is disabled for the Mailbox.",
        f"Set-CASMailbox {MAILBOX}",
    ),
    (
        M365_APP,
        "smtp",
        "535 5.7.139 Authentication unsuccessful, SmtpClientAuthentication is disabled for the Tenant.",
        "Set-CASMailbox",
    ),
    (M365_PASSWORD, "smtp", "535 5.7.139 Authentication unsuccessful, basic authentication is disabled.", "OAuth2"),
    (M365_PASSWORD, "smtp", "550 5.7.30 Basic authentication is not supported for Client Submission.", "OAuth2"),
    (M365_PASSWORD, "imap", "A1 NO AUTHENTICATE failed.", "OAuth2"),
    (
        M365,
        "smtp",
        "535 5.7.139 Authentication unsuccessful, user is locked by your organization's security defaults policy",
        "Conditional Access policies in their place",
    ),
    (
        M365,
        "smtp",
        "535 5.7.139 Authentication unsuccessful, the request did not meet the criteria to be",
        "sign-in log",
    ),
    (M365, "smtp", "535 5.7.3 Authentication unsuccessful [AM0PR01CA0001.eurprd01.prod.exchangelabs.com]", "send as"),
    (M365_APP, "smtp", "535 5.7.3 Authentication unsuccessful", "Application SMTP.SendAsApp"),
    (M365, "smtp", "535 5.7.139 Authentication unsuccessful, something new", "sign-in log"),
    (M365, "imap", "A1 NO AUTHENTICATE failed.", "IMAP is on"),
    (M365_APP, "imap", "A1 NO AUTHENTICATE failed.", f"Add-MailboxPermission for {MAILBOX}"),
    (M365, "imap", "A1 BAD Request is throttled. Suggested Backoff Time: 299541 milliseconds", "patience"),
    (
        M365,
        "smtp",
        "432 4.3.2 Concurrent connections limit exceeded. Visit https://aka.ms/concurrent_sending",
        "three SMTP sessions",
    ),
    (GMAIL, "imap", "A1 NO [ALERT] Too many simultaneous connections. (Failure)", "15 IMAP connections"),
    (GMAIL, "imap", "A1 NO [AUTHENTICATIONFAILED] Invalid credentials (Failure)", "https://mail.google.com/"),
    (GMAIL, "smtp", "535-5.7.8 Username and Password not accepted. For more information, go to", EMAIL),
    (GOOGLE_APP, "imap", "A1 NO [AUTHENTICATIONFAILED] Invalid credentials (Failure)", "Domain-wide delegation"),
    (
        GOOGLE_PASSWORD,
        "imap",
        "A1 NO [ALERT] Application-specific password required: https://support.google.com/a",
        "an app password of its own",
    ),
    (
        GMAIL,
        "imap",
        "A1 NO [ALERT] Your account is not enabled for IMAP use. Please visit your Gmail settings page",
        "switch IMAP on",
    ),
    (
        GMAIL,
        "imap",
        "A1 NO [ALERT] Please log in via your web browser: https://support.google.com/mail",
        "browser once",
    ),
    (OTHER, "imap", "the server offers neither XOAUTH2 nor OAUTHBEARER", 'auth = "password"'),
    (M365, "smtp", "the server offers neither PLAIN nor LOGIN", "OAuth2"),
]


@pytest.mark.parametrize(("whose", "protocol", "said", "words"), MAIL)
def test_what_mail_servers_say(whose, protocol, said, words) -> None:
    fault = fault_in_words(said) or REFUSED
    assert words in doctor_words.of_login(UpstreamError(fault, said), protocol, whose)


@pytest.mark.parametrize(
    ("whose", "words"),
    [(M365, "Full Access"), (M365_APP, "New-ServicePrincipal"), (OTHER, "upstream_user")],
)
def test_authenticated_but_not_connected(whose, words) -> None:
    assert words in doctor_words.of_objection("BAD User is authenticated but not connected.", "imap", whose)


def test_another_objection() -> None:
    assert "this protocol" in doctor_words.of_objection("NO no such mailbox", "imap", OTHER)


@pytest.mark.parametrize("fault", list(UpstreamFault))
def test_every_fault_has_a_remedy_though_nothing_was_said(fault) -> None:
    general = doctor_words.of_reach(fault)
    assert doctor_words.of_login(UpstreamError(fault), "smtp", M365) == general


def test_a_server_that_was_not_reached_is_not_taken_by_its_word() -> None:
    error = UpstreamError(UpstreamFault.UNTRUSTED, "SmtpClientAuthentication is disabled for the Tenant")
    assert doctor_words.of_login(error, "smtp", M365) == doctor_words.of_reach(UpstreamFault.UNTRUSTED)


@pytest.mark.parametrize(
    ("host", "family"),
    [
        ("outlook.office365.com", "microsoft"),
        ("smtp-mail.outlook.com", "microsoft"),
        ("outlook-dod.office365.us", "microsoft"),
        ("partner.outlook.cn", "microsoft"),
        ("imap.gmail.com", "google"),
        ("mail.example.com", ""),
        ("notgmail.com", ""),
    ],
)
def test_who_it_is_without_a_preset(host, family) -> None:
    assert case(imap=Endpoint(host, 993, Tls.IMPLICIT)).family == family


def test_presets_are_known_by_name() -> None:
    assert {name: case(name).family for name in preset_names()} == {
        "fastmail": "",
        "gmail": "google",
        "google-workspace": "google",
        "microsoft365": "microsoft",
        "outlook": "microsoft",
        "yahoo": "",
    }


@pytest.mark.parametrize("row", [*doctor_words._TOKEN, *doctor_words._MAIL])
def test_a_remedy_is_one_printable_line_that_can_be_filled(row) -> None:
    assert {name for _, name, _, _ in string.Formatter().parse(row.remedy) if name is not None} <= {"email", "mailbox"}
    assert row.remedy.isprintable()
    assert not row.remedy.endswith(".")
    assert len(row.remedy) <= 240


def test_an_odd_mailbox_name_is_only_repeated() -> None:
    odd = Case(M365.upstream, EMAIL, "{0}{upstream!r}")
    error = UpstreamError(OFF, "SmtpClientAuthentication is disabled")
    assert "{0}{upstream!r}" in doctor_words.of_login(error, "smtp", odd)


async def test_check_login_says_it(tmp_path, monkeypatch, capsys) -> None:
    """From a token endpoint's answer to the report: the code, and what to do about it."""
    made = init(tmp_path / "gatepost.toml", datetime.now(UTC), "test")
    async with provider_listening() as provider:
        text = made.config.read_text()
        begin, end = text.index("[upstream.main]"), text.index("# Any other mail server")
        made.config.write_text(text[:begin] + UPSTREAM.format(url=provider.url) + text[end:])
        monkeypatch.setattr("sys.stdin", TextIOWrapper(BytesIO(b"refresh-0\n")))
        words = ["account", "add", EMAIL, "--upstream", "main", "--refresh-token-stdin", "--config", str(made.config)]
        assert main(words) == 0, capsys.readouterr()
        lost = {"error": "invalid_grant", "error_description": "AADSTS70043: The refresh token has expired due to ..."}
        provider.say("/token", (400, lost))
        findings = await check_login(load(made.config), EMAIL, "test")
    assert [(finding.name, finding.ok) for finding in findings] == [(f"login {EMAIL} token", False)]
    assert findings[0].detail.endswith("invalid_grant/AADSTS70043")
    assert findings[0].remedy == remedy_of("invalid_grant/AADSTS70043")


UPSTREAM = """
[upstream.main]
preset = "microsoft365"

[upstream.main.oauth2]
client_id = "our client"
token_url = "{url}/token"
"""
