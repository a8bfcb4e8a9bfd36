"""What an endpoint's answer means: a grant, a device code, or one of three faults. Reads; never asks."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeGuard

from proxy.errors import ProviderError, ProviderFault
from proxy.oauth.exchange import Reply
from proxy.secret import Secret

DEFAULT_LIFETIME_S = 300  # RFC 6749 5.1 only recommends expires_in; a short guess costs a refresh, a long one mail
MAX_LIFETIME_S = 10 * 365 * 86_400
MAX_SHOWN = 300  # characters of a user code or address that is to be typed by hand
DEFAULT_INTERVAL_S = 5.0  # RFC 8628 3.2
INTERVALS_S = (1.0, 60.0)  # what a server may ask for between two polls

_GRANT_LOST = frozenset({"invalid_grant", "interaction_required", "consent_required", "login_required"})
# About us, whoever's token it was. All other codes count as the provider's trouble with this one account.
_CLIENT_REJECTED = frozenset(
    {
        "invalid_client",
        "unauthorized_client",
        "unsupported_grant_type",
        "invalid_scope",
        "deleted_client",  # Google's, as the next one
        "disabled_client",
    }
)
_CODE = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_ENTRA_CODE = re.compile(r"AADSTS\d{4,8}")


@dataclass(frozen=True, slots=True)
class Grant:
    """A token answer (RFC 6749 5.1). `refresh_token` is None when the provider keeps the old one valid."""

    access_token: Secret
    expires_in_s: float
    refresh_token: Secret | None
    id_token: Secret | None = None  # OpenID Connect; not validated yet


@dataclass(frozen=True, slots=True)
class DeviceCode:
    """An answer of the device endpoint (RFC 8628 3.2). What is shown to a person is printable."""

    device_code: Secret
    user_code: str
    verification_url: str
    complete_url: str | None  # with the user code in it
    expires_in_s: float
    interval_s: float


def object_of(reply: Reply) -> dict[str, object]:
    """The JSON object of a good answer. Raises ProviderError for any other answer (RFC 6749 5.2)."""
    if reply.status == 429 or reply.status >= 500:
        raise ProviderError(ProviderFault.DOWN, f"http_{reply.status}", reply.retry_after_s)
    try:
        answer = json.loads(reply.body)
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict):
        raise ProviderError(ProviderFault.DOWN, f"http_{reply.status}_not_json")
    if reply.status != 200:
        raise _error_of(answer, reply)
    return answer


def grant_of(answer: Mapping[str, object]) -> Grant:
    access_token, refresh_token, id_token = (answer.get(key) for key in ("access_token", "refresh_token", "id_token"))
    if not _is_token(access_token):
        raise ProviderError(ProviderFault.DOWN, "no_access_token")
    return Grant(
        Secret(access_token),
        _lifetime_s(answer.get("expires_in", DEFAULT_LIFETIME_S)),
        Secret(refresh_token) if _is_token(refresh_token) else None,
        Secret(id_token) if _is_token(id_token) else None,
    )


def device_code_of(answer: Mapping[str, object]) -> DeviceCode:
    """Read RFC 8628 3.2; Google's `verification_url` is taken for `verification_uri`."""
    device_code = answer.get("device_code")
    user_code = answer.get("user_code")
    url = answer.get("verification_uri", answer.get("verification_url"))
    complete_url = answer.get("verification_uri_complete")
    if not _is_token(device_code) or not _is_shown(user_code) or not _is_shown(url):
        raise ProviderError(ProviderFault.DOWN, "no_device_code")
    low, high = INTERVALS_S
    interval_s = _number(answer.get("interval"), DEFAULT_INTERVAL_S)
    return DeviceCode(
        Secret(device_code),
        user_code,
        url,
        complete_url if _is_shown(complete_url) else None,
        _lifetime_s(answer.get("expires_in")),
        min(max(interval_s, low), high) if interval_s == interval_s else DEFAULT_INTERVAL_S,  # noqa: PLR0124 - nan
    )


def code_of(error: object, description: object, otherwise: str) -> str:
    """A provider's error as we may show it: its code, with Entra's own number. The description is not kept."""
    code = error if isinstance(error, str) and _CODE.fullmatch(error) else otherwise
    entra = _ENTRA_CODE.search(description) if isinstance(description, str) else None
    return f"{code}/{entra.group()}" if entra else code


def _lifetime_s(value: object) -> float:
    seconds = _number(value, DEFAULT_LIFETIME_S)
    return seconds if 0 < seconds <= MAX_LIFETIME_S else DEFAULT_LIFETIME_S  # nan is not


def _number(value: object, otherwise: float) -> float:
    try:
        return float(str(value))
    except ValueError:
        return otherwise


def _is_token(value: object) -> TypeGuard[str]:
    """Whether it is a text of printable ASCII (RFC 6749 A.12, A.17): anything else could not be sent upstream."""
    return isinstance(value, str) and bool(value) and value.isascii() and value.isprintable()


def _is_shown(value: object) -> TypeGuard[str]:
    return _is_token(value) and len(value) <= MAX_SHOWN


def _error_of(answer: Mapping[str, object], reply: Reply) -> ProviderError:
    error = answer.get("error")
    if not isinstance(error, str):
        error = None  # a list could not even be looked up below
    shown = code_of(error, answer.get("error_description"), f"http_{reply.status}")
    if error in _GRANT_LOST:
        return ProviderError(ProviderFault.GRANT_LOST, shown)
    if error in _CLIENT_REJECTED:
        return ProviderError(ProviderFault.CLIENT_REJECTED, shown)
    return ProviderError(ProviderFault.DOWN, shown, reply.retry_after_s)
