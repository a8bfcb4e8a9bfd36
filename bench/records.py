"""What reading TLS costs by the size of its records: `python -m bench.records`.

Some servers send records of 4 KB (Dovecot does), where TLS allows 16 KB. A child process sends, this one reads: by
non-blocking SSLSocket, as proxy/edge/receiving does, and by a socket and an SSLObject between MemoryBIOs.
"""

from __future__ import annotations

import os
import select
import socket
import ssl
import sys
import time
from collections.abc import Callable

import trustme

from proxy.edge.receiving import Stop, receive

TOTAL_BYTES = 400_000_000
BURST_BYTES = 131_072
ROUNDS = 3

Reader = Callable[[socket.socket, ssl.SSLContext], tuple[int, float]]


def main() -> int:
    """Print CPU seconds of the reading process for each GB, the rounds side by side."""
    authority = trustme.CA()
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.issue_cert("localhost").configure_cert(server)
    authority.configure_trust(client)
    readers: dict[str, Reader] = {"SSLSocket": by_socket, "MemoryBIO, 128 KB at once": by_memory}
    for size in (4096, 16_384):
        for name, reader in readers.items():
            used = [measured(reader, size, server, client) for _ in range(ROUNDS)]
            print(f"records of {size:6,}, {name}: {'  '.join(f'{one:.2f}' for one in used)} CPU s/GB", flush=True)
    return 0


def measured(reader: Reader, record: int, server: ssl.SSLContext, client: ssl.SSLContext) -> float:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    child = os.fork()
    if child == 0:
        near.close()
        send(far, record, server)
    far.close()
    with near:
        size, used_s = reader(near, client)
    os.waitpid(child, 0)
    return used_s / size * 1e9


def send(sock: socket.socket, record: int, context: ssl.SSLContext) -> None:
    """The child: all bytes in records of this size, then its end."""
    data = os.urandom(record)
    try:
        with context.wrap_socket(sock, server_side=True) as tls:
            for _ in range(TOTAL_BYTES // record):
                tls.sendall(data)
    finally:
        os._exit(0)


def by_socket(sock: socket.socket, context: ssl.SSLContext) -> tuple[int, float]:
    """Bytes read, and CPU seconds used."""
    with context.wrap_socket(sock, server_hostname="localhost") as tls:
        tls.setblocking(False)
        ready = select.epoll()
        ready.register(tls.fileno(), select.EPOLLIN)
        size, start = 0, time.process_time()
        stop: Stop | OSError = Stop.EMPTY
        while stop in (Stop.EMPTY, Stop.FULL):
            ready.poll()
            data, stop = receive(tls)
            size += len(data)
        return size, time.process_time() - start


def by_memory(sock: socket.socket, context: ssl.SSLContext) -> tuple[int, float]:
    """The same, with one read of the socket for many records."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
    raw, plain = memoryview(bytearray(BURST_BYTES)), memoryview(bytearray(BURST_BYTES))
    while not tls.version() or outgoing.pending:
        try:
            tls.do_handshake()
        except ssl.SSLWantReadError:
            sock.sendall(outgoing.read())
            incoming.write(sock.recv(BURST_BYTES))
        else:
            sock.sendall(outgoing.read())
            break
    size, start = 0, time.process_time()
    while got := sock.recv_into(raw):
        incoming.write(raw[:got])
        try:
            while read := tls.read(len(plain), plain):  # type: ignore[arg-type]
                size += read  # type: ignore[operator]
                bytes(plain[:read])
        except ssl.SSLWantReadError:
            pass
    return size, time.process_time() - start


if __name__ == "__main__":
    sys.exit(main())
