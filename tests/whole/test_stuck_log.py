"""Standard error is a pipe, and whoever reads it has stopped: mail goes on, and so does the supervisor."""

from __future__ import annotations

import fcntl
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable

from tests.edge.scripted import Certificates
from tests.gate import STOP_S, _environment
from tests.lab import Endpoint
from tests.whole.kit import House, mail_server, write_config

F_SETPIPE_SZ = 1031  # fcntl.h
PAGE = 4096
LOGINS = 40  # each logs some 1,000 octets at debug
PATIENCE_S = 20.0


def until(claim: Callable[[], object], what: str) -> None:
    end = time.monotonic() + PATIENCE_S
    while not claim():
        assert time.monotonic() < end, f"never: {what}"
        time.sleep(0.02)


def children(pid: int) -> list[int]:
    with open(f"/proc/{pid}/task/{pid}/children") as file:  # noqa: PTH123 - no file, but the kernel's answer
        return [int(child) for child in file.read().split()]


def start(house: House) -> tuple[int, str]:
    """Start it with a small pipe for standard error; the end to read from, and what was read of it until ready."""
    ours, theirs = os.pipe()
    fcntl.fcntl(theirs, F_SETPIPE_SZ, PAGE)
    house.process = subprocess.Popen(
        [sys.executable, "-m", "proxy", "serve", "--config", house.config],
        stdin=subprocess.DEVNULL, stderr=theirs, env=_environment(), process_group=0,
    )  # fmt: skip
    os.close(theirs)
    text = ""
    while "event=ready" not in text:
        data = os.read(ours, PAGE)
        assert data, text
        text += data.decode()
    found = re.search(r"on=imap://127\.0\.0\.1:(\d+) tls=implicit", text)
    assert found is not None, text
    house.imaps = Endpoint("localhost", int(found[1]))
    return ours, text


def test_logins_go_on_and_the_supervisor_does_its_work(house: House, certificates: Certificates) -> None:
    with mail_server(certificates, "imap", lambda line: line.rest()) as imap:
        write_config(house, certificates, imap=imap.port)
        ours, _ = start(house)
        for _ in range(LOGINS):  # from here on nobody reads
            house.imap_session().close()
        (worker,) = children(house.process.pid)
        os.kill(worker, signal.SIGKILL)
        until(lambda: set(children(house.process.pid)) - {worker}, "the supervisor replaces a worker")
        house.imap_session().close()
        house.process.send_signal(signal.SIGTERM)
        assert house.process.wait(STOP_S) == 0
        with os.fdopen(ours) as pipe:
            text = pipe.read()
    assert len(text) <= PAGE + 100  # what nobody read is gone with its process


def test_what_waited_is_read_in_its_order(house: House, certificates: Certificates) -> None:
    with mail_server(certificates, "imap", lambda line: line.rest()) as imap:
        write_config(house, certificates, imap=imap.port)
        ours, begin = start(house)
        for _ in range(LOGINS):
            house.imap_session().close()
        with os.fdopen(ours) as pipe:
            house.process.send_signal(signal.SIGTERM)
            text = begin + pipe.read()
        assert house.process.wait(STOP_S) == 0
    assert len(re.findall(r"event=login .*result=ok", text)) == LOGINS
    assert "log_lines_lost" not in text
    assert text.splitlines()[-1].endswith("event=stopped")
