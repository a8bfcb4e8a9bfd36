"""Fixtures of the service floor; a test module asks for them by `pytest_plugins`."""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from proxy.store.store import Store
from tests.service.house import House, LogBook, disguises, opened_house


@pytest.fixture(scope="session")
def empty_store_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("service") / "empty.db"
    Store.create(f"sqlite:///{file}").close()
    return file


@pytest.fixture
def book() -> Iterator[LogBook]:
    """What is logged while the test runs."""
    book, root = LogBook(), logging.getLogger()
    level = root.level
    root.addHandler(book)
    root.setLevel(logging.DEBUG)
    yield book
    root.setLevel(level)
    root.removeHandler(book)


@pytest.fixture
async def house(tmp_path: Path, empty_store_file: Path, book: LogBook) -> AsyncIterator[House]:
    """A service floor. When the test is over, no log line holds a secret and nothing is left behind."""
    shutil.copy(empty_store_file, tmp_path / "gatepost.db")
    async with opened_house(f"sqlite:///{tmp_path}/gatepost.db", tmp_path) as house:
        yield house
    assert house.tickets == 0, "a place in the hash lanes was never given back"
    written = "\n".join(book.texts)
    leaked = [
        secret[:2]
        for secret in house.secrets | set(house.endpoint.issued)
        for form in disguises(secret)
        if form in written
    ]
    assert leaked == [], "a secret is in the log"
    left = asyncio.all_tasks() - {asyncio.current_task()}
    assert not [task for task in left if not task.done() and "_pytest" not in repr(task)], "a task outlived its owner"
