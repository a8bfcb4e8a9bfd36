from __future__ import annotations

import pytest
from hypothesis import given, settings, strategies as st

from proxy.login import throttle as module
from proxy.login.throttle import RECENT_S, REGULARS_FACTOR, WIDE_FACTOR, Throttle
from tests.service.house import Clock

HOME, AWAY = "192.0.2.1", "203.0.113.9"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def throttle(clock: Clock) -> Throttle:
    return Throttle(wrong=3, wrong_network=6, window_s=600, clock=clock)


def guess(throttle: Throttle, address: str, login: str, *numbers: int) -> list[bool]:
    return [throttle.record_wrong(address, login, b"%08d" % number) for number in numbers]


def test_distinct_wrong_secrets_for_one_name_fill_its_room(throttle: Throttle) -> None:
    guess(throttle, HOME, "ann", 1, 2)
    assert not throttle.is_blocked(HOME, "ann")
    guess(throttle, HOME, "ann", 3)
    assert throttle.is_blocked(HOME, "ann")


def test_a_login_name_is_never_blocked_for_all_the_world(throttle: Throttle) -> None:
    guess(throttle, HOME, "ann", *range(3))
    assert throttle.is_blocked(HOME, "ann")
    assert not throttle.is_blocked(AWAY, "ann")
    assert not throttle.is_blocked(HOME, "bob")


def test_a_network_that_tries_many_names_is_blocked_for_all_of_them(throttle: Throttle) -> None:
    for number in range(6):
        guess(throttle, HOME, f"user{number}", number)
    assert throttle.is_blocked(HOME, "ann")
    assert not throttle.is_blocked(AWAY, "ann")


def test_one_wrong_secret_again_and_again_counts_once_and_is_told_once(throttle: Throttle, clock: Clock) -> None:
    told = []
    for _ in range(19):
        told += guess(throttle, HOME, "ann", 7)
        clock.pass_s(30)
    assert told == [True] + [False] * 18
    assert not throttle.is_blocked(HOME, "ann")
    clock.pass_s(60)  # its window is over: it is told once more
    assert guess(throttle, HOME, "ann", 7) == [True]


def test_a_stuck_phone_neither_shortens_nor_prolongs_anybody_s_block(throttle: Throttle, clock: Clock) -> None:
    guess(throttle, HOME, "ann", 1, 2, 3)
    for _ in range(19):
        clock.pass_s(30)
        guess(throttle, HOME, "ann", 1)
        assert throttle.is_blocked(HOME, "ann")
    clock.pass_s(31)
    assert not throttle.is_blocked(HOME, "ann")


def test_the_window_slides_secret_by_secret(throttle: Throttle, clock: Clock) -> None:
    for number in range(3):
        guess(throttle, HOME, "ann", number)
        clock.pass_s(100)
    clock.pass_s(299)
    assert throttle.is_blocked(HOME, "ann")
    clock.pass_s(1)
    assert not throttle.is_blocked(HOME, "ann")


def test_a_network_with_a_recent_success_has_more_room(throttle: Throttle, clock: Clock) -> None:
    throttle.record_success(HOME, "bob")
    guess(throttle, HOME, "ann", *range(3 * REGULARS_FACTOR - 1))
    assert not throttle.is_blocked(HOME, "ann")
    guess(throttle, HOME, "ann", 1000)
    assert throttle.is_blocked(HOME, "ann")
    clock.pass_s(RECENT_S + 1)
    guess(throttle, HOME, "eve", 1, 2, 3)
    assert throttle.is_blocked(HOME, "eve")  # not recent any more


def test_a_regular_is_a_name_from_its_own_network(throttle: Throttle, clock: Clock) -> None:
    throttle.record_success(HOME, "ann")
    assert throttle.is_regular(HOME, "ann")
    assert not throttle.is_regular(HOME, "bob")
    assert not throttle.is_regular(AWAY, "ann")
    clock.pass_s(RECENT_S)
    assert not throttle.is_regular(HOME, "ann")


def test_ipv6_is_counted_by_its_64_and_more_widely_by_its_48(throttle: Throttle) -> None:
    guess(throttle, "2001:db8:1:1::1", "ann", 1, 2, 3)
    assert throttle.is_blocked("2001:db8:1:1:ffff::2", "ann")
    assert throttle.is_blocked("2001:db8:1:1::3%eth0", "ann")
    assert not throttle.is_blocked("2001:db8:1:2::1", "ann")
    for number in range(6 * WIDE_FACTOR):
        guess(throttle, f"2001:db8:1:{number + 16:x}::1", "ann", 100 + number)
    assert throttle.is_blocked("2001:db8:1:ffff::1", "zoe")
    assert not throttle.is_blocked("2001:db8:2:1::1", "zoe")


def test_a_name_cannot_pass_for_another_network_s_counter(throttle: Throttle) -> None:
    guess(throttle, HOME, "", *range(3))
    assert not throttle.is_blocked(HOME, "ann")
    assert throttle.is_blocked(HOME, "")


def test_the_memory_is_bounded_whatever_comes(throttle: Throttle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_KEYS", 20)
    monkeypatch.setattr(module, "MAX_FINGERPRINTS", 30)
    for number in range(500):
        guess(throttle, f"198.51.{number // 250}.{number % 250}", "ann", number, number + 1)
        throttle.record_success(f"198.51.{number // 250}.{number % 250}", "ann")
        counts = throttle._counts
        assert len(counts._seen) <= 20
        assert counts._total == sum(map(len, counts._seen.values())) <= 30
        assert len(throttle._successes) <= 20


def test_with_much_room_it_counts_the_same(clock: Clock) -> None:
    throttle = Throttle(wrong=3_000, wrong_network=10_000, window_s=600, clock=clock)
    for half in range(2):
        assert all(guess(throttle, HOME, "ann", *range(half * 1_500, half * 1_500 + 1_500)))
        assert not any(guess(throttle, HOME, "ann", *range(half * 1_500 + 1_500)))
        clock.pass_s(400)
    # The first half is forgotten, and counts anew; the second is known.
    assert not throttle.is_blocked(HOME, "ann")
    assert not any(guess(throttle, HOME, "ann", *range(1_500, 3_000)))
    assert all(guess(throttle, HOME, "ann", *range(1_500)))
    assert throttle.is_blocked(HOME, "ann")


@settings(max_examples=50)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([HOME, AWAY]), st.sampled_from(["ann", "bob"]), st.integers(0, 9), st.integers(0, 400)
        )
    )
)
def test_it_counts_what_a_plain_list_would_count(steps: list[tuple[str, str, int, int]]) -> None:
    clock = Clock()
    throttle = Throttle(wrong=3, wrong_network=6, window_s=600, clock=clock)
    first: dict[tuple[str, str, int], float] = {}  # as long as nothing is full, both must agree
    for address, login, number, pause_s in steps:
        clock.pass_s(pause_s)
        first = {key: at for key, at in first.items() if at > clock.now - 600}
        here = [key for key in first if key[0] == address]
        expected = len([key for key in here if key[1] == login]) >= 3 or len({key[2] for key in here}) >= 6
        assert throttle.is_blocked(address, login) == expected
        if not expected:
            throttle.record_wrong(address, login, b"%08d" % number)
            first.setdefault((address, login, number), clock.now)


def test_two_secrets_that_touch_are_not_taken_for_a_third(throttle: Throttle) -> None:
    """A digest that stands across two others' border in memory is new all the same."""
    for secret in (b"abcdefgh", b"ijklmnop"):
        assert throttle.record_wrong(HOME, "ann", secret)
    assert throttle.record_wrong(HOME, "ann", b"efghijkl")
    assert not throttle.record_wrong(HOME, "ann", b"ijklmnop")
    assert throttle.is_blocked(HOME, "ann")
