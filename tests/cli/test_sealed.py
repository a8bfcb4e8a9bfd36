"""Sealed accounts and `key rotate` on the command line: what is refused, and what people are told at which moment."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

import pytest

import proxy.cli.creating as shell
from proxy.admin import examine
from proxy.admin.accounts import find
from proxy.admin.deposits import deposit_token
from proxy.admin.desk import opened
from proxy.config.reader import load
from proxy.secret import Secret
from proxy.store.rows import CredentialState, Purpose
from proxy.vault.sealing import SealBroken, generate_master, load_master, unseal

SUE = "sue@example.com"
NOBODY = 65_534
APP_ONLY = """
[upstream.app]
imap = "imaps://imap.example.com"

[upstream.app.oauth2]
client_id = "id"
client_secret = "env:SECRET"
token_url = "https://login.example.com/token"
grant = "client_credentials"
"""


@pytest.fixture
def sue(gatepost):
    """A sealed account; nothing is stored for it yet."""
    gatepost.done("account", "add", SUE, "--upstream", "main", "--sealed", "--alias", "sue")
    return gatepost


def connect(gatepost, token="token-of-sue-0123456789", purpose=Purpose.REFRESH_TOKEN):
    with opened(load(gatepost.config), "test") as desk:
        deposit_token(desk, find(desk, SUE), Secret(token), purpose)


def create(gatepost, name, *words, stdin=b""):
    return gatepost.done("create", SUE, "--name", name, "--json", *words, stdin=stdin).json


@pytest.fixture
def connected(sue):
    """The same with an app password and a token. Returns the app password's record as well."""
    phone = create(sue, "phone")
    connect(sue)
    return sue, phone


def state(gatepost):
    (record,) = gatepost.done("account", "list", "--json").json
    return record["token"]["state"], record["token"]["detail"]


# -- account add --sealed ----


def test_adding_tells_the_limits_and_the_next_step(gatepost):
    out = gatepost.done("account", "add", SUE, "--upstream", "main", "--sealed").out
    for words in ("nothing is refreshed", "--sign-in", "--unlock-stdin", "without\nthe last one", "gatepost create"):
        assert words in out
    assert gatepost.done("account", "show", SUE, "--json").json["sealed"] is True
    assert "active, sealed" in gatepost.done("account", "list").out
    assert "only its app passwords open" in gatepost.done("account", "show", SUE).out


@pytest.mark.parametrize(
    ("upstream", "option", "then"),
    [("main", "--refresh-token-stdin", "account connect"), ("imaponly", "--password-stdin", "create with --sign-in")],
)
def test_a_secret_before_the_first_app_password_is_refused_unread(gatepost, snapshot, upstream, option, then):
    before = snapshot()
    line = gatepost.refused("account", "add", SUE, "--upstream", upstream, "--sealed", option)
    assert "nobody to seal to" in line
    assert then in line
    assert snapshot() == before


def test_an_upstream_without_sign_ins_has_nothing_to_seal(gatepost):
    with gatepost.config.open("a") as file:
        file.write(APP_ONLY)
    assert "leave --sealed out" in gatepost.refused("account", "add", SUE, "--upstream", "app", "--sealed")


# -- create ----


def test_the_first_app_password_comes_before_the_sign_in_or_with_it(sue):
    out = sue.done("create", SUE, "--name", "phone").out
    assert "this app password alone" in out
    assert f"gatepost account connect {SUE}" in out
    create(sue, "laptop")  # still nothing stored that it would have to open
    connect(sue)
    assert state(sue) == ("fresh", "")


def test_a_further_app_password_is_refused_without_a_way_in(connected, snapshot):
    gatepost, _ = connected
    before = snapshot()
    line = gatepost.refused("create", SUE, "--name", "laptop")
    assert "is sealed" in line
    assert "--sign-in" in line
    assert "--unlock-stdin" in line
    assert snapshot() == before


def test_an_app_password_unlocks_the_account_for_another(connected):
    gatepost, phone = connected
    laptop = create(gatepost, "laptop", "--unlock-stdin", stdin=phone["password"].encode())
    assert list(laptop) == ["id", "account", "name", "password", "protocols", "networks", "created", "expires"]
    gatepost.done("revoke", phone["id"])
    assert state(gatepost) == ("fresh", "")
    out = gatepost.done("create", "sue", "--name", "tablet", "--unlock-stdin", stdin=laptop["password"].encode()).out
    assert "its 2 app passwords alone" in out


def swapped(text: str) -> str:
    """With its last two neighbours changed over that are not the same."""
    at = max(i for i in range(len(text) - 1) if text[i] != text[i + 1] and "-" not in text[i : i + 2])
    return text[:at] + text[at + 1] + text[at] + text[at + 2 :]


@pytest.mark.parametrize(
    "typed", [b"", b"hunter2", b"aaaaa-aaaaa-aaaaa-aaaaa", b"00000-00000-00000-00000", b"swapped"], ids=range(5)
)
def test_what_is_no_app_password_of_it_unlocks_nothing(connected, snapshot, typed):
    gatepost, phone = connected
    if typed == b"swapped":  # its selector, another secret: the check symbol would say so
        typed = swapped(phone["password"]).encode()
    before = snapshot()
    gatepost.refused("create", SUE, "--name", "laptop", "--unlock-stdin", stdin=typed)
    assert snapshot() == before


def test_a_revoked_or_suspended_app_password_unlocks_nothing(connected):
    gatepost, phone = connected
    laptop = create(gatepost, "laptop", "--unlock-stdin", stdin=phone["password"].encode())
    gatepost.done("revoke", phone["id"])
    words = ("create", SUE, "--name", "tablet", "--unlock-stdin")
    assert "does not open" in gatepost.refused(*words, stdin=phone["password"].encode())
    for state, does_open in ((CredentialState.SUSPENDED, False), (CredentialState.ACTIVE, True)):
        with opened(load(gatepost.config), "test") as desk:
            desk.store.set_credential_states([laptop["id"]], state)
        assert (gatepost(*words, stdin=laptop["password"].encode()).status == 0) is does_open


def test_another_accounts_app_password_unlocks_nothing(connected):
    gatepost, _ = connected
    gatepost.add_ann()
    other = gatepost.done("create", "ann@example.com", "--name", "x", "--json").json["password"]
    line = gatepost.refused("create", SUE, "--name", "laptop", "--unlock-stdin", stdin=other.encode())
    assert "does not open" in line


def test_ways_in_are_refused_where_there_is_nothing_to_open(gatepost):
    gatepost.add_ann()
    for option in ("--sign-in", "--unlock-stdin"):
        line = gatepost.refused("create", "ann@example.com", "--name", "x", option)
        assert "is not sealed" in line


def test_unlocking_an_account_that_has_nothing_stored_is_refused(sue):
    phone = create(sue, "phone")
    line = sue.refused("create", SUE, "--name", "x", "--unlock-stdin", stdin=phone["password"].encode())
    assert "use --sign-in" in line


def test_ways_of_signing_in_need_the_sign_in(connected):
    gatepost, _ = connected
    for words in (["--device"], ["--paste"], ["--unlock-stdin", "--paste"], ["--sign-in", "--unlock-stdin"]):
        assert gatepost("create", SUE, "--name", "x", *words).status == 2


def test_a_name_that_is_taken_is_told_before_anybody_signs_in(connected):
    gatepost, _ = connected
    assert '"phone" already' in gatepost.refused("create", SUE, "--name", "phone", "--sign-in")


def test_signing_in_where_there_is_no_oauth2_asks_for_the_mailboxs_password(gatepost):
    gatepost.done("account", "add", SUE, "--upstream", "imaponly", "--sealed")
    assert "--sign-in, which asks for it" in gatepost.refused("create", SUE, "--name", "phone")
    phone = create(gatepost, "phone", "--sign-in", stdin=b"password of the mailbox\n")
    create(gatepost, "laptop", "--unlock-stdin", stdin=phone["password"].encode())
    assert state(gatepost) == ("fresh", "")


# -- revoke ----


def test_revoking_the_last_one_says_what_is_lost_and_what_to_do(connected):
    gatepost, phone = connected
    laptop = create(gatepost, "laptop", "--unlock-stdin", stdin=phone["password"].encode())
    assert "sealed" not in gatepost.done("revoke", phone["id"]).out
    out = gatepost.done("revoke", laptop["id"]).out
    assert "no app password left" in out
    assert f'gatepost create {SUE} --name "..." --sign-in' in out
    assert state(gatepost) == ("needs_consent", "last_app_password_revoked")
    assert "needs sign-in: no app password is left" in gatepost.done("account", "list").out
    assert "needs sign-in: no app password is left" in gatepost.done("account", "show", SUE).out


def test_connecting_without_an_app_password_is_refused_before_the_sign_in(connected):
    gatepost, phone = connected
    gatepost.done("revoke", phone["id"])
    line = gatepost.refused("account", "connect", SUE, "--refresh-token-stdin", stdin=b"never read")
    assert "no app password that could open" in line
    assert "--sign-in" in line
    create(gatepost, "new phone")
    connect(gatepost)
    assert state(gatepost) == ("fresh", "")


def test_an_app_password_that_could_not_be_shown_is_gone_with_its_key(connected, monkeypatch):
    gatepost, phone = connected

    def broken(text):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(shell, "say", broken)
        gatepost.refused("create", SUE, "--name", "x", "--unlock-stdin", stdin=phone["password"].encode())
    (live,) = [row for row in gatepost.done("list", "--json").json if row["state"] == "active"]
    assert live["id"] == phone["id"]
    assert state(gatepost) == ("fresh", "")


# -- key rotate ----


def test_key_rotate_in_words_and_json(connected):
    gatepost, phone = connected
    first = gatepost.done("key", "rotate", "--json").json
    assert list(first) == ["master_key", "file", "resumed", "secrets", "app_keys", "dropped"]
    assert (first["resumed"], first["secrets"], first["app_keys"], len(first["dropped"])) == (False, 0, 1, 1)
    assert first["file"] == str(gatepost.directory / "master.key")
    out = gatepost.done("key", "rotate").out
    assert re.search("keep a copy of .*master.key", out)
    assert "backups" in out
    create(gatepost, "laptop", "--unlock-stdin", stdin=phone["password"].encode())  # it opens as before


def test_check_tells_of_an_interrupted_rotation(connected):
    gatepost, _ = connected
    text, key = generate_master()
    file = gatepost.directory / "master.key"
    file.write_text(f"{text.reveal()}\n{file.read_text()}")
    config = load(gatepost.config)
    with opened(config, "test") as desk:
        desk.store.add_master(key)
    (finding,) = [one for one in examine.local(config, datetime.now(UTC)) if one.name == "master key"]
    assert finding.ok
    assert "gatepost key rotate" in finding.remedy
    gatepost.done("key", "rotate")
    (finding,) = [one for one in examine.local(config, datetime.now(UTC)) if one.name == "master key"]
    assert finding.remedy == ""


# -- without the private half ----

# The words of a command are run twice: as root on a copy, so that everything is imported (this Python may lie where
# nobody else can read it), then as nobody. "deposit EMAIL TOKEN" stands for the end of `account connect`.
MACHINE = """
import contextlib, io, os, sys
from pathlib import Path
from proxy.admin.accounts import find
from proxy.admin.deposits import deposit_token
from proxy.admin.desk import opened
from proxy.cli import main
from proxy.config.reader import load
from proxy.secret import Secret

def run(config):
    os.environ["GATEPOST_CONFIG"] = config
    sys.stdin = io.TextIOWrapper(io.BytesIO(typed))
    if sys.argv[3] != "deposit":
        return main(sys.argv[3:])
    with opened(load(Path(config)), "test") as desk:
        deposit_token(desk, find(desk, sys.argv[4]), Secret(sys.argv[5]))
    return 0

typed = sys.stdin.buffer.read()
with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
    run(sys.argv[1])
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
with contextlib.suppress(PermissionError):
    open(Path(sys.argv[2]).with_name("master.key"))
    sys.exit("the key can be read")
sys.exit(run(sys.argv[2]))
"""


@pytest.fixture
def machine(as_root, gatepost, monkeypatch):
    """Runs commands as a user who can use the database, and cannot read the master key."""
    # Not below pytest's own directory: that is closed to everybody else, and each run of pytest closes it again.
    base = Path(tempfile.mkdtemp(prefix="gatepost-machine-"))
    base.chmod(0o711)
    setup = base / "setup"
    shutil.copytree(gatepost.directory, setup)
    gatepost.directory = setup
    monkeypatch.setenv("GATEPOST_CONFIG", str(gatepost.config))
    key = setup / "master.key"
    for path in (setup, *setup.iterdir()):
        if path != key:
            os.chown(path, NOBODY, NOBODY)
    assert (key.stat().st_uid, key.stat().st_mode & 0o777) == (0, 0o600)
    numbers = count()

    def run(*words, stdin=""):
        rehearsal = base / f"rehearsal{next(numbers)}"
        shutil.copytree(gatepost.directory, rehearsal)
        return subprocess.run(
            [sys.executable, "-c", MACHINE, rehearsal / "gatepost.toml", gatepost.config, *words],
            input=stdin, capture_output=True, text=True, check=False, timeout=60, cwd=Path(__file__).parents[2],
        )  # fmt: skip

    yield run
    shutil.rmtree(base)


def test_add_connect_and_create_work_without_the_private_half(gatepost, machine):
    """Ordinary and sealed: a machine that can open nothing fills everything in. Only --unlock-stdin needs the key."""
    emails = {"ann@example.com": [], SUE: ["--sealed"]}
    made = {}
    for email, words in emails.items():
        added = machine("account", "add", email, "--upstream", "main", *words)
        assert (added.returncode, added.stderr) == (0, "")
        created = machine("create", email, "--name", "phone", "--json")
        assert (created.returncode, created.stderr) == (0, "")
        made[email] = re.search('"password": "(.*)"', created.stdout)[1]
        connected = machine("deposit", email, f"token of {email}")
        assert (connected.returncode, connected.stderr) == (0, "")
    bob = machine(
        "account", "add", "bob@example.com", "--upstream", "main", "--refresh-token-stdin", stdin="token of bob\n"
    )
    assert (bob.returncode, bob.stderr) == (0, "")

    refused = machine("create", SUE, "--name", "laptop", "--unlock-stdin", stdin=made[SUE])
    assert refused.returncode == 1
    assert "needs the master key too" in refused.stderr
    assert "--sign-in" in refused.stderr
    rotated = machine("key", "rotate")
    assert rotated.returncode == 1
    assert "cannot read" in rotated.stderr

    # And the one who has the key opens what is there: all of the ordinary, of the sealed only with its app password.
    master = load_master(Secret((gatepost.directory / "master.key").read_text()))
    with opened(load(gatepost.config), "test") as desk:
        for email, text in (("ann@example.com", "token of ann@example.com"), ("bob@example.com", "token of bob")):
            deposit = desk.store.deposit(find(desk, email).id, Purpose.REFRESH_TOKEN)
            assert unseal(deposit, master).reveal() == text
        with pytest.raises(SealBroken):
            unseal(desk.store.deposit(find(desk, SUE).id, Purpose.REFRESH_TOKEN), master)
    create(gatepost, "laptop", "--unlock-stdin", stdin=made[SUE].encode())
