"""proxy/cli/life.py with proxy/admin/life.py: gatepost rotate, suspend, resume."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from proxy.admin import life
from proxy.admin.desk import opened
from proxy.config.reader import load
from proxy.secret import Secret
from proxy.store.rows import CredentialState
from proxy.store.store import Store
from proxy.vault.apppassword import parse
from proxy.vault.hashing import Hasher

HASHER = Hasher(memory_kib=8, time=1, lanes=1)


@pytest.fixture
def ann(gatepost):
    gatepost.add_ann("--alias", "ann")
    return gatepost


@pytest.fixture
def scanner(ann) -> dict:
    words = ["--protocol", "smtp", "--from", "10.0.0.0/8", "--expires", "90d", "--json"]
    return ann.done("create", "ann", "--name", "Scanner", *words).json


def store_of(gatepost) -> Store:
    return Store.open(f"sqlite:///{gatepost.directory}/gatepost.db", migrate=False)


def secret_of(gatepost, text: str, public_id: str):
    """The secret row that this text opens, of this app password."""
    password = parse(Secret(text))
    assert password is not None
    store = store_of(gatepost)
    row = store.find_login("ann@example.com", password.selector)
    store.close()
    assert row is not None
    assert row.secret is not None
    assert row.credential is not None
    assert row.credential.public_id == public_id
    assert HASHER.verify(row.secret.phc, password)
    return row.secret


def expire(gatepost, public_id: str) -> None:
    """Let it have expired a day ago: a command can't make one."""
    import sqlite3  # noqa: PLC0415

    with sqlite3.connect(gatepost.directory / "gatepost.db") as connection:
        day = datetime.now(UTC) - timedelta(days=1)
        connection.execute(
            "UPDATE credential SET expires = ? WHERE public_id = ?", (f"{day:%Y-%m-%d %H:%M:%S.%f}", public_id)
        )
    connection.close()


# -- rotate ----


def test_json_of_a_rotated_app_password_is_that_of_a_new_one_with_another_text(ann, scanner):
    rotated = ann.done("rotate", scanner["id"], "--json").json
    assert list(rotated) == ["id", "account", "name", "password", "protocols", "networks", "created", "expires"]
    assert rotated["password"] != scanner["password"]
    assert {**rotated, "password": ""} == {**scanner, "password": ""}


def test_former_text_works_for_the_overlap_and_the_new_one_without_end(ann, scanner):
    before = datetime.now(UTC).replace(microsecond=0)
    rotated = ann.done("rotate", f" {scanner['id'].upper()} ", "--overlap", "7d", "--json").json
    former = secret_of(ann, scanner["password"], scanner["id"])
    new = secret_of(ann, rotated["password"], scanner["id"])
    assert new.valid_until is None
    assert before <= former.valid_until - timedelta(days=7) <= datetime.now(UTC)


@pytest.mark.parametrize(("words", "hours"), [((), 24), (("--overlap", "0h"), 0)])
def test_overlap_is_a_day_unless_told_and_may_be_none_at_all(words, hours, ann, scanner):
    ann.done("rotate", scanner["id"], *words)
    end = secret_of(ann, scanner["password"], scanner["id"]).valid_until
    assert abs(end - datetime.now(UTC) - timedelta(hours=hours)) < timedelta(minutes=1)
    assert (hours > 0) is (end > datetime.now(UTC))


def test_rotation_is_shown_once_and_show_tells_until_when_the_former_works(ann, scanner):
    assert "former one" not in ann.done("show", scanner["id"]).out
    out = ann.done("rotate", scanner["id"], "--overlap", "7d").out
    (end,) = {line.partition("former one")[2].strip() for line in out.splitlines() if line.startswith("former one")}
    for words in ('New app password "Scanner" for ann@example.com', "shown this once", "port 465, TLS", scanner["id"]):
        assert words in out
    assert scanner["password"] not in out
    shown = ann.done("show", scanner["id"]).out
    assert f"former one  {end}\n" in shown
    assert end.startswith("works until ")
    out = ann.done("rotate", scanner["id"], "--overlap", "0h").out
    assert "former one   has ended" in out
    assert "former one" not in ann.done("show", scanner["id"]).out


def test_former_text_outlives_no_expiry(ann):
    made = ann.done("create", "ann", "--name", "x", "--expires", "12h", "--json").json
    out = ann.done("rotate", made["id"], "--overlap", "7d").out
    end = datetime.fromisoformat(made["expires"])
    assert f"former one   works until {end:%Y-%m-%d %H:%MZ}" in out
    assert f"former one  works until {end:%Y-%m-%d %H:%MZ}" in ann.done("show", made["id"]).out


def test_suspended_app_password_is_rotated_stays_suspended_and_says_so(ann, scanner):
    ann.done("suspend", scanner["id"])
    out = ann.done("rotate", scanner["id"]).out
    assert f"It is suspended, and neither works before: gatepost resume {scanner['id']}" in out
    assert ann.done("show", scanner["id"], "--json").json["state"] == "suspended"


def test_what_would_revive_nothing_is_not_rotated(ann, scanner):
    expire(ann, scanner["id"])
    line = ann.refused("rotate", scanner["id"])
    assert "expired on" in line
    assert f'gatepost revoke {scanner["id"]}, then gatepost create ann@example.com --name "Scanner"' in line
    ann.done("revoke", scanner["id"])
    line = ann.refused("rotate", scanner["id"])
    assert "is revoked for good" in line
    assert 'gatepost create ann@example.com --name "Scanner"' in line


@pytest.mark.parametrize(
    ("overlap", "named"),
    [("soon", "is no period"), ("-1h", "is no period"), ("2030-01-01", "is no period"), ("91d", "longer than 90 days")],
)
def test_bad_overlap_is_refused_and_nothing_is_done(overlap, named, ann, scanner):
    line = ann.refused("rotate", scanner["id"], f"--overlap={overlap}")
    assert named in line
    assert "0h ends the former" in line
    assert secret_of(ann, scanner["password"], scanner["id"]).valid_until is None


def run_into_full_disk(gatepost, *words: str) -> subprocess.CompletedProcess[str]:
    with Path("/dev/full").open("w") as full:
        return subprocess.run(
            [sys.executable, "-m", "proxy", *words, "--config", str(gatepost.config)],
            stdin=subprocess.DEVNULL, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False,
            cwd=Path(__file__).parents[2],
        )  # fmt: skip


def test_text_that_nobody_could_see_ends_and_the_former_one_stays_for_the_overlap(ann, scanner):
    ended = run_into_full_disk(ann, "rotate", scanner["id"])
    assert ended.returncode == 1
    assert ended.stderr.count("\n") == 1
    assert "the new app password could not be shown, so it was ended; the former one works until 2" in ended.stderr
    assert f"run gatepost rotate {scanner['id']} again before then" in ended.stderr
    store = store_of(ann)
    (end,) = store.secret_ends(store.credential(scanner["id"]).id)
    store.close()
    assert end == secret_of(ann, scanner["password"], scanner["id"]).valid_until
    shown = ann.done("show", scanner["id"]).out
    assert "former one  works until" in shown
    assert f"its new password was never shown: gatepost rotate {scanner['id']}" in shown
    events = [entry["detail"] for entry in ann.done("audit", "--event", "rotated", "--json").json]
    assert events[1:] == ["the new one was never shown, and has ended"]
    again = ann.done("rotate", scanner["id"], "--json").json
    assert secret_of(ann, again["password"], scanner["id"]).valid_until is None
    assert secret_of(ann, scanner["password"], scanner["id"]).valid_until == end  # never prolonged


def test_without_overlap_a_text_that_nobody_could_see_leaves_none(ann, scanner):
    ended = run_into_full_disk(ann, "rotate", scanner["id"], "--overlap", "0h")
    assert "the former one has ended, too; look at where stdout goes" in ended.stderr
    assert "before then" not in ended.stderr
    store = store_of(ann)
    assert store.secret_ends(store.credential(scanner["id"]).id) == []
    store.close()


def test_no_password_in_the_repr_of_what_rotate_returns(ann, scanner):
    with opened(load(ann.config), "test") as desk:
        rotated = life.rotate(desk, life.prepare_rotation(desk, scanner["id"], "24h"))
    assert rotated.password not in repr(rotated)


# -- suspend and resume ----


def states(gatepost) -> list[str]:
    return [row["state"] for row in gatepost.done("list", "--json").json]


def test_suspended_ones_are_resumed(ann):
    ids = [ann.done("create", "ann", "--name", name, "--json").json["id"] for name in "abc"]
    rows = ann.done("suspend", ids[1], f" {ids[0].upper()}", ids[1], "--json").json
    assert rows == [ann.done("show", public_id, "--json").json for public_id in (ids[1], ids[0])]
    assert states(ann) == ["suspended", "suspended", "active"]
    out = ann.done("suspend", ids[1], ids[2]).out
    assert f'Was suspended before: {ids[1]} "b" of ann@example.com.' in out
    assert f'Suspended {ids[2]} "c" of ann@example.com.' in out
    assert f"gatepost resume {ids[1]} {ids[2]}" in out
    assert [row["state"] for row in ann.done("resume", ids[0], ids[1], "--json").json] == ["active", "active"]
    out = ann.done("resume", ids[1], ids[2]).out
    assert f'Was active before: {ids[1]} "b" of ann@example.com.' in out
    assert f'Resumed {ids[2]} "c" of ann@example.com.' in out
    assert states(ann) == ["active"] * 3


def test_each_change_raises_the_generation_that_live_sessions_have(ann, scanner):
    store = store_of(ann)
    for number, verb in enumerate(("suspend", "suspend", "resume")):
        ann.done(verb, scanner["id"])
        assert store.credential(scanner["id"]).generation == (2, 2, 3)[number]
    store.close()


@pytest.mark.parametrize("verb", ["suspend", "resume", "rotate", "show", "revoke"])
def test_unknown_id_is_refused_with_the_nearest_and_nothing_is_done(verb, ann, scanner, snapshot):
    before = snapshot()
    near = scanner["id"][:-1] + ("0" if scanner["id"][-1] != "0" else "1")
    assert f"did you mean {scanner['id']}?" in ann.refused(verb, near)
    assert "gatepost list shows the ids" in ann.refused(verb, "Scanner")
    assert snapshot() == before


def test_app_password_in_place_of_its_id_is_never_repeated(ann, scanner):
    for typed in (scanner["password"], scanner["password"].upper().replace("-", " ")):
        line = ann.refused("revoke", typed)
        assert typed[:5] not in line
        assert "--overlap 0h" in line


@pytest.mark.parametrize("verb", ["suspend", "resume"])
def test_all_or_none(verb, ann, snapshot):
    ids = [ann.done("create", "ann", "--name", name, "--json").json["id"] for name in "abc"]
    ann.done("suspend", ids[0]) if verb == "resume" else None
    ann.done("revoke", ids[1])
    before = snapshot()
    assert f'{ids[1]} "b" of ann@example.com is revoked for good' in ann.refused(verb, ids[0], ids[1], ids[2])
    ann.refused(verb, ids[0], "0000000000")
    assert snapshot() == before


def test_expired_one_may_be_suspended_and_not_resumed(ann, scanner):
    expire(ann, scanner["id"])
    out = ann.done("suspend", scanner["id"]).out
    assert f'Suspended {scanner["id"]} "Scanner" of ann@example.com, which has expired.' in out
    line = ann.refused("resume", scanner["id"])
    assert "expired on" in line
    assert "would let nobody in" in line
    assert states(ann) == [CredentialState.SUSPENDED.value]


# -- [limits] app_passwords ----


def test_account_has_no_more_app_passwords_than_the_configuration_allows(ann):
    ann.config.write_text(ann.config.read_text() + "app_passwords = 2\n")
    first = ann.done("create", "ann", "--name", "a", "--json").json
    ann.done("create", "ann", "--name", "b")
    line = ann.refused("create", "ann", "--name", "c")
    assert "ann@example.com has 2 app passwords already, as many as [limits] app_passwords allows" in line
    assert "gatepost list ann@example.com" in line
    ann.done("rotate", first["id"])  # no further one
    ann.done("revoke", first["id"])
    ann.done("create", "ann", "--name", "c")


def test_limit_is_held_when_another_command_comes_in_between(ann):
    from proxy.admin import passwords  # noqa: PLC0415
    from proxy.errors import StoreError  # noqa: PLC0415

    ann.config.write_text(ann.config.read_text() + "app_passwords = 1\n")
    with opened(load(ann.config), "test") as desk:
        first, second = (passwords.prepare(desk, passwords.PasswordRequest("ann", name)) for name in "ab")
        passwords.create(desk, first)
        with pytest.raises(StoreError, match="app_passwords"):
            passwords.create(desk, second)
