"""A private PostgreSQL cluster that listens on a socket only, shared by the tests of a session; a pytest plugin."""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import pytest

from proxy.store.store import Store

COMMAND_S = 60
EMPTY = """
SET lock_timeout = '5s';
DELETE FROM account; DELETE FROM recipient; DELETE FROM learned; DELETE FROM audit; DELETE FROM worker;
DELETE FROM person; DELETE FROM spent; DELETE FROM told;
UPDATE revision SET value = 1;
ALTER SEQUENCE account_id_seq RESTART; ALTER SEQUENCE audit_id_seq RESTART;
ALTER SEQUENCE credential_id_seq RESTART; ALTER SEQUENCE secret_id_seq RESTART;
ALTER SEQUENCE person_id_seq RESTART;
"""


@dataclass(frozen=True)
class Cluster:
    """A running PostgreSQL; `database()` makes a new one."""

    socket_directory: Path
    numbers: Iterator[int]

    def url(self, database: str) -> str:
        return f"postgresql://gatepost@/{database}?host={self.socket_directory}"

    def execute(self, statement: str, database: str = "postgres") -> None:
        import psycopg  # noqa: PLC0415 - an extra

        with psycopg.connect(self.url(database), autocommit=True) as connection:
            connection.execute(statement)

    def database(self, template: str = "template0") -> str:
        name = f"store_{next(self.numbers)}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY")
        return self.url(name)

    def emptied(self) -> str:
        """The one database that tests share who only write rows; a new one for each would cost 0.1 s."""
        self.execute(EMPTY, "shared")
        return self.url("shared")


def find_postgresql() -> Path | str:
    """The directory of initdb and pg_ctl, or what is missing."""
    if importlib.util.find_spec("psycopg") is None:
        return "psycopg is not installed (pip install gatepost[postgresql])"
    found = shutil.which("initdb")
    homes = [Path(found)] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not homes:
        return "initdb is not installed (apt-get install postgresql)"
    if os.geteuid() == 0:
        if shutil.which("runuser") is None:
            return "runuser is not installed (PostgreSQL refuses to run as root)"
        try:
            pwd.getpwnam("postgres")
        except KeyError:
            return "there is no user postgres (PostgreSQL refuses to run as root)"
    return homes[-1].parent


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    with running_cluster() as cluster:
        yield cluster


@contextmanager
def running_cluster() -> Iterator[Cluster]:
    """Raises AssertionError naming what is missing."""
    home = find_postgresql()
    assert isinstance(home, Path), f"{home}: make lab installs what is needed"
    prefix = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    # Not below pytest's own directory: that is closed to the user postgres.
    base = Path(tempfile.mkdtemp(prefix="gatepost-pg-"))
    if prefix:
        shutil.chown(base, "postgres")

    def run(*command: str) -> None:
        done = subprocess.run(
            [*prefix, *command],
            cwd="/",
            timeout=COMMAND_S,
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if command[0].endswith("initdb") else subprocess.DEVNULL,
            stderr=subprocess.STDOUT,
        )
        assert done.returncode == 0, (command, done.stdout)

    data = str(base / "data")
    options = f"-c fsync=off -c listen_addresses= -k {base}"
    try:
        run(
            f"{home}/initdb", "-D", data, "-A", "trust", "-U", "gatepost", "-E", "UTF8", "--locale=C",
            "--no-sync", "--no-instructions",
        )  # fmt: skip
        run(f"{home}/pg_ctl", "-D", data, "-l", str(base / "log"), "-o", options, "-w", "start")
        try:
            made = Cluster(base, count(1))
            made.execute("CREATE DATABASE migrated TEMPLATE template0")
            Store.create(made.url("migrated")).close()
            made.execute("CREATE DATABASE shared TEMPLATE migrated")
            yield made
        finally:
            run(f"{home}/pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(base, ignore_errors=True)
