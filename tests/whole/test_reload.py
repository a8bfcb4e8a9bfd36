"""SIGHUP to a real process: what takes effect, who does not notice, and what is refused (outcomes E54)."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trustme

from proxy.serving.succession import MAX_LEAVING
from tests.edge.scripted import Certificates
from tests.lab import Endpoint
from tests.whole.kit import House, Line, MailServer, mail_server, write_config

PATIENCE_S = 20.0
AUTHORITY = trustme.CA()


def echo(line: Line) -> None:
    while said := line.sock.recv(1000):
        line.send(said)


def until(claim: Callable[[], object], what: str) -> None:
    end = time.monotonic() + PATIENCE_S
    while not claim():
        assert time.monotonic() < end, f"never: {what}"
        time.sleep(0.02)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.fixture
def upstream(certificates: Certificates) -> Iterator[MailServer]:
    with mail_server(certificates, "imap", echo) as server:
        yield server


@pytest.fixture
def ports() -> list[int]:
    return [free_port(), free_port()]


@pytest.fixture
def served(house: House, certificates: Certificates, upstream: MailServer, ports: list[int]) -> House:
    """Two listeners of two workers; `house.imaps` is the first."""
    configure(house, certificates, upstream.port, ports)
    house.launch()
    house.await_log("event=ready")
    house.imaps = Endpoint("localhost", ports[0])
    return house


def configure(
    house: House, certificates: Certificates, upstream: int, ports: list[int], limits: str = "drain_s = 1"
) -> None:
    listeners = [("imap", port, "implicit") for port in ports]
    write_config(house, certificates, imap=upstream, workers=2, listeners=listeners, limits=limits)


def hang_up(house: House) -> int:
    """SIGHUP; a position in the log before what it brings about."""
    position = len(house.log())
    assert house.process is not None
    house.process.send_signal(signal.SIGHUP)
    return position


def new_certificate(house: House, key: trustme.LeafCert | None = None) -> bytes:
    """Put another pair into the files; its certificate."""
    leaf = AUTHORITY.issue_cert("localhost")
    (house.directory / "key.pem").write_bytes((key or leaf).private_key_pem.bytes())
    (house.directory / "cert.pem").write_bytes(leaf.cert_chain_pems[0].bytes())
    return ssl.PEM_cert_to_DER_cert(leaf.cert_chain_pems[0].bytes().decode())


def certificate_at(port: int) -> bytes:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as sock,
        context.wrap_socket(sock, server_hostname="localhost") as tls,
    ):
        certificate = tls.getpeercert(binary_form=True)
    assert certificate is not None
    return certificate


def test_everything_takes_effect_and_a_live_session_does_not_notice(
    served: House, certificates: Certificates, upstream: MailServer, ports: list[int]
) -> None:
    """Certificate, upstream and listeners at once."""
    session = served.imap_session()
    before, added = set(served.workers().values()), free_port()
    with mail_server(certificates, "imap", lambda line: line.send(b"the other\r\n")) as other:
        certificate = new_certificate(served)
        configure(served, certificates, other.port, [ports[0], added])
        position = hang_up(served)
        served.await_log("event=reloaded generation=2", after=position)
        assert certificate_at(ports[0]) == certificate_at(added) == certificate
        until(lambda: is_refused(ports[1]), "the listener that is gone refuses")
        assert session.ask(b"still here") == b"still here"
        newcomer = login_at(served, ports[0], AUTHORITY)
        assert newcomer.line() == b"the other"
        newcomer.close()
    assert not before & set(served.workers().values())
    session.close()
    until(lambda: not any(is_alive(pid) for pid in before), "the former workers end with their last session")
    assert served.stop() == 0
    assert "ResourceWarning" not in served.log()
    assert "Traceback" not in served.log()


def is_refused(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S).close()
    except ConnectionRefusedError:
        return True
    return False


def is_alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def login_at(house: House, port: int, authority: trustme.CA) -> Line:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    sock = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)
    client = Line(context.wrap_socket(sock, server_hostname="localhost", suppress_ragged_eofs=False))
    client.line()
    answer = client.ask(b'a1 LOGIN ann@example.org "%b"' % house.password.encode())
    assert answer.startswith(b"a1 OK"), answer
    return client


@pytest.mark.parametrize("fault", ["key", "upstream", "pair", "store", "port", "expired"])
def test_what_is_bad_is_refused_in_one_line_and_the_old_lives_on(
    served: House, certificates: Certificates, upstream: MailServer, ports: list[int], fault: str
) -> None:
    session, pids = served.imap_session(), served.workers()
    certificate = certificate_at(ports[0])
    text = served.config.read_text()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        if fault == "key":
            served.config.write_text(text + "nonsense = 1\n")
        elif fault == "upstream":
            served.config.write_text(text.replace('auth = "password"', 'auth = "oauth2"'))
        elif fault == "pair":
            new_certificate(served, key=AUTHORITY.issue_cert("localhost"))
            served.config.write_text(text.replace("drain_s = 1", "drain_s = 2"))
        elif fault == "expired":
            expire(served)
            served.config.write_text(text.replace("drain_s = 1", "drain_s = 2"))
        elif fault == "store":
            served.config.write_text(text.replace("gatepost.db", "elsewhere.db"))
        else:
            configure(served, certificates, upstream.port, [*ports, taken.getsockname()[1]])
        position = hang_up(served)
        served.await_log("event=reload_refused error=.* remedy=", after=position)
    said = served.log()[position:]
    assert said.count("error event=") == 1, said
    assert "Traceback" not in said
    assert session.ask(b"still here") == b"still here"
    assert certificate_at(ports[1]) == certificate
    assert served.workers() == pids
    session.close()
    assert served.stop() == 0


def expire(house: House) -> None:
    past = datetime(2020, 1, 1, tzinfo=UTC)
    leaf = AUTHORITY.issue_cert("localhost", not_before=past, not_after=past.replace(year=2021))
    (house.directory / "key.pem").write_bytes(leaf.private_key_pem.bytes())
    (house.directory / "cert.pem").write_bytes(leaf.cert_chain_pems[0].bytes())


def test_a_new_certificate_alone_needs_no_new_workers(served: House, ports: list[int]) -> None:
    pids, certificate = served.workers(), new_certificate(served)
    served.await_log("event=reloaded generation=1", after=hang_up(served))
    for port in (*ports, *ports, *ports):  # of both workers, most likely
        until(lambda port=port: certificate_at(port) == certificate, "it is served")
    assert served.workers() == pids
    assert served.stop() == 0


def test_a_new_certificate_is_found_without_a_signal(served: House, ports: list[int]) -> None:
    certificate = new_certificate(served)
    served.await_log("event=certificate_changed")
    until(lambda: certificate_at(ports[0]) == certificate, "it is served")
    new_certificate(served, key=AUTHORITY.issue_cert("localhost"))
    served.await_log("event=certificate_refused .*is not the key of")
    assert certificate_at(ports[0]) == certificate
    assert served.stop() == 0


def test_revocation_is_felt_in_sessions_of_an_earlier_configuration(
    served: House, certificates: Certificates, upstream: MailServer, ports: list[int]
) -> None:
    session = served.imap_session()
    configure(served, certificates, upstream.port, ports, limits="drain_s = 2")
    served.await_log("event=reloaded generation=2", after=hang_up(served))
    (row,) = served.run("list", "--json").json
    served.cli("revoke", row["id"])
    assert session.rest() == b""
    session.close()
    assert served.stop() == 0


def test_generations_that_live_for_their_sessions_are_bounded(
    served: House, certificates: Certificates, upstream: MailServer, ports: list[int]
) -> None:
    sessions = []
    for number in range(MAX_LEAVING + 1):
        sessions.append(served.imap_session())
        configure(served, certificates, upstream.port, ports, limits=f"drain_s = {number + 2}")
        served.await_log(f"event=reloaded generation={number + 2}", after=hang_up(served))
    served.await_log("event=generation_drained generation=1 ")
    assert sessions[0].rest() == b""  # a clean close, and no word
    for session in sessions[1:]:
        assert session.ask(b"still here") == b"still here"
    for session in sessions:
        session.close()
    assert served.stop() == 0


def test_signals_that_come_while_it_reloads_are_heeded_afterwards(
    served: House, certificates: Certificates, upstream: MailServer, ports: list[int]
) -> None:
    configure(served, certificates, upstream.port, ports, limits="drain_s = 2")
    position = hang_up(served)
    until(lambda: served.log()[position:].count("event=worker_ready"), "it is under way")
    configure(served, certificates, upstream.port, ports, limits="drain_s = 3")
    assert served.process is not None
    for _ in range(3):
        served.process.send_signal(signal.SIGHUP)
    served.await_log("event=reloaded generation=3", after=position)
    session = served.imap_session()
    assert session.ask(b"here") == b"here"
    session.close()
    assert served.stop() == 0


def test_a_worker_that_hangs_is_replaced_and_says_where_it_hung(
    house: House, certificates: Certificates, upstream: MailServer, ports: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "4000000")
    configure(house, certificates, upstream.port, ports)
    house.launch()
    house.await_log("event=ready")
    before = house.workers()
    os.kill(before[1], signal.SIGSTOP)
    until(lambda: house.workers()[1] != before[1], "it is replaced")
    assert f"event=worker_frozen worker=1 pid={before[1]}" in house.log()
    assert house.workers()[0] == before[0]
    assert house.stop() == 0


def test_the_manager_is_told_when_it_is_ready_reloads_and_stops(
    house: House, certificates: Certificates, upstream: MailServer, ports: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(house, certificates, upstream.port, ports)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.settimeout(PATIENCE_S)
        manager.bind(str(house.directory / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(house.directory / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "60000000")
        house.launch()

        def hear(word: str) -> str:
            while not (message := manager.recv(1000).decode()).startswith(word):
                assert word == "WATCHDOG=1" or message.startswith(("WATCHDOG=1", "STATUS="))
            return message

        assert hear("READY=1").startswith("READY=1\nSTATUS=0 sessions")
        house.imaps = Endpoint("localhost", ports[0])
        session = house.imap_session()  # it accepts
        hear("WATCHDOG=1")
        hang_up(house)
        assert "\nMONOTONIC_USEC=" in hear("RELOADING=1")
        hear("READY=1")
        house.config.write_text("nonsense = 1\n" + house.config.read_text())
        hang_up(house)
        hear("RELOADING=1")
        assert "\nSTATUS=reload refused: " in hear("READY=1")
        assert session.ask(b"here") == b"here"
        session.close()
        assert house.stop() == 0
        hear("STOPPING=1")
