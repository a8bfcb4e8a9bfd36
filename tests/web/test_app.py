"""The page in this process: what goes wrong around it, how it starts and ends, and what the wheel must hold."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from ipaddress import ip_network
from pathlib import Path

import httpx2
import pytest

from proxy.config import Config
from proxy.config.reader import load
from proxy.edge.tls import client_context
from proxy.errors import ConfigError, OperatorError
from proxy.oauth.client import TokenClient
from proxy.store.pool import StorePool
from proxy.store.store import Store
from proxy.web import serve
from proxy.web.app import application
from proxy.web.house import House
from proxy.web.rates import SIGN_INS
from tests.edge.scripted import PATIENCE_S

URL = "http://127.0.0.1:8080"
CONFIG = f"""\
[store]
url = "sqlite:///gatepost.db"
[[listen]]
protocol = "imap"
address = "127.0.0.1:1143"
tls = "none"
[upstream.one]
imap = "imaps://mail.example.com"
[upstream.one.oauth2]
client_id = "id"
issuer = "http://127.0.0.1:1"
[web]
address = "127.0.0.1:0"
public_url = "{URL}"
"""


@pytest.fixture
def config(tmp_path: Path) -> Config:
    file = tmp_path / "gatepost.toml"
    file.write_text(CONFIG)
    return load(file)


@pytest.fixture
def store(config: Config) -> Iterator[Store]:
    store = Store.create(config.store.url)
    yield store
    store.close()


@pytest.fixture
async def house(config: Config, store: Store) -> AsyncIterator[House]:
    assert config.web is not None
    pool, client = StorePool(store), TokenClient(client_context)
    yield serve.build(config, config.web, pool, client)
    await client.close()
    pool.close()


@pytest.fixture
async def http(house: House) -> AsyncIterator[httpx2.AsyncClient]:
    transport = httpx2.ASGITransport(application(house), client=("192.0.2.7", 1))
    async with httpx2.AsyncClient(transport=transport, base_url=URL) as client:
        yield client


async def test_a_store_that_is_down_is_a_page_that_says_so(http: httpx2.AsyncClient, store: Store) -> None:
    http.cookies.set("gatepost", "x" * 43)
    assert (await http.get("/")).status_code == 200
    store.close()
    answer = await http.get("/")
    assert answer.status_code == 503
    assert "Gatepost cannot reach its store" in answer.text
    assert answer.headers["cache-control"] == "no-store"


async def test_a_provider_that_is_down_is_a_page_that_says_so(http: httpx2.AsyncClient) -> None:
    answer = await http.get("/sign-in")
    assert answer.status_code == 502
    assert "The sign-in did not work" in answer.text
    assert "gatepost-browser" not in answer.headers.get("set-cookie", "")


async def test_sign_ins_from_one_network_are_bounded(http: httpx2.AsyncClient) -> None:
    answers = [(await http.get("/sign-in")).status_code for _ in range(SIGN_INS.burst + 1)]
    assert answers == [502] * SIGN_INS.burst + [429]
    assert (await http.get("/")).status_code == 200


@pytest.mark.parametrize("why", ["over", "no_mfa", "whatever", "", "<script>"])
async def test_why_a_sign_in_failed_is_one_of_our_own_words(http: httpx2.AsyncClient, why: str) -> None:
    answer = await http.get("/sign-in-failed", params={"why": why})
    assert answer.status_code == 403
    assert "<script>" not in answer.text.replace("<script src=", "")


async def test_a_note_is_one_of_our_own_words(http: httpx2.AsyncClient) -> None:
    answer = await http.get("/", params={"note": "Call 555 at once"})
    assert "555" not in answer.text
    assert "signed out on all your devices" in (await http.get("/", params={"note": "signed_out"})).text


@pytest.mark.parametrize("name", ["style.css", "page.js", "icon.svg"])
async def test_what_pages_need_is_there_and_may_be_kept(http: httpx2.AsyncClient, name: str) -> None:
    answer = await http.get(f"/static/{name}")
    assert (answer.status_code, answer.headers["cache-control"]) == (200, "public, max-age=3600")


async def test_nothing_else_is_served_from_there(http: httpx2.AsyncClient) -> None:
    for path in ("/static/", "/static/../serve.py", "/static/%2e%2e/serve.py", "/static//etc/passwd", "/nowhere"):
        assert (await http.get(path)).status_code in (404, 405), path


async def test_it_speaks_the_readers_language(http: httpx2.AsyncClient) -> None:
    german = (await http.get("/", headers={"accept-language": "de-AT,de;q=0.9"})).text
    assert '<html lang="de">' in german
    assert "Für jedes Mailprogramm ein Passwort" in german
    assert '<html lang="en">' in (await http.get("/")).text


async def test_a_session_ends_by_itself(house: House, http: httpx2.AsyncClient) -> None:
    assert house.now() <= datetime.now(UTC)
    http.cookies.set("gatepost", "y" * 43)
    assert (await http.get("/mailbox/1")).headers["location"] == "/"


def test_without_web_there_is_nothing_to_run(config: Config, tmp_path: Path) -> None:
    (tmp_path / "gatepost.toml").write_text(CONFIG.partition("[web]")[0])
    with pytest.raises(ConfigError, match=r"has no \[web\]"):
        serve.run(tmp_path / "gatepost.toml")


def test_an_address_that_is_taken_is_said(config: Config) -> None:
    assert config.web is not None
    with serve.bound(config.web) as sock:
        port = sock.getsockname()[1]
        taken = CONFIG.replace("127.0.0.1:0", f"127.0.0.1:{port}")
        config.path.write_text(taken)
        again = load(config.path).web
        assert again is not None
        with pytest.raises(OperatorError, match="cannot listen"), serve.bound(again):
            pass


async def test_a_head_that_does_not_come_is_not_waited_for_for_ever(
    house: House, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve, "HEAD_S", 0.05)
    assert config.web is not None
    with serve.bound(config.web) as sock:
        server = serve._Server(serve._uvicorn(house, None))
        running = asyncio.create_task(server.serve(sockets=[sock]))
        client = socket.create_connection(sock.getsockname(), timeout=PATIENCE_S)
        with client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: ")
            assert await asyncio.to_thread(client.recv, 100) == b""
        with socket.create_connection(sock.getsockname(), timeout=PATIENCE_S) as client:
            client.sendall(b"HEAD /nowhere HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n\r\n")
            head = b""
            while b"\r\n\r\n" not in head:
                head += await asyncio.to_thread(client.recv, 4_096)
            assert head.startswith(b"HTTP/1.1 404 ")
            client.sendall(b"GET / HTTP/1.1\r\nHost: ")  # the second on the same connection
            assert await asyncio.to_thread(client.recv, 100) == b""
        server.stop()
        await running


@pytest.mark.parametrize(
    ("forwarded", "visitor"), [("", "127.0.0.1"), ("X-Forwarded-For: ::ffff:192.0.2.7\r\n", "192.0.2.7")]
)
async def test_an_ipv4_proxy_of_a_page_on_ipv6_is_trusted_by_its_ipv4_network(
    house: House, caplog: pytest.LogCaptureFixture, forwarded: str, visitor: str
) -> None:
    """Outcomes E57, over a real socket: it comes as ::ffff:127.0.0.1."""
    web = replace(house.web, host="::", trusted_proxies=(ip_network("127.0.0.0/8"),))
    caplog.set_level(logging.INFO, "gatepost.web")
    with serve.bound(web) as sock:
        server = serve._Server(serve._uvicorn(replace(house, web=web), None))
        running = asyncio.create_task(server.serve(sockets=[sock]))
        with socket.create_connection(("127.0.0.1", sock.getsockname()[1]), timeout=PATIENCE_S) as client:
            client.sendall(f"HEAD / HTTP/1.1\r\nHost: 127.0.0.1\r\n{forwarded}\r\n".encode())
            assert (await asyncio.to_thread(client.recv, 4_096)).startswith(b"HTTP/1.1 200 ")
        server.stop()
        await running
    assert f"status=200 peer={visitor} " in caplog.text
