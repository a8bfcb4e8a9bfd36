"""The TCP connection to an upstream: edge/upstream_leg's connect."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import subprocess
import sys

import pytest

from proxy.edge.upstream_leg import connect
from tests.edge.scripted import on_both_loops

# In a process of its own: threads that uvloop once started, stay.
COUNT_THREADS = """
import os, socket, uvloop
from proxy.edge.upstream_leg import connect

async def main():
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as sock:
        sock.setblocking(False)
        await connect(sock, listener.getsockname())
        print(len(os.listdir("/proc/self/task")))

uvloop.run(main())
"""


class Slow(socket.socket):
    """Not connected at once, as over a real network; what it is asked to connect to is kept."""

    asked: object = None

    def connect(self, address):
        self.asked = address
        raise BlockingIOError


def test_connecting_takes_no_thread():
    done = subprocess.run([sys.executable, "-c", COUNT_THREADS], check=True, capture_output=True, text=True)
    assert done.stdout == "1\n"


@on_both_loops
async def test_waits_until_the_connection_stands():
    with socket.create_server(("127.0.0.1", 0)) as listener, Slow() as sock:
        sock.setblocking(False)
        assert sock.connect_ex(listener.getsockname()) in (0, errno.EINPROGRESS)
        await connect(sock, listener.getsockname())
        assert sock.getpeername() == listener.getsockname()


@on_both_loops
async def test_refusal_is_the_error_of_its_kind():
    with socket.socket() as taken, socket.socket() as sock:
        taken.bind(("127.0.0.1", 0))
        sock.setblocking(False)
        with pytest.raises(ConnectionRefusedError):
            await connect(sock, taken.getsockname())


@on_both_loops
async def test_a_later_refusal_is_the_error_of_its_kind():
    with socket.socket() as taken, Slow() as sock:
        taken.bind(("127.0.0.1", 0))
        sock.setblocking(False)
        sock.connect_ex(taken.getsockname())
        with pytest.raises(ConnectionRefusedError, match=os.strerror(errno.ECONNREFUSED)):
            await connect(sock, taken.getsockname())


@on_both_loops
async def test_scope_of_an_ipv6_address_is_kept():
    with Slow(socket.AF_INET6) as sock:
        sock.setblocking(False)
        await connect(sock, ("fe80::1", 993, 0, 7))  # a socket that nothing was asked of is writable
        assert sock.asked == ("fe80::1", 993, 0, 7)


@on_both_loops
async def test_who_gives_up_leaves_nothing_with_the_loop():
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        waiting = []
        try:
            for _ in range(4):  # a full backlog answers nobody
                sock = socket.socket()
                waiting.append(sock)
                sock.setblocking(False)
                sock.connect_ex(listener.getsockname())
            late = Slow()
            waiting.append(late)
            late.setblocking(False)
            late.connect_ex(listener.getsockname())
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await connect(late, listener.getsockname())
            assert not asyncio.get_running_loop().remove_writer(late)
        finally:
            for sock in waiting:
                sock.close()
