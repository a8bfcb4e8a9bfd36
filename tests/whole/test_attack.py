"""Faults that an attack from outside, on a running Gatepost, has found."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.edge.scripted import Certificates
from tests.whole.kit import House, Line, mail_server, write_config

AT_ONCE = 12  # logins: more than the store had connections at its start, so that new ones are opened
FLUSH_S = 5.0  # two rounds of the journal


def always_ok(line: Line) -> None:
    while said := line.sock.recv(1000):  # a command each, as our clients wait for the answers
        line.send(said.split(b" ", 1)[0] + b" OK\r\n")


@contextmanager
def read_only(directory: Path) -> Iterator[None]:
    """The directory cannot be written, not even by root; files that are open stay as they are."""

    subprocess.run(["mount", "--bind", directory, directory], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", directory], check=True)
        yield
    finally:
        subprocess.run(["umount", "--lazy", directory], check=True)


def each(count: int, work: Callable[[], None]) -> None:
    with ThreadPoolExecutor(count) as threads:
        for future in [threads.submit(work) for _ in range(count)]:
            future.result()


@pytest.mark.usefixtures("as_root")
def test_state_directory_turned_read_only_ends_no_session(house: House, certificates: Certificates) -> None:
    def visit() -> None:
        house.imap_session().close()

    with mail_server(certificates, "imap", always_ok) as upstream:
        write_config(house, certificates, imap=upstream.port)
        house.start()
        session = house.imap_session()
        with read_only(house.directory):
            end = time.monotonic() + FLUSH_S
            while time.monotonic() < end:
                each(AT_ONCE, visit)
                time.sleep(0.5)
            assert house.process is not None
            assert house.process.poll() is None
            assert session.ask(b"a3 NOOP") == b"a3 OK"
        # No line is awaited: a connection to the database that was open before goes on writing.
        assert "Traceback" not in house.log()
        session.close()
        assert house.stop() == 0
