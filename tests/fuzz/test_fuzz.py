"""The short run: the corpus, and some hundred random inputs of each target's own words."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from tests.fuzz.kit import HEAD, LOOP, Broken, demand, read_input, watched_logs
from tests.fuzz.targets import TARGETS, corpus, load

HEADS = st.binary(min_size=HEAD, max_size=HEAD)
PAGE = Path(__file__).parents[2] / "docs" / "security-tests.md"


@pytest.fixture(autouse=True, scope="module")
def _closed() -> Iterator[None]:
    yield
    LOOP.close()


@pytest.mark.parametrize("name", TARGETS)
def test_the_corpus_breaks_nothing(name: str) -> None:
    inputs = corpus(name)
    assert len(inputs) >= 5
    one = load(name).one
    for data in inputs:
        one(data)


@pytest.mark.parametrize("name", TARGETS)
def test_random_words_break_nothing(name: str) -> None:
    target = load(name)
    words = st.lists(st.sampled_from(target.TOKENS), max_size=40).map(b"".join)
    streams = st.one_of(words, st.binary(max_size=100), st.tuples(words, st.binary(max_size=20)).map(b"".join))

    @settings(max_examples=120, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(HEADS, streams)
    def run(head: bytes, stream: bytes) -> None:
        target.one(head + stream)

    run()


def test_an_input_reaches_the_bounds_and_is_split_to_the_last_octet() -> None:
    given = read_input(b"\x05\x07" + b"a\xfe\x02bc\xfd")
    assert given.flags == 5
    assert given.stream == b"a" + b"b" * 128 + b"cMarked-0-secret-1-Word"
    whole, cut, bytewise = given.splits
    assert whole == (given.stream,)
    assert len(cut) > 1
    assert b"".join(cut) == b"".join(bytewise) == given.stream


def test_a_broken_invariant_is_raised() -> None:
    with pytest.raises(Broken, match="it is so"):
        demand(not TARGETS, "it is so")
    with pytest.raises(Broken, match="unexpected log line"), watched_logs():  # the end of the block raises
        logging.getLogger("gatepost").warning("a line")


def test_the_page_has_a_row_for_each_target() -> None:
    rows = re.findall(r"^\| `(\w+)` \|", PAGE.read_text(), re.MULTILINE)
    assert sorted(set(rows) & set(TARGETS)) == sorted(TARGETS)
