"""A real HAProxy before a real `gatepost serve`: the log has the client's own address, and TLS ends at Gatepost."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.edge.scripted import PATIENCE_S, Certificates
from tests.lab import Endpoint
from tests.lab.ports import PortReservation
from tests.whole.kit import USER, House, Line, mail_server, write_config

HAPROXY = shutil.which("haproxy") or "/usr/sbin/haproxy"
# All of 127.0.0.0/8 is ours; HAProxy itself comes from 127.0.0.1.
CLIENT = "127.0.0.9"
PROBE = "127.0.0.8"
CONFIG = """\
defaults
    mode tcp
    timeout connect 5s
    timeout client 60s
    timeout server 60s
listen mail
    bind 127.0.0.1:{port}
    server gate 127.0.0.1:{gate} {sending} check inter 200ms
"""


@contextmanager
def haproxy(directory: Path, gate: Endpoint, sending: str) -> Iterator[Endpoint]:
    ports = PortReservation()
    port = ports.take()
    config = directory / "haproxy.cfg"
    config.write_text(CONFIG.format(port=port, gate=gate.port, sending=sending))
    with (directory / "haproxy.log").open("wb") as log:
        process = subprocess.Popen([HAPROXY, "-db", "-f", config], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + PATIENCE_S
        while not is_listening(port):
            assert process.poll() is None, (directory / "haproxy.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield Endpoint("localhost", port)
    finally:
        process.kill()
        process.wait()
        ports.release()


def is_listening(port: int) -> bool:
    with socket.socket() as probe:
        probe.bind((PROBE, 0))
        return probe.connect_ex(("127.0.0.1", port)) == 0


def trust_load_balancer(house: House, networks: str) -> None:
    text = house.config.read_text()
    house.config.write_text(text.replace("\n[[listen]]\n", f"\n[[listen]]\nproxy_protocol_from = {networks}\n"))


def come(house: House, by: Endpoint) -> Line:
    context = ssl.create_default_context(cafile=str(house.directory / "cert.pem"))
    sock = socket.create_connection(("127.0.0.1", by.port), timeout=PATIENCE_S, source_address=(CLIENT, 0))
    return Line(context.wrap_socket(sock, server_hostname="localhost", suppress_ragged_eofs=False))


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
@pytest.mark.parametrize("sending", ["send-proxy", "send-proxy-v2"])
def test_client_behind_haproxy_is_known_by_his_own_address(
    house: House, certificates: Certificates, sending: str, loop: str
) -> None:
    with mail_server(certificates, "imap", lambda _: None) as imap:
        write_config(house, certificates, imap=imap.port, loop=loop)
        trust_load_balancer(house, '["127.0.0.1"]')
        house.start()
        with haproxy(house.directory, house.imaps, sending) as by:
            client = come(house, by)
            assert client.line().startswith(b"* OK ")
            answer = client.ask(b'a1 LOGIN %b "%b"' % (USER.encode(), house.password.encode()))
            assert answer.startswith(b"a1 OK")
            house.await_log(f"event=login .*peer={CLIENT} result=ok")
            client.close()
            # Its health checks come with a header too, "LOCAL" in version 2, and are nobody's but its own.
            house.await_log("event=tls_failed .*peer=127.0.0.1 ")
        with pytest.raises((ssl.SSLError, ConnectionError)):
            come(house, house.imaps)  # past the load balancer
        house.await_log(f'event=proxy_header_refused .*peer={CLIENT} reason="not from a load balancer"')
        assert house.stop() == 0
    assert "Traceback" not in house.log()
