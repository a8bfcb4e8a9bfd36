"""What the answers of providers and mail servers mean to the operator: a sentence heard in, what to do about it out.

Two tables, read from the top, the first row that fits: what token endpoints answered (beyond the codes of
oauth/remedies, which mean the same everywhere) and what mail servers said. Pure; no network, no clock.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from proxy.config import Protocol, UpstreamConfig
from proxy.errors import Refusal, Refused, StoreUnavailable, UpstreamError, UpstreamFault
from proxy.oauth.remedies import UNKNOWN, remedy_of

Family = Literal["microsoft", "google", ""]
Way = Literal["user", "client_credentials", "service_account", "password"]

_PRESETS: dict[str, Family] = {
    "microsoft365": "microsoft",
    "outlook": "microsoft",
    "gmail": "google",
    "google-workspace": "google",
}
_HOSTS: tuple[tuple[str, Family], ...] = (
    (".office365.com", "microsoft"),
    (".outlook.com", "microsoft"),
    (".office365.us", "microsoft"),
    (".outlook.cn", "microsoft"),
    (".gmail.com", "google"),
)


@dataclass(frozen=True, slots=True)
class Case:
    """Whose mailbox an answer was about.

    email       the account's, for commands here
    mailbox     what the upstream calls it, for commands there
    """

    upstream: UpstreamConfig
    email: str
    mailbox: str

    @property
    def family(self) -> Family:
        """Whose servers they are; "" if we know nothing special of them."""
        if self.upstream.preset:
            return _PRESETS.get(self.upstream.preset, "")
        ends = [end.host for end in (self.upstream.imap, self.upstream.smtp) if end is not None]
        return next((family for suffix, family in _HOSTS if any(host.endswith(suffix) for host in ends)), "")

    @property
    def way(self) -> Way:
        """What Gatepost logs in with."""
        return "password" if self.upstream.oauth2 is None else self.upstream.oauth2.grant


@dataclass(frozen=True, slots=True)
class _Row:
    """Fits if every condition does; an empty one always does. `remedy` may name {email} and {mailbox}."""

    heard: str
    remedy: str
    family: Family = ""
    ways: tuple[Way, ...] = ()
    protocol: Protocol | None = None

    def fits(self, case: Case, heard: str, protocol: Protocol | None) -> bool:
        return (
            (not self.family or self.family == case.family)
            and (not self.ways or case.way in self.ways)
            and (self.protocol is None or self.protocol == protocol)
            and re.search(self.heard, heard, re.IGNORECASE) is not None
        )


_TOKEN = (
    _Row(
        r"^invalid_grant",
        "Google ended the sign-in: after 7 days while the app's publishing status is Testing (publish it first), else "
        "by a new password or a revocation; then gatepost account connect {email}",
        family="google",
        ways=("user",),
    ),
    _Row(
        r"^(?:unauthorized_client|access_denied|invalid_scope)",
        "let a super admin allow the service account's client id the preset's scope: Admin console, Security, "
        "API controls, Domain-wide delegation",
        family="google",
        ways=("service_account",),
    ),
    _Row(
        r"^invalid_grant",
        "Google does not know {mailbox} in this organization, or the key was deleted, or this host's clock is wrong",
        family="google",
        ways=("service_account",),
    ),
    _Row(
        r"AADSTS(?:70011|1002012)\b",
        "app-only has one scope, which ends in /.default: remove [oauth2] scopes, and the preset's is used",
        family="microsoft",
        ways=("client_credentials",),
    ),
    _Row(
        r"the deposit cannot be opened",
        "restore the master key that belongs to this database, or gatepost account connect {email}",
        ways=("user",),
    ),
)

_SMTP_AUTH = (
    "switch SMTP AUTH on, which OAuth2 needs too: Set-CASMailbox {mailbox} -SmtpClientAuthenticationDisabled $false; "
    "it wins over the tenant's switch"
)
_APP_RIGHTS = (
    "register the app in Exchange (New-ServicePrincipal, with the object id of the Enterprise application), then "
    "Add-MailboxPermission for {mailbox}"
)

_MAIL = (
    # Exchange. One code, 5.7.139, stands for a switch, a policy and a wrong password; the words tell them apart.
    _Row(r"SmtpClientAuthentication is disabled", _SMTP_AUTH, family="microsoft"),
    _Row(
        r"security defaults",
        "the tenant's security defaults forbid SMTP AUTH: put Conditional Access policies in their place (Entra, "
        "Properties), then switch SMTP AUTH on for {mailbox}",
        family="microsoft",
    ),
    _Row(
        r"basic authentication is (?:disabled|not supported)|5\.7\.139|AUTHENTICATE failed|LOGIN failed",
        "Exchange takes no passwords here, only OAuth2: give the upstream a Microsoft preset and an [oauth2] table, "
        "and add the account anew",
        family="microsoft",
        ways=("password",),
    ),
    _Row(
        r"did not meet the criteria|conditional access|blocked by",
        "a policy of the tenant forbids it (Conditional Access, or an authentication policy of Exchange): the user's "
        "sign-in log in Entra names it",
        family="microsoft",
    ),
    _Row(
        r"not enabled for IMAP|IMAP (?:access )?is (?:disabled|not enabled)",
        "switch IMAP on: Set-CASMailbox {mailbox} -ImapEnabled $true",
        family="microsoft",
    ),
    _Row(
        r"5\.7\.3\b|user credentials were incorrect",
        f"{_APP_RIGHTS}, or the role Application SMTP.SendAsApp; SMTP AUTH must be on",
        family="microsoft",
        ways=("client_credentials",),
        protocol="smtp",
    ),
    _Row(
        r"AUTHENTICATE failed|authenticated but not connected",
        f"{_APP_RIGHTS}; IMAP.AccessAsApp needs an admin's consent",
        family="microsoft",
        ways=("client_credentials",),
        protocol="imap",
    ),
    _Row(
        r"authenticated but not connected",
        "the token is good, but not for {mailbox}: that must be the mailbox's primary address, and whoever signed in "
        "its owner or a member with Full Access; IMAP must be on",
        family="microsoft",
    ),
    _Row(
        r"5\.7\.3\b|user credentials were incorrect",
        "check that SMTP AUTH is on for {mailbox} (Get-CASMailbox), who signed in and may send as it, and the scopes",
        family="microsoft",
        protocol="smtp",
    ),
    _Row(
        r"AUTHENTICATE failed",
        "check that IMAP is on for {mailbox} (Get-CASMailbox), who signed in and may open it, and the scopes",
        family="microsoft",
        protocol="imap",
    ),
    _Row(r"5\.7\.139", f"{_SMTP_AUTH}; if it is on, the user's sign-in log in Entra says more", family="microsoft"),
    _Row(
        r"throttled|back-?off",
        "Exchange asks for patience: wait some minutes, and see what else reads this mailbox by IMAP",
        family="microsoft",
    ),
    _Row(
        r"4\.3\.2\b|concurrent connections|thread limit",
        "Exchange bears three SMTP sessions of a mailbox at one time: end others, or lower limits.smtp",
        family="microsoft",
        protocol="smtp",
    ),
    # Google.
    _Row(
        r"not enabled for IMAP|IMAP (?:access )?is (?:disabled|not enabled)",
        "switch IMAP on: Workspace in the Admin console (Apps, Google Workspace, Gmail, End User Access), Gmail in its "
        "own settings",
        family="google",
    ),
    _Row(
        r"Application-specific password required|InvalidSecondFactor|Username and Password not accepted|"
        r"BadCredentials|Invalid credentials",
        "Google takes OAuth2 (a preset), or an app password of its own, which ends when the account's password changes",
        family="google",
        ways=("password",),
    ),
    _Row(
        r"log ?in via your web browser|web ?login ?required",
        "sign in as {mailbox} in a browser once, and answer what Google asks",
        family="google",
    ),
    _Row(
        r"too many simultaneous connections",
        "Google bears 15 IMAP connections of a mailbox: close other programs, or lower limits.imap",
        family="google",
    ),
    _Row(
        r"AUTHENTICATIONFAILED|Invalid credentials|5\.7\.8|not accepted",
        "allow the service account the scope https://mail.google.com/ (Domain-wide delegation), and check that "
        "{mailbox} is a user with Gmail on, not a group",
        family="google",
        ways=("service_account",),
    ),
    _Row(
        r"AUTHENTICATIONFAILED|Invalid credentials|5\.7\.8|not accepted",
        "sign in as {mailbox} itself, with the scope https://mail.google.com/ ticked: gatepost account connect {email}",
        family="google",
    ),
    # Wherever it is said; the first two by Gatepost itself.
    _Row(
        r"offers neither XOAUTH2",
        'the server takes no tokens: check its address, or say auth = "password"',
    ),
    _Row(
        r"offers neither PLAIN",
        "the server takes no passwords: it wants OAuth2, so give the upstream an [oauth2] table",
    ),
    _Row(
        r"authenticated but not connected",
        "check the scopes, that upstream_user is the mailbox's address, and that the mailbox has this protocol",
    ),
)

_OF_FAULT = {
    UpstreamFault.UNREACHABLE: "check its host and port, and this host's firewall",
    UpstreamFault.SILENT: "check its port, and whether a firewall swallows the connection",
    UpstreamFault.UNTRUSTED: "check its name and STARTTLS or TLS; a private authority goes into tls_ca",
    UpstreamFault.GARBAGE: "check that the port speaks this protocol",
    UpstreamFault.UNAVAILABLE: "try again; the server says that it cannot check logins right now",
    UpstreamFault.BUSY: "close other sessions of this mailbox, or wait",
    UpstreamFault.REFUSED: "check upstream_user, the scopes of the token, and that the mailbox allows this protocol",
    UpstreamFault.PROTOCOL_OFF: "switch the protocol on for this mailbox or tenant (Exchange: SMTP AUTH)",
}
# It reached us and said something; what it says about the others is chance.
_SPOKEN = frozenset({UpstreamFault.UNAVAILABLE, UpstreamFault.BUSY, UpstreamFault.REFUSED, UpstreamFault.PROTOCOL_OFF})
_OF_REFUSAL = {
    Refusal.CLIENT_REJECTED: "check client_id and client_secret, and that the secret has not expired",
    Refusal.PROVIDER_DOWN: "check token_url, or wait until the provider answers",
    Refusal.STORE_DOWN: StoreUnavailable.remedy,
}
_OF_LOST_CONSENT: dict[Way, str] = {
    "user": "gatepost account connect {email}",
    "client_credentials": "the provider knows the app, but gives it nothing for this: look at its sign-in log",
    "service_account": "the provider knows the service account, but not {mailbox}: check it, and the delegation",
    "password": "remove the account, and add it again with --password-stdin",
}
_LEFT_ALONE = "left alone after "  # by the broker, which then repeats the code


def of_token(refused: Refused, case: Case) -> str:
    """What to do when there is no token, or no password, to log in upstream with."""
    heard = refused.detail.removeprefix(_LEFT_ALONE)
    remedy = _first(_TOKEN, case, heard, None)
    if remedy is None and (known := remedy_of(heard)) != UNKNOWN:
        remedy = known
    if remedy is None and refused.refusal is Refusal.NEEDS_CONSENT:
        remedy = _filled(_OF_LOST_CONSENT[case.way], case)
    return remedy or _OF_REFUSAL.get(refused.refusal, "see the log")


def of_login(error: UpstreamError, protocol: Protocol, case: Case) -> str:
    """What to do when the mail server did not let Gatepost in."""
    remedy = _first(_MAIL, case, error.said, protocol) if error.fault in _SPOKEN else None
    return remedy or _OF_FAULT[error.fault]


def of_objection(said: str, protocol: Protocol, case: Case) -> str:
    """What to do when it let Gatepost in, and then did not open the mailbox."""
    otherwise = "check that the mailbox exists there, and that it has this protocol on"
    return _first(_MAIL, case, said, protocol) or otherwise


def of_reach(fault: UpstreamFault) -> str:
    """What to do when a server does not even greet as it should; no mailbox is concerned."""
    return _OF_FAULT[fault]


def _first(rows: tuple[_Row, ...], case: Case, heard: str, protocol: Protocol | None) -> str | None:
    return next((_filled(row.remedy, case) for row in rows if row.fits(case, heard, protocol)), None)


def _filled(remedy: str, case: Case) -> str:
    return remedy.format(email=case.email, mailbox=case.mailbox)
