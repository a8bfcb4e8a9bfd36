"""IP addresses in the one form that rules compare."""

from __future__ import annotations

import ipaddress

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def normal_address(text: str) -> Address:
    """An address as rules compare it: IPv4-mapped IPv6 is IPv4 (RFC 4291 2.5.5.2), no zone. Raises ValueError."""
    address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address
