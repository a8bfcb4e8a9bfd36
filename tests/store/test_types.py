"""Column types: aware times to the microsecond, words as lines."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from proxy.store.deposits import HEIR_WAITS
from proxy.store.rows import NewAccount, TokenState
from proxy.store.store import Store
from proxy.store.types import UtcDateTime, Words


@pytest.mark.parametrize(
    "time",
    [
        datetime(2026, 11, 23, 12, 0, tzinfo=UTC),
        datetime(2026, 3, 29, 2, 30, 0, 1, tzinfo=timezone(timedelta(hours=5, minutes=45))),
        datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
        datetime(1970, 1, 1, tzinfo=UTC),
    ],
    ids=str,
)
def test_time_comes_back_in_utc_to_the_microsecond(store, ann, time):
    store.set_token_state(ann.id, TokenState.FRESH, "", time)
    since = store.account("ann").token_since
    assert since == time
    assert since.tzinfo is UTC or since.utcoffset() == timedelta(0)


def test_time_is_the_same_whatever_the_zone_of_the_session(cluster, clock):
    url = cluster.database("migrated") + "&options=-c%20timezone%3DAsia/Kathmandu"
    store = Store.open(url, migrate=False, clock=clock)
    try:
        made = store.add_account(NewAccount("ann@x.test", "mail", "ann", (), "cli"))
        assert made.created == clock.now
        assert made.created.utcoffset() == timedelta(0)
        assert store.take_lease(made.id, "w", clock.now, clock.now + timedelta(seconds=1)) == 1
        assert store.take_lease(made.id, "w", clock.now, clock.now + timedelta(seconds=1)) is None
    finally:
        store.close()


def test_times_compare_by_time_in_sql(store, ann, clock):
    until = clock.now.astimezone(timezone(timedelta(hours=-8))) + timedelta(microseconds=1)
    assert store.take_lease(ann.id, "w", clock.now, until) == 1
    assert store.take_lease(ann.id, "w", clock.now, until) is None
    assert store.take_lease(ann.id, "w", until, until + timedelta(seconds=1)) is None  # an heir waits
    later = until + HEIR_WAITS
    assert store.take_lease(ann.id, "w", later, later + timedelta(seconds=1)) == 2


@pytest.mark.parametrize("words", [(), ("one",), ("SIZE 1000000", "ü"), ("b", "a", "b")])
def test_words_come_back_in_their_order(store, words):
    store.put_extensions("mail", "smtp", words)
    assert store.extensions("mail", "smtp") == words


@pytest.mark.parametrize("words", [("",), ("a\nb",), ("a", "")])
def test_word_that_would_not_come_back_is_refused(words):
    with pytest.raises(ValueError, match="a word in the store"):
        Words().process_bind_param(words, None)


def test_nothing_stays_nothing():
    assert UtcDateTime().process_bind_param(None, None) is None
    assert UtcDateTime().process_result_value(None, None) is None
    assert Words().process_bind_param(None, None) is None
    assert Words().process_result_value(None, None) is None
