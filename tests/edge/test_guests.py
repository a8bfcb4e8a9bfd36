from __future__ import annotations

import asyncio

import pytest

from proxy.edge.guests import Guests
from proxy.errors import Answer, Refusal


class Front:
    def __init__(self, guests: Guests | None = None, visit_id: str = "") -> None:
        self.told: list[Answer] = []
        self._guests, self._visit_id = guests, visit_id

    def close(self, answer: Answer) -> None:
        self.told.append(answer)
        if self._guests is not None:
            self._guests.leave(self._visit_id)


@pytest.fixture
def guests() -> Guests:
    return Guests(connections=5, waiting_per_address=2)


def test_the_cap_for_all_refuses_and_counts_all_the_same(guests: Guests) -> None:
    assert [guests.arrive(f"v{number}", f"192.0.2.{number}") for number in range(6)] == [None] * 5 + [
        Refusal.CONNECTION_CAP
    ]
    assert Refusal.CONNECTION_CAP.answer is Answer.CLOSING
    assert len(guests) == 6
    guests.leave("v0")
    guests.leave("v5")
    assert guests.arrive("v6", "192.0.2.6") is None


def test_twice_the_cap_is_too_much_even_for_a_word(guests: Guests) -> None:
    for number in range(10):
        assert not guests.is_overfull
        guests.arrive(f"v{number}", f"192.0.2.{number}")
    assert guests.is_overfull


def test_one_address_may_wait_a_few_times_and_be_logged_in_any_number_of_times(guests: Guests) -> None:
    assert [guests.arrive(name, "192.0.2.1") for name in ("a", "b", "c")] == [None, None, Refusal.CONNECTION_CAP]
    guests.leave("c")
    guests.let_in("a")
    guests.let_in("b")
    assert guests.arrive("d", "192.0.2.1") is None
    assert (len(guests), guests.waiting) == (3, 1)


def test_an_office_behind_one_address_is_not_forgotten_address_by_address(guests: Guests) -> None:
    """What is counted for an address goes when the last of its connections has."""
    guests.arrive("a", "192.0.2.1")
    guests.arrive("b", "192.0.2.2")
    for visit_id in ("a", "b"):
        guests.let_in(visit_id)
        guests.leave(visit_id)
    assert (len(guests), guests.waiting, dict(guests._by_address)) == (0, 0, {})


def test_closing_tells_those_who_wait_and_nobody_who_is_in(guests: Guests) -> None:
    waiting, inside = Front(), Front()
    guests.arrive("w", "192.0.2.1")
    guests.greet("w", waiting)
    guests.arrive("i", "192.0.2.2")
    guests.greet("i", inside)
    guests.let_in("i")
    guests.arrive("h", "192.0.2.3")  # in its TLS handshake: no front stands yet
    guests.close_waiting(Answer.CLOSING)
    assert (waiting.told, inside.told) == ([Answer.CLOSING], [])
    assert guests.arrive("late", "192.0.2.4") is Refusal.SHUTTING_DOWN


def test_a_front_may_leave_while_it_is_told(guests: Guests) -> None:
    for name in ("a", "b"):
        guests.arrive(name, "192.0.2.1")
        guests.greet(name, Front(guests, name))
    guests.close_waiting(Answer.CLOSING)
    assert (len(guests), guests.waiting) == (0, 0)


async def test_it_is_known_when_nobody_waits_any_more(guests: Guests) -> None:
    assert guests.nobody_waits.is_set()
    for name in ("a", "b"):
        guests.arrive(name, "192.0.2.1")
    guests.let_in("a")
    assert not guests.nobody_waits.is_set()
    guests.leave("b")
    assert guests.nobody_waits.is_set()


def test_a_front_that_stands_after_its_visit_ended_is_not_kept(guests: Guests) -> None:
    guests.arrive("a", "192.0.2.1")
    guests.leave("a")
    late = Front()
    guests.greet("a", late)
    guests.close_waiting(Answer.CLOSING)
    assert late.told == []


def test_who_knocks_is_counted_once_and_has_no_address_until_he_arrives(guests: Guests) -> None:
    guests.knock("a")
    assert (len(guests), guests.waiting, dict(guests._by_address)) == (1, 1, {})
    assert not guests.nobody_waits.is_set()
    assert guests.arrive("a", "192.0.2.1") is None
    assert (len(guests), guests.waiting, dict(guests._by_address)) == (1, 1, {"192.0.2.1": 1})
    guests.leave("a")
    guests.knock("b")
    guests.leave("b")
    assert (len(guests), guests.waiting, dict(guests._by_address)) == (0, 0, {})
    assert guests.nobody_waits.is_set()


async def test_arriving_after_a_knock_is_no_moment_without_anybody(guests: Guests) -> None:
    guests.knock("a")
    waiting = asyncio.create_task(guests.nobody_waits.wait())
    await asyncio.sleep(0)
    guests.arrive("a", "192.0.2.1")
    await asyncio.sleep(0)
    assert not waiting.done()
    guests.leave("a")
    await waiting


def test_knocking_fills_the_house(guests: Guests) -> None:
    for number in range(10):
        assert not guests.is_overfull
        guests.knock(f"v{number}")
    assert guests.is_overfull
