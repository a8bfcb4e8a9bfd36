from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from proxy.vault.apppassword import AppPassword, generate
from proxy.vault.hashing import Hasher, HashPool, Lane, QueueFull
from tests.service.house import CHEAP, CountingHasher, until, wrong_password

PASSWORD = generate()
PHC = Hasher(**CHEAP).hash(PASSWORD)


class Slow(Hasher):
    """Computes when the gate opens; remembers how many computed at once."""

    def __init__(self) -> None:
        super().__init__(**CHEAP)
        self.gate = threading.Event()
        self.running = 0
        self.most = 0
        self._lock = threading.Lock()

    def verify(self, phc: str, password: AppPassword) -> bool:
        with self._lock:
            self.running += 1
            self.most = max(self.most, self.running)
        self.gate.wait(5)
        with self._lock:
            self.running -= 1
        return super().verify(phc, password)


@pytest.fixture
def slow() -> Slow:
    return Slow()


@pytest.fixture
def pool(slow: Slow) -> Iterator[HashPool]:
    pool = HashPool(slow, threads=3, queue=8)
    yield pool
    slow.gate.set()
    pool.close()


async def runs(slow: Slow, count: int) -> None:
    await until(lambda: slow.running >= count)


def test_the_right_password_fits_and_another_does_not() -> None:
    hasher = Hasher(**CHEAP)
    assert PHC.startswith("$argon2id$v=19$m=8,t=1,p=1$")
    assert hasher.verify(PHC, PASSWORD)
    assert not hasher.verify(PHC, generate())
    assert hasher.hash(PASSWORD) != PHC  # salted


@pytest.mark.parametrize(
    "damaged",
    ["", "x", "$argon2id$", PHC[:-1], PHC[:40], PHC.replace("argon2id", "argon2x"), "$argon2id$v=19$m=8$x$y"],
    ids=range(7),  # the texts are random, and workers must agree on names
)
def test_a_damaged_hash_lets_nobody_in_and_raises_nothing(damaged: str) -> None:
    assert not Hasher(**CHEAP).verify(damaged, PASSWORD)


WITHOUT_MEMORY = """
import resource
from pathlib import Path
from proxy.vault.apppassword import generate
from proxy.vault.hashing import HashFailed, Hasher

hasher, password = Hasher(memory_kib=200_000, time=1, lanes=1), generate()
phc = hasher.hash(password)
assert hasher.verify(phc, password)
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 50_000_000, used + 50_000_000))
for what in (hasher.verify, lambda phc, password: hasher.hash(password),
             lambda phc, password: hasher.stretched(hasher.new_stretch(), password)):
    try:
        print(what(phc, password))
    except HashFailed as error:
        print(error.problem)
"""


def test_without_memory_nothing_is_said_of_the_password() -> None:
    words = [sys.executable, "-c", WITHOUT_MEMORY]
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    assert done.stdout == "argon2id failed: Memory allocation error\n" * 3


def test_a_hash_is_outdated_only_by_rising_parameters() -> None:
    def outdated(**changes: int) -> bool:
        return Hasher(**{**CHEAP, **changes}).is_outdated(PHC)

    assert not outdated()
    assert outdated(memory_kib=16)
    assert outdated(time=2)
    strong = Hasher(memory_kib=32, time=3, lanes=1)
    assert not Hasher(**CHEAP).is_outdated(strong.hash(PASSWORD))


async def test_a_lane_has_its_places_and_no_more_and_the_other_lane_its_own(pool: HashPool) -> None:
    tickets = [pool.reserve(Lane.STRANGERS) for _ in range(8)]
    with pytest.raises(QueueFull):
        pool.reserve(Lane.STRANGERS)
    pool.release(pool.reserve(Lane.REGULARS))
    for ticket in (*tickets, *tickets):  # twice is harmless
        pool.release(ticket)
    for ticket in [pool.reserve(Lane.STRANGERS) for _ in range(8)]:
        pool.release(ticket)


async def test_strangers_leave_a_thread_to_the_regulars(pool: HashPool, slow: Slow) -> None:
    strangers = [asyncio.create_task(pool.verify(pool.reserve(Lane.STRANGERS), PHC, PASSWORD)) for _ in range(8)]
    await runs(slow, 2)
    regular = asyncio.create_task(pool.verify(pool.reserve(Lane.REGULARS), PHC, PASSWORD))
    await runs(slow, 3)  # the third thread is the regular's
    slow.gate.set()
    assert await regular
    assert all(await asyncio.gather(*strangers))
    assert slow.most == 3


async def test_a_stranger_who_hangs_up_holds_his_thread_until_it_is_free(pool: HashPool, slow: Slow) -> None:
    """Else each hang-up would let one more stranger compute at the same time."""
    strangers = [asyncio.create_task(pool.verify(pool.reserve(Lane.STRANGERS), PHC, PASSWORD)) for _ in range(4)]
    await runs(slow, 2)
    for task in strangers[:2]:
        task.cancel()
    for _ in range(5):
        await asyncio.sleep(0)
    assert slow.running == 2
    slow.gate.set()
    for task in strangers[:2]:
        with pytest.raises(asyncio.CancelledError):
            await task
    assert all(await asyncio.gather(*strangers[2:]))
    assert slow.most == 2


async def test_one_core_serves_both_lanes_in_turn(slow: Slow) -> None:
    pool = HashPool(slow, threads=1, queue=8)
    slow.gate.set()
    lanes = (Lane.STRANGERS, Lane.REGULARS, Lane.STRANGERS)
    results = await asyncio.gather(*(pool.verify(pool.reserve(lane), PHC, PASSWORD) for lane in lanes))
    pool.close()
    assert (results, slow.most) == ([True, True, True], 1)


async def test_the_loop_goes_on_while_threads_compute(pool: HashPool, slow: Slow) -> None:
    task = asyncio.create_task(pool.verify(pool.reserve(Lane.REGULARS), PHC, PASSWORD))
    await runs(slow, 1)
    await asyncio.sleep(0)
    assert not task.done()
    slow.gate.set()
    assert await task


async def test_a_closed_pool_leaves_no_thread(slow: Slow) -> None:
    before = threading.active_count()
    pool = HashPool(CountingHasher(**CHEAP), threads=2)
    assert await pool.hash(PASSWORD)
    pool.close()
    assert threading.active_count() == before
    with contextlib.suppress(RuntimeError):
        await pool.hash(PASSWORD)
        raise AssertionError("a closed pool computed")


def test_the_kit_s_wrong_password_is_well_formed_and_wrong() -> None:
    text = wrong_password(like=PASSWORD.whole.reveal())
    assert text[:4] == PASSWORD.selector
    assert text != PASSWORD.whole.reveal()
