"""Migrations: databases of every former schema open, and what they make is what schema.py says."""

from __future__ import annotations

import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.operations import Operations
from alembic.script import ScriptDirectory

import proxy.store.migrate as migrating
from proxy.errors import StoreError
from proxy.store.engine import Database, parse_url
from proxy.store.rows import CredentialState, NewAccount, Purpose
from proxy.store.schema import HEAD, metadata
from proxy.store.store import Store

MIGRATIONS = Path(migrating.__file__).parent / "migrations"
FORMER = sorted((Path(__file__).parent / "schemas").glob("*.sql"))  # a dump with rows of each schema that was released


@pytest.fixture
def url(own_url):
    return own_url  # these tests change schemas


def scripts() -> ScriptDirectory:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.set_main_option("path_separator", "os")
    return ScriptDirectory.from_config(config)


def test_migrations_are_one_line_of_four_digit_numbers_that_ends_at_head():
    revisions = [script.revision for script in scripts().walk_revisions()][::-1]
    assert revisions == [f"{number:04}" for number in range(1, len(revisions) + 1)]
    assert revisions[-1] == HEAD


def test_every_schema_has_its_dump():
    assert [file.stem for file in FORMER] == [script.revision for script in scripts().walk_revisions()][::-1]


def former_on_sqlite(dump: Path, tmp_path: Path) -> str:
    file = tmp_path / "gatepost.db"
    with closing(sqlite3.connect(file)) as connection:
        connection.executescript(dump.read_text())
    return f"sqlite:///{file}"


def former_on_postgresql(dump: Path, tmp_path: Path, url: str) -> str:
    """The schema of that time, made by its migrations, with the rows of the dump."""
    source = former_on_sqlite(dump, tmp_path)
    database = Database(parse_url(url), wait_s=5.0)
    try:
        with closing(sqlite3.connect(source.removeprefix("sqlite:///"))) as rows, database.write() as connection:
            migrating._run(connection, dump.stem)
            tables = sa.MetaData()
            tables.reflect(connection)
            for table in tables.sorted_tables:
                copy_rows(rows, connection, table)
    finally:
        database.close()
    return url


def copy_rows(source: sqlite3.Connection, target: sa.Connection, table: sa.Table) -> None:
    if table.name == "alembic_version":
        return
    target.execute(sa.delete(table))  # what the migration itself has put there
    found = source.execute(f'SELECT * FROM "{table.name}"')
    names = [column[0] for column in found.description]
    for row in found:
        values = {name: as_postgresql(table.c[name].type, value) for name, value in zip(names, row, strict=True)}
        target.execute(sa.insert(table).values(values))
    for column in table.primary_key:
        if isinstance(column.type, sa.Integer) and column.server_default is not None:
            target.execute(sa.text(f"SELECT setval('{table.name}_id_seq', (SELECT max(id) FROM \"{table.name}\"))"))


def as_postgresql(kind: sa.types.TypeEngine, value: object) -> object:
    if isinstance(kind, sa.Boolean):
        return bool(value)
    if isinstance(kind, sa.DateTime) and isinstance(value, str):
        return datetime.fromisoformat(value).replace(tzinfo=UTC)
    return value


@pytest.mark.parametrize("dump", FORMER, ids=lambda file: file.stem)
def test_database_of_a_former_schema_opens_with_its_rows(dump, tmp_path, backend, request):
    if backend == "sqlite":
        url = former_on_sqlite(dump, tmp_path)
    else:
        url = former_on_postgresql(dump, tmp_path, request.getfixturevalue("cluster").database())
    assert Store.upgrade(url) == (dump.stem, HEAD)
    store = Store.open(url, migrate=False)
    try:
        store.check(deep=True)
        assert [account.email for account in store.accounts()] == ["ann@x.test", "bob@x.test"]
        row = store.find_login("ann", "abcd")
        assert row.secret.phc.endswith("$aGFzaA")
        assert row.credential.last_use.client == "scanner 1.0"
        assert row.credential.expires.microsecond == 123456
        assert store.credential("id2").state is CredentialState.REVOKED
        assert store.deposit(row.account.id, Purpose.REFRESH_TOKEN).ciphertext == b"sealed"
        assert store.extensions("mail", "smtp") == ("SIZE 1000000", "PIPELINING")
        assert len(store.masters()) == 1
        another = NewAccount("eve@x.test", "mail", "eve", (), "cli")  # ids go on where they were
        assert store.add_account(another).id > max(account.id for account in store.accounts()[:2])
    finally:
        store.close()


def test_migrated_schema_is_what_the_metadata_says(url):
    database = Database(parse_url(url), wait_s=5.0)
    try:
        with database.read() as connection:
            context = MigrationContext.configure(connection, opts={"compare_type": True})
            assert compare_metadata(context, metadata) == []
    finally:
        database.close()


def test_partial_index_and_checks_are_what_the_metadata_says(sqlite_url, tmp_path):
    """Alembic compares neither conditions of indexes nor checks; SQLite's own text shows both."""

    def texts(file: Path) -> dict[str, str]:
        with closing(sqlite3.connect(file)) as connection:
            rows = connection.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall()
        return {name: " ".join(sorted(re.findall(r"[^\s,()\"]+", sql))).upper() for name, sql in rows}

    made = tmp_path / "made.db"
    engine = sa.create_engine(f"sqlite:///{made}")
    metadata.create_all(engine)
    engine.dispose()
    migrated = texts(Path(sqlite_url.removeprefix("sqlite:///")))
    del migrated["alembic_version"]
    assert texts(made) == migrated


UPGRADE = "import sys; from proxy.store.store import Store; print(*Store.upgrade(sys.argv[1]), sep=',')"


def test_two_processes_that_upgrade_at_once_do_it_once(empty_url, backend):
    if backend == "sqlite":
        Path(empty_url.removeprefix("sqlite:///")).touch()
    both = [
        subprocess.Popen([sys.executable, "-c", UPGRADE, empty_url], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    answers = sorted(process.communicate(timeout=60)[0].strip() for process in both)
    assert answers == [f",{HEAD}", f"{HEAD},{HEAD}"]


def break_at_the_end(connection: sa.Connection) -> None:
    connection.execute(sa.text("CREATE TABLE half_done (id INTEGER)"))
    connection.execute(sa.text("UPDATE alembic_version SET version_num = '0000'"))
    raise OSError("killed")


def test_migration_that_fails_leaves_the_database_as_it_was(url, monkeypatch):
    database = Database(parse_url(url), wait_s=5.0)
    try:
        with database.write() as connection:
            connection.execute(sa.text("UPDATE alembic_version SET version_num = '0000'"))
        monkeypatch.setattr(migrating, "_run", break_at_the_end)
        with pytest.raises(OSError, match="killed"):
            Store.upgrade(url)
        with database.read() as connection:
            assert "half_done" not in sa.inspect(connection).get_table_names()
    finally:
        database.close()


def test_table_that_is_copied_to_alter_it_keeps_the_rows_that_refer_to_it(store, url, ann, scanner, monkeypatch):
    """SQLite alters by copying; dropping the old account table must not cascade."""

    def alter(connection: sa.Connection) -> None:
        operations = Operations(MigrationContext.configure(connection))
        with operations.batch_alter_table("account", recreate="always" if is_sqlite else "auto") as batch:
            batch.alter_column("upstream_user", nullable=True)
        connection.execute(sa.text(f"UPDATE alembic_version SET version_num = '{HEAD}'"))

    is_sqlite = url.startswith("sqlite")
    with store._database.write() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '0000'"))
    monkeypatch.setattr(migrating, "_run", alter)
    assert Store.upgrade(url) == ("0000", HEAD)
    assert store.credentials(None) == [scanner]
    assert store.account("ann") == ann


def test_migration_that_orphans_rows_is_taken_back(sqlite_url, monkeypatch):
    def orphan(connection: sa.Connection) -> None:
        connection.execute(sa.text("INSERT INTO login_name VALUES ('nobody', 99)"))

    database = Database(parse_url(sqlite_url), wait_s=5.0)
    try:
        with database.write() as connection:
            connection.execute(sa.text("UPDATE alembic_version SET version_num = '0000'"))
        monkeypatch.setattr(migrating, "_run", orphan)
        with pytest.raises(StoreError, match="belong to nothing"):
            Store.upgrade(sqlite_url)
        with database.read() as connection:
            assert connection.execute(sa.text("SELECT count(*) FROM login_name")).scalar_one() == 0
    finally:
        database.close()
