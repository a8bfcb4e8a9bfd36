from __future__ import annotations

from ipaddress import ip_address

import pytest

from proxy.wire.addresses import normal_address


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("::FFFF:c000:201", "192.0.2.1"),
        ("2001:DB8::1", "2001:db8::1"),
        ("fe80::1%eth0", "fe80::1"),
        ("::ffff:192.0.2.1%eth0", "192.0.2.1"),
        ("::192.0.2.1", "::c000:201"),  # "IPv4-compatible" is an IPv6 address, and not the same host
    ],
)
def test_an_address_has_one_form(text: str, normal: str) -> None:
    assert normal_address(text) == ip_address(normal)
    assert str(normal_address(str(normal_address(text)))) == str(normal_address(text))


@pytest.mark.parametrize(
    "text", ["", "localhost", "192.0.2.1:25", "192.0.2", "192.0.2.01", "[::1]", "%eth0", "192.0.2.1\n"]
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        normal_address(text)
