"""Whether groups of times can be told apart: ranks, so that outliers of a busy machine weigh little.

Cliff's delta of a group against all others is P(its time is later) - P(it is earlier), for one drawn from each: 0 says
that nothing can be told, 1 that every one is later. The test of all groups together is a permutation test of the
largest |delta| among them, so that many comparisons raise no false alarm.
"""

from __future__ import annotations

import bisect
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Compared:
    """delta      Cliff's, by group, against all others together
    p_values   two-sided, of Mann-Whitney's U by its normal approximation with ties, one by one
    largest    of |delta|
    p_largest  how often chance alone makes one as large, among PERMUTATIONS shuffles
    expected   what chance alone exceeds in one of twenty shuffles
    """

    delta: dict[str, float]
    p_values: dict[str, float]
    largest: float
    p_largest: float
    expected: float


def compare(groups: Mapping[str, Sequence[float]], *, permutations: int = 1_000, seed: int = 1) -> Compared:
    """Compare each group with all others together."""
    names = list(groups)
    values = [value for name in names for value in groups[name]]
    sizes = [len(groups[name]) for name in names]
    ranks, tie_term = _ranks(values)
    deltas = _deltas(ranks, sizes)
    largest = max(map(abs, deltas))
    dice = random.Random(seed)
    chance = []
    for _ in range(permutations):
        dice.shuffle(ranks)
        chance.append(max(map(abs, _deltas(ranks, sizes))))
    chance.sort()
    as_large = permutations - bisect.bisect_left(chance, largest)
    return Compared(
        delta=dict(zip(names, deltas, strict=True)),
        p_values={
            name: _p(delta, size, len(values) - size, tie_term)
            for name, delta, size in zip(names, deltas, sizes, strict=True)
        },
        largest=largest,
        p_largest=(as_large + 1) / (permutations + 1),
        expected=chance[int(0.95 * permutations)],
    )


def detectable(groups: Mapping[str, Sequence[float]], name: str, threshold: float) -> float:
    """The smallest offset, in the unit of the values, that added to group `name` takes its |delta| over `threshold`."""
    own = list(groups[name])
    others = sorted(value for other, values in groups.items() if other != name for value in values)
    low, high = 0.0, max(*own, *others) - min(*own, *others) + 1e-9
    for _ in range(40):
        middle = (low + high) / 2
        if abs(_against(own, others, middle)) > threshold:
            high = middle
        else:
            low = middle
    return high


def _against(own: Sequence[float], others: Sequence[float], offset: float) -> float:
    """Cliff's delta of `own`, moved by `offset`, against sorted `others`."""
    score = 0
    for value in own:
        at = value + offset
        score += bisect.bisect_left(others, at) - (len(others) - bisect.bisect_right(others, at))
    return score / (len(own) * len(others))


def _ranks(values: Sequence[float]) -> tuple[list[float], float]:
    """The rank of each value, ties sharing their mean; and the sum of t^3 - t over the ties, for the variance."""
    order = sorted(range(len(values)), key=values.__getitem__)
    ranks, tie_term, start = [0.0] * len(values), 0.0, 0
    while start < len(order):
        end = start
        while end < len(order) and values[order[end]] == values[order[start]]:
            end += 1
        for at in order[start:end]:
            ranks[at] = (start + end + 1) / 2
        tie_term += (end - start) ** 3 - (end - start)
        start = end
    return ranks, tie_term


def _deltas(ranks: Sequence[float], sizes: Sequence[int]) -> list[float]:
    total, start, found = len(ranks), 0, []
    for size in sizes:
        u = sum(ranks[start : start + size]) - size * (size + 1) / 2
        found.append(2 * u / (size * (total - size)) - 1)
        start += size
    return found


def _p(delta: float, size: int, others: int, tie_term: float) -> float:
    total = size + others
    product = size * others
    variance = product / 12 * ((total + 1) - tie_term / (total * (total - 1)))
    if variance <= 0:
        return 1.0
    return math.erfc(abs(delta) * product / 2 / math.sqrt(variance) / math.sqrt(2))
