"""Workers that count as one: what one of them meets, the others' throttles know; and what they can't read, nobody."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager

import pytest
from hypothesis import given, strategies as st

from proxy.login.bus import MAX_MESSAGE_BYTES, Bus, Wires, hear, lay
from proxy.login.throttle import Throttle
from proxy.secret import Secret
from proxy.vault.cache import Fingerprints
from tests.edge.scripted import on_both_loops
from tests.service.house import Clock, until

HOME, AWAY, SIXTH = "192.0.2.1", "203.0.113.9", "2001:db8::1"
WRONG = 3


class Ears:
    """Writes down what it hears."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, ...] | tuple[str, str, bytes]] = []

    def hear_wrong(self, address: str, login: str, fingerprint: bytes) -> None:
        self.heard.append((address, login, fingerprint))

    def hear_success(self, address: str, login: str) -> None:
        self.heard.append((address, login))


def fingerprint(wires: Wires, login: str, password: str) -> bytes:
    return Fingerprints(wires.key).of(login, Secret(password))


@asynccontextmanager
async def node(workers: int) -> AsyncIterator[tuple[list[Throttle], list[Wires]]]:
    with ExitStack() as stack:
        wires = list(lay(workers, stack))
        throttles = []
        for one in wires:
            bus = Bus(one)
            throttle = Throttle(wrong=WRONG, wrong_network=20, window_s=600, clock=Clock(), others=bus)
            stack.callback(bus.listen(throttle))
            throttles.append(throttle)
        yield throttles, wires


@on_both_loops
async def test_a_guesser_who_is_blocked_by_one_worker_is_blocked_by_all():
    async with node(3) as (throttles, wires):
        for number, throttle in enumerate(throttles):  # one wrong secret at each
            assert not any(one.is_blocked(HOME, "ann") for one in throttles)
            throttle.record_wrong(HOME, "ann", fingerprint(wires[number], "ann", f"guess {number}"))
        await until(lambda: all(throttle.is_blocked(HOME, "ann") for throttle in throttles))
        assert not any(throttle.is_blocked(AWAY, "ann") for throttle in throttles)
        assert not any(throttle.is_blocked(HOME, "bob") for throttle in throttles)


@on_both_loops
async def test_one_wrong_secret_counts_once_wherever_it_is_repeated():
    async with node(2) as (throttles, wires):
        assert throttles[0].record_wrong(HOME, "ann", fingerprint(wires[0], "ann", "old"))
        throttles[0].record_success(HOME, "told")
        await until(lambda: throttles[1].is_regular(HOME, "told"))  # so what was sent before has come, too
        for _ in range(20):
            assert not throttles[1].record_wrong(HOME, "ann", fingerprint(wires[1], "ann", "old"))
        assert not any(throttle.is_blocked(HOME, "ann") for throttle in throttles)


@on_both_loops
async def test_who_is_regular_at_one_worker_is_so_at_all():
    async with node(3) as (throttles, _):
        throttles[2].record_success(SIXTH, "ann@example.org")
        await until(lambda: all(throttle.is_regular(SIXTH, "ann@example.org") for throttle in throttles))
        assert not any(throttle.is_regular(AWAY, "ann@example.org") for throttle in throttles)


@on_both_loops
async def test_what_is_heard_is_not_told_again():
    with ExitStack() as stack:
        wires = lay(2, stack)
        ears = [Ears(), Ears()]
        for one, ear in zip(wires, ears, strict=True):
            stack.callback(Bus(one).listen(ear))
        throttle = Throttle(wrong=WRONG, wrong_network=20, window_s=600, clock=Clock(), others=Bus(wires[0]))
        throttle.hear_wrong(HOME, "ann", b"f" * 32)
        throttle.hear_success(HOME, "ann")
        throttle.record_success(HOME, "bob")
        await until(lambda: bool(ears[1].heard))
        assert (ears[0].heard, ears[1].heard) == ([], [(HOME, "bob")])


@on_both_loops
async def test_a_worker_that_does_not_read_makes_nobody_wait_and_hears_the_rest_of_it_later():
    with ExitStack() as stack:
        wires = lay(2, stack)
        bus, ears = Bus(wires[0]), Ears()
        for number in range(20_000):
            bus.tell_success(HOME, f"user{number}")
        stack.callback(Bus(wires[1]).listen(ears))
        await until(lambda: (HOME, "user0") in ears.heard)
        await asyncio.sleep(0)
        bus.tell_success(HOME, "last")
        await until(lambda: (HOME, "last") in ears.heard)
        assert 100 < len(ears.heard) < 20_000


async def test_a_worker_that_is_gone_is_no_error():
    with ExitStack() as stack:
        wires = lay(2, stack)
        wires[1].inbox.close()
        Bus(wires[0]).tell_wrong(HOME, "ann", b"f" * 32)


def test_the_key_is_the_same_for_all_workers_random_and_not_shown():
    with ExitStack() as stack:
        one, two = lay(2, stack)
        (other,) = lay(1, stack)
        assert one.key == two.key != other.key
        assert len(one.key) == 32
        assert one.key.hex() not in repr(one)
        assert repr(one.key)[2:-1] not in repr(one)


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"w",
        b"s",
        b"x" + b"192.0.2.1\0ann",
        b"s192.0.2.1",
        b"s\0ann",
        b"sno address\0ann",
        b"s192.0.2.1\0\xff",
        b"w" + b"f" * 31,
        b"w" + b"f" * 32,
        b"w" + b"f" * 32 + b"192.0.2.1",
        b"s192.0.2.1\0" + b"a" * MAX_MESSAGE_BYTES,
    ],
)
def test_what_cannot_be_read_is_nobody_s(message: bytes) -> None:
    ears = Ears()
    hear(message, ears)
    assert ears.heard == []


@given(st.binary(max_size=MAX_MESSAGE_BYTES + 1))
def test_no_message_is_an_error(message: bytes) -> None:
    hear(message, Throttle(wrong=3, wrong_network=20, window_s=600, clock=Clock()))
    hear(b"s" + message, Throttle(wrong=3, wrong_network=20, window_s=600, clock=Clock()))


@on_both_loops
async def test_every_login_name_arrives_as_it_was_told():
    names = ["ann@example.org", "jürgen@example.org", "x" * 254, "", "日本" * 40]
    with ExitStack() as stack:
        wires = lay(2, stack)
        ears = Ears()
        stack.callback(Bus(wires[1]).listen(ears))
        for name in names:
            Bus(wires[0]).tell_wrong(SIXTH, name, b"\0" * 32)
        await until(lambda: len(ears.heard) == len(names))
        assert ears.heard == [(SIXTH, name, b"\0" * 32) for name in names]
