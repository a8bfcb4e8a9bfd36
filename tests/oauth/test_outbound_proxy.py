"""Providers are reached through an outbound proxy where the usual variables name one."""

from __future__ import annotations

import asyncio
import ssl

import pytest

from proxy.config import OAuth2Config, UpstreamConfig
from proxy.errors import ProviderError, ProviderFault
from proxy.oauth.exchange import Exchange

NO_WAY = b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n"
UPSTREAM = UpstreamConfig("mail", oauth2=OAuth2Config("id", "https://idp.test/token"))
VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


async def asked_of_the_proxy(monkeypatch: pytest.MonkeyPatch, variable: str, url: str, no_proxy: str = "") -> list[str]:
    """The first lines of the requests that a proxy named by the variable got."""
    heard: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")[0].decode()
        heard.append(line)
        writer.write(NO_WAY)
        await writer.drain()
        writer.close()

    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    monkeypatch.setenv(variable, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    monkeypatch.setenv("no_proxy", no_proxy)
    exchange = Exchange(lambda _: ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), idle_s=2)
    async with server:
        try:
            with pytest.raises(ProviderError) as caught:  # nobody is behind the proxy
                await exchange.get(UPSTREAM, url)
        finally:
            await exchange.close()
    assert caught.value.fault is ProviderFault.DOWN
    return heard


@pytest.mark.parametrize("variable", ["https_proxy", "HTTPS_PROXY", "all_proxy"])
async def test_an_endpoint_is_asked_through_the_proxy_and_tls_ends_behind_it(monkeypatch, variable) -> None:
    assert await asked_of_the_proxy(monkeypatch, variable, "https://idp.test/token") == [
        "CONNECT idp.test:443 HTTP/1.1"
    ]


async def test_what_no_proxy_names_is_asked_without(monkeypatch) -> None:
    assert await asked_of_the_proxy(monkeypatch, "https_proxy", "https://127.0.0.1:1/token", "127.0.0.1") == []


@pytest.mark.parametrize("variable", ["http_proxy", "HTTP_PROXY", "all_proxy"])
async def test_an_endpoint_in_clear_text_is_never_asked_through_a_proxy(monkeypatch, variable) -> None:
    """Such endpoints are on loopback only: a token sent to them must not leave the machine, in clear at that."""
    assert await asked_of_the_proxy(monkeypatch, variable, "http://127.0.0.1:1/token") == []
