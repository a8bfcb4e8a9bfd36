"""A node that is cut off from its PostgreSQL: sessions go on, nobody is called wrong, and no revocation is missed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cable import Cable
from tests.edge.scripted import Certificates
from tests.postgresql import Cluster
from tests.whole.kit import UPSTREAM_PASSWORD, USER, House, Line, mail_server, write_config


def echo(line: Line) -> None:
    while data := line.sock.recv(1000):  # short lines, sent one at a time
        line.send(data.rstrip() + b" heard\r\n")


@pytest.fixture
def cable(cluster: Cluster, tmp_path: Path) -> Iterator[Cable]:
    with Cable.laid(tmp_path / "cable", cluster.socket_directory) as cable:
        yield cable


@pytest.fixture
def node(house: House, certificates: Certificates, cluster: Cluster, cable: Cable) -> Iterator[House]:
    """A House on PostgreSQL; `serve` reaches it by the cable, commands reach it without."""
    with mail_server(certificates, "imap", echo) as upstream:
        write_config(house, certificates, imap=upstream.port)
        text = house.config.read_text()
        url = cluster.database()
        direct = text.replace("sqlite:///gatepost.db", url)
        by_cable = direct.replace(str(cluster.socket_directory), str(cable.directory))
        house.config.write_text(direct)
        house.cli("db", "upgrade")
        house.cli("account", "add", USER, "--upstream", "main", "--password-stdin", stdin=UPSTREAM_PASSWORD + "\n")
        house.config.write_text(by_cable)
        house.start()
        house.config.write_text(direct)
        yield house
        house.kill()


def made(node: House, name: str) -> dict[str, str]:
    password: dict[str, str] = json.loads(node.cli("create", USER, "--name", name, "--json"))
    node.secrets.append(password["password"])
    return password


def session(node: House, password: dict[str, str]) -> Line:
    node.password = password["password"]
    return node.imap_session()


def answer(node: House, password: dict[str, str]) -> bytes:
    """What a login hears that is not let in, without its tag."""
    client = node.connect(node.imaps)
    client.line()
    said = client.ask(b'a1 LOGIN %b "%b"' % (USER.encode(), password["password"].encode()))
    client.close()
    return said


def test_what_was_revoked_while_the_node_was_cut_off_ends_when_it_is_back(node: House, cable: Cable) -> None:
    doomed, spared, stranger = (made(node, name) for name in ("doomed", "spared", "stranger"))
    ending, going_on = session(node, doomed), session(node, spared)
    cable.cut()
    node.await_log("event=store_down")
    node.cli("revoke", doomed["id"])
    # Outcomes E27: live sessions go on, and nobody hears that his password is wrong. (The mailbox's own password lies
    # in the store, so that nobody is let in either; with tokens in memory who is known is, see tests/test_login.py.)
    assert ending.ask(b"still here") == b"still here heard"
    assert going_on.ask(b"and I") == b"and I heard"
    assert answer(node, spared).startswith(b"a1 NO [UNAVAILABLE] ")
    assert answer(node, stranger).startswith(b"a1 NO [UNAVAILABLE] ")
    cable.mend()
    node.await_log("event=store_back")
    node.await_log(rf"event=session_end .*reason=revoked .*app_password={doomed['id']}")
    assert ending.until_gone() == b""
    for line in (going_on, session(node, stranger)):
        assert line.ask(b"hello") == b"hello heard"
        line.close()
    assert answer(node, doomed).startswith(b"a1 NO [AUTHENTICATIONFAILED] ")
    ending.close()
    assert node.stop() == 0
    assert "Traceback" not in node.log()
    uses = {entry["last_used"] is not None for entry in json.loads(node.cli("list", "--json"))}
    assert uses == {True}  # nothing was lost of what the node could not write
    assert node.leaked() == []
