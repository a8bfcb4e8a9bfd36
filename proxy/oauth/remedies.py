"""What an identity provider's error code means to the operator, in one table: code in, what to do about it out."""

from __future__ import annotations

from collections.abc import Callable

_ENTRA = {
    "AADSTS50011": "register this redirect address at the app registration (Authentication), under Web, not SPA",
    "AADSTS50020": "sign in with an account of the tenant that [oauth2] tenant names",
    "AADSTS50034": "there is no such user in the tenant: check the address, and [oauth2] tenant",
    "AADSTS50057": "the user is disabled in Entra: enable it, or remove the mailbox here",
    "AADSTS50076": "MFA is asked for: sign in again with gatepost account connect",
    "AADSTS50079": "MFA is asked for and not set up: let the user set it up, then gatepost account connect",
    "AADSTS50105": "the user is not assigned to the app: assign it under Enterprise applications, Users and groups",
    "AADSTS50173": "the user's password was changed or its sessions revoked: gatepost account connect",
    "AADSTS50194": "the app is for one tenant: write its id into [oauth2] tenant",
    "AADSTS53003": (
        "Conditional Access blocks it: let an admin except the user or this host's address from that policy; with "
        "--device it may be device codes that are blocked"
    ),
    "AADSTS54005": "the code was used before: start again",
    "AADSTS65001": "nobody has consented to the app: let an admin grant consent, or sign in again",
    "AADSTS65004": "the consent was declined: sign in again and accept",
    "AADSTS70000": "the grant is not good any more: gatepost account connect",
    "AADSTS70008": "the code is too old, or the grant was not used for too long: sign in again",
    "AADSTS70011": "a scope does not exist: compare [oauth2] scopes with those of the preset",
    "AADSTS70043": (
        "Conditional Access wants a sign-in every so often: gatepost account connect, and let an admin except the user "
        "from that policy"
    ),
    "AADSTS90002": "there is no such tenant: check [oauth2] tenant",
    "AADSTS90094": "an admin must consent for this app: grant admin consent at the app registration (API permissions)",
    "AADSTS500011": "the resource is unknown in the tenant: it needs Exchange Online, and the scopes of the preset",
    "AADSTS700016": "the app is unknown in this tenant: check client_id and tenant",
    "AADSTS700027": "the certificate does not fit: upload client_certificate at the app registration",
    "AADSTS700082": "the token was not used for too long: gatepost account connect",
    "AADSTS7000112": "the app is disabled in the tenant: enable it under Enterprise applications",
    "AADSTS7000215": "client_secret is wrong: it must be the secret's value, not its id",
    "AADSTS7000218": "allow public client flows at the app registration, or set client_secret",
    "AADSTS7000222": "client_secret has expired: make a new one at the app registration",
    "AADSTS9002327": "the redirect address is registered as SPA: register it as Web",
}

_CODES = {
    # RFC 6749, RFC 8628, OpenID Connect
    "access_denied": "the consent was refused at the provider: sign in again and allow it, or ask the tenant's admin",
    "expired_token": "nobody signed in in time: start again",
    "invalid_client": "check client_id and client_secret, and that the secret has not expired",
    "invalid_grant": (
        "the sign-in is not good any more, so sign in again with gatepost account connect"
        " (Google ends it after 7 days while the consent screen is in Testing)"
    ),
    "invalid_scope": "check [oauth2] scopes",
    "unauthorized_client": "allow this client the grant, at the provider",
    "unsupported_grant_type": "the provider has no such grant: choose another way to sign in",
    "unsupported_response_type": "the provider takes no authorization code from this client",
    "invalid_request": "check [oauth2]: client_id, scopes and redirect_url",
    "interaction_required": "a person must sign in: gatepost account connect",
    "consent_required": "a person must consent: gatepost account connect",
    "login_required": "a person must sign in: gatepost account connect",
    "server_error": "the provider is in trouble: try again later",
    "temporarily_unavailable": "the provider is in trouble: try again later",
    "http_429": "the provider asks for patience: try again later",
    # Google's
    "redirect_uri_mismatch": "register this redirect address at the OAuth client, or use a client of type Desktop",
    "admin_policy_enforced": "the Workspace admin blocks the app: trust it under Security, API controls",
    "org_internal": "the consent screen is Internal: sign in with an account of the organization",
    "deleted_client": "the OAuth client was deleted: make a new one, and set client_id",
    "disabled_client": "the OAuth client is disabled: enable it in the Google Cloud console",
    # Gatepost's own
    "client_secret_unreadable": "check [oauth2] client_secret: gatepost check says what is wrong with it",
    "client_key_unreadable": "check [oauth2] client_certificate and client_key: PEM files without a pass phrase",
    "service_account_unreadable": "check [oauth2] service_account: Google's JSON key file",
    "no_device_url": "set [oauth2] device_url, or sign in without --device",
    "no_authorize_url": "set [oauth2] authorize_url, or use --device or --refresh-token-stdin",
    "tls_ca_unreadable": "check tls_ca of the upstream",
    "ConnectError": "check the addresses in [oauth2], and this host's way to the provider (proxy, firewall, TLS)",
    "ConnectTimeout": "check this host's way to the provider: proxy, firewall",
    "TimeoutError": "the provider did not answer in time: try again, or check this host's way to it",
    "discovery_other_issuer": "issuer is not what the provider calls itself: copy it from its openid-configuration",
}

# For codes that Gatepost makes from what happened; the first that fits.
_KINDS: tuple[tuple[Callable[[str], bool], str], ...] = (
    (lambda code: code.startswith("http_5"), _CODES["server_error"]),
    (
        lambda code: code.startswith("discovery_"),
        "check [oauth2] issuer: its /.well-known/openid-configuration must answer",
    ),
    (
        lambda code: code.endswith(("Error", "Timeout")),  # an exception's name stands for what the network did
        "the provider broke the connection, or was not reached: try again, or check this host's way to it",
    ),
    (lambda code: code.startswith("http_"), "check the addresses in [oauth2]"),
)

UNKNOWN = "the provider gives no more than this code: look at its sign-in log"


def remedy_of(code: str) -> str:
    """What to do about a code as ProviderError has it, like "invalid_grant/AADSTS70043"; the exacter half wins."""
    general, _, exact = code.partition("/")
    if exact in _ENTRA:
        return _ENTRA[exact]
    if general in _CODES:
        return _CODES[general]
    return next((text for is_of, text in _KINDS if is_of(general)), UNKNOWN)
