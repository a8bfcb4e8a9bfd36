"""Fresh stores for tests: SQLite files, and databases of the cluster of tests/postgresql."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path

import pytest

from proxy.store.people_rows import NewWebSession, Person
from proxy.store.rows import Account, Credential, Deposit, MasterKey, NewAccount, NewCredential, Purpose, Wrap
from proxy.store.store import Store

NOW = datetime(2026, 11, 23, 12, 0, 0, 123456, tzinfo=UTC)


class Clock:
    """Moves when told."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now

    def pass_s(self, seconds: float) -> datetime:
        self.now += timedelta(seconds=seconds)
        return self.now


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("store") / "migrated.db"
    Store.create(f"sqlite:///{file}").close()
    return file


@pytest.fixture(params=["sqlite", "postgresql"])
def backend(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def empty_url(backend: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database without tables; the SQLite file is not there yet."""
    if backend == "sqlite":
        return f"sqlite:///{tmp_path}/gatepost.db"
    return request.getfixturevalue("cluster").database()


@pytest.fixture
def url(backend: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database of the newest schema, empty of rows. A test that changes the schema takes `own_url` instead."""
    if backend == "sqlite":
        return request.getfixturevalue("own_url")
    return request.getfixturevalue("cluster").emptied()


@pytest.fixture
def own_url(backend: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database of the newest schema for this test alone."""
    if backend == "sqlite":
        shutil.copy(request.getfixturevalue("migrated_file"), tmp_path / "gatepost.db")
        return f"sqlite:///{tmp_path}/gatepost.db"
    return request.getfixturevalue("cluster").database("migrated")


@pytest.fixture
def sqlite_url(migrated_file: Path, tmp_path: Path) -> str:
    shutil.copy(migrated_file, tmp_path / "only.db")
    return f"sqlite:///{tmp_path}/only.db"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(url: str, clock: Clock) -> Iterator[Store]:
    opened = Store.open(url, migrate=False, clock=clock)
    yield opened
    opened.close()


@pytest.fixture
def ann(store: Store) -> Account:
    return store.add_account(NewAccount("ann@x.test", "mail", "ann@x.test", ("ann", "a.smith@x.test"), "cli:root"))


@pytest.fixture
def new_credential() -> Callable[..., NewCredential]:
    """A NewCredential for an account; each with a public id and selector of its own."""
    numbers = count(1)

    def make(account: Account | int, name: str = "scanner", **changes: object) -> NewCredential:
        number = next(numbers)
        values: dict[str, object] = {
            "public_id": f"id{number}",
            "account_id": account if isinstance(account, int) else account.id,
            "name": name,
            "protocols": frozenset({"imap", "smtp"}),
            "networks": (),
            "expires": None,
            "created_by": "cli:root",
            "selector": f"s{number:03}",
            "phc": f"$argon2id$v=19$m=8,t=1,p=1$c2FsdA${number}",
        }
        return NewCredential(**{**values, **changes})

    return make


@pytest.fixture
def scanner(store: Store, ann: Account, new_credential: Callable[..., NewCredential]) -> Credential:
    return store.add_credential(new_credential(ann))


@pytest.fixture
def master(store: Store) -> MasterKey:
    key = MasterKey("m1", b"\x01" * 32, NOW)
    store.add_master(key)
    return key


@pytest.fixture
def new_deposit(master: MasterKey) -> Callable[..., Deposit]:
    numbers = count(1)

    def make(account: Account | int, purpose: Purpose = Purpose.REFRESH_TOKEN, text: bytes = b"sealed") -> Deposit:
        valid_until = NOW + timedelta(hours=1) if purpose is Purpose.ACCESS_TOKEN else None
        account_id = account if isinstance(account, int) else account.id
        return Deposit(
            f"row{next(numbers)}", account_id, purpose, text, (Wrap(master.key_id, b"wrapped"),), valid_until
        )

    return make


@pytest.fixture
def new_web_session() -> Callable[..., NewWebSession]:
    def make(person: Person, **changes: object) -> NewWebSession:
        values: dict[str, object] = {
            "id_hash": "hash1",
            "person_id": person.id,
            "is_admin": False,
            "expires": NOW + timedelta(hours=8),
            "auth_time": NOW,
            "amr": (),
            "acr": "",
            "address": "192.0.2.7",
        }
        return NewWebSession(**{**values, **changes})

    return make
