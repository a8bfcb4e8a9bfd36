"""What can be seen of a running service from outside: numbers of all workers, health, readiness."""

from __future__ import annotations

import base64
import os
import re
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import pytest

from proxy.vault.certificate import LIFETIME, self_signed
from tests.edge.scripted import Certificates
from tests.needs import needs
from tests.service.house import wrong_password
from tests.whole.kit import USER, House, Line, mail_server, write_config
from tests.whole.monitored import METRICS, PATIENCE_S, Said, ask

SESSIONS = 6


def echo(line: Line) -> None:
    while said := line.sock.recv(1000):
        line.send(said)


@pytest.fixture
def watched(house: House, certificates: Certificates) -> Iterator[House]:
    """Two workers in front of an IMAP server that echoes; nobody listens where SMTP should be."""
    with mail_server(certificates, "imap", echo) as imap:
        write_config(house, certificates, imap=imap.port, workers=2, more=METRICS)
        house.start()
        yield house
        house.kill()


def seen(house: House, claim: Callable[[Said], bool]) -> Said:
    """The metrics, as soon as they say so."""
    end = time.monotonic() + PATIENCE_S
    while True:
        said = ask(house, "/metrics")
        if claim(said):
            return said
        assert time.monotonic() < end, said.body
        time.sleep(0.05)


def is_answered(house: House) -> bool:
    try:
        return ask(house, "/healthz").status == 200
    except ConnectionError:
        return False


def refused_login(house: House, password: str) -> None:
    client = house.connect(house.imaps)
    client.line()
    assert client.ask(b'a1 LOGIN %b "%b"' % (USER.encode(), password.encode())).startswith(b"a1 NO")
    client.close()


def test_what_raises_an_alert_by_its_first_rise_stands_at_zero_before(watched: House) -> None:
    said = seen(watched, lambda now: bool(now.samples("gatepost_accept_pauses_total")))
    for name, labels in (
        ("gatepost_token_requests_total", {"outcome": "client_rejected"}),
        ("gatepost_upstream_errors_total", {"protocol": "imap", "fault": "untrusted"}),
        ("gatepost_accept_pauses_total", {"reason": "overfull"}),
        ("gatepost_accept_pauses_total", {"reason": "EMFILE"}),
    ):
        values = [value for found, value in said.samples(name) if labels.items() <= found.items()]
        assert values == [0.0], (name, labels)


def test_logins_sessions_and_bytes_of_all_workers_are_counted(watched: House) -> None:
    clients = [watched.imap_session() for _ in range(SESSIONS)]
    refused_login(watched, wrong_password(watched.password))
    refused_login(watched, "the real password")
    smtp = watched.connect(watched.smtps)
    smtp.line()
    smtp.answer(b"EHLO client.example")
    smtp.close()
    said = seen(watched, lambda now: now.number("gatepost_sessions", protocol="imap") == SESSIONS)
    assert said.content_type.startswith("text/plain; version=")
    assert said.number("gatepost_logins_total", protocol="imap", outcome="ok") == SESSIONS
    assert said.number("gatepost_logins_total", outcome="refused", cause="wrong_password") == 1
    assert said.number("gatepost_logins_total", outcome="refused", cause="not_an_app_password") == 1
    assert said.number("gatepost_login_seconds_count", protocol="imap") == SESSIONS
    assert said.number("gatepost_hash_seconds_count") >= 1
    assert said.number("gatepost_hash_wait_seconds_count") == said.number("gatepost_hash_seconds_count")
    assert said.number("gatepost_connections_total", protocol="imap") == SESSIONS + 2
    assert said.number("gatepost_connections_total", protocol="smtp") == 1
    assert said.number("gatepost_upstream_dial_seconds_count", upstream="main", protocol="imap") == SESSIONS
    assert said.number("gatepost_store_call_seconds_count") > SESSIONS
    assert said.number("gatepost_accounts", token_state="fresh") == 1
    assert said.number("gatepost_workers", **{"is": "accepting"}) == 2
    assert said.number("gatepost_loop_lag_seconds_count") > 0
    assert said.number("gatepost_certificate_expiry_timestamp_seconds") > time.time()
    for client in clients:
        client.send(b"x" * 1000)
        assert len(client.sock.recv(1, 0)) == 1
    said = seen(watched, lambda now: now.number("gatepost_relayed_bytes_total", direction="down") >= 1000 * SESSIONS)
    assert said.number("gatepost_relayed_bytes_total", protocol="imap", direction="up") == 1000 * SESSIONS
    for client in clients:
        client.close()
    said = seen(watched, lambda now: now.number("gatepost_sessions_ended_total") == SESSIONS)
    assert said.number("gatepost_sessions_ended_total", protocol="imap", reason="client_left") == SESSIONS
    seen(watched, lambda now: now.number("gatepost_sessions") == 0)


def test_an_upstream_that_is_away_is_counted_by_its_fault(watched: House) -> None:
    client = watched.connect(watched.smtps)
    client.line()
    client.answer(b"EHLO client.example")
    plain = base64.b64encode(f"\0{USER}\0{watched.password}".encode())
    assert client.ask(b"AUTH PLAIN " + plain).startswith(b"454 ")
    said = ask(watched, "/metrics")
    assert said.number("gatepost_upstream_errors_total", upstream="main", protocol="smtp", fault="unreachable") >= 1
    assert said.number("gatepost_logins_total", protocol="smtp", cause="upstream_down") == 1
    client.close()


def test_counters_go_on_where_a_worker_that_died_stopped(watched: House) -> None:
    clients = [watched.imap_session() for _ in range(SESSIONS)]
    before = seen(watched, lambda now: now.number("gatepost_sessions", protocol="imap") == SESSIONS)
    victims = watched.workers()
    os.kill(victims[0], signal.SIGKILL)
    os.kill(victims[1], signal.SIGKILL)
    watched.await_log(r"event=worker_died worker=0")
    after = seen(watched, lambda now: now.number("gatepost_workers", **{"is": "accepting"}) == 2)
    for name in ("gatepost_logins_total", "gatepost_connections_total", "gatepost_hash_seconds_count"):
        assert after.number(name) >= before.number(name) > 0, name
    assert after.number("gatepost_logins_total", outcome="ok") == SESSIONS
    assert after.number("gatepost_worker_starts_total") == 4
    assert after.number("gatepost_sessions") == 0  # they died with their workers, and nobody says they live
    for client in clients:
        client.close()
    watched.imap_session().close()
    seen(watched, lambda now: now.number("gatepost_logins_total", outcome="ok") == SESSIONS + 1)


def test_counters_go_on_over_a_reload_and_sessions_that_stay_are_counted_on(watched: House) -> None:
    clients = [watched.imap_session() for _ in range(SESSIONS)]
    before = seen(watched, lambda now: now.number("gatepost_sessions", protocol="imap") == SESSIONS)
    watched.config.write_text(watched.config.read_text() + "\nverify_cache_s = 200\n")
    assert watched.process is not None
    watched.process.send_signal(signal.SIGHUP)
    watched.await_log("event=reloaded generation=2")
    clients[0].send(b"x" * 5000)
    after = seen(watched, lambda now: now.number("gatepost_relayed_bytes_total", direction="up") == 5000)
    for name in ("gatepost_logins_total", "gatepost_connections_total", "gatepost_hash_seconds_count"):
        assert after.number(name) >= before.number(name) > 0, name
    assert after.number("gatepost_sessions", protocol="imap") == SESSIONS
    assert after.number("gatepost_workers", **{"is": "accepting"}) == 2
    seen(watched, lambda now: now.number("gatepost_accounts", token_state="fresh") == 1)
    assert ask(watched, "/readyz").json["workers"] == {"accepting": 2, "configured": 2}
    for client in clients:
        client.close()
    seen(watched, lambda now: now.number("gatepost_sessions_ended_total") == SESSIONS)


def test_where_it_listens_can_be_changed_by_a_reload(watched: House) -> None:
    first = watched.config.read_text()
    assert watched.process is not None
    watched.config.write_text(first.replace(METRICS, ""))
    watched.process.send_signal(signal.SIGHUP)
    watched.await_log("event=reloaded generation=2")
    end = time.monotonic() + PATIENCE_S
    while is_answered(watched):
        assert time.monotonic() < end
    begin = len(watched.log())
    watched.config.write_text(first)
    watched.process.send_signal(signal.SIGHUP)
    watched.await_log("event=reloaded generation=3")
    line = watched.await_log("event=monitoring", after=begin)
    assert ask(watched, "/healthz", int(line.rpartition(":")[2])).status == 200


def test_no_mailbox_no_address_and_no_secret_is_shown(watched: House) -> None:
    watched.imap_session().close()
    refused_login(watched, wrong_password(watched.password))
    said = seen(watched, lambda now: now.number("gatepost_sessions_ended_total") == 1)
    for page in (said, ask(watched, "/readyz"), ask(watched, "/healthz")):
        for text in (USER, USER.partition("@")[0] + "@", "example.org", "127.0.0.1", "::1", watched.password):
            assert text not in page.body
    known = {"le", "protocol", "outcome", "cause", "reason", "direction", "lane", "upstream", "token_state", "fault"}
    assert set(re.findall(r'[{,](\w+)="', said.body)) <= known | {"is", "version"}


def test_promtool_finds_nothing_wrong_with_the_numbers(watched: House) -> None:
    watched.imap_session().close()
    said = ask(watched, "/metrics")
    done = subprocess.run(
        [needs("promtool", "prometheus"), "check", "metrics"],
        input=said.body,
        text=True,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_ready_says_what_it_is_ready_with(watched: House) -> None:
    alive, ready = ask(watched, "/healthz"), ask(watched, "/readyz")
    assert (alive.status, alive.json) == (200, {"alive": True})
    assert ready.status == 200
    days = ready.json.pop("certificate_days_left")
    assert days > 0
    assert ready.json["workers"] == {"accepting": 2, "configured": 2}
    assert {key: value for key, value in ready.json.items() if key not in ("workers", "certificate_days_left")} == {
        "ready": True, "draining": False, "store": "ok",
    }  # fmt: skip


def test_a_store_that_is_away_is_not_ready_and_alive_all_the_same(watched: House) -> None:
    database = watched.directory / "gatepost.db"
    with sqlite3.connect(database) as connection:
        connection.execute("ALTER TABLE revision RENAME TO gone")
    connection.close()
    end = time.monotonic() + PATIENCE_S
    while (said := ask(watched, "/readyz")).status == 200:
        assert time.monotonic() < end
    assert (said.status, said.json["ready"], said.json["store"]) == (503, False, "down")
    assert ask(watched, "/healthz").status == 200
    assert ask(watched, "/metrics").number("gatepost_store_failures_total") > 0


def test_a_certificate_with_too_few_days_is_not_ready(house: House, certificates: Certificates) -> None:
    certificate, key = self_signed(("localhost",), datetime.now(UTC) - LIFETIME + timedelta(days=5, hours=1))
    (house.directory / "cert.pem").write_bytes(certificate)
    (house.directory / "key.pem").write_text(key.reveal())
    write_config(house, certificates, more=METRICS + "certificate_days = 6\n")
    house.start()
    said = ask(house, "/readyz")
    assert (said.status, said.json["certificate_days_left"], said.json["store"]) == (503, 5, "ok")


def test_other_requests_are_refused_and_leave_nothing(watched: House) -> None:
    assert ask(watched, "/").status == 404
    assert ask(watched, "/metrics/../etc/passwd").status == 404
    assert ask(watched, "/metrics?name=x").status == 200


def test_a_metrics_address_that_is_taken_is_one_line(house: House, certificates: Certificates) -> None:
    with mail_server(certificates, "imap", echo) as taken:
        write_config(house, certificates, more=f'[metrics]\naddress = "127.0.0.1:{taken.port}"\n')
        done = house.run("serve")
    assert done.code == 1
    assert done.err.count("\n") == 1
    assert f"cannot listen on 127.0.0.1:{taken.port}" in done.err
