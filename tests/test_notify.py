"""What is told to systemd and taken from it, over real sockets."""

from __future__ import annotations

import os
import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from proxy.notify import Manager, manager

PATIENCE_S = 5


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def service_manager(stack: ExitStack, address: str | bytes) -> socket.socket:
    sock = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
    sock.settimeout(PATIENCE_S)
    sock.bind(address)
    return sock


@pytest.mark.parametrize("kind", ["path", "abstract"])
def test_the_manager_hears_what_the_service_tells(stack: ExitStack, tmp_path: Path, kind: str) -> None:
    name = str(tmp_path / "notify") if kind == "path" else f"@gatepost-{secrets.token_hex(8)}"
    ear = service_manager(stack, name if kind == "path" else b"\0" + name[1:].encode())
    systemd = manager({"NOTIFY_SOCKET": name})
    systemd.ready("3 sessions")
    systemd.status("4 sessions")
    systemd.alive()
    systemd.stopping("draining")
    systemd.stopping()
    heard = [ear.recv(1000) for _ in range(5)]
    assert heard == [
        b"READY=1\nSTATUS=3 sessions",
        b"STATUS=4 sessions",
        b"WATCHDOG=1",
        b"STOPPING=1\nSTATUS=draining",
        b"STOPPING=1",
    ]


def test_a_reload_is_told_with_the_time_it_began(stack: ExitStack, tmp_path: Path) -> None:
    ear = service_manager(stack, str(tmp_path / "notify"))
    before = time.monotonic()
    manager({"NOTIFY_SOCKET": str(tmp_path / "notify")}).reloading()
    first, second = ear.recv(1000).decode().split("\n")
    assert first == "RELOADING=1"
    name, microseconds = second.split("=")
    assert name == "MONOTONIC_USEC"
    assert before <= int(microseconds) / 1e6 + 1e-6
    assert int(microseconds) / 1e6 <= time.monotonic()


def test_without_a_manager_and_with_one_that_is_gone_nothing_happens(tmp_path: Path) -> None:
    for systemd in (manager({}), manager({"NOTIFY_SOCKET": str(tmp_path / "gone")})):
        systemd.ready()
        systemd.alive()
    assert manager({}) == Manager()


def test_a_manager_that_does_not_listen_does_not_hold_the_service_up(stack: ExitStack, tmp_path: Path) -> None:
    service_manager(stack, str(tmp_path / "notify"))
    systemd = manager({"NOTIFY_SOCKET": str(tmp_path / "notify")})
    for _ in range(10_000):  # far more than its queue takes
        systemd.alive()


@pytest.mark.parametrize(
    ("pid", "watchdog_s"), [("", 30.0), (str(os.getpid()), 30.0), ("1", None)], ids=["anybody", "us", "another"]
)
def test_the_watchdog_is_for_the_process_it_names(pid: str, watchdog_s: float | None) -> None:
    said = {"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": pid}
    assert manager(said).watchdog_s == watchdog_s


def test_programs_that_the_service_starts_are_not_the_service() -> None:
    environment = {
        "NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "1", "WATCHDOG_PID": "1", "LISTEN_FDS": "1", "LISTEN_PID": "1",
        "LISTEN_FDNAMES": "a", "CREDENTIALS_DIRECTORY": "/run/credentials/x", "PATH": "/bin",
    }  # fmt: skip
    manager(environment)
    assert environment == {"CREDENTIALS_DIRECTORY": "/run/credentials/x", "PATH": "/bin"}


def consecutive(stack: ExitStack, *socks: socket.socket) -> int:
    """The sockets again, on descriptors that follow each other; the first one's number."""
    first = 200
    for number, sock in enumerate(socks):
        os.dup2(sock.fileno(), first + number, inheritable=True)
    return first


def test_sockets_that_were_passed_come_with_their_names_and_are_not_inherited(stack: ExitStack) -> None:
    servers = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(2)]
    first = consecutive(stack, *servers)
    said = {"LISTEN_FDS": "2", "LISTEN_PID": str(os.getpid()), "LISTEN_FDNAMES": "imaps"}
    passed = manager(said, first).passed
    for each in passed:
        stack.enter_context(each.sock)
    assert [each.name for each in passed] == ["imaps", ""]
    assert [each.sock.getsockname() for each in passed] == [server.getsockname() for server in servers]
    assert not any(os.get_inheritable(each.sock.fileno()) for each in passed)
    assert not any(each.sock.getblocking() for each in passed)


def test_sockets_of_another_process_are_left_alone() -> None:
    assert manager({"LISTEN_FDS": "1", "LISTEN_PID": "1"}).passed == ()
