"""Outcomes E52: a slow reader downloads much; Gatepost's memory stays flat."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from tests.edge.scripted import Certificates
from tests.whole.kit import House, Line, mail_server, write_config

SIZE = 1 << 30
BLOCK = bytes(range(256)) * 4096  # 1 MiB
BOUND_KIB = 20 * 1024  # of growth; measured: 2.3 MiB on uvloop, 0.3 MiB on asyncio
STALLED_S = 0.3
VISITS, WARM_UP = 400, 100
VISITS_BOUND_KIB = 4 * 1024  # measured: 20 MiB when nobody looked for cycles


def resident_kib(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise AssertionError("no VmRSS")


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_memory_stays_flat_while_a_slow_reader_downloads_a_gigabyte(
    house: House, certificates: Certificates, loop: str, record_property
) -> None:
    size = SIZE if loop == "uvloop" else SIZE // 16
    sent = 0

    def talk(line: Line) -> None:
        nonlocal sent
        assert line.line() == b"a2 FETCH 1 BODY[]"
        while sent < size:
            line.send(BLOCK)
            sent += len(BLOCK)
        line.send(b"a2 OK\r\n")
        assert line.line() == b"a3 LOGOUT"

    with mail_server(certificates, "imap", talk) as server:
        write_config(house, certificates, imap=server.port, loop=loop)
        house.start()
        client = house.imap_session()
        before = peak = resident_kib(house.pid())
        client.send(b"a2 FETCH 1 BODY[]\r\n")
        # He reads nothing until the upstream can send no more: the whole way is full then.
        seen = -1
        while seen != sent or sent == 0:
            seen = sent
            time.sleep(STALLED_S)
            peak = max(peak, resident_kib(house.pid()))
        assert sent < 64 << 20
        stalled = resident_kib(house.pid())

        is_over = threading.Event()

        def watch() -> None:
            nonlocal peak
            while not is_over.wait(0.02):
                peak = max(peak, resident_kib(house.pid()))

        watcher = threading.Thread(target=watch)
        watcher.start()
        buffer = bytearray(1 << 18)
        received = 0
        try:
            while received < size:
                count = client.sock.recv_into(buffer, min(len(buffer), size - received))
                assert count, f"the end after {received} bytes"
                received += count
            assert client.line() == b"a2 OK"
        finally:
            is_over.set()
            watcher.join()
        client.send(b"a3 LOGOUT\r\n")
        assert client.rest() == b""
        client.close()
        record_property("resident_kib", (before, stalled, peak))
        assert peak - before < BOUND_KIB
        assert f"bytes_down={size + 7}" in house.await_log("event=session_end")


def test_memory_stays_flat_while_many_come_and_go_without_a_login(house: House, certificates: Certificates) -> None:
    """What each leaves is a cycle with a TLS connection in it: somebody must look for these, and in time."""
    write_config(house, certificates, loop="uvloop")
    house.start()

    def visit() -> None:
        client = house.connect(house.smtps)
        client.line()
        assert client.ask(b"QUIT").startswith(b"221")
        client.rest()
        client.close()

    for _ in range(WARM_UP):
        visit()
    before = resident_kib(house.pid())
    for _ in range(VISITS):
        visit()
    assert resident_kib(house.pid()) - before < VISITS_BOUND_KIB
    assert house.stop() == 0
