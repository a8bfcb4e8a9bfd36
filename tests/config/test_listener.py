"""proxy/config/listener.py: load balancers and old devices; the other keys' tests are test_reader.py's."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path

import pytest

from proxy.config import TLS_VERSIONS, ListenConfig
from proxy.config.reader import load
from proxy.errors import ConfigError

TEXT = """
[tls]
certificate = "cert.pem"
key = "key.pem"
[upstream.one]
imap = "imaps://mail.example.com"
auth = "password"
[[listen]]
protocol = "imap"
address = "0.0.0.0:993"
tls = "{}"
{}
"""


def read(folder: Path, keys: str, tls: str = "implicit") -> ListenConfig:
    file = folder / "gatepost.toml"
    file.write_text(TEXT.format(tls, keys), encoding="utf-8")
    return load(file).listeners[0]


def refusal(folder: Path, keys: str, tls: str = "implicit") -> str:
    with pytest.raises(ConfigError) as caught:
        read(folder, keys, tls)
    assert str(folder / "gatepost.toml") in caught.value.problem
    assert "[[listen]] #1 " in caught.value.problem
    assert caught.value.remedy
    return str(caught.value)


def test_nobody_sends_headers_unless_named(tmp_path: Path) -> None:
    assert read(tmp_path, "").proxy_protocol_from == ()
    assert read(tmp_path, "proxy_protocol_from = []").proxy_protocol_from == ()


def test_load_balancers_are_networks_in_their_one_form(tmp_path: Path) -> None:
    found = read(
        tmp_path, 'proxy_protocol_from = ["10.0.0.0/8", "::FFFF:10.0.0.0/104", "192.0.2.7", "2001:DB8:0::/32"]'
    ).proxy_protocol_from
    assert found == (ip_network("10.0.0.0/8"), ip_network("192.0.2.7/32"), ip_network("2001:db8::/32"))


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ('["10.0.0.1/8"]', ('"10.0.0.1/8" has bits behind its prefix', "did you mean 10.0.0.0/8?")),
        ('["balancer.example"]', ('"balancer.example" is no network', "192.0.2.0/24")),
        ('["fe80::1%eth0"]', ("is no network",)),
        ('["10.0.0.0/33"]', ("is no network",)),
        ('["10.0.0.0/8", "10.0.0.0/8"]', ("twice",)),
        ('"10.0.0.0/8"', ("is a string", "list")),
        ("[10]", ("no string",)),
        ("true", ("true or false", "list")),
    ],
)
def test_what_is_no_list_of_networks_is_refused(tmp_path: Path, value: str, words: tuple[str, ...]) -> None:
    line = refusal(tmp_path, f"proxy_protocol_from = {value}")
    assert "proxy_protocol_from: " in line
    for each in words:
        assert each in line


def test_minimum_tls_is_that_of_all_unless_the_listener_has_its_own(tmp_path: Path) -> None:
    assert read(tmp_path, "").minimum_tls is None
    for version in TLS_VERSIONS:
        assert read(tmp_path, f'minimum_tls = "{version}"').minimum_tls == version
        assert read(tmp_path, f'minimum_tls = "{version}"', "starttls").minimum_tls == version


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ('"SSLv3"', '"SSLv3" is not known; use "1.0", "1.1", "1.2" or "1.3"'),
        ("1.0", "is a fraction; write a string in quotes"),
    ],
)
def test_another_minimum_tls_is_refused(tmp_path: Path, value: str, words: str) -> None:
    assert words in refusal(tmp_path, f"minimum_tls = {value}")


def test_minimum_tls_without_tls_is_refused(tmp_path: Path) -> None:
    assert "minimum_tls: is not used" in refusal(tmp_path, 'insecure = true\nminimum_tls = "1.0"', "none")
