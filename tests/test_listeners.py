"""Whose a passed socket is, and what becomes of sockets when the listeners change."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from proxy.config import ListenConfig, Protocol, Tls
from proxy.errors import ConfigError
from proxy.notify import Passed
from proxy.serving.listeners import open_sockets


def listener(port: int, host: str = "127.0.0.1", protocol: Protocol = "imap", tls: Tls = Tls.IMPLICIT) -> ListenConfig:
    return ListenConfig(protocol, host, port, tls, ("main",))


@pytest.fixture
def pass_socket() -> Iterator[Callable[..., Passed]]:
    with ExitStack() as stack:

        def make(host: str = "127.0.0.1", name: str = "gatepost.socket") -> Passed:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            return Passed(stack.enter_context(socket.create_server((host, 0), family=family)), name)

        yield make


def port_of(one: Passed) -> int:
    return int(one.sock.getsockname()[1])


@pytest.mark.parametrize(
    ("configured", "passed"),
    [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "::"), ("::", "0.0.0.0"), ("0.0.0.0", "0.0.0.0"), ("::1", "::1")],
)
def test_a_passed_socket_is_that_of_the_listener_with_its_address(
    pass_socket: Callable[..., Passed], configured: str, passed: str
) -> None:
    one, two = pass_socket(passed), pass_socket(passed)
    sockets = open_sockets([listener(port_of(two), configured), listener(port_of(one), configured)], [one, two])
    assert sockets == [two.sock, one.sock]


@pytest.mark.parametrize(("name", "index"), [("imaps", 0), ("imap", 1), ("submissions", 2), ("submission", 3)])
def test_a_passed_socket_on_another_address_is_found_by_its_name(
    pass_socket: Callable[..., Passed], name: str, index: int
) -> None:
    listeners = [
        listener(0, tls=tls, protocol=protocol)
        for protocol, tls in (
            ("imap", Tls.IMPLICIT),
            ("imap", Tls.STARTTLS),
            ("smtp", Tls.IMPLICIT),
            ("smtp", Tls.STARTTLS),
        )
    ]
    one = pass_socket(name=name)
    sockets = open_sockets(listeners, [one])
    assert [sock is one.sock for sock in sockets] == [number == index for number in range(4)]
    for sock in sockets:
        sock.close()


def test_a_listener_without_a_passed_socket_is_bound(pass_socket: Callable[..., Passed]) -> None:
    one = pass_socket()
    bound, passed = open_sockets([listener(0), listener(port_of(one))], [one])
    with bound:
        assert passed is one.sock
        assert bound.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)


@pytest.mark.parametrize("name", ["gatepost-old.socket", "imaps"])
def test_a_passed_socket_without_a_listener_is_an_error_with_its_remedy(
    pass_socket: Callable[..., Passed], name: str
) -> None:
    one = pass_socket(name=name)
    with pytest.raises(ConfigError, match=f"port {port_of(one)} .*that no .*listen.* names") as caught:
        open_sockets([listener(0), listener(0)], [one])  # two that the name would fit: neither is meant
    assert f"systemctl disable --now its socket unit ({name})" in caught.value.remedy


def test_what_does_not_listen_is_refused() -> None:
    with socket.socket() as plain, socket.socket(type=socket.SOCK_DGRAM) as datagrams:
        for sock in (plain, datagrams):
            with pytest.raises(ConfigError, match="no listening TCP socket"):
                open_sockets([listener(0)], [Passed(sock, "imaps")])


def test_a_listener_that_stays_keeps_its_socket_and_a_new_one_is_bound(pass_socket: Callable[..., Passed]) -> None:
    kept, gone, passed = listener(1993), listener(1465), pass_socket()
    with socket.socket() as kept_socket, socket.socket() as gone_socket:
        former = [(kept, kept_socket), (gone, gone_socket), (listener(port_of(passed)), passed.sock)]
        listeners = [listener(0), listener(1993, tls=Tls.STARTTLS), listener(port_of(passed))]
        new, *others = open_sockets(listeners, [passed], former)
        with new:
            assert others == [kept_socket, passed.sock]
            assert new not in (kept_socket, gone_socket)


def test_what_was_bound_is_free_again_if_another_address_is_not(pass_socket: Callable[..., Passed]) -> None:
    taken = pass_socket()
    with socket.create_server(("127.0.0.1", 0)) as server:
        free = server.getsockname()[1]
    with pytest.raises(ConfigError, match="Address already in use"):
        open_sockets([listener(free), listener(port_of(taken))])
    socket.create_server(("127.0.0.1", free)).close()
