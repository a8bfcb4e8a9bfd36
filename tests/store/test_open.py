"""Opening, making and upgrading a store, and every way in which that is refused."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path

import pytest

from proxy.errors import StoreError, StoreUnavailable
from proxy.store.engine import name_of, parse_url
from proxy.store.schema import HEAD
from proxy.store.store import Store

HOSTILE = ["mysql://h/db", "sqlite://", "sqlite:///:memory:", "sqlite:////x.db?mode=memory", "not a url", ""]


@pytest.fixture
def url(own_url):
    return own_url  # these tests change schemas


def execute(url: str, *statements: str) -> None:
    if url.startswith("sqlite"):
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection, connection:
            for statement in statements:
                connection.execute(statement)
    else:
        import psycopg  # noqa: PLC0415 - an extra

        with psycopg.connect(url, autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement)


def test_created_store_is_open_and_can_be_opened_again(empty_url):
    made = Store.create(empty_url)
    assert made.revision() == 1
    made.close()
    again = Store.open(empty_url, migrate=False)
    again.check(deep=True)
    again.close()


def test_created_file_is_for_its_owner_only(tmp_path):
    before = os.umask(0)
    try:
        made = Store.create(f"sqlite:///{tmp_path}/gatepost.db")
        made.revision()
    finally:
        os.umask(before)
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()}
    made.close()
    assert modes == {"gatepost.db": 0o600, "gatepost.db-wal": 0o600, "gatepost.db-shm": 0o600}


def test_path_with_marks_of_urls_names_that_file(tmp_path):
    Store.create(f"sqlite:///{tmp_path}/a b#ü.db").close()
    assert [file.name for file in tmp_path.glob("*.db")] == ["a b#ü.db"]


def test_create_fills_an_empty_file(tmp_path):
    (tmp_path / "gatepost.db").touch()
    Store.create(f"sqlite:///{tmp_path}/gatepost.db").close()


def test_create_never_overwrites(url):
    with pytest.raises(StoreError, match="holds Gatepost's tables already"):
        Store.create(url)
    Store.open(url, migrate=False).close()


def test_create_needs_the_directory(tmp_path):
    with pytest.raises(StoreError, match=f"{tmp_path}/missing does not exist; .*gatepost init"):
        Store.create(f"sqlite:///{tmp_path}/missing/gatepost.db")


def test_create_that_fails_leaves_no_file(tmp_path, monkeypatch):
    def fail(connection):
        raise OSError("disk on fire")

    monkeypatch.setattr("proxy.store.migrate._run", fail)
    with pytest.raises(OSError, match="disk on fire"):
        Store.create(f"sqlite:///{tmp_path}/gatepost.db")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("migrate", [True, False])
def test_absent_file_is_never_made_by_open(tmp_path, migrate):
    with pytest.raises(StoreError, match=r"gone\.db does not exist; correct \[store\] url"):
        Store.open(f"sqlite:///{tmp_path}/gone.db", migrate=migrate)
    with pytest.raises(StoreError, match="gatepost restore"):
        Store.upgrade(f"sqlite:///{tmp_path}/gone.db")
    assert list(tmp_path.iterdir()) == []


def test_database_without_tables_is_filled_only_when_migrating(empty_url, backend):
    if backend == "sqlite":
        Path(empty_url.removeprefix("sqlite:///")).touch()
    with pytest.raises(StoreError, match="has no tables yet; run gatepost db upgrade"):
        Store.open(empty_url, migrate=False)
    assert Store.upgrade(empty_url) == ("", HEAD)
    assert Store.upgrade(empty_url) == (HEAD, HEAD)
    Store.open(empty_url, migrate=False).close()


def test_open_migrates_a_database_without_tables(empty_url, backend):
    if backend == "sqlite":
        Path(empty_url.removeprefix("sqlite:///")).touch()
    Store.open(empty_url, migrate=True).close()
    Store.open(empty_url, migrate=False).close()


@pytest.mark.parametrize("migrate", [True, False])
def test_schema_of_a_newer_gatepost_is_refused(url, migrate):
    execute(url, "UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(StoreError, match=f"newer Gatepost .schema 9999, this one knows {HEAD}.; install that version"):
        Store.open(url, migrate=migrate)
    with pytest.raises(StoreError, match="newer Gatepost"):
        Store.upgrade(url)


def test_older_schema_is_refused_without_migrate(url):
    execute(url, "UPDATE alembic_version SET version_num = '0000'")
    with pytest.raises(StoreError, match=f"has schema 0000, this Gatepost needs {HEAD}; run gatepost db upgrade"):
        Store.open(url, migrate=False)


def test_database_of_another_program_is_left_alone(empty_url):
    execute(empty_url, "CREATE TABLE bookmarks (id INTEGER PRIMARY KEY)")
    for attempt in (lambda: Store.open(empty_url, migrate=True), lambda: Store.create(empty_url)):
        with pytest.raises(StoreError, match="holds something else; give Gatepost a database of its own"):
            attempt()
    execute(empty_url, "INSERT INTO bookmarks VALUES (1)")


def test_lost_table_is_named_with_a_remedy(store, url):
    execute(url, "DROP TABLE learned")
    with pytest.raises(StoreError, match=r"lacks a part of Gatepost's schema.*gatepost db upgrade"):
        store.extensions("mail", "imap")


def test_file_that_is_not_a_database_is_refused(tmp_path):
    (tmp_path / "gatepost.db").write_bytes(b"[store]\nurl = 'sqlite:...'\n" * 100)
    with pytest.raises(StoreError, match="is not a database"):
        Store.open(f"sqlite:///{tmp_path}/gatepost.db", migrate=True)
    (tmp_path / "directory").mkdir()
    with pytest.raises(StoreError, match="does not exist"):
        Store.open(f"sqlite:///{tmp_path}/directory", migrate=True)


def test_damaged_file_is_found_by_the_deep_check(sqlite_url):
    file = Path(sqlite_url.removeprefix("sqlite:///"))
    opened = Store.open(sqlite_url, migrate=False)
    opened.put_extensions("mail", "imap", tuple(f"X-{number}" for number in range(5_000)))
    opened.close()
    pages = bytearray(file.read_bytes())
    pages[4096 * 3 : 4096 * 9] = b"\xff" * 4096 * 6
    file.write_bytes(pages)
    opened = Store.open(sqlite_url, migrate=False)
    try:
        with pytest.raises(StoreError, match="damaged"):
            opened.check(deep=True)
    finally:
        opened.close()


READ_ONLY = """
import os, sys
from proxy.errors import StoreError
from proxy.store.store import Store
Store.open  # imports everything while it can still be read
if os.geteuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
for url in sys.argv[1:]:
    try:
        Store.open(url, migrate=True)
    except StoreError as error:
        print(error)
"""


def test_file_that_may_only_be_read_is_refused_with_the_remedy(migrated_file):
    # Not below pytest's own directory: the other user could not reach it.
    base = Path(tempfile.mkdtemp(prefix="gatepost-ro-"))
    base.chmod(0o755)
    files = [base / "file" / "gatepost.db", base / "directory" / "gatepost.db"]
    try:
        for file, file_mode, directory_mode in zip(files, (0o444, 0o666), (0o777, 0o555), strict=True):
            file.parent.mkdir()
            shutil.copy(migrated_file, file)
            file.chmod(file_mode)
            file.parent.chmod(directory_mode)
        urls = [f"sqlite:///{file}" for file in files]
        done = subprocess.run(
            [sys.executable, "-c", READ_ONLY, *urls], capture_output=True, text=True, timeout=60, check=True
        )
    finally:
        for file in files:
            file.parent.chmod(0o755)
        shutil.rmtree(base)
    lines = done.stdout.splitlines()
    assert [line.split("; ")[0] for line in lines] == [f"{file} cannot be written" for file in files]


def test_write_to_a_read_only_file_is_an_error_of_the_operator(sqlite_url):
    opened = Store.open(sqlite_url, migrate=False)
    try:
        with opened._database.read() as connection:
            connection.exec_driver_sql("PRAGMA query_only = ON")  # SQLITE_READONLY, also for root
        with pytest.raises(StoreError, match="cannot be written"):
            opened.put_extensions("mail", "imap", ())
    finally:
        opened.close()


def test_closed_store_answers_unavailable(store):
    store.close()
    store.close()
    with pytest.raises(StoreUnavailable, match="closed"):
        store.revision()


@pytest.mark.parametrize("text", HOSTILE)
def test_url_of_another_kind_is_refused(text):
    with pytest.raises(StoreError, match=r"\[store\] url"):
        Store.open(text, migrate=False)


def test_postgresql_url_is_completed_and_its_password_never_shown():
    parsed = parse_url("postgresql://gatepost:hunter2@db.test/mail")
    assert parsed.drivername == "postgresql+psycopg"
    assert name_of(parsed) == "postgresql://gatepost:***@db.test/mail"


def test_missing_driver_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(StoreError, match=r"install the extra postgresql"):
        Store.open("postgresql://gatepost@localhost/mail", migrate=False)


def test_postgresql_that_is_down_is_unavailable(tmp_path):
    with pytest.raises(StoreUnavailable, match=r"^postgresql://.*No such file") as raised:
        Store.open(f"postgresql://gatepost:hunter2@/mail?host={tmp_path}", migrate=True)
    assert "hunter2" not in str(raised.value)


IMPORTS = """
import sys
import proxy.store.rows
print("sqlalchemy" in sys.modules)
from proxy.store.store import Store
Store.open(sys.argv[1], migrate=True).close()
print("alembic" in sys.modules)
"""


def test_rows_cost_no_import_of_sqlalchemy_nor_open_one_of_alembic(sqlite_url):
    done = subprocess.run(
        [sys.executable, "-c", IMPORTS, sqlite_url], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.split() == ["False", "False"]
