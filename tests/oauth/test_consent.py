"""Sign-ins against a scripted provider: what is asked, and every way in which nothing comes of it."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest

from proxy.config import UpstreamConfig
from proxy.errors import ConsentError
from proxy.oauth import TokenClient
from proxy.oauth.consent import SLOW_DOWN_S, CodeFlow, DeviceFlow, imported
from proxy.secret import Secret, SecretSource
from tests.oauth.scripted_provider import GRANT, ScriptedProvider

HERE = "http://127.0.0.1:4711/done"
DEVICE = {
    "device_code": "device-1",
    "user_code": "WDJB-MJHT",
    "verification_uri": "https://x.test/device",
    "expires_in": 900,
    "interval": 3,
}


async def begun(client: TokenClient, upstream: UpstreamConfig) -> tuple[CodeFlow, dict[str, str]]:
    flow = await CodeFlow.begin(client, upstream, HERE, "ann@x.test")
    return flow, {name: values[0] for name, values in parse_qs(urlsplit(flow.url).query).items()}


def back(asked: dict[str, str], **changes: Any) -> str:
    """The address a browser ends at; a change to None leaves a parameter out."""
    answer = {"code": "code-1", "state": asked["state"], **changes}
    return f"{HERE}?{urlencode({name: value for name, value in answer.items() if value is not None})}"


async def refused(work: Any) -> str:
    with pytest.raises(ConsentError) as caught:
        await work
    line = str(caught.value)
    assert line.isprintable()
    assert caught.value.problem
    assert caught.value.remedy
    for secret in ("code-1", "access-1", "refresh-1", "device-1"):
        assert secret not in line
    return line


# -- authorization code ----------------------------------------------------------------------------------------------


async def test_a_sign_in_asks_with_pkce_state_and_nonce(asking: TokenClient, provider: ScriptedProvider) -> None:
    upstream = provider.upstream(authorize_parameters=(("prompt", "consent"), ("access_type", "offline")))
    flow, asked = await begun(asking, upstream)
    assert flow.url.startswith(f"{provider.url}/authorize?")
    fixed = ("response_type", "client_id", "redirect_uri", "scope", "code_challenge_method", "login_hint", "prompt")
    assert [asked[name] for name in fixed] == [
        "code", "our client", HERE, "mail offline_access openid email", "S256", "ann@x.test", "consent",
    ]  # fmt: skip
    assert asked["access_type"] == "offline"
    provider.say("/token", GRANT | {"id_token": provider.id_token(nonce=asked["nonce"])})
    consent = await flow.finish(asking, back(asked))
    assert (consent.refresh_token.reveal(), consent.access_token.reveal()) == ("refresh-1", "access-1")
    assert consent.identity == "ann@x.test"
    (request,) = provider.asked("/token")
    verifier = request.form["code_verifier"]
    assert 43 <= len(verifier) <= 128  # RFC 7636 4.1
    assert (
        base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).decode().rstrip("=")
        == (asked["code_challenge"])
    )
    assert {name: request.form[name] for name in ("grant_type", "code", "redirect_uri", "client_id")} == {
        "grant_type": "authorization_code",
        "code": "code-1",
        "redirect_uri": HERE,
        "client_id": "our client",
    }


async def test_no_two_sign_ins_share_a_secret(asking: TokenClient, provider: ScriptedProvider) -> None:
    first, second = [(await begun(asking, provider.upstream()))[1] for _ in range(2)]
    assert all(first[name] != second[name] for name in ("state", "nonce", "code_challenge"))


async def test_a_sign_in_s_secrets_are_not_in_its_repr(asking: TokenClient, provider: ScriptedProvider) -> None:
    flow, _ = await begun(asking, provider.upstream())
    for secret in (flow.keys.verifier, flow.keys.nonce):
        assert secret.reveal() not in repr(flow).replace(flow.url, "")


async def test_without_an_issuer_nobody_is_asked_who_signed_in(asking: TokenClient, provider: ScriptedProvider) -> None:
    plain = provider.upstream(
        issuer=None, authorize_url=f"{provider.url}/authorize?tenant=1", token_url=f"{provider.url}/token"
    )
    flow, asked = await begun(asking, plain)
    assert flow.url.startswith(f"{provider.url}/authorize?tenant=1&")
    assert asked["scope"] == "mail offline_access"
    provider.say("/token", GRANT | {"id_token": "not.looked.at"})
    assert (await flow.finish(asking, back(asked))).identity == ""
    assert [request.path for request in provider.requests] == ["/token"]


async def test_an_address_of_another_sign_in_is_refused_unsent(asking: TokenClient, provider: ScriptedProvider) -> None:
    flow, asked = await begun(asking, provider.upstream())
    doubled = back(asked) + "&" + urlencode({"state": asked["state"]})
    for address in (back(asked, state="x"), back(asked, state=""), back(asked, state=None), doubled):
        assert not flow.is_answered_by(address)
        assert "another sign-in" in await refused(flow.finish(asking, address))
    assert flow.is_answered_by(back(asked))
    assert provider.asked("/token") == []


@pytest.mark.parametrize(
    "place",
    [
        "http://127.0.0.1:4712/done",
        "http://127.0.0.1/done",
        "https://127.0.0.1:4711/done",
        "http://evil.test:4711/done",
        "http://127.0.0.1:4711/",
        "http://[::1/done",
        "http://127.0.0.1:port/done",
        "",
    ],
)
async def test_an_address_of_another_place_is_refused_unsent(
    asking: TokenClient, provider: ScriptedProvider, place: str
) -> None:
    flow, asked = await begun(asking, provider.upstream())
    assert HERE in await refused(flow.finish(asking, back(asked).replace(HERE, place)))
    assert provider.asked("/token") == []


@pytest.mark.parametrize("address", ["x" * 20_000, "http://127.0.0.1:4711/done?\x00", HERE + "?é", "code-1"])
async def test_what_is_no_address_is_refused(asking: TokenClient, provider: ScriptedProvider, address: str) -> None:
    flow, _ = await begun(asking, provider.upstream())
    assert "that is no" in await refused(flow.finish(asking, address)) or "code-1" in address


async def test_an_answer_from_another_provider_is_refused(asking: TokenClient, provider: ScriptedProvider) -> None:
    flow, asked = await begun(asking, provider.upstream())
    assert "another provider" in await refused(flow.finish(asking, back(asked, iss="https://evil.test")))
    assert (await flow.finish(asking, back(asked, iss=provider.url))).identity == ""


@pytest.mark.parametrize(
    ("error", "description", "says"),
    [
        ("access_denied", "AADSTS65004: the user said no", ("access_denied/AADSTS65004", "accept")),
        ("access_denied", "", ("access_denied", "consent was refused")),
        ("server_error", "", ("server_error", "try again later")),
        ("invalid_client", "AADSTS7000222: expired", ("AADSTS7000222", "make a new one")),
        ("interaction_required", "AADSTS53003", ("AADSTS53003", "Conditional Access")),
        ("admin_policy_enforced", "", ("admin_policy_enforced", "Workspace admin")),
        ("\x1b[2J", "", ("an_unreadable_error", "sign-in log")),
    ],
)
async def test_what_the_provider_says_becomes_a_remedy(
    asking: TokenClient, provider: ScriptedProvider, error: str, description: str, says: tuple[str, ...]
) -> None:
    flow, asked = await begun(asking, provider.upstream())
    line = await refused(flow.finish(asking, back(asked, code=None, error=error, error_description=description)))
    assert all(words in line for words in says)


async def test_an_address_without_a_code_is_refused(asking: TokenClient, provider: ScriptedProvider) -> None:
    flow, asked = await begun(asking, provider.upstream())
    for code in (None, ""):
        assert "no code" in await refused(flow.finish(asking, back(asked, code=code)))


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ((400, {"error": "invalid_grant", "error_description": "AADSTS54005: used"}), "was used before"),
        ((401, {"error": "invalid_client", "error_description": "AADSTS7000215: bad"}), "secret's value"),
        ((400, {"error": "invalid_grant"}), "sign in again"),
        ((500, {}), "try again later"),
        (None, "broke the connection"),
        ({"access_token": ""}, "no_access_token"),
        ({"access_token": "access-1", "expires_in": 3600}, "no refresh token"),
        (GRANT | {"id_token": "a.b.c"}, "not to be believed"),
    ],
)
async def test_a_bad_token_answer_is_refused_with_its_reason(
    asking: TokenClient, provider: ScriptedProvider, answer: Any, says: str
) -> None:
    flow, asked = await begun(asking, provider.upstream())
    provider.say("/token", answer)
    assert says in await refused(flow.finish(asking, back(asked)))


async def test_a_missing_refresh_token_is_explained_as_each_provider_means_it(
    asking: TokenClient, provider: ScriptedProvider
) -> None:
    for scopes, says in ((("mail",), "offline_access"), (("mail", "offline_access"), "access_type")):
        flow, asked = await begun(asking, provider.upstream(scopes=scopes))
        provider.say("/token", {"access_token": "access-1"})
        assert says in await refused(flow.finish(asking, back(asked)))


async def test_an_id_token_of_another_sign_in_is_refused(asking: TokenClient, provider: ScriptedProvider) -> None:
    flow, asked = await begun(asking, provider.upstream())
    provider.say("/token", GRANT | {"id_token": provider.id_token(nonce="another")})
    assert "not to be believed" in await refused(flow.finish(asking, back(asked)))


async def test_a_provider_without_a_sign_in_page_is_named(asking: TokenClient, provider: ScriptedProvider) -> None:
    upstream = provider.upstream(issuer=None, token_url=f"{provider.url}/token")
    assert "authorize_url" in await refused(CodeFlow.begin(asking, upstream, HERE, "ann@x.test"))
    assert "device_url" in await refused(DeviceFlow.begin(asking, upstream))
    gone = provider.upstream(issuer="http://127.0.0.1:1")
    assert "issuer" in await refused(CodeFlow.begin(asking, gone, HERE, "ann@x.test"))


# -- device code -----------------------------------------------------------------------------------------------------


def pending(error: str = "authorization_pending") -> tuple[int, dict[str, str]]:
    return 400, {"error": error, "error_description": "AADSTS70016: not yet"}


async def test_a_device_code_is_asked_about_until_it_is_answered(
    asking: TokenClient, provider: ScriptedProvider
) -> None:
    provider.say("/device", DEVICE | {"verification_uri_complete": "https://x.test/device?c=1"})
    flow = await DeviceFlow.begin(asking, provider.upstream())
    (request,) = provider.asked("/device")
    assert request.form == {"client_id": "our client", "scope": "mail offline_access openid email"}
    assert (flow.shown.user_code, flow.shown.verification_url) == ("WDJB-MJHT", "https://x.test/device")
    assert flow.shown.complete_url == "https://x.test/device?c=1"
    assert (flow.shown.expires_in_s, flow.interval_s) == (900, 3)
    provider.say("/token", pending(), pending("slow_down"), GRANT | {"id_token": provider.id_token()})
    assert await flow.poll(asking) is None
    assert flow.interval_s == 3
    assert await flow.poll(asking) is None
    assert flow.interval_s == 3 + SLOW_DOWN_S
    consent = await flow.poll(asking)
    assert consent is not None
    assert consent.identity == "ann@x.test"
    assert {request.form["device_code"] for request in provider.asked("/token")} == {"device-1"}


async def test_a_client_with_a_secret_is_named_in_the_request_for_a_device_code(
    asking: TokenClient, provider: ScriptedProvider, tmp_path: Path
) -> None:
    provider.say("/device", DEVICE)
    secret = tmp_path / "secret"
    secret.write_text("a secret")
    secret.chmod(0o600)
    await DeviceFlow.begin(asking, provider.upstream(client_secret=SecretSource("file", str(secret))))
    (request,) = provider.asked("/device")
    assert request.form == {"client_id": "our client", "scope": "mail offline_access openid email"}
    assert request.headers["authorization"].startswith("Basic ")


async def test_a_provider_that_hangs_is_asked_more_slowly(asking: TokenClient, provider: ScriptedProvider) -> None:
    provider.say("/device", DEVICE)
    flow = await DeviceFlow.begin(asking, provider.upstream())
    asking._deadline_s = 0.1
    provider.say("/token", 5.0)
    assert await flow.poll(asking) is None
    assert flow.interval_s == 6


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (pending("expired_token"), "nobody signed in in time"),
        (pending("access_denied"), "consent was refused"),
        (pending("invalid_client"), "client_id"),
        ((400, {"error": "invalid_grant", "error_description": "AADSTS7000218: secret"}), "public client flows"),
        ({"access_token": "access-1"}, "no refresh token"),
    ],
)
async def test_a_device_sign_in_that_fails_says_why(
    asking: TokenClient, provider: ScriptedProvider, answer: Any, says: str
) -> None:
    provider.say("/device", DEVICE)
    flow = await DeviceFlow.begin(asking, provider.upstream())
    provider.say("/token", answer)
    assert says in await refused(flow.poll(asking))


@pytest.mark.parametrize(
    "change",
    [
        {"device_code": None}, {"device_code": 7}, {"user_code": ""}, {"user_code": "a\nb"}, {"user_code": "x" * 999},
        {"verification_uri": "\x1b[2J"}, {"verification_uri": None},
    ],
)  # fmt: skip
async def test_a_device_answer_that_cannot_be_shown_is_refused(
    asking: TokenClient, provider: ScriptedProvider, change: dict[str, Any]
) -> None:
    provider.say("/device", DEVICE | change)
    assert "no_device_code" in await refused(DeviceFlow.begin(asking, provider.upstream()))


@pytest.mark.parametrize(("said", "waits_s"), [(None, 5), ("soon", 5), (0, 1), (1e9, 60), ("nan", 5), (-3, 1), (7, 7)])
async def test_the_pace_of_asking_stays_within_bounds(
    asking: TokenClient, provider: ScriptedProvider, said: Any, waits_s: float
) -> None:
    provider.say("/device", {**DEVICE, "interval": said})
    assert (await DeviceFlow.begin(asking, provider.upstream())).interval_s == waits_s


# -- import ----------------------------------------------------------------------------------------------------------


async def test_an_imported_token_is_kept_as_the_provider_left_it(
    asking: TokenClient, provider: ScriptedProvider
) -> None:
    consent = await imported(asking, provider.upstream(), Secret("refresh-0"))
    assert consent.refresh_token.reveal() == "refresh-1"
    provider.say("/token", {"access_token": "access-2", "expires_in": 60})
    consent = await imported(asking, provider.upstream(), Secret("refresh-0"))
    assert consent.refresh_token.reveal() == "refresh-0"
    provider.say("/token", (400, {"error": "invalid_grant", "error_description": "AADSTS70043"}))
    assert "Conditional Access" in await refused(imported(asking, provider.upstream(), Secret("refresh-0")))
