"""Sealed accounts and `key rotate` with everything real: a running Gatepost, an identity provider, a mail server."""

from __future__ import annotations

import imaplib
import json
import threading
from collections.abc import Iterator

import pytest

from proxy.secret import Secret, SecretSource
from proxy.store.rows import Purpose
from proxy.store.store import Store
from proxy.vault.apppassword import parse
from proxy.vault.hashing import Hasher
from proxy.vault.sealed import unlocked, unwrapped
from proxy.vault.sealing import load_master, unseal
from tests.connecting import Connecting, prepare, sign_in, stored
from tests.gate import Gate
from tests.lab import Lab
from tests.lab.talk import tls

TIMEOUT_S = 20
ROTATIONS = 3
CLIENTS = 4
# Every login computes, nothing is remembered: the keys are needed each time.
LIMITS = "argon2_memory_kib = 64\nargon2_time = 1\nverify_cache_s = 0\n"
TTL_S = 62  # two seconds above the margin, below which a token is renewed: the refreshes fall among the rotations
ANN, BOB = "ann@example.test", "bob@example.test"


@pytest.fixture
def busy(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gate]:
    """A running Gatepost of its own, whose tokens last for two seconds."""
    lab.idp.set_ttl(TTL_S)
    gate = Gate.prepare(lab, tmp_path_factory.mktemp("sealed"), limits=LIMITS)
    try:
        yield gate
    finally:
        gate.kill()
        lab.idp.set_ttl(3600)


def log_in(gate: Gate, user: str, password: str) -> None:
    """Log in by IMAP and open the mailbox. Raises imaplib.IMAP4.error with what the server says."""
    with imaplib.IMAP4_SSL(*gate.imaps, ssl_context=tls(gate.lab), timeout=TIMEOUT_S) as client:
        client.login(user, password)
        assert client.select("INBOX")[0] == "OK"


class Load:
    """Clients that log in again and again, each with its app password, until they are told to stop."""

    def __init__(self, gate: Gate, logins: list[tuple[str, str]]) -> None:
        self._gate = gate
        self._is_over = threading.Event()
        self.done = dict.fromkeys(logins, 0)
        self.failed: list[str] = []
        self._threads = [threading.Thread(target=self._run, args=login) for login in logins]
        self._enough = threading.Condition()
        for thread in self._threads:
            thread.start()

    def _run(self, user: str, password: str) -> None:
        while not self._is_over.is_set():
            try:
                log_in(self._gate, user, password)
            except (imaplib.IMAP4.error, OSError) as error:
                self.failed.append(f"{user}: {error}")
            with self._enough:
                self.done[user, password] += 1
                self._enough.notify()

    def await_more(self, each: int) -> None:
        """Wait until every client has logged in so many times more."""
        goal = {login: count + each for login, count in self.done.items()}
        with self._enough:
            assert self._enough.wait_for(
                lambda: all(self.done[login] >= count for login, count in goal.items()), timeout=60
            )

    def stop(self) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join(TIMEOUT_S)


def sealed_bob(gate: Gate) -> list[str]:
    """Bob, sealed, with two app passwords: added, connected and created as an administrator does."""
    gate.cli("account", "add", BOB, "--upstream", "lab", "--sealed")
    phone = gate.create(BOB, "phone")["password"]
    token = gate.lab.refresh_token(BOB)
    gate.secrets.append(token)
    gate.cli("account", "connect", BOB, "--refresh-token-stdin", stdin=token + "\n")
    done = gate.run("create", BOB, "--name", "laptop", "--unlock-stdin", "--json", stdin=phone)
    assert done.code == 0, done.err
    gate.secrets.append(done.json["password"])
    return [phone, done.json["password"]]


def tokens_of_bob(gate: Gate, typed: str, *, memory_kib: int = 64, time: int = 1) -> list[str]:
    """What is stored for him right now, opened as a login of his opens it."""
    master = load_master(SecretSource("file", str(gate.directory / "master.key")).read())
    password = parse(Secret(typed))
    assert password is not None
    store = Store.open(f"sqlite:///{gate.directory / 'gatepost.db'}", migrate=False)
    try:
        row = store.find_login(BOB, password.selector)
        assert row is not None
        assert row.secret is not None
        key = store.app_key(row.secret.id)
        assert key is not None
        locked = unwrapped(key, master)
        opener = unlocked(locked, Hasher(memory_kib=memory_kib, time=time, lanes=1).stretched(locked.stretch, password))
        deposits = [store.deposit(row.account.id, purpose) for purpose in Purpose]
        return [unseal(deposit, opener).reveal() for deposit in deposits if deposit is not None]
    finally:
        store.close()


def test_a_master_key_is_rotated_under_login_load_and_nobody_notices(busy: Gate) -> None:
    busy.add_account(ANN)
    logins = [(BOB, password) for password in sealed_bob(busy)]
    logins += [(ANN, busy.create(ANN, f"app {number}")["password"]) for number in range(CLIENTS - len(logins))]
    busy.start()
    load = Load(busy, logins)
    keys = set()
    try:
        load.await_more(2)
        for _ in range(ROTATIONS):
            busy.secrets.append((busy.directory / "master.key").read_text().strip())
            done = busy.run("key", "rotate", "--json")
            assert done.code == 0, done.err
            keys.add(done.json["master_key"])
            load.await_more(3)
    finally:
        load.stop()
    assert load.failed == []
    assert len(keys) == ROTATIONS
    states = {row["account"]: row["token"]["state"] for row in busy.run("account", "list", "--json").json}
    assert states == {ANN: "fresh", BOB: "fresh"}
    log = busy.log()
    assert log.count("event=token_refreshed") > 2  # there were refreshes to lose
    for trouble in ("seal_broken", "lease_lost", "needs_consent", "crashed"):
        assert trouble not in log
    # What the server learned while it ran is what a new one reads.
    assert busy.stop() == 0
    busy.start()
    for user, password in logins:
        log_in(busy, user, password)
    tokens = [tokens_of_bob(busy, password) for user, password in logins if user == BOB]
    assert tokens[0] == tokens[1]
    assert len(tokens[0]) == 2
    busy.secrets += tokens[0]
    assert busy.leaked() == []


def test_a_sealed_mailbox_from_its_first_password_to_its_last(busy: Gate) -> None:
    phone, laptop = sealed_bob(busy)
    busy.start()
    log_in(busy, BOB, phone)
    log_in(busy, BOB, laptop)
    ids = [row["id"] for row in busy.run("list", BOB, "--json").json]
    busy.cli("revoke", ids[0])
    survivor = phone if busy.run("show", ids[1], "--json").json["name"] == "phone" else laptop
    log_in(busy, BOB, survivor)
    out = busy.cli("revoke", ids[1])
    assert "no app password left" in out
    for password in (phone, laptop):
        with pytest.raises(imaplib.IMAP4.error, match="AUTHENTICATIONFAILED"):
            log_in(busy, BOB, password)
    # Somebody signs in again: a new password first, which is all that the new token is sealed to.
    new = busy.create(BOB, "new phone")["password"]
    with pytest.raises(imaplib.IMAP4.error, match="CONTACTADMIN"):
        log_in(busy, BOB, new)
    token = busy.lab.refresh_token(BOB)
    busy.secrets.append(token)
    busy.cli("account", "connect", BOB, "--refresh-token-stdin", stdin=token + "\n")
    log_in(busy, BOB, new)
    busy.secrets += tokens_of_bob(busy, new)
    assert busy.leaked() == []


# -- create --sign-in ----


@pytest.fixture
def signing(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gate]:
    """A Gatepost whose mailboxes sign in, with Bob sealed and nothing else."""
    lab.idp.allow_redirect("http://127.0.0.1/")
    gate = prepare(lab, tmp_path_factory.mktemp("signing"))
    gate.cli("account", "add", BOB, "--upstream", "lab", "--sealed")
    yield gate
    gate.kill()


def create_by_sign_in(gate: Gate, name: str, who: str = BOB) -> tuple[int, str, str]:
    words = (BOB, "--name", name, "--sign-in", "--paste", "--json")
    run = Connecting(gate, *words, command=("create",))
    return run.end(sign_in(gate.lab, run.url(), who) + "\n")


def test_a_sign_in_makes_app_passwords_that_all_open_the_newest_token(signing: Gate) -> None:
    passwords = []
    for name in ("phone", "laptop"):
        status, said, complained = create_by_sign_in(signing, name)
        assert status == 0, complained
        passwords.append(json.loads(said)["password"])
        assert passwords[-1] not in complained
    first, second = (tokens_of_bob(signing, password, memory_kib=19_456, time=2) for password in passwords)
    assert first == second
    signing.start()
    for password in passwords:
        log_in(signing, BOB, password)


def test_a_sign_in_of_somebody_else_makes_no_app_password(signing: Gate) -> None:
    status, said, complained = create_by_sign_in(signing, "phone", who=ANN)
    assert (status, said) == (1, "")
    assert "does not open" in complained
    assert signing.run("list", BOB, "--json").json == []
    assert stored(signing, BOB)["state"] == "none"
