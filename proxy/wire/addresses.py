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


# As wide as one customer's line or one site usually is: a phone that gets a new address every night stays in it.
NEIGHBOURHOOD = {4: 24, 6: 48}


def neighbourhood(address: str) -> str:
    """The network that an address is told apart by in the audit and its alerts: an IPv4 /24, an IPv6 /48."""
    normal = normal_address(address)
    return str(ipaddress.ip_network((normal, NEIGHBOURHOOD[normal.version]), strict=False))
