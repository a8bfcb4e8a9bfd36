"""The statistics of bench/guessing: they find what is there, and nothing where nothing is."""

from __future__ import annotations

import random

import pytest

from bench.stats import compare, detectable


def drawn(seed: int, count: int = 400, offset: float = 0.0) -> list[float]:
    dice = random.Random(seed)
    return [dice.gauss(500, 1) + offset for _ in range(count)]


def test_groups_of_one_kind_cannot_be_told_apart() -> None:
    found = compare({name: drawn(seed) for seed, name in enumerate("abcd")}, permutations=300)
    assert found.p_largest > 0.05
    assert found.largest < 0.1


def test_a_group_that_is_later_is_found_with_its_sign_and_size() -> None:
    found = compare({"a": drawn(1), "b": drawn(2), "late": drawn(3, offset=0.3)}, permutations=300)
    assert found.p_largest < 0.01
    # For normal values d standard deviations apart P(later) is the normal distribution at d / sqrt(2): 0.17 for 0.3.
    assert found.delta["late"] == pytest.approx(0.17, abs=0.06)
    assert found.delta["a"] < 0
    assert found.p_values["late"] < 0.001


def test_extremes_and_ties_have_their_exact_values() -> None:
    assert compare({"low": [1.0] * 5, "high": [2.0] * 5}, permutations=50).delta == {"low": -1.0, "high": 1.0}
    same = compare({"a": [1.0] * 5, "b": [1.0] * 5}, permutations=50)
    assert same.delta == {"a": 0.0, "b": 0.0}
    assert same.p_values == {"a": 1.0, "b": 1.0}
    # Mann-Whitney's U of {1, 3} against {2, 4}: one of four pairs is later.
    assert compare({"a": [1.0, 3.0], "b": [2.0, 4.0]}, permutations=50).delta["a"] == -0.5


def test_the_offset_that_would_be_found_takes_delta_over_the_threshold() -> None:
    groups = {"a": drawn(1), "b": drawn(2)}
    offset = detectable(groups, "a", 0.2)
    assert 0.1 < offset < 0.6
    moved = compare({"a": [value + offset + 1e-6 for value in groups["a"]], "b": groups["b"]}, permutations=10)
    assert moved.delta["a"] >= 0.2
