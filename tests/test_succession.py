"""proxy/serving/succession.py by itself: no process is forked, so that no worker of a new generation gets ready."""

from __future__ import annotations

import json
import selectors
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from proxy.config.reader import load
from proxy.notify import Manager
from proxy.serving.askers import Askers
from proxy.serving.build import preflight
from proxy.serving.generation import Generation, Phase
from proxy.serving.listeners import open_sockets
from proxy.serving.succession import COME_S, Succession
from tests.edge.house_kit import make_template

Made = Callable[[float], Succession]


class Asker:
    """Has asked for a reload, as `gatepost reload` does."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self._path = str(directory / "reload")
        self._selector = stack.enter_context(selectors.DefaultSelector())
        self._listening = stack.enter_context(socket.socket(socket.AF_UNIX))
        self._listening.bind(self._path)
        self._listening.listen(4)
        self._listening.setblocking(False)
        self.askers = Askers(self._listening, "gatepost.toml")
        self._sock = stack.enter_context(socket.socket(socket.AF_UNIX))

    def ask(self, succession: Succession) -> None:
        self.askers.listen(self._selector, succession.reload)
        self._sock.connect(self._path)
        for key, _ in self._selector.select(5):
            key.data()

    @property
    def answer(self) -> dict[str, object] | None:
        self._sock.setblocking(False)
        try:
            answer: dict[str, object] = json.loads(self._sock.recv(1000))
        except BlockingIOError:
            return None
        return answer


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def asker(tmp_path: Path, stack: ExitStack) -> Asker:
    return Asker(tmp_path, stack)


@pytest.fixture
def made(tmp_path: Path, stack: ExitStack, asker: Asker) -> Made:
    """One that serves, and whose configuration has another log level meanwhile."""

    def make(come_s: float) -> Succession:
        file = make_template(tmp_path / "gate") / "gatepost.toml"
        config = load(file)
        sockets = open_sockets(config.listeners, ())
        for sock in sockets:
            stack.enter_context(sock)
        first = Generation.make(1, config, preflight(config), sockets=sockets, control=None)
        stack.callback(first.close)
        succession = Succession(first, Manager(), asker.askers, lambda _: None, come_s=come_s)
        for slot in first.slots:
            slot.is_ready = True
        succession.on_ready(first)
        assert succession.is_up
        file.write_text(file.read_text() + '[log]\nlevel = "warning"\n')
        return succession

    return make


def test_a_reload_whose_workers_hang_is_given_up_and_the_next_one_may_come(made: Made, asker: Asker) -> None:
    succession = made(0.0)
    first = succession.serving
    asker.ask(succession)
    new = succession.coming
    assert new is not None
    assert asker.answer is None
    succession.look()
    assert succession.coming is None
    assert succession.serving is first
    assert (first.phase, new.phase) == (Phase.SERVING, Phase.LEAVING)
    answer = asker.answer
    assert answer is not None
    assert answer["ok"] is False
    assert answer["problem"] == "the new configuration's workers do not start"
    succession.forget(new)
    succession.reload()
    assert succession.coming is not None
    succession.forget(succession.coming)


def test_a_reload_that_takes_its_time_is_waited_for(made: Made, asker: Asker) -> None:
    succession = made(COME_S)
    asker.ask(succession)
    new = succession.coming
    assert new is not None
    succession.look()
    assert succession.coming is new
    for slot in new.slots:
        slot.is_ready = True
        succession.on_ready(new)
    assert succession.serving is new
    succession.look()
    assert succession.serving is new
    answer = asker.answer
    assert answer is not None
    assert answer["ok"] is True
    succession.forget(new)
