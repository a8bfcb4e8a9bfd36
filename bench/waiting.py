"""Who never logs in: 10,000 sockets that say nothing, octets that trickle, handshakes that are never begun.

Run it by `make bench-waiting`; it takes some four minutes, as each crowd is waited for until its deadline. For each it
takes the memory of the workers, whether the owner gets in meanwhile, and when the last of the crowd is gone. Writes
its section of bench/RESULTS.md.
"""

from __future__ import annotations

import argparse
import base64
import resource
import select
import socket
import ssl
import sys
import tempfile
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from bench.processes import cpu_s, pss_kb
from bench.results import conditions, put_section
from tests.edge.scripted import Certificates, make_certificates
from tests.lab import Endpoint
from tests.whole.kit import USER, House, Line, mail_server, make_house, make_template, write_config

CROWD = 10_000
PER_ADDRESS = 200  # below waiting_per_address, so that the crowd has 50 addresses
TRICKLE_S = 5.0
SETTLE_S = 5.0
PATIENCE_S = 90.0  # the deadline before login is 60 s
LIMITS = f"connections = {2 * CROWD}"  # by default 10,000: then the crowd fills the house, and all others hear BYE


@dataclass(frozen=True, slots=True)
class Crowd:
    """What one kind of crowd came to."""

    name: str
    opened: int
    opening_s: float
    before_mb: float
    during_mb: float
    after_mb: float
    cpu_share: float  # CPU seconds a second while they wait
    owner: str
    owner_ms: float
    gone_s: float  # from the last one's arrival to the end of the last


def main() -> int:
    options = argparse.ArgumentParser(prog="python -m bench.waiting")
    options.add_argument("--crowd", type=int, default=CROWD)
    size = options.parse_args().crowd
    room = 2 * size + 500
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < room:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(room, hard), hard))
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gatepost-bench-")))
        certificates = make_certificates(directory)
        template = make_template(directory / "template", certificates)
        crowds = [
            _wait(make_house(template, directory / f"house{number}"), certificates, size, kind)
            for number, kind in enumerate(("silent", "trickling", "half open"))
        ]
    text = _report(crowds, size)
    put_section("waiting", text)
    sys.stdout.write(text)
    return 0


def _wait(house: House, certificates: Certificates, size: int, kind: str) -> Crowd:
    """`kind`: "silent" behind the greeting, "trickling" octets of a command, "half open": no handshake."""
    with mail_server(certificates, "imap", lambda _: None) as imap:
        write_config(house, certificates, imap=imap.port, workers=2, limits=LIMITS)
        house.config.write_text(house.config.read_text().replace('level = "debug"', 'level = "info"'))
        house.start()
        assert house.process is not None
        pid = house.process.pid
        try:
            _owner(house)  # so that what a first login loads is there already
            time.sleep(2)
            before_kb = pss_kb(pid)
            begin = time.monotonic()
            socks = _open(house.imaps if kind == "half open" else house.imap, size)
            opened_at = time.monotonic()
            time.sleep(SETTLE_S)  # the last of them may still be in the kernel's queue
            cpu_before, waited_from = cpu_s(pid), time.monotonic()
            during_kb = pss_kb(pid)
            owner, owner_ms = _owner(house)
            gone_s = _until_gone(socks, opened_at, trickles=kind == "trickling")
            cpu_share = (cpu_s(pid) - cpu_before) / (time.monotonic() - waited_from)
            for sock in socks:
                sock.close()
            time.sleep(SETTLE_S)
            return Crowd(
                kind, len(socks), opened_at - begin, before_kb / 1024, during_kb / 1024, pss_kb(pid) / 1024,
                cpu_share, owner, owner_ms, gone_s,
            )  # fmt: skip
        finally:
            house.kill()


def _open(endpoint: Endpoint, size: int) -> list[socket.socket]:
    socks: list[socket.socket] = []
    for number in range(size):
        source = f"127.0.{1 + number // PER_ADDRESS // 200}.{1 + number // PER_ADDRESS % 200}"
        sock = socket.create_connection(("127.0.0.1", endpoint.port), timeout=30, source_address=(source, 0))
        sock.setblocking(False)
        socks.append(sock)
    return socks


def _until_gone(socks: list[socket.socket], since: float, *, trickles: bool) -> float:
    """Wait until the server has closed all; seconds since the last came. Of what it says nothing is kept."""
    poll = select.poll()
    waiting = {sock.fileno(): sock for sock in socks}
    for number in waiting:
        poll.register(number, select.POLLIN)
    said_at = time.monotonic()
    while waiting and time.monotonic() - since < PATIENCE_S:
        for number, _ in poll.poll(500):
            with suppress(BlockingIOError):
                if not _read(waiting[number]):
                    poll.unregister(number)
                    del waiting[number]
        if trickles and time.monotonic() - said_at > TRICKLE_S:
            said_at = time.monotonic()
            for sock in waiting.values():
                with suppress(OSError):
                    sock.send(b"a")
    assert not waiting, f"{len(waiting)} are still here"
    return time.monotonic() - since


def _read(sock: socket.socket) -> bytes:
    try:
        return sock.recv(4096)
    except BlockingIOError:
        raise
    except OSError:
        return b""


def _owner(house: House) -> tuple[str, float]:
    """The owner logs in, over TLS, from an address of his own."""
    start = time.perf_counter()
    context = ssl.create_default_context(cafile=str(house.directory / "cert.pem"))
    sock = socket.create_connection(("127.0.0.1", house.imaps.port), timeout=30, source_address=("127.9.9.9", 0))
    with sock, context.wrap_socket(sock, server_hostname="localhost") as tls:
        line = Line(tls)
        greeting = line.line()
        if not greeting.startswith(b"* OK"):
            return greeting.decode(), (time.perf_counter() - start) * 1000
        plain = base64.b64encode(f"\0{USER}\0{house.password}".encode())
        answer = line.ask(b"o AUTHENTICATE PLAIN " + plain)
    word = "in" if answer.startswith(b"o OK") else answer.decode()
    return word, (time.perf_counter() - start) * 1000


def _report(crowds: list[Crowd], size: int) -> str:
    lines = [
        "## Crowds that never log in\n",
        f"{conditions()}. By `make bench-waiting`.\n",
        f"{size} sockets from {size // PER_ADDRESS} addresses of 127.0.0.0/8 at two workers on uvloop, `{LIMITS}`.",
        f"Silent: they take the greeting and say nothing. Trickling: an octet every {TRICKLE_S:.0f} s, never a line.",
        "Half open: connected to a port with implicit TLS, and no handshake is begun. The owner logs in while all are",
        "there.\n",
        "| crowd | opened in | PSS MB: before, with them, after | KB each | CPU s/s | owner | the last is gone after |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {crowd.name} | {crowd.opening_s:.1f} s "
        f"| {crowd.before_mb:.0f}, {crowd.during_mb:.0f}, {crowd.after_mb:.0f} "
        f"| {(crowd.during_mb - crowd.before_mb) * 1024 / crowd.opened:.1f} | {crowd.cpu_share:.2f} "
        f"| {crowd.owner}, {crowd.owner_ms:.0f} ms | {crowd.gone_s:.0f} s |"
        for crowd in crowds
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    raise SystemExit(main())
