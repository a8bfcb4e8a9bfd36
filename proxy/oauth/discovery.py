"""OpenID Connect Discovery 1.0: what a provider says of itself, checked before anything of it is believed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from proxy.config import OAuth2Config, UpstreamConfig
from proxy.config.address import BadAddress, provider_url
from proxy.errors import ProviderError, ProviderFault
from proxy.oauth.answers import object_of
from proxy.oauth.exchange import Exchange

KEPT_S = 3_600.0  # providers move endpoints once in years
PATH = "/.well-known/openid-configuration"
TENANT = "{tenantid}"  # what Entra's document for many tenants has in place of one: the claim "tid" fills it in


@dataclass(frozen=True, slots=True)
class Provider:
    """Its endpoints: what the operator wrote, else what discovery gave. Absent is unknown."""

    token_url: str
    authorize_url: str | None = None
    device_url: str | None = None
    issuer: str | None = None  # that its ID tokens name; may hold TENANT
    jwks_url: str | None = None
    scopes: frozenset[str] = frozenset()  # that it says it knows
    assertion_algorithms: frozenset[str] = frozenset()  # for private_key_jwt; empty if it does not say


class Discovery:
    """Discovery documents of upstreams that have an issuer, kept for a while."""

    def __init__(self, exchange: Exchange, clock: Callable[[], float]) -> None:
        self._exchange = exchange
        self._clock = clock
        self._kept: dict[str, tuple[float, Provider]] = {}  # by upstream

    async def token_side(self, upstream: UpstreamConfig, oauth2: OAuth2Config) -> Provider:
        """What a request for a token needs. Asks nobody if the operator named the endpoint. Raises ProviderError."""
        if oauth2.token_url:
            return _as_written(oauth2)
        return await self.all_sides(upstream, oauth2)

    async def all_sides(self, upstream: UpstreamConfig, oauth2: OAuth2Config) -> Provider:
        """Everything that can be known, for a sign-in. Raises ProviderError."""
        if oauth2.issuer is None:
            return _as_written(oauth2)
        kept = self._kept.get(upstream.name)
        now = self._clock()
        if kept is not None and now - kept[0] < KEPT_S:
            return kept[1]
        try:
            reply = await self._exchange.get(upstream, oauth2.issuer.rstrip("/") + PATH)
            provider = _provider_of(object_of(reply), oauth2, oauth2.issuer)
        except ProviderError as error:
            if kept is not None:
                return kept[1]  # old, and it worked
            # Whatever it answered there says nothing of a client or a grant.
            raise ProviderError(ProviderFault.DOWN, f"discovery_{error.code}", error.retry_after_s) from None
        self._kept[upstream.name] = now, provider
        return provider


def _as_written(oauth2: OAuth2Config) -> Provider:
    return Provider(oauth2.token_url, oauth2.authorize_url, oauth2.device_url)


def _provider_of(document: Mapping[str, object], oauth2: OAuth2Config, expected: str) -> Provider:
    issuer = document.get("issuer")
    # Section 4.3: another issuer's document is nobody's. Entra's documents for many tenants name a template instead.
    if not isinstance(issuer, str) or not (issuer == expected or _is_entra_template(issuer, expected)):
        raise ProviderError(ProviderFault.DOWN, "other_issuer")
    token_url = oauth2.token_url or _address(document, "token_endpoint")
    if token_url is None:
        raise ProviderError(ProviderFault.DOWN, "no_token_endpoint")
    return Provider(
        token_url,
        oauth2.authorize_url or _address(document, "authorization_endpoint"),
        oauth2.device_url or _address(document, "device_authorization_endpoint"),
        issuer,
        _address(document, "jwks_uri"),
        _words(document, "scopes_supported"),
        _words(document, "token_endpoint_auth_signing_alg_values_supported"),
    )


def _is_entra_template(issuer: str, expected: str) -> bool:
    before, found, after = issuer.partition(TENANT)
    is_below_a_host = before.startswith("https://") and before.count("/") >= 3
    return bool(found) and is_below_a_host and expected.startswith(before) and expected.endswith(after)


def _address(document: Mapping[str, object], key: str) -> str | None:
    value = document.get(key)
    if value is None:
        return None
    try:
        if not isinstance(value, str):
            raise BadAddress("is no text", "")
        return provider_url(value)
    except BadAddress:
        raise ProviderError(ProviderFault.DOWN, f"bad_{key}") from None


def _words(document: Mapping[str, object], key: str) -> frozenset[str]:
    value = document.get(key)
    return frozenset(word for word in value if isinstance(word, str)) if isinstance(value, list) else frozenset()
