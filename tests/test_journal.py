from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from proxy.errors import StoreUnavailable
from proxy.record.journal import AT_ONCE, Journal
from proxy.store.rows import LastUse, Use

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


def use(minute: int) -> LastUse:
    return LastUse(NOON + timedelta(minutes=minute), "192.0.2.1", "imap", "")


class Book:
    """What was written; it can be closed, and it can be slow."""

    def __init__(self) -> None:
        self.written: list[dict[int, LastUse]] = []
        self.sighted: list[list[tuple[int, str, str]]] = []
        self.is_down = False
        self.during: asyncio.Event | None = None
        self.is_writing = asyncio.Event()

    async def write(self, uses: Sequence[Use]) -> None:
        self.is_writing.set()
        if self.during is not None:
            await self.during.wait()
        if self.is_down:
            raise StoreUnavailable("down")
        self.written.append({one.credential_id: one.last_use for one in uses if not one.network})
        self.sighted.append([(one.credential_id, one.last_use.address, one.network) for one in uses if one.network])


@pytest.fixture
def book() -> Book:
    return Book()


async def test_only_the_latest_use_of_each_app_password_is_written_in_one_batch(book: Book) -> None:
    journal = Journal(book.write)
    for credential_id, minute in ((1, 0), (2, 1), (1, 2)):
        journal.record(credential_id, use(minute))
    await journal.flush()
    await journal.flush()
    assert book.written == [{1: use(2), 2: use(1)}]


async def test_what_cannot_be_written_waits_and_never_replaces_what_is_newer(book: Book) -> None:
    journal = Journal(book.write)
    journal.record(1, use(0))
    journal.record(2, use(0))
    book.is_down, book.during = True, asyncio.Event()
    flush = asyncio.create_task(journal.flush())
    await book.is_writing.wait()
    journal.record(1, use(5))  # meanwhile
    book.during.set()
    await flush
    book.is_down = False
    await journal.flush()
    assert book.written == [{1: use(5), 2: use(0)}]


async def test_a_shutdown_amid_a_write_loses_no_use(book: Book) -> None:
    """serve cancels run(), then flushes once more."""
    journal = Journal(book.write)
    journal.record(1, use(0))
    book.during = asyncio.Event()
    flush = asyncio.create_task(journal.flush())
    await book.is_writing.wait()
    flush.cancel()
    with pytest.raises(asyncio.CancelledError):
        await flush
    book.during = None
    await journal.flush()
    assert book.written == [{1: use(0)}]


async def test_nothing_new_costs_no_write(book: Book) -> None:
    await Journal(book.write).flush()
    assert not book.is_writing.is_set()


async def test_the_first_use_of_a_day_from_an_address_is_written_once_with_its_network(book: Book) -> None:
    journal = Journal(book.write)
    for minute, address in ((0, "192.0.2.1"), (1, "192.0.2.1"), (2, "192.0.2.9"), (3, "2001:db8:1:2::3")):
        journal.record(1, replace(use(minute), address=address))
        await journal.flush()
    assert book.sighted == [
        [(1, "192.0.2.1", "192.0.2.0/24")], [], [(1, "192.0.2.9", "192.0.2.0/24")],
        [(1, "2001:db8:1:2::3", "2001:db8:1::/48")],
    ]  # fmt: skip
    journal.record(1, use(24 * 60))
    await journal.flush()
    assert book.sighted[-1] == [(1, "192.0.2.1", "192.0.2.0/24")]


async def test_a_first_use_that_cannot_be_written_is_written_later(book: Book) -> None:
    journal = Journal(book.write)
    journal.record(1, use(0))
    book.is_down = True
    await journal.flush()
    journal.record(1, use(1))
    book.is_down = False
    await journal.flush()
    assert book.sighted == [[(1, "192.0.2.1", "192.0.2.0/24")]]
    assert book.written == [{1: use(1)}]


async def test_many_are_written_in_slices_and_what_is_written_is_not_written_again(book: Book) -> None:
    class Once(Book):
        async def write(self, uses: Sequence[Use]) -> None:
            self.is_down = len(self.written) == 2
            await super().write(uses)

    book = Once()
    journal = Journal(book.write)
    for credential_id in range(3 * AT_ONCE):
        journal.record(credential_id, use(0))
    await journal.flush()
    assert len(book.written) == 2
    book.written.clear()
    await journal.flush()
    while len(book.written) == 2:
        book.written.clear()
        await journal.flush()
    written = [one for slice_ in book.sighted for one in slice_]
    assert len(written) == len(set(written)) == 3 * AT_ONCE
    assert max(map(len, book.sighted)) <= AT_ONCE
