"""What the supervisor decides by numbers; processes that live and die are in whole/test_workers.py."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from proxy.login.bus import lay
from proxy.serving.build import Post, hashing_threads
from proxy.serving.generation import PAUSE_S, SOON_S, Slot
from proxy.store.rows import Seat


def post(workers: int) -> Post:
    with ExitStack() as stack:
        return Post(Seat("x", "node1", 0), workers, (), lay(1, stack)[0])


@pytest.fixture
def slot() -> Slot:
    with ExitStack() as stack:
        return Slot(0, lay(1, stack)[0], start_at=0.0)


def test_a_worker_that_dies_young_again_and_again_is_waited_for_longer_and_longer(slot: Slot) -> None:
    first_s, last_s = PAUSE_S
    pauses = [slot.pause_s(0.1) for _ in range(100)]
    assert pauses[:4] == [first_s, 2 * first_s, 4 * first_s, 8 * first_s]
    assert set(pauses[10:]) == {last_s}


def test_a_worker_that_has_served_a_while_is_replaced_at_once_and_begins_anew(slot: Slot) -> None:
    for _ in range(5):
        slot.pause_s(0.1)
    assert slot.pause_s(SOON_S) == 0
    assert slot.pause_s(0.1) == PAUSE_S[0]


@pytest.mark.parametrize(
    ("cores", "workers", "threads"), [(1, 1, 2), (2, 2, 2), (4, 1, 4), (8, 4, 2), (8, 3, 3), (64, 64, 2), (2, 16, 2)]
)
def test_the_workers_share_the_cores_for_hashing_and_each_has_a_thread_for_regulars(
    cores: int, workers: int, threads: int
) -> None:
    assert hashing_threads(post(workers), cores) == threads


def test_shares_of_a_bound_are_rounded_up_and_never_nothing() -> None:
    assert [post(workers).share_of(10) for workers in (1, 2, 3, 4, 100)] == [10, 5, 4, 3, 1]
