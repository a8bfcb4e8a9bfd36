"""A sign-in at the web page, whose beginning and end are two requests of one browser: nothing is kept in between.

All that ties them together follows from a random text that this browser alone holds: the state carries what the
sign-in is for under a MAC by it, nonce and PKCE verifier are derived from both. So a state is of use in its own
browser, for TICKET_S, and (the page spends it in the store) once.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from proxy.config import OAuth2Config, UpstreamConfig, WebConfig
from proxy.errors import ConsentError, ProviderError
from proxy.oauth.client import TokenClient
from proxy.oauth.consent import CodeFlow, FlowKeys, explained
from proxy.oauth.jwts import BadIdToken
from proxy.secret import Secret

TICKET_S = 600  # to find the phone, as for `account connect`
MAX_STATE = 200
_GOOGLE = "accounts.google.com"


@dataclass(frozen=True, slots=True)
class Ticket:
    """What a sign-in is for.

    purpose     a word of the page's own
    account_id  the mailbox it is for, 0 for none
    begun_s     Unix time
    """

    purpose: str
    account_id: int
    begun_s: int
    nonce: str = field(default_factory=lambda: secrets.token_urlsafe(24))

    def __str__(self) -> str:
        return f"{self.purpose}.{self.account_id}.{self.begun_s}.{self.nonce}"

    @classmethod
    def read(cls, state: str, browser: Secret, now_s: float) -> Ticket | None:
        """The ticket in a state; None if another browser, or nobody, made it, or it is over."""
        text, _, _ = state.rpartition(".")
        if len(state) > MAX_STATE or not state.isascii() or not hmac.compare_digest(_state(text, browser), state):
            return None
        purpose, account_id, begun_s, nonce = text.split(".")  # we wrote it
        ticket = cls(purpose, int(account_id), int(begun_s), nonce)
        return ticket if 0 <= now_s - ticket.begun_s <= TICKET_S else None


@dataclass(frozen=True, slots=True)
class SignedIn:
    """A sign-in that is over. `claims` are those of a believable ID token."""

    claims: Mapping[str, object]
    access_token: Secret
    refresh_token: Secret | None


async def sign_in_url(
    client: TokenClient,
    upstream: UpstreamConfig,
    web: WebConfig,
    ticket: Ticket,
    browser: Secret,
    *,
    is_fresh: bool,
    hint: str = "",
) -> str:
    """Where to send the browser. `is_fresh`: the person has to show who they are again. Raises ConsentError."""
    assert upstream.oauth2 is not None, "config names one that has it"
    more = {"max_age": "0" if is_fresh else str(web.fresh_s)}
    if web.acr:
        more["acr_values"] = " ".join(web.acr)
    if is_fresh and web.is_entra:
        more["prompt"] = "login"  # Entra takes one word, and max_age is not in its documentation
    if _is_google(upstream.oauth2):
        del more["max_age"]  # it knows none, and may one day refuse what it does not know
    flow = await CodeFlow.begin(client, upstream, web.redirect_url, hint, keys=_keys(ticket, browser), more=more)
    return flow.url


async def finish(
    client: TokenClient, upstream: UpstreamConfig, web: WebConfig, ticket: Ticket, browser: Secret, *, query: str
) -> SignedIn:
    """Exchange what the browser brought back behind web.redirect_url. Raises ConsentError."""
    flow = await CodeFlow.begin(client, upstream, web.redirect_url, "", keys=_keys(ticket, browser))
    grant = await flow.exchange(client, f"{web.redirect_url}?{query}")
    if grant.id_token is None:
        raise ConsentError("the provider did not tell who signed in", 'add "openid" to [oauth2] scopes')
    try:
        claims = await client.id_claims(upstream, grant.id_token, flow.keys.nonce)
    except ProviderError as error:
        raise explained(error) from None
    except BadIdToken as error:
        raise ConsentError(
            f"the provider's ID token is not to be believed ({error})", "check issuer and clock"
        ) from None
    if claims is None:
        raise ConsentError("the provider has no keys to check its ID tokens by", "check [oauth2] issuer")
    return SignedIn(claims, grant.access_token, grant.refresh_token)


def _state(text: str, browser: Secret) -> str:
    return f"{text}.{_derived(browser, 'state', text)}"


def _keys(ticket: Ticket, browser: Secret) -> FlowKeys:
    text = str(ticket)
    return FlowKeys(
        Secret(_state(text, browser)),
        Secret(_derived(browser, "verifier", text)),
        Secret(_derived(browser, "nonce", text)),
    )


def _derived(browser: Secret, use: str, text: str) -> str:
    """64 hexadecimal digits: within what RFC 7636 4.1 allows a verifier."""
    return hmac.new(browser.reveal().encode(), f"gatepost web {use}\n{text}".encode(), hashlib.sha256).hexdigest()


def _is_google(oauth2: OAuth2Config) -> bool:
    return urlsplit(oauth2.issuer or "").hostname == _GOOGLE
