"""StorePool: calls in threads, each with a deadline; full, late, cancelled and closed."""

from __future__ import annotations

import asyncio
import functools
import gc
import logging
import threading
import weakref

import pytest

from proxy.errors import StoreError, StoreUnavailable
from proxy.store.pool import StorePool
from proxy.store.rows import NewAccount
from proxy.store.store import Store

PATIENCE_S = 30.0  # never reached: what is waited for happens


class Valve:
    """Work that runs until it is let go, in threads that are counted."""

    def __init__(self) -> None:
        self.entered = threading.Semaphore(0)
        self.opened = threading.Event()
        self.left = threading.Semaphore(0)
        self.calls = 0

    def work(self, answer: object = None) -> object:
        self.calls += 1
        self.entered.release()
        assert self.opened.wait(PATIENCE_S)
        try:
            if isinstance(answer, BaseException):
                raise answer
            return answer
        finally:
            self.left.release()


async def reached(semaphore: threading.Semaphore) -> None:
    assert await asyncio.to_thread(semaphore.acquire, timeout=PATIENCE_S)


@pytest.fixture
def valve():
    made = Valve()
    yield made
    made.opened.set()


@pytest.fixture
def make_pool(sqlite_url, valve):
    store = Store.open(sqlite_url, migrate=False)
    pools = []

    def make(threads: int = 1, waiting: int = 256) -> StorePool:
        pools.append(StorePool(store, threads, waiting=waiting))
        return pools[-1]

    yield make
    valve.opened.set()
    for pool in pools:
        pool.close()
    store.close()


async def test_calls_of_the_store_are_answered(make_pool):
    pool = make_pool(4)
    new = NewAccount("ann@x.test", "mail", "ann", (), "cli")
    ann = await pool.run(pool.store.add_account, new)
    rows = await asyncio.gather(*(pool.run(pool.store.find_login, "ann@x.test", "abcd") for _ in range(200)))
    assert {row.account.id for row in rows} == {ann.id}
    with pytest.raises(StoreError, match="login name"):
        await pool.run(pool.store.add_account, new)


async def test_calls_run_outside_the_loops_thread(make_pool):
    assert await make_pool().run(threading.get_ident) != threading.get_ident()


async def test_call_that_passes_its_deadline_is_unavailable_and_its_result_dropped(make_pool, valve):
    pool = make_pool()
    with pytest.raises(StoreUnavailable, match="no answer in 0 s"):
        await pool.run(valve.work, "late", deadline_s=0)
    valve.opened.set()
    assert await pool.run(str, "next") == "next"


async def test_running_call_that_is_late_is_unavailable(make_pool, valve):
    pool = make_pool()
    late = asyncio.create_task(pool.run(valve.work, "late", deadline_s=0.01))
    await reached(valve.entered)
    with pytest.raises(StoreUnavailable, match="no answer"):
        await late
    valve.opened.set()
    await reached(valve.left)
    assert await pool.run(str, "next") == "next"


async def test_full_line_is_unavailable_at_once(make_pool, valve):
    pool = make_pool(threads=1, waiting=2)
    running = asyncio.create_task(pool.run(valve.work, 1, deadline_s=PATIENCE_S))
    await reached(valve.entered)
    waiting = [asyncio.create_task(pool.run(valve.work, number, deadline_s=PATIENCE_S)) for number in (2, 3)]
    await asyncio.wait(waiting, timeout=0)
    with pytest.raises(StoreUnavailable, match="2 calls wait"):
        await pool.run(valve.work, 4, deadline_s=PATIENCE_S)
    valve.opened.set()
    assert await asyncio.gather(running, *waiting) == [1, 2, 3]
    assert valve.calls == 3


async def test_cancelled_call_leaves_the_line_and_never_runs(make_pool, valve):
    pool = make_pool(threads=1, waiting=1)
    running = asyncio.create_task(pool.run(valve.work, 1, deadline_s=PATIENCE_S))
    await reached(valve.entered)
    for _ in range(5):  # each makes room for the next
        cancelled = asyncio.create_task(pool.run(valve.work, 2, deadline_s=PATIENCE_S))
        await asyncio.wait([cancelled], timeout=0)
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
    valve.opened.set()
    assert await running == 1
    assert await pool.run(str, "next") == "next"
    assert valve.calls == 1


async def test_cancelling_a_running_call_drops_its_result(make_pool, valve):
    pool = make_pool()
    running = asyncio.create_task(pool.run(valve.work, "dropped", deadline_s=PATIENCE_S))
    await reached(valve.entered)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    valve.opened.set()
    await reached(valve.left)
    assert await pool.run(str, "next") == "next"


async def test_late_bug_is_logged_and_late_refusal_is_not(make_pool, valve, caplog):
    pool = make_pool(threads=2)
    errors = [KeyError("a bug of ours"), StoreError("known", "")]
    tasks = [asyncio.create_task(pool.run(valve.work, error, deadline_s=PATIENCE_S)) for error in errors]
    for _ in tasks:
        await reached(valve.entered)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    valve.opened.set()
    both = threading.Barrier(2)  # both threads are back, and have posted what they had
    await asyncio.gather(pool.run(both.wait, PATIENCE_S), pool.run(both.wait, PATIENCE_S))
    assert [record.message for record in caplog.records if record.levelno >= logging.ERROR] == [
        "event=store_call_failed_late"
    ]


async def test_timeout_that_the_call_itself_raises_is_its_own(make_pool, valve):
    valve.opened.set()
    with pytest.raises(TimeoutError, match="of the work"):
        await make_pool().run(valve.work, TimeoutError("of the work"))


async def test_closed_pool_is_unavailable_and_frees_those_in_line(make_pool, valve):
    pool = make_pool()
    running = asyncio.create_task(pool.run(valve.work, 1, deadline_s=PATIENCE_S))
    await reached(valve.entered)
    waiting = asyncio.create_task(pool.run(valve.work, 2, deadline_s=PATIENCE_S))
    await asyncio.wait([waiting], timeout=0)
    closing = asyncio.create_task(asyncio.to_thread(pool.close))
    with pytest.raises(StoreUnavailable, match="closed"):
        await waiting
    with pytest.raises(StoreUnavailable, match="closed"):
        await pool.run(str)
    valve.opened.set()
    assert await running == 1
    await closing
    pool.close()
    assert not [thread for thread in threading.enumerate() if thread in pool._threads]


def test_result_for_a_loop_that_is_gone_is_dropped(make_pool, valve):
    pool = make_pool()

    async def leave() -> None:
        task = asyncio.create_task(pool.run(valve.work, 1, deadline_s=PATIENCE_S))
        await reached(valve.entered)
        task.cancel()

    asyncio.run(leave())
    valve.opened.set()
    assert asyncio.run(pool.run(str, "next")) == "next"


async def test_idle_threads_keep_no_result(make_pool):
    class Row:
        pass

    pool = make_pool()
    row = weakref.ref(await pool.run(Row))
    await pool.run(str)
    gc.collect()
    assert row() is None


async def test_keywords_go_through_partial(make_pool):
    pool = make_pool()
    assert await pool.run(functools.partial(sorted, [1, 2], reverse=True)) == [2, 1]
