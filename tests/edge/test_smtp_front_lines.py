"""The lines of an SMTP client: any split gives the same ones, and memory stays small."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings, strategies as st

from proxy.edge.smtp_lines import MAX_HELD_BYTES, Lines
from proxy.wire.sasl import MAX_SASL_BYTES
from tests.edge.smtp_front_kit import soon

LIMIT = MAX_SASL_BYTES


class Tap(asyncio.Transport):
    """Only what is paused and resumed."""

    def __init__(self) -> None:
        super().__init__()
        self.is_paused = False

    def pause_reading(self) -> None:
        assert not self.is_paused
        self.is_paused = True

    def resume_reading(self) -> None:
        assert self.is_paused
        self.is_paused = False

    def is_closing(self) -> bool:
        return False


def all_lines(pieces: list[bytes]) -> list[bytes]:
    """What is read when each piece arrives while the reader waits."""

    async def scenario() -> list[bytes]:
        lines = Lines(Tap())
        heard: list[bytes] = []

        async def listen() -> None:
            while True:
                heard.append(await lines.readuntil())

        task = asyncio.get_running_loop().create_task(listen())
        for piece in pieces:
            await asyncio.sleep(0)
            lines.feed(piece)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        return heard

    return asyncio.run(scenario())


LONG = [b"NOOP\r\n", b"x" * LIMIT + b"\r\n", b"x" * (LIMIT + 1) + b"\r\n", b"x" * (LIMIT + 1) + b"\n", b"NOOP\n"]
LONG += [b"x" * (LIMIT + 2) + b"\r\n", b"\r" * 3 * LIMIT + b"\n", b"y" * 5 * LIMIT + b"\r\n", b"QUIT\r\n"]


def is_too_long(line: bytes) -> bool:
    return not line.endswith(b"\n")


@pytest.mark.parametrize("size", [1, 7, LIMIT - 1, LIMIT, LIMIT + 1, LIMIT + 2, 2**20])
def test_a_line_that_is_too_long_comes_once_and_cut(size):
    data = b"".join(LONG)
    heard = all_lines([data[start : start + size] for start in range(0, len(data), size)])
    assert len(heard) == len(LONG)
    for line, sent in zip(heard, LONG, strict=True):
        if len(sent.rstrip(b"\r\n")) <= LIMIT and len(sent) <= LIMIT + 2:
            assert line == sent
        else:
            assert is_too_long(line)
            assert len(line) == len(line.rstrip(b"\r\n")) == LIMIT + 1


@settings(max_examples=60, deadline=None)
@given(st.lists(st.binary(max_size=40), max_size=30), st.randoms())
def test_any_split_gives_the_same_lines(texts, random):
    data = b"\n".join(texts) + b"\n"
    cuts = sorted(random.randint(0, len(data)) for _ in range(10))
    pieces = [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    assert all_lines(pieces) == [line + b"\n" for line in data.split(b"\n")[:-1]]


async def test_a_line_without_end_is_heard_of_at_once_and_not_kept():
    lines = Lines(Tap())
    lines.feed(b"x" * (LIMIT + 2))
    assert is_too_long(await soon(lines.readuntil()))
    for _ in range(100):
        lines.feed(b"x" * 65_536)
    assert len(lines._held) == 0
    lines.feed(b"xx\r\nNOOP\r\n")
    assert await soon(lines.readuntil()) == b"NOOP\r\n"


async def test_reading_pauses_when_full_and_goes_on_when_read():
    tap = Tap()
    lines = Lines(tap)
    lines.feed(b"NOOP\r\n" * (MAX_HELD_BYTES // 6 + 1))
    assert tap.is_paused
    while tap.is_paused:
        assert await soon(lines.readuntil()) == b"NOOP\r\n"
    assert len(lines._held) <= MAX_HELD_BYTES // 2
    lines.feed(b"NOOP\r\n" * (MAX_HELD_BYTES // 6))
    assert tap.is_paused


async def test_what_came_before_there_was_a_transport_pauses_it_once_it_is_there():
    lines, tap = Lines(None), Tap()
    lines.feed(b"NOOP\r\n" * (MAX_HELD_BYTES // 6 + 1))
    lines.attach(tap)
    assert tap.is_paused


async def test_what_is_taken_is_everything_and_the_last():
    lines = Lines(Tap())
    lines.feed(b"AUTH\r\nMAIL\r\nRC")
    await soon(lines.readuntil())
    assert lines.head == b"AUTH"
    assert lines.take() == b"MAIL\r\nRC"
    lines.feed(b"NOOP\r\n")
    assert lines.take() == b""


async def test_a_reader_of_closed_lines_waits_to_be_cancelled():
    lines = Lines(Tap())
    lines.feed(b"NOOP\r\n")
    lines.close()
    task = asyncio.get_running_loop().create_task(lines.readuntil())
    await asyncio.sleep(0)
    assert not task.done()
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
