"""A certificate that ends in an hour, or has ended, at the start: it is served, the log and `check` say so."""

from __future__ import annotations

import json
import signal
import socket
import ssl
from datetime import UTC, datetime, timedelta

import pytest
import trustme

from tests.edge.scripted import Certificates
from tests.whole.kit import House, Line, mail_server, write_config
from tests.whole.monitored import METRICS, ask


def issue(house: House, ends: datetime) -> None:
    leaf = trustme.CA().issue_cert("localhost", not_before=ends - timedelta(days=90), not_after=ends)
    (house.directory / "key.pem").write_bytes(leaf.private_key_pem.bytes())
    (house.directory / "cert.pem").write_bytes(leaf.cert_chain_pems[0].bytes())


def careless(house: House) -> Line:
    """A client that verifies nothing, as scanners are."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    sock = socket.create_connection(tuple(house.imaps), timeout=20)
    return Line(context.wrap_socket(sock, server_hostname="localhost"))


@pytest.mark.parametrize(
    ("left", "event", "verdict", "ready"),
    [
        (timedelta(hours=1), "warning event=certificate_ends_soon", "warning", 200),
        (timedelta(hours=-1), "error event=certificate_expired", "failed", 503),
    ],
)
def test_it_is_served_and_told_of(  # noqa: PLR0917 - four of them are one case
    house: House, certificates: Certificates, left: timedelta, event: str, verdict: str, ready: int
) -> None:
    with mail_server(certificates, "imap", lambda line: line.rest()) as imap:
        issue(house, datetime.now(UTC) + left)
        write_config(house, certificates, imap=imap.port, more=METRICS)
        house.start()
        assert house.log().count(event) == 1
        client = careless(house)
        client.line()
        assert client.ask(b'a1 LOGIN ann@example.org "%b"' % house.password.encode()).startswith(b"a1 OK")
        client.close()
        findings = json.loads(house.run("check", "--json").out)["findings"]
        assert {one["name"]: one["result"] for one in findings}["certificate"] == verdict
        assert ask(house, "/readyz").status == ready
        assert house.stop() == 0


def test_an_upstream_s_name_that_nobody_resolves_is_an_outage(house: House, certificates: Certificates) -> None:
    """DNS is gone: the login is refused for now, and who is here goes on."""
    with mail_server(certificates, "imap", lambda line: line.rest()) as imap:
        write_config(house, certificates, imap=imap.port)
        house.start()
        session = house.imap_session()
        house.config.write_text(house.config.read_text().replace("imaps://localhost:", "imaps://mail.invalid:"))
        assert house.process is not None
        house.process.send_signal(signal.SIGHUP)
        house.await_log("event=reloaded generation=2")
        client = house.connect(house.imaps)
        client.line()
        answer = client.ask(b'a1 LOGIN ann@example.org "%b"' % house.password.encode())
        assert answer.startswith(b"a1 NO [UNAVAILABLE]"), answer
        client.close()
        assert house.log().count("event=session_end") == 0
        session.close()
        house.await_log("event=login .*result=refused cause=upstream_down")
        assert house.stop() == 0
