"""proxy/cli/audit.py with proxy/admin/audit.py: gatepost audit."""

from __future__ import annotations

import json
import os
import sys
import tracemalloc
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from proxy.admin import audit
from proxy.admin.desk import opened
from proxy.cli.person import who
from proxy.config.reader import load
from proxy.store.audit_rows import Actor, Refusals
from proxy.store.rows import LastUse, Use
from proxy.store.store import Store

KEYS = [
    "at", "event", "actor", "node", "worker", "account", "app_password", "name", "protocol", "address", "cause",
    "detail", "count", "until",
]  # fmt: skip
WORKER = Actor("system", "mail2", "", 3)
ROOT = Path(__file__).parents[2]
AT = datetime(2026, 11, 23, 7, 8, 9, 123456, tzinfo=UTC)


@pytest.fixture
def ann(gatepost):
    gatepost.config.write_text(gatepost.config.read_text() + '\n[workers]\nnode = "mail1"\n')
    gatepost.add_ann("--alias", "ann")
    return gatepost


def refuse(gatepost, *accounts: str, at: datetime = AT, count: int = 1, actor: Actor = WORKER):
    """What a worker writes of refused logins, one entry each."""
    store = Store.open(f"sqlite:///{gatepost.directory}/gatepost.db", migrate=False, actor=actor)
    until = at + timedelta(minutes=5)
    store.trail.record_refusals(
        [Refusals(at, until, name, "", "", "imap", "192.0.2.66", "not_an_app_password", count) for name in accounts]
    )
    store.close()


def lines(gatepost, *words: str) -> list[dict]:
    return [json.loads(line) for line in gatepost.done("audit", "--jsonl", *words).out.splitlines()]


def events(gatepost, *words: str) -> list[tuple[str, str | None]]:
    return [(entry["event"], entry["account"]) for entry in lines(gatepost, *words)]


def test_an_entry_has_exactly_these_fields_and_null_for_what_does_not_apply(ann):
    made = ann.done("create", "ann", "--name", "Scanner", "--protocol", "imap", "--json").json
    (entry,) = ann.done("audit", "--event", "created", "--json").json
    assert list(entry) == KEYS
    assert entry == {
        "at": made["created"], "event": "created", "actor": who(), "node": "mail1", "worker": None,
        "account": "ann@example.com", "app_password": made["id"], "name": "Scanner", "protocol": None,
        "address": None, "cause": None, "detail": "imap, from anywhere, never expires", "count": 1, "until": None,
    }  # fmt: skip
    refuse(ann, "bob", count=17)
    (entry,) = lines(ann, "--event", "refused")
    assert list(entry) == KEYS
    assert entry == {
        "at": "2026-11-23T07:08:09Z", "event": "refused", "actor": "client", "node": "mail2", "worker": 3,
        "account": "bob", "app_password": None, "name": None, "protocol": "imap", "address": "192.0.2.66",
        "cause": "not_an_app_password", "detail": None, "count": 17, "until": "2026-11-23T07:13:09Z",
    }  # fmt: skip


def test_every_command_names_the_person_and_the_node(ann):
    made = ann.done("create", "ann", "--name", "Scanner", "--json").json
    for words in (
        ("rotate", made["id"]), ("suspend", made["id"]), ("resume", made["id"]), ("revoke", made["id"]),
        ("account", "alias", "ann", "add", "printer"), ("account", "alias", "ann", "remove", "printer"),
        ("account", "disable", "ann"), ("account", "enable", "ann"), ("account", "remove", "ann"), ("key", "rotate"),
    ):  # fmt: skip
        ann.done(*words)
    entries = lines(ann)
    assert [entry["event"] for entry in entries] == [
        "key_added", "account_added", "created", "rotated", "suspended", "resumed", "revoked", "alias_added",
        "alias_removed", "account_disabled", "account_enabled", "account_removed", "key_added", "key_dropped",
    ]  # fmt: skip
    assert {entry["actor"] for entry in entries} == {who()}
    assert {entry["node"] for entry in entries[1:]} == {"mail1"}  # the first is init's, before there was a name
    assert entries[0]["node"] == os.uname().nodename
    assert made["password"] not in ann.ran[-1].out


def test_json_lines_and_the_document_tell_the_same(ann):
    refuse(ann, *["bob"] * 3)
    assert ann.done("audit", "--json").json == lines(ann)
    assert ann.done("audit", "--json", "--event", "kicked").json == []
    assert ann.done("audit", "--jsonl", "--event", "kicked").out == "" or lines(ann, "--event", "kicked") == []


@pytest.mark.parametrize("count", [audit.PAGE - 1, audit.PAGE, audit.PAGE + 1, 2 * audit.PAGE])
def test_entries_are_told_once_and_in_order_across_pages(ann, count):
    refuse(ann, *["bob", " Bob"] * (count // 2), *["bob"] * (count % 2))
    refuse(ann, "carl")
    with opened(load(ann.config), "test") as desk:
        ids = [entry.id for entry in audit.entries(desk, " Bob", None, ["refused"])]
        everything = [entry.id for entry in audit.entries(desk, None, None, [])]
    assert len(ids) == count
    assert ids == sorted(set(ids))
    assert everything == sorted(set(everything))
    assert len(everything) == count + 3  # and Carl's, Ann's, the key's
    for words in (["--json"], ["--jsonl"], []):
        assert ann.done("audit", "--event", "refused", *words).out.count(
            "not_an_app_password" if words else "not an"
        ) == (count + 1)


def test_a_long_audit_is_never_in_memory_whole(ann, monkeypatch):
    """Peaks of two lengths: what grows with the number of entries would be four times as much."""
    peaks = []
    monkeypatch.setattr("proxy.cli.audit.say", lambda text: None)
    for _ in range(2):
        for form in ("--jsonl", "--json", "--event=refused"):
            refuse(ann, *["bob"] * (2_000 if len(peaks) < 3 else 6_000))
            tracemalloc.start()
            assert ann("audit", form).status == 0
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
    short, long = peaks[:3], peaks[3:]
    assert all(after < 1.5 * before for before, after in zip(short, long, strict=True)), peaks


# -- which entries ----


def test_an_account_is_found_by_its_e_mail_its_alias_and_when_it_is_gone(ann):
    ann.done("account", "add", "bob@example.com", "--upstream", "main")
    expected = [("account_added", "ann@example.com")]
    assert events(ann, "--account", "ANN") == events(ann, "--account", "Ann@Example.com") == expected
    ann.done("account", "remove", "ann")
    expected.append(("account_removed", "ann@example.com"))
    assert events(ann, "--account", "Ann@Example.com") == expected


def test_a_login_name_that_never_was_one_is_found_as_it_was_typed(ann):
    refuse(ann, "Root", "root", "a@b@c", "ann", "ann@example.com")
    assert events(ann, "--account", "Root") == [("refused", "Root"), ("refused", "root")]
    assert events(ann, "--account", "a@b@c") == [("refused", "a@b@c")]
    # And what was refused under a name before it became an alias.
    assert [account for event, account in events(ann, "--account", "ann") if event == "refused"] == [
        "ann",
        "ann@example.com",
    ]
    assert events(ann, "--account", "nobody") == []
    assert ann.done("audit", "--account", "nobody").out == "No entries.\n"


def test_since_is_a_time_ago_or_a_date(ann):
    now = datetime.now(UTC)
    for name, days in (("old", 30), ("late", 3)):
        refuse(ann, name, at=now - timedelta(days=days))
    assert [account for _, account in events(ann, "--since", "7d", "--event", "refused")] == ["late"]
    assert [account for _, account in events(ann, "--since", "8w", "--event", "refused")] == ["old", "late"]
    day = f"{now - timedelta(days=5):%Y-%m-%d}"
    for since in (day, f"{day}T00:00:00Z", f"{day}T02:00+02:00"):
        assert [account for _, account in events(ann, "--since", since, "--event", "refused")] == ["late"]
    assert events(ann, "--since", "0h", "--event", "refused") == []


def test_events_are_chosen_by_name_and_more_than_one_at_once(ann):
    ann.done("create", "ann", "--name", "Scanner")
    refuse(ann, "bob")
    assert events(ann, "--event", "refused", "--event", "CREATED") == [
        ("created", "ann@example.com"),
        ("refused", "bob"),
    ]


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("--since", "soon"), 'since "soon" is no time'),
        (("--since", "999999w"), "is no time"),
        (("--since", "2090-01-01"), "is in the future"),
        (("--since", ""), "is no time"),
        (("--event", "rotatd"), "did you mean rotated?"),
        (("--event", "x"), "there are account_added, "),
        (("--event", "\x1b[2J"), "\\x1b[2J"),
    ],
)
@pytest.mark.parametrize("form", [(), ("--json",), ("--jsonl",)])
def test_wrong_words_are_refused_before_the_first_entry(words, named, form, ann):
    assert named in ann.refused("audit", *words, *form)


# -- for people ----


@pytest.fixture
def told(ann):
    """One entry of each kind of actor; the id of Ann's app password."""
    made = ann.done("create", "ann", "--name", "Scanner", "--expires", "2090-12-31", "--json").json["id"]
    store = Store.open(f"sqlite:///{ann.directory}/gatepost.db", migrate=False, actor=Actor("system", "mail2", "", 3))
    credential = store.credential(made)
    store.record_uses([Use(credential.id, LastUse(AT, "192.0.2.7", "imap", "Thunderbird 140"), "192.0.2.0/24")])
    store.acting(Actor("web:ann@example.com", "mail2", "198.51.100.4")).revoke([made])
    store.close()
    refuse(ann, "x" * 254, "\x1b[2J", count=17)
    return made


def on_terminal(gatepost, columns: int, *words: str) -> list[str]:
    gatepost.monkeypatch.setenv("COLUMNS", str(columns))
    with gatepost.monkeypatch.context() as patch:
        patch.setattr(type(sys.stdout), "isatty", lambda _: True)
        return gatepost.done("audit", *words).out.splitlines()


def test_table_tells_when_what_whose_by_whom_and_the_story(ann, told):
    heading, _, _, created, used, revoked, refused, odd = ann.done("audit").out.splitlines()
    assert heading.split() == ["AT", "EVENT", "ACCOUNT", "BY", "WHAT"]
    assert f"ann@example.com                   {who()} on mail1" in created
    assert created.endswith(f'"Scanner" {told}, imap smtp, from anywhere, expires 2090-12-31T00:00:00+00:00')
    assert used.startswith("2026-11-23 07:08Z  used           ann@example.com                   192.0.2.7")
    assert used.endswith(f'  imap, "Scanner" {told}, Thunderbird 140')
    assert "web:ann@example.com from 198.51.100.4" in revoked
    assert "192.0.2.66  " in refused
    assert refused.endswith("  not an app password, imap, 17 times until 2026-11-23 07:13Z")
    assert "x" * 254 in refused  # whole, where it is not a terminal
    assert "\\x1b[2J" in odd


@pytest.mark.parametrize("columns", [60, 80, 100, 120, 200])
def test_table_fits_the_terminal_and_loses_no_word_of_the_story(ann, told, columns):
    out = on_terminal(ann, columns)
    assert max(map(len, out)) <= columns
    story = " ".join(" ".join(out).split())
    for words in (
        f'"Scanner" {told}, imap smtp, from anywhere, expires 2090-12-31T00:00:00+00:00',
        "not an app password, imap, 17 times until 2026-11-23 07:13Z",
    ):
        assert set(words.split()) <= set(story.split())
    assert sum(line.startswith("20") for line in out) == 7  # one entry begins with its time, the rest is indented


def test_reader_that_leaves_amid_a_long_audit_is_no_story(ann):
    import subprocess  # noqa: PLC0415

    refuse(ann, *["bob"] * 5_000)
    command = [sys.executable, "-m", "proxy", "audit", "--jsonl", "--config", str(ann.config)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT)
    process.stdout.readline()
    process.stdout.close()
    assert (process.wait(60), process.stderr.read()) == (1, b"")
    process.stderr.close()
