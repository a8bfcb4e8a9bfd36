"""A process that runs out of file descriptors pauses its accepting, and goes on when there is room."""

from __future__ import annotations

import os
import resource
import socket
import time
from pathlib import Path

import pytest

from tests.edge.scripted import Certificates
from tests.whole.kit import House, mail_server, write_config

SPARE = 8  # descriptors that it may open beyond those it has
CROWD = 30
PAUSES_S = 1.0  # some four pauses of the acceptor


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_no_descriptors_left_is_a_pause_and_no_busy_loop(house: House, certificates: Certificates, loop: str) -> None:
    with mail_server(certificates, "imap", lambda _: None) as imap:
        write_config(house, certificates, imap=imap.port, loop=loop)
        house.start()
        host, port = house.imap  # STARTTLS: greeted in clear
        limit = len(list(Path(f"/proc/{house.pid()}/fd").iterdir())) + SPARE
        resource.prlimit(house.pid(), resource.RLIMIT_NOFILE, (limit, limit))
        crowd = [socket.create_connection((host, port), timeout=10) for _ in range(CROWD)]
        house.await_log("event=accept_paused .*reason=EMFILE")
        before = cpu_s(house.pid())
        time.sleep(PAUSES_S)
        assert cpu_s(house.pid()) - before < PAUSES_S / 2
        assert house.log().count("event=accept_paused") == 1  # however long it lasts
        while crowd:
            client = crowd.pop(0)  # those who came first are in, and make room for the others
            assert client.recv(5, socket.MSG_WAITALL) == b"* OK "
            client.close()
        assert house.stop() == 0
    log = house.log()
    assert "Traceback" not in log
    assert "event=task_crashed" not in log
