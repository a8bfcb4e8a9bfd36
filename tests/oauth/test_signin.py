"""A sign-in at the web page: its state, nonce and verifier belong to one browser, and an answer must bear them."""

from __future__ import annotations

import time
from dataclasses import replace
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest

from proxy.config import WebConfig
from proxy.errors import ConsentError
from proxy.oauth.client import TokenClient
from proxy.oauth.signin import TICKET_S, Ticket, finish, sign_in_url
from proxy.secret import Secret
from tests.oauth.scripted_provider import GRANT, ScriptedProvider

WEB = WebConfig("127.0.0.1", 0, "https://mail.example.com", "mail", acr=("urn:mfa",))
OURS, THEIRS = Secret("our browser"), Secret("their browser")


def ticket() -> Ticket:
    return Ticket("new", 17, int(time.time()))


async def asked(client: TokenClient, provider: ScriptedProvider, one: Ticket, *, is_fresh: bool = False, **web: object):
    provider.say("/.well-known/openid-configuration", provider.document)
    url = await sign_in_url(
        client, provider.upstream(), replace(WEB, **web), one, OURS, is_fresh=is_fresh, hint="ann@x.test"
    )
    return {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}


async def test_a_state_is_read_by_its_own_browser_for_a_while(asking: TokenClient, provider: ScriptedProvider):
    one = ticket()
    state = (await asked(asking, provider, one))["state"]
    assert Ticket.read(state, OURS, time.time()) == one
    assert Ticket.read(state, THEIRS, time.time()) is None
    assert Ticket.read(state, OURS, one.begun_s + TICKET_S) == one
    assert Ticket.read(state, OURS, one.begun_s + TICKET_S + 1) is None
    assert Ticket.read(state, OURS, one.begun_s - 1) is None
    for position in range(len(state)):
        changed = state[:position] + ("x" if state[position] != "x" else "y") + state[position + 1 :]
        assert Ticket.read(changed, OURS, time.time()) is None
    for wrong in ("", ".", "x", state + "x", "\u00e9", "x" * 100_000):
        assert Ticket.read(wrong, OURS, time.time()) is None


async def test_what_is_asked_for(asking: TokenClient, provider: ScriptedProvider):
    query = await asked(asking, provider, ticket())
    assert query["redirect_uri"] == "https://mail.example.com/signed-in"
    assert query["code_challenge_method"] == "S256"
    assert (query["max_age"], query["acr_values"], query["login_hint"]) == ("900", "urn:mfa", "ann@x.test")
    assert len({query["state"], query["nonce"], query["code_challenge"]}) == 3
    assert (await asked(asking, provider, ticket(), is_fresh=True))["max_age"] == "0"
    entra = await asked(asking, provider, ticket(), is_fresh=True, is_entra=True)
    assert entra["prompt"] == "login"


async def end(client: TokenClient, provider: ScriptedProvider, one: Ticket, query: dict[str, str], **claims: object):
    answer = {**GRANT}
    if claims:
        answer["id_token"] = provider.id_token(**claims)
    provider.say("/token", answer)
    came_back = urlencode({"state": query["state"], "code": "c"})
    return await finish(client, provider.upstream(), WEB, one, OURS, query=came_back)


async def test_the_claims_of_a_believable_token_come_back(asking: TokenClient, provider: ScriptedProvider):
    one = ticket()
    query = await asked(asking, provider, one)
    came = await end(asking, provider, one, query, nonce=query["nonce"], sub="ann-1")
    assert came.claims["sub"] == "ann-1"
    assert came.refresh_token is not None


@pytest.mark.parametrize("nonce", [None, "", "another"])
async def test_an_id_token_without_our_nonce_is_not_believed(
    asking: TokenClient, provider: ScriptedProvider, nonce: str | None
):
    one = ticket()
    query = await asked(asking, provider, one)
    with pytest.raises(ConsentError, match="not to be believed"):
        await end(asking, provider, one, query, **({"without": "nonce"} if nonce is None else {"nonce": nonce}))


async def test_the_nonce_of_another_sign_in_of_the_same_browser_is_another(
    asking: TokenClient, provider: ScriptedProvider
):
    one, other = ticket(), ticket()
    query, theirs = await asked(asking, provider, one), await asked(asking, provider, other)
    assert theirs["nonce"] != query["nonce"]
    with pytest.raises(ConsentError, match="not to be believed"):
        await end(asking, provider, one, query, nonce=theirs["nonce"])


async def test_without_an_id_token_nobody_signed_in(asking: TokenClient, provider: ScriptedProvider):
    one = ticket()
    query = await asked(asking, provider, one)
    with pytest.raises(ConsentError, match="did not tell who signed in"):
        await end(asking, provider, one, query)
