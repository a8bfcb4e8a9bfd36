"""Who guesses too much: counts distinct wrong secrets per network, so that guessing is slow and owners stay in.

Never counted by login name alone: a stranger could lock the owner out. One stuck phone that repeats one wrong
password counts once. Knows no passwords, only fingerprints of them.
"""

from __future__ import annotations

import ipaddress
from array import array
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Protocol

MAX_KEYS = 100_000  # networks and (network, login) pairs remembered; the least recently seen go first
MAX_FINGERPRINTS = 500_000  # over all keys
MAX_UNINDEXED = 500  # that one key may have; few have more, by a configuration with much room
DIGEST_BYTES = 8  # of a fingerprint: keyed, so nobody can look for two that are alike
REGULARS_FACTOR = 10  # a network with a recent success has this much more room: an office behind one address
WIDE_FACTOR = 4  # an IPv6 /48 may hold this many times what one of its /64 may
RECENT_S = 30 * 86_400.0  # a success stays recent for this long


class _Seen:
    """What one key has met: digests in the order of their first sight, and when that was. Small: there are many."""

    __slots__ = ("_digests", "_index", "_times")

    def __init__(self) -> None:
        self._digests = bytearray()
        self._times = array("d")
        self._index: set[bytes] | None = None  # the same once more, where there are many to look through

    def __len__(self) -> int:
        return len(self._times)

    def __contains__(self, digest: bytes) -> bool:
        if self._index is not None:
            return digest in self._index
        at = self._digests.find(digest)
        while at % DIGEST_BYTES and at >= 0:  # the end of one and the beginning of the next
            at = self._digests.find(digest, at + 1)
        return at >= 0

    def add(self, digest: bytes, now: float) -> None:
        self._digests += digest
        self._times.append(now)
        if self._index is not None:
            self._index.add(digest)
        elif len(self) > MAX_UNINDEXED:
            self._index = set(self._slices(len(self)))

    def drop_until(self, since: float) -> int:
        """Forget what is as old as that. Returns how many those were."""
        count = bisect_right(self._times, since)
        if count:
            if self._index is not None:
                self._index.difference_update(self._slices(count))
            del self._digests[: count * DIGEST_BYTES], self._times[:count]
        return count

    def _slices(self, count: int) -> Iterator[bytes]:
        return (bytes(self._digests[at : at + DIGEST_BYTES]) for at in range(0, count * DIGEST_BYTES, DIGEST_BYTES))


class _Counts:
    """For each key the distinct fingerprints with the time each was first seen, bounded as a whole."""

    def __init__(self) -> None:
        self._seen: OrderedDict[str, _Seen] = OrderedDict()
        self._total = 0

    def count(self, key: str, since: float) -> int:
        """How many were seen after `since`; older ones are dropped."""
        seen = self._seen.get(key)
        if seen is None:
            return 0
        self._total -= seen.drop_until(since)
        return len(seen)

    def add(self, key: str, fingerprint: bytes, now: float, *, since: float, room: int) -> bool:
        """Count a fingerprint, if there is room for one more. Returns whether it was not counted already."""
        digest = fingerprint[:DIGEST_BYTES]
        count = self.count(key, since)
        seen = self._seen.get(key)
        if seen is None:
            seen = self._seen[key] = _Seen()
        self._seen.move_to_end(key)
        if digest in seen:
            return False
        if count < room:
            seen.add(digest, now)
            self._total += 1
        while len(self._seen) > MAX_KEYS or self._total > MAX_FINGERPRINTS:
            self._total -= len(self._seen.popitem(last=False)[1])
        return True


class Others(Protocol):
    """Who counts the same: told of all that is new here; what they find out comes by hear_wrong and hear_success."""

    def tell_wrong(self, address: str, login: str, fingerprint: bytes) -> None: ...

    def tell_success(self, address: str, login: str) -> None: ...


class Throttle:
    """Counters over a sliding window, in memory. `clock` is monotonic seconds."""

    def __init__(
        self,
        *,
        wrong: int,
        wrong_network: int,
        window_s: float,
        clock: Callable[[], float],
        others: Others | None = None,
    ) -> None:
        """How much room there is.

        wrong           distinct wrong secrets in the window from one network for one login name
        wrong_network   the same from one network for all login names together
        others          the node's other workers: a guesser's connections land on all of them
        """
        self._others = others
        self._wrong = wrong
        self._wrong_network = wrong_network
        self._window_s = window_s
        self._clock = clock
        self._counts = _Counts()
        self._successes: OrderedDict[str, float] = OrderedDict()

    def is_blocked(self, address: str, login: str) -> bool:
        """Whether an attempt is refused unread. The right password is, too: otherwise the answer would tell."""
        since = self._clock() - self._window_s
        return any(self._counts.count(key, since) >= room for key, room in self._keys(address, login))

    def record_wrong(self, address: str, login: str, fingerprint: bytes) -> bool:
        """Count a wrong secret. Returns whether it is new within the window (worth a line in the log)."""
        added = self._count(address, login, fingerprint)
        if any(added) and self._others is not None:
            self._others.tell_wrong(address, login, fingerprint)
        return added[0]

    def record_success(self, address: str, login: str) -> None:
        self.hear_success(address, login)
        if self._others is not None:
            self._others.tell_success(address, login)

    def hear_wrong(self, address: str, login: str, fingerprint: bytes) -> None:
        """Count what another worker has met."""
        self._count(address, login, fingerprint)

    def hear_success(self, address: str, login: str) -> None:
        now = self._clock()
        for key in (_near(address), f"{_near(address)} {login}"):
            self._successes[key] = now
            self._successes.move_to_end(key)
        while len(self._successes) > MAX_KEYS:
            self._successes.popitem(last=False)

    def is_regular(self, address: str, login: str) -> bool:
        """Whether this login name succeeded from this network lately: it hashes in the regulars' lane."""
        return self._has_success(f"{_near(address)} {login}")

    def _count(self, address: str, login: str, fingerprint: bytes) -> list[bool]:
        """For each key whether the secret is new there, the narrowest first."""
        now = self._clock()
        since = now - self._window_s
        return [
            self._counts.add(key, fingerprint, now, since=since, room=room) for key, room in self._keys(address, login)
        ]

    def _has_success(self, key: str) -> bool:
        at = self._successes.get(key)
        return at is not None and at > self._clock() - RECENT_S

    def _keys(self, address: str, login: str) -> list[tuple[str, int]]:
        """Each key that an attempt counts for, the narrowest first, with the room it has."""
        near, wide = _near(address), _wide(address)
        factor = REGULARS_FACTOR if self._has_success(near) else 1
        keys = [(f"{near} {login}", self._wrong * factor), (near, self._wrong_network * factor)]
        if wide is not None:
            keys.append((wide, self._wrong_network * factor * WIDE_FACTOR))
        return keys


def _near(address: str) -> str:
    """The network a guesser surely owns: an IPv4 address, or an IPv6 /64."""
    if ":" not in address:
        return address
    return str(ipaddress.IPv6Network((address.partition("%")[0], 64), strict=False))


def _wide(address: str) -> str | None:
    """The network that a guesser may own as well: an IPv6 /48."""
    if ":" not in address:
        return None
    return str(ipaddress.IPv6Network((address.partition("%")[0], 48), strict=False))
