"""Beats, and what the supervisor makes of their absence. The clock is the tests' own; the processes are real."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from proxy.live.pulse import Beat, last_beat
from proxy.login.bus import lay
from proxy.serving.generation import Generation, Phase, Slot
from proxy.serving.vigil import FROZEN_S, LAST_WORDS_S, NAP_S, START_S, STATUS_S, Vigil, status

WATCHDOG_S = 8.0


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Worker:
    """A process that does nothing, in a slot."""

    def __init__(self, clock: Clock, stack: ExitStack) -> None:
        self.process = stack.enter_context(subprocess.Popen(["sleep", "600"]))
        stack.callback(self.process.kill)
        self.slot = Slot(0, lay(1, stack)[0], start_at=0.0)
        self.slot.began(self.process.pid, 0)
        self.slot.heard_at, self.slot.is_ready = clock(), True


def generation(*slots: Slot, phase: Phase = Phase.SERVING) -> Generation:
    return Generation(1, None, None, (), None, None, None, list(slots), ExitStack(), phase)  # type: ignore[arg-type]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def pass_s(vigil: Vigil, clock: Clock, seconds: float, *generations: Generation) -> bool:
    """Looks, one each second."""
    kept = True
    end = clock.now + seconds
    while clock.now < end:
        clock.now = min(clock.now + 1.0, end)
        kept = vigil.is_kept(generations)
    return kept


def test_a_silent_worker_is_asked_for_its_last_words_and_then_killed(clock: Clock, stack: ExitStack) -> None:
    worker, vigil = Worker(clock, stack), Vigil(None, clock)
    assert pass_s(vigil, clock, FROZEN_S, generation(worker.slot))
    assert worker.process.poll() is None
    pass_s(vigil, clock, 1.0, generation(worker.slot))
    assert worker.process.wait(10) == -6  # SIGABRT


def test_one_that_was_stopped_has_no_last_words(clock: Clock, stack: ExitStack) -> None:
    worker, vigil = Worker(clock, stack), Vigil(None, clock)
    worker.process.send_signal(19)  # SIGSTOP
    pass_s(vigil, clock, FROZEN_S + LAST_WORDS_S + 1.0, generation(worker.slot))
    assert worker.process.wait(10) == -9


def test_a_worker_that_beats_lives(clock: Clock, stack: ExitStack) -> None:
    worker, vigil = Worker(clock, stack), Vigil(None, clock)
    for _ in range(3):
        assert pass_s(vigil, clock, FROZEN_S - 1, generation(worker.slot))
        worker.slot.heard_at = clock()
    assert worker.process.poll() is None


def test_a_worker_that_starts_is_waited_for_longer(clock: Clock, stack: ExitStack) -> None:
    worker, vigil = Worker(clock, stack), Vigil(WATCHDOG_S, clock)
    worker.slot.is_ready = False
    assert pass_s(vigil, clock, START_S, generation(worker.slot))
    assert worker.slot.aborted_at is None
    assert not pass_s(vigil, clock, 1.0, generation(worker.slot))
    assert worker.process.wait(10) == -6


def test_the_manager_s_watchdog_is_fed_as_long_as_the_silent_can_be_got_rid_of(clock: Clock, stack: ExitStack) -> None:
    worker, vigil = Worker(clock, stack), Vigil(WATCHDOG_S, clock)
    assert pass_s(vigil, clock, WATCHDOG_S, generation(worker.slot))
    assert worker.slot.aborted_at is not None  # after half of its time
    assert not pass_s(vigil, clock, 1.0, generation(worker.slot))  # "killed", and still there


def test_who_slept_himself_judges_nobody(clock: Clock, stack: ExitStack) -> None:
    worker, vigil = Worker(clock, stack), Vigil(None, clock)
    clock.now += 10 * FROZEN_S  # the supervisor was stopped, or the whole machine
    assert vigil.is_kept([generation(worker.slot)])
    assert pass_s(vigil, clock, NAP_S, generation(worker.slot))
    assert worker.slot.aborted_at is None


def test_those_that_drain_have_their_own_deadline(clock: Clock, stack: ExitStack) -> None:
    worker, vigil = Worker(clock, stack), Vigil(None, clock)
    draining = generation(worker.slot, phase=Phase.LEAVING)
    draining.kill_at = clock() + 1e6
    pass_s(vigil, clock, 2 * FROZEN_S, draining)
    assert worker.slot.aborted_at is None


def test_a_status_line_is_told_when_it_changed_and_not_too_often(clock: Clock) -> None:
    vigil = Vigil(None, clock)
    told = []
    for second in range(20):
        clock.now += 1
        if vigil.is_news(f"{second} sessions" if second < 10 else "10 sessions"):
            told.append(second)
    assert told == [0, STATUS_S, 2 * STATUS_S]


def test_the_status_line_counts_all_and_names_those_of_earlier_configurations(clock: Clock, stack: ExitStack) -> None:
    now, before = Worker(clock, stack).slot, Worker(clock, stack).slot
    now.beat, before.beat = Beat(3, 12, 2), Beat(1, 12, 2)
    serving, leaving = generation(now), generation(before, phase=Phase.LEAVING)
    assert status([serving], serving) == "3 sessions, 12 accounts, 2 need consent, 1 of 1 workers"
    assert status([leaving, serving], serving) == (
        "4 sessions, 12 accounts, 2 need consent, 1 of 1 workers, 1 of the sessions under an earlier configuration"
    )


@pytest.mark.parametrize("beat", [Beat(), Beat(7), Beat(7, 100, 3), Beat(0, 0, 0)])
def test_a_beat_is_read_as_it_was_told(beat: Beat) -> None:
    assert last_beat(beat.line()) == beat


def test_of_many_beats_the_newest_counts_and_of_half_a_beat_nothing() -> None:
    assert last_beat(Beat(1).line() + Beat(2, 5, 1).line()) == Beat(2, 5, 1)
    assert last_beat(Beat(1).line() + b"2 5") == Beat(1)
    assert last_beat(b"2 5") is None
    assert last_beat(b"nonsense\n") is None
