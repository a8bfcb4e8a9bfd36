"""How often one network or one person may do something: a bucket for each, in memory, of this process alone."""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from proxy.wire.addresses import normal_address

MAX_KEYS = 20_000  # buckets kept; the one that was asked longest ago goes first


@dataclass(frozen=True, slots=True)
class Rate:
    """`burst` at once, and then so many in `per_s` seconds."""

    name: str
    burst: int
    per_s: float


# An office may sit behind one address; a page is two or three requests.
REQUESTS = Rate("requests", 300, 60.0)
SIGN_INS = Rate("sign_ins", 120, 600.0)  # its beginning and its end count each
# Of one person: making and connecting cost a hash, or logins at the mail server.
CHANGES = Rate("changes", 30, 600.0)


class Rates:
    """Token buckets by rate and key."""

    def __init__(self, clock: Callable[[], float], max_keys: int = MAX_KEYS) -> None:
        self._clock = clock
        self._max_keys = max_keys
        self._buckets: OrderedDict[tuple[str, str], tuple[float, float]] = OrderedDict()  # tokens left, when

    def take(self, rate: Rate, key: str) -> bool:
        """Whether it may happen now; if so it is counted."""
        now = self._clock()
        left, then = self._buckets.get((rate.name, key), (float(rate.burst), now))
        left = min(float(rate.burst), left + (now - then) * rate.burst / rate.per_s)
        is_let = left >= 1.0
        self._buckets[rate.name, key] = left - is_let, now
        self._buckets.move_to_end((rate.name, key))
        if len(self._buckets) > self._max_keys:
            self._buckets.popitem(last=False)
        return is_let


def network_of(address: str) -> str:
    """Whom an address counts for: itself, or its /64, which one household or host has."""
    try:
        found = normal_address(address)
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((found, 64), strict=False))
    return str(found)
