"""What keeps `gatepost serve` from starting: one line on stderr with the remedy, exit status 1, nothing half-done."""

from __future__ import annotations

import shutil
import socket
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.edge.house_kit import command
from tests.edge.scripted import Certificates
from tests.whole.kit import House, write_config


def refused(house: House) -> str:
    done = house.run("serve")
    assert (done.code, done.out) == (1, ""), done.err
    assert done.err.startswith("gatepost: ")
    assert done.err.count("\n") == 1, done.err
    problem, semicolon, remedy = done.err.strip().rpartition("; ")
    assert problem
    assert semicolon
    assert remedy
    return done.err


@pytest.fixture
def other(tmp_path: Path, house: House, certificates: Certificates) -> House:
    """Another set-up, whose files do not fit this one's."""
    write_config(house, certificates)
    command("init", str(tmp_path / "other"))
    return House(tmp_path / "other")


def test_master_key_of_another_set_up(house: House, other: House) -> None:
    shutil.copy(other.directory / "master.key", house.directory)
    assert "is not the master key of this store" in refused(house)


def test_certificate_of_another_key(house: House, other: House) -> None:
    shutil.copy(other.directory / "key.pem", house.directory)
    assert "key.pem is not the key of " in refused(house)


def test_missing_key(house: House, other: House) -> None:
    (house.directory / "key.pem").unlink()
    assert f"cannot read {house.directory / 'key.pem'}: No such file or directory" in refused(house)


def test_database_of_a_newer_version(house: House, other: House) -> None:
    with closing(sqlite3.connect(house.directory / "gatepost.db")) as database:
        database.execute("UPDATE alembic_version SET version_num = '9999'")
        database.commit()
    assert "newer" in refused(house)


def test_missing_database(house: House, other: House) -> None:
    (house.directory / "gatepost.db").unlink()
    assert "gatepost restore" in refused(house)


def test_port_in_use(house: House, certificates: Certificates) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, socket.create_server(("127.0.0.1", 0)) as probe:
        port, free = taken.getsockname()[1], probe.getsockname()[1]
        probe.close()
        write_config(house, certificates, listeners=[("imap", free, "implicit"), ("smtp", port, "implicit")])
        assert f"cannot listen on smtp://127.0.0.1:{port}: Address already in use; " in refused(house)
        socket.create_server(("127.0.0.1", free)).close()  # nobody was left behind at the first one
