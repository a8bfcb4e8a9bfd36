"""Outcomes E27 with a real process: a full disk, a locked database. What was not kept is not acknowledged."""

from __future__ import annotations

import json
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from proxy.admin import passwords
from proxy.admin.desk import opened
from proxy.admin.passwords import PasswordRequest
from proxy.config.reader import load
from proxy.errors import StoreError, StoreUnavailable
from tests.edge.scripted import Certificates
from tests.whole.kit import USER, House, Line, mail_server, make_house, write_config

SIZE = "size=8m"
MANY = 400  # app passwords: more than the room that SQLite's log has left


def always_ok(line: Line) -> None:
    while said := line.sock.recv(1000):
        line.send(said.split(b" ", 1)[0] + b" OK\r\n")


@pytest.fixture
def small(as_root: None, tmp_path: Path, template: Path) -> Iterator[House]:
    """A House on a disk of eight megabytes; its log is elsewhere."""
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", SIZE, "tmpfs", disk], check=True)
    try:
        house = make_house(template, disk / "gate")
        house.log_file = tmp_path / "gatepost.log"
        yield house
        house.kill()
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


def log_in(house: House, password: str) -> bool:
    client = house.connect(house.imaps)
    client.line()
    said = client.ask(b'a1 LOGIN %b "%b"' % (USER.encode(), password.encode()))
    client.close()
    assert said.startswith((b"a1 OK", b"a1 NO [AUTHENTICATIONFAILED]")), said
    return said.startswith(b"a1 OK")


def fill(file: Path) -> None:
    with file.open("wb", buffering=0) as ballast, suppress(OSError):
        while True:
            ballast.write(bytes(4096))


def create_until_it_is_full(house: House) -> list[tuple[str, str]]:
    """What was acknowledged: ids and app passwords."""
    made = []
    with opened(load(house.config), "test") as desk, suppress(StoreError, StoreUnavailable):
        for number in range(MANY):
            created = passwords.create(desk, passwords.prepare(desk, PasswordRequest(USER, f"number {number}")))
            made.append((created.credential.public_id, created.password))
    assert len(made) < MANY
    return made


def test_a_full_disk_acknowledges_nothing_that_it_does_not_keep(small: House, certificates: Certificates) -> None:
    house, first = small, small.password
    with mail_server(certificates, "imap", always_ok) as upstream:
        write_config(house, certificates, imap=upstream.port, limits="app_passwords = 1000")
        house.start()
        session = house.imap_session()
        ballast = house.directory.parent / "ballast"
        fill(ballast)
        made = create_until_it_is_full(house)
        refused = house.run("create", USER, "--name", "one too many", "--json")
        assert (refused.code, refused.out) == (1, "")
        assert refused.err.count("\n") == 1
        # Who has an app password is let in all the same, and sessions go on.
        assert all(log_in(house, password) for _, password in [("", first), *made[-2:]])
        assert session.ask(b"a9 NOOP") == b"a9 OK"
        (entry,) = [one for one in json.loads(house.cli("list", USER, "--json")) if one["name"] == "test"]
        revoking = house.run("revoke", entry["id"])
        assert log_in(house, first) is (revoking.code != 0)
        ballast.unlink()
        house.cli("revoke", entry["id"])
        assert not log_in(house, first)
        assert all(log_in(house, password) for _, password in made)
        assert log_in(house, house.create(USER, "one that fits")["password"])
        session.close()
        assert house.stop() == 0
    assert "Traceback" not in house.log()


def test_a_locked_database_refuses_commands_and_lets_clients_in(house: House, certificates: Certificates) -> None:
    with mail_server(certificates, "imap", always_ok) as upstream:
        write_config(house, certificates, imap=upstream.port)
        house.start()
        with closing(sqlite3.connect(house.directory / "gatepost.db", isolation_level=None)) as somebody:
            somebody.execute("BEGIN IMMEDIATE")
            refused = house.run("create", USER, "--name", "locked out", "--json")
            assert (refused.code, refused.out) == (1, "")
            assert "lock" in refused.err
            assert log_in(house, house.password)
            somebody.execute("ROLLBACK")
        assert log_in(house, house.create(USER, "locked out")["password"])  # and the name is free
        assert house.stop() == 0
    assert "Traceback" not in house.log()
