"""What surrounds the pages: addresses behind proxies, hosts, methods, floods, headers, the log."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from ipaddress import ip_network
from typing import Any

import pytest
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from proxy.config import WebConfig
from proxy.web.guard import Guard
from proxy.web.rates import REQUESTS, Rates, network_of

WEB = WebConfig("127.0.0.1", 0, "https://mail.example.com", "office")
PROXIED = replace(WEB, trusted_proxies=(ip_network("10.0.0.0/8"), ip_network("fd00::/8")))


class Asking:
    """A guard around a page that says who it thinks is there."""

    def __init__(self, web: WebConfig = WEB) -> None:
        self.rates = Rates(lambda: 0.0)
        self.guard = Guard(self.page, web, self.rates, self.plain)
        self.fails: Exception | None = None

    async def page(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.fails is not None:
            raise self.fails
        await PlainTextResponse(scope["state"]["address"])(scope, receive, send)

    async def plain(self, scope: Scope, receive: Receive, send: Send, status: int) -> None:
        await PlainTextResponse("refused", status)(scope, receive, send)

    def ask(
        self,
        *,
        peer: str = "192.0.2.7",
        method: str = "GET",
        path: str = "/",
        host: str = "mail.example.com",
        **more: Any,
    ) -> tuple[int, str, dict[str, str]]:
        headers = [(b"host", host.encode())]
        headers += [(name.replace("_", "-").encode(), value.encode()) for name, value in more.items()]
        scope = {"type": "http", "method": method, "path": path, "query_string": b"", "client": (peer, 1)}
        scope["headers"] = headers
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        async def receive() -> Any:
            return {"type": "http.request", "body": b"", "more_body": False}

        asyncio.run(self.guard(scope, receive, send))
        body = b"".join(message.get("body", b"") for message in sent[1:])
        return sent[0]["status"], body.decode(), {name.decode(): value.decode() for name, value in sent[0]["headers"]}


def test_without_proxies_nobody_is_believed_to_be_another():
    assert Asking().ask(x_forwarded_for="198.51.100.1")[:2] == (200, "192.0.2.7")


@pytest.mark.parametrize(
    ("forwarded", "address"),
    [
        ("198.51.100.1", "198.51.100.1"),
        ("203.0.113.9, 198.51.100.1", "198.51.100.1"),  # what stands in front anybody may have written
        ("198.51.100.1, 10.0.0.2", "198.51.100.1"),
        ("203.0.113.9,198.51.100.1, 10.0.0.2 ,10.1.1.1", "198.51.100.1"),
        ("2001:db8::7", "2001:db8::7"),
        ("", "10.0.0.9"),
    ],
)
def test_a_trusted_proxy_says_who_comes(forwarded: str, address: str):
    assert Asking(PROXIED).ask(peer="10.0.0.9", x_forwarded_for=forwarded)[:2] == (200, address)


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        ("::ffff:10.0.0.9", "198.51.100.1", "198.51.100.1"),
        ("::ffff:10.0.0.9", "", "10.0.0.9"),
        ("10.0.0.9", "::ffff:198.51.100.1", "198.51.100.1"),
        ("10.0.0.9", "::FFFF:C633:6401", "198.51.100.1"),
        ("10.0.0.9", "198.51.100.1, ::ffff:10.0.0.2", "198.51.100.1"),
        ("::ffff:10.0.0.9", "203.0.113.9, ::ffff:198.51.100.1, 10.0.0.2", "198.51.100.1"),
    ],
)
def test_ipv4_is_the_same_address_in_ipv6s_form(peer: str, forwarded: str, address: str):
    """Outcomes E57."""
    assert Asking(PROXIED).ask(peer=peer, x_forwarded_for=forwarded)[:2] == (200, address)


@pytest.mark.parametrize("peer", ["192.0.2.7", "::ffff:192.0.2.7", "::10.0.0.9", "2001:db8::7"])
def test_behind_proxies_nobody_else_is_answered(peer: str):
    assert Asking(PROXIED).ask(peer=peer, x_forwarded_for="10.0.0.9")[0] == 403


def test_an_ipv4_visitor_of_an_ipv6_page_is_known_by_ipv4(caplog: pytest.LogCaptureFixture):
    """Outcomes E57: the audit has what the pages are told."""
    with caplog.at_level(logging.INFO):
        assert Asking().ask(peer="::ffff:192.0.2.7")[:2] == (200, "192.0.2.7")
        assert Asking(PROXIED).ask(peer="::ffff:192.0.2.8")[0] == 403
    first, second = (record.getMessage().split() for record in caplog.records)
    assert "peer=192.0.2.7" in first
    assert "peer=192.0.2.8" in second


def test_another_hosts_name_is_refused_but_for_mail_programs():
    asking = Asking()
    assert asking.ask(host="evil.test")[0] == 421
    assert asking.ask(host="MAIL.example.com")[0] == 200
    assert asking.ask(host="autoconfig.example.com", path="/mail/config-v1.1.xml")[0] == 200


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "TRACE", "PATCH"])
def test_there_are_three_methods(method: str):
    assert Asking().ask(method=method)[0] == 405


@pytest.mark.parametrize("origin", [None, "null", "http://mail.example.com", "https://mail.example.com.evil.test"])
def test_a_post_says_that_it_comes_from_here(origin: str | None):
    headers = {} if origin is None else {"origin": origin}
    assert Asking().ask(method="POST", **headers)[0] == 403
    assert Asking().ask(method="POST", origin="https://mail.example.com")[0] == 200


def test_a_flood_from_one_network_is_its_own_trouble():
    asking = Asking()
    answers = [asking.ask(peer="2001:db8::1")[0] for _ in range(REQUESTS.burst + 1)]
    assert answers == [200] * REQUESTS.burst + [429]
    assert asking.ask(peer="2001:db8::2")[0] == 429  # the same /64
    assert asking.ask(peer="2001:db8:0:1::1")[0] == 200


def test_two_ipv4_visitors_of_an_ipv6_page_have_a_bucket_each():
    asking = Asking()
    answers = [asking.ask(peer="::ffff:192.0.2.7")[0] for _ in range(REQUESTS.burst + 1)]
    assert answers == [200] * REQUESTS.burst + [429]
    assert asking.ask(peer="::ffff:192.0.2.8")[0] == 200
    assert asking.ask(peer="192.0.2.7")[0] == 429  # the same visitor


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:DB8::7", "2001:db8::/64"),
        ("fe80::7%eth0", "fe80::/64"),
        ("unknown", "unknown"),  # what a proxy may write, RFC 7239 6
    ],
)
def test_whom_an_address_counts_for(address: str, network: str):
    assert network_of(address) == network


def test_every_answer_has_its_headers():
    for path, cached in (("/", "no-store"), ("/static/style.css", "public, max-age=3600")):
        _, _, headers = Asking().ask(path=path)
        assert headers["cache-control"] == cached
        assert "unsafe" not in headers["content-security-policy"]
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["strict-transport-security"].startswith("max-age=")
    assert Asking().ask(path="/signed-in")[2]["referrer-policy"] == "no-referrer"
    local = Asking(replace(WEB, public_url="http://127.0.0.1:80")).ask(host="127.0.0.1:80")[2]
    assert "strict-transport-security" not in local


def test_a_refusal_has_them_too():
    assert Asking().ask(method="POST")[2]["cache-control"] == "no-store"


def test_a_crash_is_one_answer_and_its_text_is_not_logged(caplog: pytest.LogCaptureFixture):
    asking = Asking()
    asking.fails = ValueError("the secret of somebody")
    with caplog.at_level(logging.DEBUG):
        status, body, _ = asking.ask()
    assert (status, body) == (500, "refused")
    assert "the secret of somebody" not in caplog.text
    assert "event=web_crashed" in caplog.text
    assert "error=ValueError" in caplog.text
    assert "test_guard.py:" in caplog.text


def test_the_log_has_the_path_and_never_the_query(caplog: pytest.LogCaptureFixture):
    asking = Asking()
    with caplog.at_level(logging.INFO):
        asking.ask(path="/signed-in" + "x" * 1000)
    (record,) = caplog.records
    assert record.getMessage().startswith("event=web method=GET path=/signed-inxxx")
    assert len(record.getMessage()) < 300
