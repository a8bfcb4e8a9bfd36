"""Who signed in at the web page, by the claims of an ID token: identity, MFA, tenant, group, and the mailbox's address.

Pure. An address counts only if the provider vouches for it: an e-mail that its owner may set to anything (Entra's) or
that nobody verified is shown to people and decides nothing.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from urllib.parse import urlsplit

from proxy.config import WebConfig
from proxy.errors import GatepostError
from proxy.oauth.jwts import CLOCK_SKEW_S, address_in
from proxy.store.people_rows import Identity
from proxy.wire.names import canonical_login

MAX_TEXT = 255  # OpenID Connect Core 2: sub is at most 255 ASCII characters
MAX_WORDS = 50  # of amr, in a row of the store
_GOOGLE = "accounts.google.com"


class Turned(Enum):
    """Why somebody who signed in at the provider is turned away here."""

    NO_IDENTITY = "no_identity"
    OTHER_TENANT = "other_tenant"
    NO_MFA = "no_mfa"
    NOT_IN_GROUP = "not_in_group"
    NOT_FRESH = "not_fresh"
    NO_MAILBOX = "no_mailbox"
    BOUND_TO_ANOTHER = "bound_to_another"  # the mailbox of this address is somebody else's
    OTHER_PERSON = "other_person"  # than the one whose session it was for


class TurnedAway(GatepostError):
    """Nothing was stored. `detail` is for the log and the audit."""

    def __init__(self, cause: Turned, detail: str = "", who: str = "") -> None:
        super().__init__(cause.value)
        self.cause = cause
        self.detail = detail
        self.who = who


@dataclass(frozen=True, slots=True)
class Claimed:
    """Somebody whom the provider vouches for.

    address     canonical mailbox, "" if the provider vouches for none
    display     an e-mail for people to read
    auth_time   when they showed who they are
    """

    identity: Identity
    address: str
    display: str
    auth_time: datetime
    amr: tuple[str, ...]
    acr: str
    is_admin: bool

    @property
    def name(self) -> str:
        """As Person.name."""
        return self.address or str(self.identity)


def judge(web: WebConfig, claims: Mapping[str, object], now: datetime) -> Claimed:
    """Read the claims of a believable ID token. Raises TurnedAway."""
    identity = _identity(web, claims)
    who = address_in(claims) or str(identity)
    if identity.tenant and identity.tenant not in web.tenants:
        raise TurnedAway(Turned.OTHER_TENANT, f"tenant {identity.tenant}", who)
    amr, acr = _words(claims.get("amr"))[:MAX_WORDS], _text(claims.get("acr"))
    if web.require_mfa and not web.mfa_enforced_by_provider and not (set(amr) & set(web.amr) or acr in web.acr):
        raise TurnedAway(Turned.NO_MFA, f"amr {' '.join(amr) or 'none'}, acr {acr or 'none'}", who)
    groups = _words(claims.get(web.group_claim))
    is_admin = bool(web.admin_group) and web.admin_group in groups
    # Where Entra has too many groups for a token it names none of them: then nobody is in any.
    if web.group and web.group not in groups and not is_admin:
        raise TurnedAway(Turned.NOT_IN_GROUP, f"group {web.group}", who)
    return Claimed(
        identity, mailbox_in(web, claims, identity), address_in(claims), _auth_time(claims, now), amr, acr, is_admin
    )


def _identity(web: WebConfig, claims: Mapping[str, object]) -> Identity:
    """(iss, tid, oid) where there are such: Entra's sub differs from one app to the next. Else (iss, sub)."""
    issuer, subject = _text(claims.get("iss")), _text(claims.get("sub"))
    tenant, object_id = _text(claims.get("tid")).lower(), _text(claims.get("oid")).lower()
    if web.is_entra or tenant:
        subject = object_id
        if not tenant:
            raise TurnedAway(Turned.NO_IDENTITY, "no tid")
    if not issuer or not subject:
        raise TurnedAway(Turned.NO_IDENTITY, "no oid" if tenant else "no sub")
    return Identity(issuer, tenant, subject)


def mailbox_in(web: WebConfig, claims: Mapping[str, object], identity: Identity) -> str:
    """The address that the provider vouches for, canonical; "" for none."""
    if identity.tenant:
        return _mailbox_of_entra(web, claims)
    if web.mailbox_claim:
        return exact(_text(claims.get(web.mailbox_claim)))
    address = exact(_text(claims.get("email")))
    if claims.get("email_verified") is not True or not address:
        return ""
    if urlsplit(identity.issuer).hostname == _GOOGLE and not _is_googles(address, claims):
        return ""
    return address


def _mailbox_of_entra(web: WebConfig, claims: Mapping[str, object]) -> str:
    """Never email, which anybody may set to anything in a tenant of their own.

    preferred_username is the user principal name, which administrators give; but a guest's is what the tenant at home
    says, and that is not this one.
    """
    is_guest = "idp" in claims and claims["idp"] != claims["iss"]
    return "" if is_guest else exact(_text(claims.get(web.mailbox_claim or "preferred_username")))


def _is_googles(address: str, claims: Mapping[str, object]) -> bool:
    """Google vouches for its own mailboxes; of others it knows only that they were verified one day."""
    domain = address.rpartition("@")[2]
    return domain in ("gmail.com", "googlemail.com") or domain == _text(claims.get("hd")).lower()


def exact(claim: str) -> str:
    """The canonical login name of a claim, "" if folding made it another name than the provider has.

    Login names are forgiving (full-width letters, sharp s, a domain and backslash in front); a provider may well have
    given the two forms to two people.
    """
    name = canonical_login(claim)
    if name is None or "\\" in claim or unicodedata.normalize("NFKC", claim) != claim or claim.lower() != name:
        return ""
    return name


def _auth_time(claims: Mapping[str, object], now: datetime) -> datetime:
    """By the provider's word; where it gives none, the end of the sign-in is what there is."""
    value = claims.get("auth_time")
    if isinstance(value, bool) or not isinstance(value, int | float):
        return now
    try:
        told = datetime.fromtimestamp(value, UTC)
    except (ValueError, OverflowError, OSError):
        raise TurnedAway(Turned.NOT_FRESH, "unreadable auth_time") from None
    if told > now + timedelta(seconds=CLOCK_SKEW_S):
        raise TurnedAway(Turned.NOT_FRESH, "auth_time in the future")
    return min(told, now)


def _text(value: object) -> str:
    return value if isinstance(value, str) and value.isprintable() and len(value) <= MAX_TEXT else ""


def _words(value: object) -> tuple[str, ...]:
    found = value if isinstance(value, list) else [value]
    return tuple(text for text in map(_text, found) if text)
