"""proxy/admin/keys.py: `key rotate`, killed at every step, beside deposits, and over files of every owner and mode."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from proxy.admin import accounts, keys, passwords
from proxy.admin.accounts import AccountRequest
from proxy.admin.deposits import deposit_token
from proxy.admin.desk import Desk, opened
from proxy.admin.passwords import PasswordRequest
from proxy.admin.sealed import Opening
from proxy.admin.setup import init, upgrade
from proxy.config.reader import load
from proxy.errors import ConfigError, OperatorError, StoreError
from proxy.secret import Secret, SecretSource
from proxy.store.rows import MasterKey, Purpose
from proxy.store.store import Store
from proxy.vault.apppassword import parse
from proxy.vault.files import alone_in
from proxy.vault.hashing import Hasher
from proxy.vault.sealed import unlocked, unwrapped
from proxy.vault.sealing import MasterPrivate, SealBroken, generate_master, load_master, unseal
from tests.store.conftest import NOW

PAGE = 2
ORDINARY = [f"user{number}@x.test" for number in range(5)]
SEALED = [f"sealed{number}@x.test" for number in range(2)]
HASHER = Hasher(memory_kib=8, time=1, lanes=1)
QUICK = "\n[limits]\nargon2_memory_kib = 8\nargon2_time = 1\n"


@dataclass
class House:
    """A set-up with something stored for everybody."""

    directory: Path
    app_passwords: dict[str, list[str]]

    @property
    def key_file(self) -> Path:
        return self.directory / "master.key"

    @property
    def master(self) -> MasterPrivate:
        return load_master(SecretSource("file", str(self.key_file)).read())

    @contextmanager
    def desk(self) -> Iterator[Desk]:
        with opened(load(self.directory / "gatepost.toml"), "test") as desk:
            yield desk

    def readable(self, master: MasterPrivate) -> list[str]:
        """All that is stored and opens with this master, and the app passwords where they are due."""
        found = []
        with self.desk() as desk:
            for account in desk.store.accounts():
                deposit = desk.store.deposit(account.id, Purpose.REFRESH_TOKEN)
                assert deposit is not None
                openers = [master]
                if account.sealed:
                    openers = [
                        unlock(desk.store, account.email, text, master) for text in self.app_passwords[account.email]
                    ]
                found += [unseal(deposit, opener).reveal() for opener in openers]
        return sorted(found)

    def copied(self, to: Path) -> House:
        shutil.copytree(self.directory, to)
        return replace(self, directory=to)


EVERYTHING = sorted([f"token of {email}" for email in ORDINARY] + [f"token of {email}" for email in SEALED] * 2)


def unlock(store: Store, email: str, text: str, master: MasterPrivate):
    password = parse(Secret(text))
    row = store.find_login(email, password.selector)
    locked = unwrapped(store.app_key(row.secret.id), master)
    return unlocked(locked, HASHER.stretched(locked.stretch, password))


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> House:
    directory = tmp_path_factory.mktemp("keys") / "setup"
    init(directory / "gatepost.toml", NOW, "test")
    with (directory / "gatepost.toml").open("a") as file:
        file.write(QUICK)
    house = House(directory, {})
    with house.desk() as desk:
        for email in (*ORDINARY, *SEALED):
            new = accounts.prepare(desk, AccountRequest(email, "main", sealed=email in SEALED))
            account = accounts.add(desk, new, None, None).account
            house.app_passwords[email] = []
            opening = Opening()
            for name in ("phone", "laptop"):
                prepared = passwords.prepare(desk, PasswordRequest(email, name))
                text = passwords.create(desk, prepared, opening).password
                house.app_passwords[email].append(text)
            deposit_token(desk, account, Secret(f"token of {email}"))
    return house


@pytest.fixture
def house(template, tmp_path) -> House:
    return template.copied(tmp_path / "setup")


def lines(house: House) -> int:
    return len(house.key_file.read_text().split())


# -- what it does ----


def test_a_rotation_leaves_everything_under_a_new_key_and_nothing_under_the_old(house):
    old = house.master
    with house.desk() as desk:
        done = keys.rotate(desk, page=PAGE)
        assert [one.key_id for one in desk.store.masters()] == [done.master]
    assert (done.secrets, done.app_keys, done.has_resumed, done.dropped) == (5, 4, False, old.key_ids)
    assert house.master.key_ids == (done.master,)
    assert house.readable(house.master) == EVERYTHING
    with house.desk() as desk:
        for account in desk.store.accounts():
            deposit = desk.store.deposit(account.id, Purpose.REFRESH_TOKEN)
            with pytest.raises(SealBroken):
                unseal(deposit, old)
        with pytest.raises(SealBroken):
            unlock(desk.store, SEALED[0], house.app_passwords[SEALED[0]][0], old)


def test_each_rotation_is_another_key(house):
    seen = set()
    for _ in range(3):
        with house.desk() as desk:
            seen.add(keys.rotate(desk).master)
    assert len(seen) == 3
    assert house.readable(house.master) == EVERYTHING


def test_the_new_key_is_the_newest_whatever_the_clock_says(house):
    text, ahead = generate_master()
    ahead = MasterKey(ahead.key_id, ahead.public, datetime.now(UTC) + timedelta(days=400))
    with house.desk() as desk:
        desk.store.add_master(ahead)
        house.key_file.write_text(f"{text.reveal()}\n{house.key_file.read_text()}")
        keys.rotate(desk)  # the interrupted one
        done = keys.rotate(desk)
        assert desk.store.masters()[0].key_id == done.master
    assert house.readable(house.master) == EVERYTHING


# -- kill -9 at every step ----

# One process forks for each step: starting Python for each would take a minute. It kills itself before and after every
# call that changes anything, in the order in which a rotation makes them.
KILLER = """
import os, signal, sys
from proxy.admin import keys
from proxy.admin.desk import opened
from proxy.config.reader import load
from proxy.store.store import Store
import proxy.admin.accounts, proxy.vault.files, proxy.vault.sealed, pathlib

def mortal(owner, name, life):
    real = getattr(owner, name)
    def call(*args, **more):
        tick(life, f"before {name}")
        result = real(*args, **more)
        tick(life, f"after {name}")
        return result
    setattr(owner, name, call)

def tick(life, where):
    life[0] -= 1
    if life[0] == 0:
        os.write(said, where.encode())
        os.kill(os.getpid(), signal.SIGKILL)

for line in sys.stdin:
    config, steps = line.split()
    heard, said = os.pipe()
    child = os.fork()
    if child == 0:
        life = [int(steps)]
        for owner, name in (
            (os, "fsync"), (os, "fchmod"), (pathlib.Path, "replace"), (Store, "add_master"), (Store, "replace_wraps"),
            (Store, "replace_app_keys"), (Store, "drop_master"),
        ):
            mortal(owner, name, life)
        with opened(load(pathlib.Path(config)), "test") as desk:
            keys.rotate(desk, page=2)
        os.write(said, b"survived")
        os._exit(0)
    os.waitpid(child, 0)  # before anybody is told: the dead hold no lock
    os.close(said)
    print(os.read(heard, 100).decode(), flush=True)
    os.close(heard)
"""


@pytest.fixture(scope="module")
def killer():
    with subprocess.Popen(
        [sys.executable, "-c", KILLER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    ) as process:
        yield process
        process.stdin.close()
        process.wait(10)


def test_killed_at_any_step_everything_opens_and_the_next_run_finishes(template, killer, tmp_path):
    where = []
    while not where or where[-1] != "survived":
        house = template.copied(tmp_path / f"step{len(where)}")
        before = house.master.key_ids[0]
        killer.stdin.write(f"{house.directory}/gatepost.toml {len(where) + 1}\n")
        where.append(killer.stdout.readline().strip())
        # As it was left: a server that starts now, with what is in the file, opens everything.
        assert house.readable(house.master) == EVERYTHING, where[-1]
        with house.desk() as desk:
            assert desk.store.masters()[0].key_id in house.master.key_ids, where[-1]
        assert house.key_file.stat().st_mode & 0o777 == 0o600
        if where[-1] == "survived":
            break
        with house.desk() as desk:
            done = keys.rotate(desk, page=PAGE)
            assert [one.key_id for one in desk.store.masters()] == [done.master], where[-1]
        assert house.master.key_ids == (done.master,) != (before,)
        assert house.readable(house.master) == EVERYTHING, where[-1]
        assert [path.name for path in house.directory.glob(".*")] == []
    seen = set(where)
    expected = {"fsync", "fchmod", "replace", "add_master", "replace_wraps", "replace_app_keys", "drop_master"}
    assert {place.rpartition(" ")[2] for place in seen} == {*expected, "survived"}
    assert len(where) == 31


def test_an_interrupted_rotation_is_told_and_finished_with_its_own_key(house):
    text, new = generate_master()
    house.key_file.write_text(f"{text.reveal()}\n{house.key_file.read_text()}")
    with house.desk() as desk:
        done = keys.rotate(desk)
    assert (done.has_resumed, done.master) == (True, new.key_id)
    assert house.readable(house.master) == EVERYTHING


# -- what it refuses ----


@pytest.mark.parametrize("kind", ["env", "credential"])
def test_a_key_that_is_no_file_is_refused_with_the_remedy(house, monkeypatch, kind):
    monkeypatch.setenv("MASTER", house.key_file.read_text())
    config = load(house.directory / "gatepost.toml")
    elsewhere = replace(config, keys=replace(config.keys, master=SecretSource(kind, "MASTER")))
    with opened(elsewhere, "test") as desk, pytest.raises(OperatorError, match=r'can read but not change.*"file:'):
        keys.rotate(desk)


def test_the_key_of_another_store_is_refused_and_kept(house):
    text, _ = generate_master()
    house.key_file.write_text(text.reveal())
    with house.desk() as desk, pytest.raises(ConfigError, match="not the master key of this store"):
        keys.rotate(desk)
    assert house.key_file.read_text() == text.reveal()


def test_a_store_without_a_master_is_refused(house):
    file = house.directory / "gatepost.db"
    file.unlink()
    Store.create(f"sqlite:///{file}").close()
    with house.desk() as desk, pytest.raises(StoreError, match="db upgrade"):
        keys.rotate(desk)
    upgrade(load(house.directory / "gatepost.toml"), "test")
    with house.desk() as desk:
        keys.rotate(desk)


def test_two_rotations_at_a_time_are_one(house):
    with alone_in(house.directory) as is_alone, house.desk() as desk:
        assert is_alone
        with pytest.raises(OperatorError, match="another gatepost key rotate is running"):
            keys.rotate(desk)
    with house.desk() as desk:
        keys.rotate(desk)


def test_what_does_not_open_keeps_the_old_key_and_names_the_account(house):
    old = house.master.key_ids[0]
    with house.desk() as desk:
        account = desk.store.account(ORDINARY[3])
        good = desk.store.deposit(account.id, Purpose.REFRESH_TOKEN)
        desk.store.put_deposit(replace(good, ciphertext=good.ciphertext[:-1] + b"?"))
        with pytest.raises(OperatorError, match=f"{ORDINARY[3]} cannot be opened.*account connect {ORDINARY[3]}"):
            keys.rotate(desk, page=PAGE)
        assert (lines(house), [one.key_id for one in desk.store.masters()][1:]) == (2, [old])
        deposit_token(desk, account, Secret(f"token of {ORDINARY[3]}"))
        done = keys.rotate(desk, page=PAGE)
        assert (done.has_resumed, done.dropped, lines(house)) == (True, (old,), 1)
    assert house.readable(house.master) == EVERYTHING


def test_a_directory_that_cannot_be_written_is_told_before_anything_changes(house, monkeypatch):
    before = house.key_file.read_text()

    def refuse(path, target):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "replace", refuse)
    with house.desk() as desk:
        masters = desk.store.masters()
        with pytest.raises(OperatorError, match=r"cannot change .*master\.key: Operation not permitted"):
            keys.rotate(desk)
        assert desk.store.masters() == masters
    assert house.key_file.read_text() == before


# -- the file ----


@pytest.mark.usefixtures("as_root")
@pytest.mark.parametrize(("mode", "after"), [(0o600, 0o600), (0o640, 0o640), (0o400, 0o400), (0o644, 0o640)])
def test_the_file_keeps_its_owner_and_its_mode_but_for_the_world(house, mode, after):
    os.chown(house.key_file, 4321, 4322)
    house.key_file.chmod(mode)
    with house.desk() as desk:
        keys.rotate(desk)
    status = house.key_file.stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (4321, 4322, after)


def test_a_link_to_the_key_stays_a_link(house, tmp_path):
    real = tmp_path / "elsewhere" / "the.key"
    real.parent.mkdir()
    house.key_file.rename(real)
    house.key_file.symlink_to(real)
    with house.desk() as desk:
        keys.rotate(desk)
    assert house.key_file.is_symlink()
    assert house.readable(load_master(SecretSource("file", str(real)).read())) == EVERYTHING


def test_what_a_killed_run_left_beside_the_file_is_private_and_goes(house):
    beside = house.directory / ".master.key.new"
    beside.write_text("half a k")
    with house.desk() as desk:
        keys.rotate(desk)
    assert not beside.exists()
