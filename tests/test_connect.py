"""Sign-ins and their proof against the lab: real pages, real tokens, real mail servers; the person is plain HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2
import pytest
from joserfc.jwk import ECKey

from proxy.config import OAuth2Config, UpstreamConfig
from proxy.config.reader import load
from proxy.connecting import connect
from proxy.connecting.connect import Connected, begin_paste, by_browser, by_device, by_token, finish_paste
from proxy.errors import ConsentError, OperatorError
from proxy.oauth.answers import DeviceCode
from proxy.secret import Secret, SecretSource
from proxy.store.rows import Account, AccountState, TokenState
from tests.connecting import prepare, sign_in, visit
from tests.lab import Lab
from tests.lab.person import typed_by, walk
from tests.lab.talk import ANN, BOB, TIMEOUT_S

LOOPBACK = "http://127.0.0.1/"


@pytest.fixture(scope="module")
def upstream(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> UpstreamConfig:
    lab.idp.allow_redirect(LOOPBACK)
    return load(prepare(lab, tmp_path_factory.mktemp("connect") / "gate").config).upstreams["lab"]


def account(email: str = ANN, user: str | None = None) -> Account:
    now = datetime.now(UTC)
    return Account(1, email, "lab", user or email, AccountState.ACTIVE, False, TokenState.NONE, now, "", now, "test")


def changed(upstream: UpstreamConfig, **values: Any) -> UpstreamConfig:
    assert upstream.oauth2 is not None
    return replace(upstream, name=f"lab {sorted(values)}", oauth2=replace(upstream.oauth2, **values))


async def browsed(
    lab: Lab, upstream: UpstreamConfig, mailbox: Account, as_user: str
) -> tuple[Connected | OperatorError, httpx2.Response]:
    """A sign-in in a browser: what came of it, and the page that the browser ended at."""
    pages: list[asyncio.Task[httpx2.Response]] = []

    def tell(url: str) -> None:
        pages.append(asyncio.create_task(asyncio.to_thread(lambda: visit(sign_in(lab, url, as_user)))))

    outcome: Connected | OperatorError
    try:
        outcome = await by_browser(upstream, mailbox, tell, wait_s=20)
    except OperatorError as error:
        outcome = error
    return outcome, await pages[0]


async def test_a_sign_in_opens_the_mailbox_by_every_protocol(lab: Lab, upstream: UpstreamConfig) -> None:
    connected, page = await browsed(lab, upstream, account(), ANN)
    assert isinstance(connected, Connected)
    assert (connected.identity, connected.opened, connected.refused) == (ANN, ("imap", "smtp"), ())
    assert not connected.is_shared(account())
    assert page.status_code == 200
    assert f"{ANN} is connected" in page.text
    again = await by_token(upstream, account(), connected.refresh_token)
    assert again.refresh_token.reveal() != connected.refresh_token.reveal()  # the lab rotates


async def test_the_wrong_account_is_refused_by_name(lab: Lab, upstream: UpstreamConfig) -> None:
    error, page = await browsed(lab, upstream, account(ANN), BOB)
    assert isinstance(error, ConsentError)
    assert f"signed in as {BOB}, which does not open {ANN}" in str(error)
    assert page.status_code == 400
    assert "Nothing was stored" in page.text


async def test_a_member_opens_a_shared_mailbox(lab: Lab, upstream: UpstreamConfig) -> None:
    lab.idp.set_delegates({BOB: "cy@example.test"})
    try:
        connected, _ = await browsed(lab, upstream, account("cy@example.test"), BOB)
    finally:
        lab.idp.set_delegates({})
    assert isinstance(connected, Connected)
    assert connected.identity == BOB
    assert connected.is_shared(account("cy@example.test"))


async def test_the_mailbox_is_what_the_upstream_calls_it(lab: Lab, upstream: UpstreamConfig) -> None:
    connected, _ = await browsed(lab, upstream, account("alias@gate.test", user=ANN), ANN)
    assert isinstance(connected, Connected)
    assert not connected.is_shared(account("alias@gate.test", user=ANN))


async def test_a_client_without_refresh_tokens_is_told_what_lacks(
    lab: Lab, upstream: UpstreamConfig, tmp_path: Path
) -> None:
    key = ECKey.generate_key("P-256")
    (tmp_path / "key.pem").write_bytes(key.as_pem(private=True))
    lab.idp.add_signed_client("short-lived", key.as_dict(private=False), refresh_tokens=False)
    signed = changed(
        upstream,
        client_id="short-lived",
        client_secret=None,
        client_key=SecretSource("file", str(tmp_path / "key.pem")),
    )
    error, _ = await browsed(lab, signed, account(), ANN)
    assert isinstance(error, ConsentError)
    assert "no refresh token" in str(error)


async def test_nobody_coming_back_ends_in_time(upstream: UpstreamConfig) -> None:
    with pytest.raises(ConsentError, match="register http://127"):
        await by_browser(upstream, account(), lambda _: None, wait_s=0.05)


async def test_a_mail_server_that_is_away_is_noticed_before_anybody_signs_in(upstream: UpstreamConfig) -> None:
    assert upstream.imap is not None
    gone = replace(upstream, name="gone", imap=replace(upstream.imap, port=1))
    told: list[Any] = []
    ways: list[Callable[[], Any]] = [
        lambda: by_browser(gone, account(), told.append),
        lambda: begin_paste(gone, account()),
        lambda: by_device(gone, account(), told.append),
        lambda: by_token(gone, account(), Secret("a token that must not be spent")),
    ]
    for way in ways:
        with pytest.raises(OperatorError, match="imap server does not answer"):
            await way()
    assert told == []


async def test_one_protocol_is_proof_and_the_other_is_told_of(lab: Lab, upstream: UpstreamConfig) -> None:
    assert upstream.smtp is not None
    half = replace(upstream, name="half", smtp=replace(upstream.smtp, port=1))
    connected = await by_token(half, account(), Secret(lab.refresh_token(ANN)))
    assert connected.opened == ("imap",)
    assert [protocol for protocol, _ in connected.refused] == ["smtp"]


# -- pasted ----------------------------------------------------------------------------------------------------------


async def test_a_pasted_address_connects(lab: Lab, upstream: UpstreamConfig) -> None:
    flow = await begin_paste(upstream, account())
    assert flow.redirect_url == LOOPBACK
    address = await asyncio.to_thread(sign_in, lab, flow.url, ANN)
    connected = await finish_paste(flow, account(), f"  {address}\n")
    assert connected.identity == ANN
    with pytest.raises(ConsentError, match="sign in again"):  # a code is good for once
        await finish_paste(flow, account(), address)


async def test_a_pasted_address_of_another_sign_in_is_refused(lab: Lab, upstream: UpstreamConfig) -> None:
    first, second = await begin_paste(upstream, account()), await begin_paste(upstream, account())
    address = await asyncio.to_thread(sign_in, lab, first.url, ANN)
    with pytest.raises(ConsentError, match="another sign-in"):
        await finish_paste(second, account(), address)


# -- device ----------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def typing(lab: Lab, user: str, **typed: str) -> AsyncIterator[tuple[Callable[[DeviceCode], None], list[Any]]]:
    """A person who opens the device page and types the code; `done` holds the last page."""
    tasks: list[asyncio.Task[None]] = []
    done: list[Any] = []

    def go(shown: DeviceCode) -> None:
        with httpx2.Client(timeout=TIMEOUT_S, trust_env=False) as http:
            fields = {"user_code": shown.user_code, **typed_by(lab, user), **typed}
            done.append(walk(http, lab, shown.verification_url, fields).text)

    def tell(shown: DeviceCode) -> None:
        tasks.append(asyncio.create_task(asyncio.to_thread(go, shown)))

    yield tell, done
    await asyncio.gather(*tasks)


async def test_a_device_sign_in_connects(lab: Lab, upstream: UpstreamConfig) -> None:
    async with typing(lab, ANN) as (tell, done):
        connected = await by_device(upstream, account(), tell)
    assert "You are signed in" in done[0]
    assert connected.opened == ("imap", "smtp")
    assert connected.identity == ANN


async def test_a_device_sign_in_of_the_wrong_account_is_refused(lab: Lab, upstream: UpstreamConfig) -> None:
    with pytest.raises(ConsentError, match=f"signed in as {BOB}"):
        async with typing(lab, BOB) as (tell, _):
            await by_device(upstream, account(ANN), tell)


async def test_a_device_code_that_nobody_types_ends(upstream: UpstreamConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connect, "MAX_DEVICE_S", 4.5)
    paces: list[float] = []

    async def pass_s(seconds: float) -> None:
        paces.append(seconds)

    with pytest.raises(ConsentError, match="before the code ended"):
        await by_device(upstream, account(), lambda _: None, sleep=pass_s)
    assert paces == [1.0, 1.0, 1.0, 1.0, 0.5]


# -- imported --------------------------------------------------------------------------------------------------------


async def test_an_imported_token_of_another_account_is_refused(lab: Lab, upstream: UpstreamConfig) -> None:
    with pytest.raises(ConsentError, match=f"does not open {ANN}"):
        await by_token(upstream, account(ANN), Secret(lab.refresh_token(BOB)))


async def test_an_imported_token_that_is_none_is_refused(upstream: UpstreamConfig) -> None:
    with pytest.raises(ConsentError, match="invalid_grant") as caught:
        await by_token(upstream, account(), Secret("a-token-that-never-was"))
    assert "never-was" not in str(caught.value)


async def test_an_upstream_without_discovery_knows_no_name_and_works(lab: Lab, upstream: UpstreamConfig) -> None:
    assert upstream.oauth2 is not None
    bare = replace(
        upstream,
        name="bare",
        oauth2=OAuth2Config(
            upstream.oauth2.client_id, lab.idp.token_url, upstream.oauth2.client_secret, scopes=("mail",)
        ),
    )
    connected = await by_token(bare, account(), Secret(lab.refresh_token(ANN)))
    assert (connected.identity, connected.is_shared(account())) == ("", False)
    with pytest.raises(ConsentError, match="somebody signed in, which does not open"):
        await by_token(bare, account(ANN), Secret(lab.refresh_token(BOB)))
