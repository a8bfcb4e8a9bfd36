"""When refusals are answered, by a clock of the test's own."""

from __future__ import annotations

from proxy.login.pace import GRID_S, MAX_POINTS, WINDOW_S, Pace


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_refusal_is_due_at_the_next_point_of_the_grid() -> None:
    for elapsed_s, due_s in ((0.0, 0.5), (0.499, 0.5), (0.5, 1.0), (1.2, 1.5)):
        assert Pace(Clock()).due_s(elapsed_s) == due_s


def test_a_slow_one_holds_up_the_others_for_a_while() -> None:
    clock = Clock()
    pace = Pace(clock)
    assert pace.due_s(1.2) == 1.5
    clock.now += WINDOW_S - 1
    assert pace.due_s(0.001) == 1.5
    clock.now += 2
    assert pace.due_s(0.001) == 0.5


def test_the_slowest_in_the_window_counts_whatever_the_order() -> None:
    clock = Clock()
    pace = Pace(clock)
    dues = []
    for elapsed_s in (0.1, 1.1, 0.6, 2.3, 0.1):
        clock.now += WINDOW_S / 4
        dues.append(pace.due_s(elapsed_s))
    assert dues == [0.5, 1.5, 1.5, 2.5, 2.5]
    clock.now += WINDOW_S * 0.9  # past the 2.3 of a quarter before
    assert pace.due_s(0.1) == 0.5


def test_what_is_a_fault_holds_up_nobody() -> None:
    pace = Pace(Clock())
    assert pace.due_s(MAX_POINTS * GRID_S + 20) == MAX_POINTS * GRID_S + 20.5
    assert pace.due_s(0.1) == 0.5


def test_its_memory_is_bounded() -> None:
    clock = Clock()
    pace = Pace(clock)
    for number in range(10_000):
        clock.now += 0.001
        pace.due_s((number * 37 % 100) / 20)
        assert len(pace._slow) <= MAX_POINTS
