"""proxy/serving/askers.py: who asks for a reload while there are no descriptors waits, and nobody spins meanwhile."""

from __future__ import annotations

import contextlib
import os
import resource
import selectors
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.serving.askers import Askers
from proxy.serving.control import AGAIN_S
from tests.service.house import Clock


@contextlib.contextmanager
def no_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken: list[int] = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (512, hard))
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.dup(0))
        yield
    finally:
        for one in taken:
            os.close(one)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_without_descriptors_the_reload_socket_rests_and_nobody_is_lost(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock, reloads = Clock(), []

    def turn() -> int:
        """A turn of the supervisor's loop; how much there was to do."""
        ready = selector.select(0)
        for key, _ in ready:
            key.data()
        askers.look()
        return len(ready)

    with (
        selectors.DefaultSelector() as selector,
        socket.socket(socket.AF_UNIX) as listening,
        socket.socket(socket.AF_UNIX) as asker,
    ):
        listening.bind(str(tmp_path / "reload"))
        listening.listen(4)
        listening.setblocking(False)
        askers = Askers(listening, "gatepost.toml", clock=clock)
        askers.listen(selector, lambda: reloads.append(1))
        with no_descriptors():
            asker.connect(str(tmp_path / "reload"))
            assert [turn() for _ in range(5)] == [1, 0, 0, 0, 0]
            clock.pass_s(AGAIN_S)
            assert [turn() for _ in range(5)] == [0, 1, 0, 0, 0]
        assert caplog.text.count("event=control_delayed") == 2
        clock.pass_s(AGAIN_S)
        assert [turn() for _ in range(3)] == [0, 1, 0]
        assert reloads == [1]
        askers.begin()
        askers.answer()
        assert asker.recv(100) == b'{"ok": true, "config": "gatepost.toml"}\n'
