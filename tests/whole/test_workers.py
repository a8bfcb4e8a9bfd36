"""`gatepost serve` with several workers: who dies takes nobody along, and nobody is left behind."""

from __future__ import annotations

import os
import re
import resource
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.edge.scripted import Certificates
from tests.service.house import wrong_password
from tests.whole.kit import USER, House, Line, mail_server, write_config

PATIENCE_S = 20.0
BURST = 200
ROOM = 5  # different wrong passwords that the throttle lets by
MANY = 40  # connections: that all meet the same one of two workers is out of the question
QUICK_TO_DRAIN = "drain_s = 1"


def echo(line: Line) -> None:
    while said := line.sock.recv(1000):
        line.send(said)


@contextmanager
def served(
    house: House, certificates: Certificates, *, workers: int = 2, limits: str = "", loop: str = "uvloop"
) -> Iterator[House]:
    with mail_server(certificates, "imap", echo) as imap:
        write_config(house, certificates, imap=imap.port, workers=workers, limits=limits, loop=loop)
        house.start()
        yield house
        house.kill()


def until(claim: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + PATIENCE_S
    while not claim():
        assert time.monotonic() < end, f"never: {what}"
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False


def open_files(pid: int) -> set[str]:
    """What a process has open, as the kernel names it; a socket is "socket:[NUMBER]"."""
    found = set()
    for file in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            found.add(str(file.readlink()))
    return found


def worker_of(house: House, client: Line) -> int:
    """Which worker has this client."""
    name = other_end(client.sock)
    (worker,) = [number for number, pid in house.workers().items() if name in open_files(pid)]
    return worker


def other_end(client: socket.socket) -> str:
    """The server's socket of a connection on loopback, as open_files names it."""
    # Both ports: the client's alone may be somebody else's too, towards another server.
    ports = client.getpeername()[1], client.getsockname()[1]
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if tuple(int(end.rpartition(":")[2], 16) for end in fields[1:3]) == ports and fields[9] != "0":
            return f"socket:[{fields[9]}]"
    raise AssertionError("no such connection")


def sessions_on_both(house: House) -> dict[int, Line]:
    """A session at each of two workers; others are closed again."""
    found: dict[int, Line] = {}
    for _ in range(MANY):
        client = house.imap_session()
        worker = worker_of(house, client)
        if worker in found:
            client.close()
        else:
            found[worker] = client
        if len(found) == 2:
            return found
    raise AssertionError(f"{MANY} clients at one worker")


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_two_workers_share_the_listeners_and_a_burst(house: House, certificates: Certificates, loop: str) -> None:
    with served(house, certificates, limits=f"waiting_per_address = {BURST}", loop=loop):
        clients = []
        for _ in range(BURST):
            client = socket.socket()
            client.setblocking(False)
            client.connect_ex(("127.0.0.1", house.imap.port))
            clients.append(client)
        for client in clients:
            client.settimeout(PATIENCE_S)
            assert client.recv(4, socket.MSG_WAITALL) == b"* OK"
        sockets = {other_end(client) for client in clients}
        shares = [len(sockets & open_files(pid)) for pid in house.workers().values()]
        assert sum(shares) == BURST
        assert max(shares) <= 0.7 * BURST, shares
        for client in clients:
            client.close()
        log = house.log()
        assert log.count("event=ready") == 1
        assert log.count("event=listening") == 4
        assert house.stop() == 0
    assert "ResourceWarning" not in house.log()


def test_the_supervisor_forks_without_threads_or_database(house: House, certificates: Certificates) -> None:
    with served(house, certificates):
        assert house.process is not None
        assert len(list(Path(f"/proc/{house.process.pid}/task").iterdir())) == 1
        files = open_files(house.process.pid)
        assert [file for file in files if "gatepost.db" in file] == []
        for pid in house.workers().values():
            assert [file for file in open_files(pid) if "gatepost.db" in file] != []


def test_a_worker_that_is_killed_takes_its_own_sessions_along_and_is_replaced(
    house: House, certificates: Certificates
) -> None:
    with served(house, certificates):
        sessions = sessions_on_both(house)
        before = house.workers()
        os.kill(before[1], signal.SIGKILL)
        assert sessions[1].until_gone() == b""
        assert sessions[0].ask(b"still here") == b"still here"
        house.await_log(rf"event=worker_died worker=1 pid={before[1]} status=-9")
        until(lambda: house.workers()[1] != before[1], "a replacement is ready")
        assert house.workers()[0] == before[0]
        sessions[1].close()
        again = sessions_on_both(house)
        assert [again[worker].ask(b"hello") for worker in (0, 1)] == [b"hello", b"hello"]
        assert sessions[0].ask(b"still here") == b"still here"
        for client in (sessions[0], *again.values()):
            client.close()
        assert house.log().count("event=ready") == 1
        assert house.stop() == 0


def test_a_worker_that_is_told_to_end_drains_and_is_replaced(house: House, certificates: Certificates) -> None:
    with served(house, certificates, workers=1):
        session = house.imap_session()
        before = house.workers()[0]
        os.kill(before, signal.SIGTERM)
        assert session.rest() == b""
        session.close()
        house.await_log(rf"event=worker_died worker=0 pid={before} status=0")
        until(lambda: house.workers()[0] != before, "a replacement is ready")
        house.imap_session().close()
        assert house.stop() == 0


def test_nobody_outlives_a_supervisor_that_is_killed(house: House, certificates: Certificates) -> None:
    with served(house, certificates):
        sessions = sessions_on_both(house)
        assert house.process is not None
        house.process.kill()
        house.process.wait()
        for session in sessions.values():
            assert session.rest() == b""  # drained, not cut
            session.close()
        until(lambda: not any(is_alive(pid) for pid in house.workers().values()), "all workers are gone")
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", house.imap.port))
    log = house.log()
    assert log.count("event=supervisor_gone") == 2
    assert log.count("reason=drained") == 2
    assert "Traceback" not in log


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_all_workers_drain_and_the_end_is_told_once(
    house: House, certificates: Certificates, number: signal.Signals
) -> None:
    with served(house, certificates):
        sessions = sessions_on_both(house)
        assert house.process is not None
        house.process.send_signal(number)
        for session in sessions.values():
            assert session.rest() == b""
            session.close()
        assert house.process.wait(PATIENCE_S) == 0
    log = house.log()
    assert log.count("reason=drained") == 2
    assert log.count("event=stopped") == 1
    assert "event=worker_died" not in log
    assert "Traceback" not in log


def test_a_worker_that_hangs_is_killed_in_the_end_and_the_exit_status_tells(
    house: House, certificates: Certificates
) -> None:
    with served(house, certificates, limits=QUICK_TO_DRAIN):
        os.kill(house.workers()[1], signal.SIGSTOP)
        assert house.stop() == 128 + signal.SIGKILL
        until(lambda: not any(is_alive(pid) for pid in house.workers().values()), "all workers are gone")
    assert "event=worker_died worker=1" in house.log()


def test_a_replacement_that_cannot_start_is_no_fork_storm_and_the_others_live_on(
    house: House, certificates: Certificates
) -> None:
    with served(house, certificates):
        sessions = sessions_on_both(house)
        key = house.directory / "master.key"
        kept = key.read_bytes()
        key.unlink()
        os.kill(house.workers()[1], signal.SIGKILL)
        house.await_log(r"gatepost: cannot read .*master\.key")
        begin = time.monotonic()
        until(lambda: house.log().count("event=worker_died worker=1") >= 4, "it was tried again")
        # 0.5, 1 and 2 s lie between four deaths.
        assert time.monotonic() - begin > 2.0
        assert sessions[0].ask(b"still here") == b"still here"
        key.write_bytes(kept)
        ready = house.log().count("event=worker_ready worker=1")
        until(lambda: house.log().count("event=worker_ready worker=1") > ready, "it can start again")
        for session in sessions.values():
            session.close()
        assert house.stop() == 0


def test_a_replacement_needs_no_certificate_file(house: House, certificates: Certificates) -> None:
    with served(house, certificates):
        (house.directory / "key.pem").unlink()
        (house.directory / "cert.pem").rename(house.directory / "kept.pem")
        before = house.workers()[1]
        os.kill(before, signal.SIGKILL)
        until(lambda: house.workers()[1] != before, "it was replaced")
        (house.directory / "kept.pem").rename(house.directory / "cert.pem")
        for session in sessions_on_both(house).values():
            session.close()
        assert house.stop() == 0


def test_a_supervisor_without_a_descriptor_left_lives_on_and_starts_the_replacement_later(
    house: House, certificates: Certificates
) -> None:
    with served(house, certificates):
        sessions = sessions_on_both(house)
        assert house.process is not None
        before = house.workers()[1]
        former = resource.prlimit(house.process.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(house.process.pid, resource.RLIMIT_NOFILE, (3, former[1]))
        os.kill(before, signal.SIGKILL)
        house.await_log(r"event=worker_not_started worker=1")
        assert sessions[0].ask(b"still here") == b"still here"
        resource.prlimit(house.process.pid, resource.RLIMIT_NOFILE, former)
        until(lambda: house.workers()[1] != before, "a replacement is ready")
        for session in sessions.values():
            session.close()
        assert house.stop() == 0


def test_a_first_worker_that_is_killed_before_it_is_ready_is_tried_three_times(
    house: House, certificates: Certificates
) -> None:
    """As the kernel does when there is no memory for it; an upstream that never answers puts its readiness off."""

    def children() -> list[int]:
        return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]

    with socket.create_server(("127.0.0.1", 0)) as silent:
        write_config(house, certificates, imap=silent.getsockname()[1], workers=1)
        house.launch()
        process = house.process
        assert process is not None
        for death in range(3):
            until(lambda: bool(children()), "a worker is there")
            os.kill(children()[0], signal.SIGKILL)
            until(lambda count=death + 1: house.log().count("event=worker_died") == count, "its death is seen")
        assert process.wait(PATIENCE_S) == 1
    log = house.log()
    assert re.findall(r"event=worker_died worker=0 .*status=(\S+)", log) == ["-9", "-9", "-9"]
    assert "event=ready" not in log
    assert "event=worker_ready" not in log


def test_a_guesser_is_blocked_at_every_worker_and_a_stuck_phone_at_none(
    house: House, certificates: Certificates
) -> None:
    limits = f"throttle_wrong = {ROOM}\nwaiting_per_address = 1000"
    with served(house, certificates, limits=limits):
        stuck = wrong_password(house.password)
        assert refusals(house, [stuck] * MANY) == {b"a1 NO [AUTHENTICATIONFAILED"}
        # One line for all workers; or one for each, if they met it in the same instant.
        assert house.log().count("info event=login") <= 2
        wrong = [wrong_password(house.password) for _ in range(ROOM - 1)]
        assert refusals(house, wrong) == {b"a1 NO [AUTHENTICATIONFAILED"}
        assert refusals(house, [house.password] * MANY) == {b"a1 NO [LIMIT"}
        assert house.leaked() == []


def refusals(house: House, passwords: Sequence[str]) -> set[bytes]:
    """The code of each refusal, of clients that are connected at one time; many of them are at both workers."""
    clients = [house.connect(house.imaps) for _ in passwords]
    for client in clients:
        client.line()
    assert len(clients) < MANY or {worker_of(house, client) for client in clients} == {0, 1}
    for client, password in zip(clients, passwords, strict=True):
        client.send(b'a1 LOGIN %b "%b"\r\n' % (USER.encode(), password.encode()))
    codes = {client.line().split(b"] ")[0] for client in clients}
    for client in clients:
        client.close()
    return codes
