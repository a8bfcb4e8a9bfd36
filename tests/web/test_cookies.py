"""What follows from a session's id, and what is refused as not following from it; buckets of rates."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from proxy.web.cookies import csrf_of, drawn, hash_of, is_csrf, once_of, read_once, state_once
from proxy.web.rates import Rate, Rates, network_of

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


def test_nothing_tells_the_id():
    session = drawn()
    assert len(session) == 43
    for derived in (hash_of(session), csrf_of(session), once_of(session)):
        assert session not in derived
    assert len({hash_of(session), csrf_of(session), hash_of(csrf_of(session))}) == 3


def test_a_token_is_of_one_session():
    ours, theirs = drawn(), drawn()
    assert is_csrf(ours, csrf_of(ours))
    assert not is_csrf(ours, csrf_of(theirs))
    assert not is_csrf(ours, "")
    assert not is_csrf(ours, "\u00e9" * 64)


def test_a_forms_token_is_new_each_time_and_known_again():
    session = drawn()
    one, other = once_of(session), once_of(session)
    first = read_once(session, one, NOW, 3600)
    assert first is not None
    assert first == read_once(session, one, NOW, 3600)
    assert first != read_once(session, other, NOW, 3600)
    assert first.until > NOW + timedelta(seconds=3600)  # longer than any form of this session may come
    assert one.partition(".")[0] not in first.token_hash


@pytest.mark.parametrize("given", ["", ".", "a" * 22 + "." + "0" * 64, "\u00e9" * 22 + "." + "0" * 64, "x" * 100_000])
def test_a_token_that_was_not_given_is_none(given: str):
    assert read_once(drawn(), given, NOW, 3600) is None
    session = drawn()
    assert read_once(drawn(), once_of(session), NOW, 3600) is None


def test_states_are_told_apart():
    assert state_once("a", NOW, 600) != state_once("b", NOW, 600)


def test_a_bucket_fills_up_again():
    now = [0.0]
    rates = Rates(lambda: now[0])
    rate = Rate("test", 3, 30.0)
    assert [rates.take(rate, "a") for _ in range(4)] == [True, True, True, False]
    assert rates.take(rate, "b")
    assert rates.take(Rate("other", 3, 30.0), "a")
    now[0] = 9.0
    assert not rates.take(rate, "a")
    now[0] = 10.5
    assert [rates.take(rate, "a") for _ in range(2)] == [True, False]


def test_buckets_are_bounded():
    rates = Rates(lambda: 0.0, max_keys=10)
    for number in range(100):
        rates.take(Rate("test", 3, 30.0), str(number))
    assert len(rates._buckets) == 10


@pytest.mark.parametrize(
    ("address", "network"),
    [("192.0.2.7", "192.0.2.7"), ("2001:db8::7", "2001:db8::/64"), ("somewhere", "somewhere")],
)
def test_whom_an_address_counts_for(address: str, network: str):
    assert network_of(address) == network
