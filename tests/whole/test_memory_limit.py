"""A worker that reaches a limit of its memory says so, refuses who needs more, and goes on when there is room.

The limit is one of the address space, which refuses memory. One that the kernel kills by is a SIGKILL for the service:
tests/whole/test_workers.py and tests/systemd have what follows on that.
"""

from __future__ import annotations

import resource
from contextlib import suppress
from pathlib import Path

from tests.edge.scripted import Certificates
from tests.whole.kit import House, Line, mail_server, write_config

SPARE_BYTES = 2 * 1024 * 1024  # some dozens of handshakes
CROWD = 400


def address_space(pid: int) -> int:
    """In bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * resource.getpagesize()


def echo(line: Line) -> None:
    while said := line.sock.recv(1000):
        line.send(said)


def limit(pid: int, most: int) -> None:
    resource.prlimit(pid, resource.RLIMIT_AS, (most, resource.RLIM_INFINITY))


def login(house: House) -> bytes:
    client = house.connect(house.imaps)
    try:
        client.line()
        return client.ask(b'a1 LOGIN ann@example.org "%b"' % house.password.encode())
    finally:
        client.close()


def test_without_memory_connections_end_and_the_worker_goes_on(house: House, certificates: Certificates) -> None:
    with mail_server(certificates, "imap", echo) as imap:
        write_config(house, certificates, imap=imap.port, limits=f"waiting_per_address = {CROWD}")
        house.start()
        session, pid = house.imap_session(), house.pid()
        limit(pid, address_space(pid) + SPARE_BYTES)
        crowd: list[Line] = []
        for _ in range(CROWD):
            with suppress(OSError):  # a handshake without memory is a connection that ends
                crowd.append(house.connect(house.imaps))
        assert len(crowd) < CROWD, "the limit was reached"
        for client in crowd:
            client.close()
        limit(pid, resource.RLIM_INFINITY)
        assert login(house).startswith(b"a1 OK")
        assert session.ask(b"still here") == b"still here"
        session.close()
        assert house.pid() == pid
        assert house.stop() == 0
    log = house.log()
    # OpenSSL's own failure has no name.
    assert "MemoryError" in log or "event=tls_failed service=imap peer=127.0.0.1 reason=SSLError" in log, "is told"
    assert "event=task_crashed" not in log
    assert "event=worker_died" not in log


def test_a_login_that_finds_no_memory_hears_that_it_is_for_now(house: House, certificates: Certificates) -> None:
    """No room for one more thread: the reason is in the log, and the password was not wrong."""
    with mail_server(certificates, "imap", echo) as imap:
        write_config(house, certificates, imap=imap.port)
        house.start()
        waiting = house.connect(house.imaps)  # its handshake is done
        waiting.line()
        limit(house.pid(), address_space(house.pid()))
        refused = waiting.ask(b'a1 LOGIN ann@example.org "%b"' % house.password.encode())
        assert refused.startswith(b"a1 NO [UNAVAILABLE]"), refused
        limit(house.pid(), resource.RLIM_INFINITY)
        assert waiting.ask(b'a2 LOGIN ann@example.org "%b"' % house.password.encode()).startswith(b"a2 OK")
        waiting.close()
        assert house.stop() == 0
    assert "cause=internal" in house.log()
