"""Sign-ins that give a refresh token: by a browser that is sent back to us, or with a code typed on another device.

Plain objects over TokenClient: no printing, no listening, nothing stored. Whatever goes wrong is a ConsentError, one
line with its remedy, and whoever catches it has nothing to undo.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, urlencode, urlsplit

from proxy.config import OAuth2Config, UpstreamConfig
from proxy.errors import ConsentError, ProviderError
from proxy.oauth.answers import DeviceCode, Grant, code_of
from proxy.oauth.client import TokenClient
from proxy.oauth.discovery import Provider
from proxy.oauth.jwts import BadIdToken
from proxy.oauth.remedies import remedy_of
from proxy.secret import Secret

MAX_REDIRECTED = 16_384  # octets of the address a browser came back to; Entra's codes have some 1,500
SLOW_DOWN_S = 5.0  # RFC 8628 3.5
_IDENTITY_SCOPES = ("openid", "email", "profile")
_NOTHING_MORE: Mapping[str, str] = {}
_START_AGAIN = "start again, and use the newest page"


@dataclass(frozen=True, slots=True)
class Consent:
    """What a sign-in gave. `identity` is the address that signed in, "" if the provider did not tell."""

    refresh_token: Secret
    access_token: Secret
    identity: str


@dataclass(frozen=True, slots=True)
class FlowKeys:
    """What ties a browser's way through a sign-in together: random texts that nobody can guess."""

    state: Secret
    verifier: Secret
    nonce: Secret

    @classmethod
    def drawn(cls) -> FlowKeys:
        return cls(*(Secret(secrets.token_urlsafe(48)) for _ in range(3)))


@dataclass(frozen=True, slots=True)
class CodeFlow:
    """Authorization code with PKCE S256, state and nonce (RFC 6749 4.1, RFC 7636): begun, and not finished yet.

    url             where the person signs in
    redirect_url    where the browser is sent afterwards
    """

    upstream: UpstreamConfig
    url: str
    redirect_url: str
    keys: FlowKeys
    _issuer: str | None

    @classmethod
    async def begin(
        cls,
        client: TokenClient,
        upstream: UpstreamConfig,
        redirect_url: str,
        mailbox: str,
        *,
        keys: FlowKeys | None = None,
        more: Mapping[str, str] = _NOTHING_MORE,
    ) -> CodeFlow:
        """Make the address to sign in at.

        redirect_url    with its real port
        mailbox         a hint that spares the person typing; any account may sign in
        keys            of a sign-in that goes on here; None: new ones
        more            parameters over those of the configuration
        raises          ConsentError
        """
        keys = keys or FlowKeys.drawn()
        try:
            provider = await client.provider(upstream)
        except ProviderError as error:
            raise explained(error) from None
        oauth2 = _oauth2(upstream)
        if provider.authorize_url is None:
            raise ConsentError("the provider's sign-in page is not known", remedy_of("no_authorize_url"))
        query = {
            "response_type": "code",
            "client_id": oauth2.client_id,
            "redirect_uri": redirect_url,
            "scope": " ".join(scopes_to_ask(oauth2, provider)),
            "state": keys.state.reveal(),
            "nonce": keys.nonce.reveal(),
            "code_challenge": _challenge(keys.verifier.reveal()),
            "code_challenge_method": "S256",
            **({"login_hint": mailbox} if mailbox else {}),
            **dict(oauth2.authorize_parameters),
            **more,
        }
        joint = "&" if urlsplit(provider.authorize_url).query else "?"
        url = provider.authorize_url + joint + urlencode(query)
        issuer = None if provider.issuer is None or "{" in provider.issuer else provider.issuer
        return cls(upstream, url, redirect_url, keys, issuer)

    def is_answered_by(self, address: str) -> bool:
        """Whether a browser that came to this address came from our sign-in, whatever its end was."""
        return self._has_our_state(_parameters(address))

    async def finish(self, client: TokenClient, address: str) -> Consent:
        """Exchange what the browser brought back. Raises ConsentError."""
        return await _consent_of(client, self.upstream, await self.exchange(client, address), self.keys.nonce)

    async def exchange(self, client: TokenClient, address: str) -> Grant:
        """The provider's answer as it is: its ID token is not looked at. Raises ConsentError."""
        code = self._code_in(address)
        try:
            return await client.exchange_code(self.upstream, code, self.redirect_url, self.keys.verifier)
        except ProviderError as error:
            raise explained(error) from None

    def _code_in(self, address: str) -> Secret:
        if len(address) > MAX_REDIRECTED or not address.isascii() or not address.isprintable():
            raise ConsentError("that is no address that a sign-in ends at", self._remedy())
        if not _is_same_place(address, self.redirect_url):
            raise ConsentError("that is not the address that the sign-in was to end at", self._remedy())
        parameters = _parameters(address)
        if not self._has_our_state(parameters):
            raise ConsentError("that address belongs to another sign-in", _START_AGAIN)
        # RFC 9207: another provider's answer must not be taken for this one's.
        if self._issuer is not None and parameters.get("iss", self._issuer) != self._issuer:
            raise ConsentError("that answer is from another provider", _START_AGAIN)
        if "error" in parameters:
            code = code_of(parameters["error"], parameters.get("error_description", ""), "an_unreadable_error")
            raise ConsentError(f"the provider says {code}", remedy_of(code))
        if not parameters.get("code"):
            raise ConsentError("that address holds no code", self._remedy())
        return Secret(parameters["code"])

    def _has_our_state(self, parameters: Mapping[str, str]) -> bool:
        return hmac.compare_digest(parameters.get("state", "").encode(), self.keys.state.reveal().encode())

    def _remedy(self) -> str:
        return f"copy the whole address of the page that the browser ended at; it begins with {self.redirect_url}"


@dataclass(slots=True)
class DeviceFlow:
    """A code that a person types on another device (RFC 8628): shown, and asked about until it is answered."""

    upstream: UpstreamConfig
    shown: DeviceCode
    interval_s: float = field(default=0.0)  # how long to wait before each poll()

    @classmethod
    async def begin(cls, client: TokenClient, upstream: UpstreamConfig) -> DeviceFlow:
        """Ask the provider for a code. Raises ConsentError."""
        try:
            provider = await client.provider(upstream)
            shown = await client.device_code(upstream, scopes_to_ask(_oauth2(upstream), provider))
        except ProviderError as error:
            raise explained(error) from None
        return cls(upstream, shown, shown.interval_s)

    async def poll(self, client: TokenClient) -> Consent | None:
        """Ask once; None while the person has not signed in. Raises ConsentError when it is over."""
        try:
            grant = await client.device_token(self.upstream, self.shown.device_code)
        except ProviderError as error:
            match error.code.partition("/")[0]:
                case "authorization_pending":
                    return None
                case "slow_down":
                    self.interval_s += SLOW_DOWN_S
                    return None
                # RFC 8628 3.5: on a connection timeout it goes on, more slowly.
                case "TimeoutError" | "ConnectTimeout" | "ReadTimeout":
                    self.interval_s *= 2
                    return None
            raise explained(error) from None
        return await _consent_of(client, self.upstream, grant, None)


async def imported(client: TokenClient, upstream: UpstreamConfig, refresh_token: Secret) -> Consent:
    """A consent that was given elsewhere: its refresh token is tried, and kept in the form it has after that.

    raises  ConsentError; a token that rotates may be spent then
    """
    try:
        grant = await client.refresh(upstream, refresh_token)
    except ProviderError as error:
        raise explained(error) from None
    identity = await _identity(client, upstream, grant, None)
    return Consent(grant.refresh_token or refresh_token, grant.access_token, identity)


def explained(error: ProviderError) -> ConsentError:
    """A provider's fault as an operator's error."""
    return ConsentError(f"the provider gave no token ({error.code})", remedy_of(error.code))


def scopes_to_ask(oauth2: OAuth2Config, provider: Provider) -> tuple[str, ...]:
    """The configured scopes, and those that tell who signed in where the provider has them and an issuer vouches."""
    identity = (scope for scope in _IDENTITY_SCOPES if provider.issuer is not None and scope in provider.scopes)
    return tuple(dict.fromkeys((*oauth2.scopes, *identity)))


async def _consent_of(client: TokenClient, upstream: UpstreamConfig, grant: Grant, nonce: Secret | None) -> Consent:
    identity = await _identity(client, upstream, grant, nonce)
    if grant.refresh_token is None:
        raise ConsentError("the provider gave no refresh token, so this would work for an hour", _lacking(upstream))
    return Consent(grant.refresh_token, grant.access_token, identity)


async def _identity(client: TokenClient, upstream: UpstreamConfig, grant: Grant, nonce: Secret | None) -> str:
    if grant.id_token is None:
        return ""
    try:
        return await client.who_signed_in(upstream, grant.id_token, nonce)
    except ProviderError as error:
        raise explained(error) from None
    except BadIdToken as error:
        raise ConsentError(
            f"the provider's ID token is not to be believed ({error})", "check [oauth2] issuer and this host's clock"
        ) from None


def _lacking(upstream: UpstreamConfig) -> str:
    """Why a refresh token may be missing: each provider has its own switch for it."""
    oauth2 = _oauth2(upstream)
    if "offline_access" not in oauth2.scopes and "google" not in oauth2.token_url:
        return 'add "offline_access" to [oauth2] scopes, and allow this client refresh tokens'
    return 'set authorize_parameters = { access_type = "offline", prompt = "consent" }, and allow refresh tokens'


def _oauth2(upstream: UpstreamConfig) -> OAuth2Config:
    if upstream.oauth2 is None:
        raise ConsentError(f"upstream {upstream.name} has no OAuth2", f"see [upstream.{upstream.name}] auth")
    return upstream.oauth2


def _challenge(verifier: str) -> str:
    """Source: RFC 7636 4.2."""
    return base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()


def _parameters(address: str) -> dict[str, str]:
    """The query, each name once: RFC 6749 3.1 forbids repeating, so a repeated one counts as absent."""
    try:
        pairs = parse_qsl(urlsplit(address[:MAX_REDIRECTED]).query, keep_blank_values=True, max_num_fields=100)
    except ValueError:
        return {}
    names = [name for name, _ in pairs]
    return {name: value for name, value in pairs if names.count(name) == 1}


def _is_same_place(address: str, redirect_url: str) -> bool:
    try:
        places = {
            (parts.scheme, parts.hostname, parts.port, parts.path or "/")
            for parts in (urlsplit(address), urlsplit(redirect_url))
        }
    except ValueError:
        return False
    return len(places) == 1
