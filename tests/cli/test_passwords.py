"""proxy/cli/passwords.py and creating.py with proxy/admin/passwords.py: gatepost create, list, show, revoke."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest

from proxy.admin.passwords import ID_BYTES
from proxy.cli.person import who
from proxy.secret import Secret
from proxy.store.rows import LastUse, Use
from proxy.store.store import Store
from proxy.vault.apppassword import parse
from proxy.vault.hashing import Hasher

MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
GROUPS = re.compile(r"[0-9a-hjkmnp-tv-z]{5}(-[0-9a-hjkmnp-tv-z]{5}){3}")


@pytest.fixture
def ann(gatepost):
    gatepost.add_ann("--alias", "ann")
    return gatepost


def store_of(gatepost) -> Store:
    return Store.open(f"sqlite:///{gatepost.directory}/gatepost.db", migrate=False)


def use(gatepost, public_id: str, last_use: LastUse) -> None:
    store = store_of(gatepost)
    credential = store.credential(public_id)
    assert credential is not None
    store.record_uses([Use(credential.id, last_use, "10.1.2.0/24")])
    store.close()


def test_json_of_a_new_app_password_has_exactly_the_fixed_shape(ann):
    words = ["--protocol", "smtp", "--from", "10.0.0.0/8", "--from", "::ffff:192.0.2.7", "--expires", "90d", "--json"]
    record = ann.done("create", "ANN", "--name", "Scanner 2nd floor", *words).json
    assert list(record) == ["id", "account", "name", "password", "protocols", "networks", "created", "expires"]
    assert record["account"] == "ann@example.com"
    assert record["name"] == "Scanner 2nd floor"
    assert record["protocols"] == ["smtp"]
    assert record["networks"] == ["10.0.0.0/8", "192.0.2.7/32"]
    assert GROUPS.fullmatch(record["password"])
    assert MOMENT.fullmatch(record["created"])
    lasts = datetime.fromisoformat(record["expires"]) - datetime.fromisoformat(record["created"])
    assert timedelta(days=90) - lasts < timedelta(seconds=2)


def test_app_password_opens_the_row_that_was_stored(ann):
    record = ann.done("create", "ann", "--name", "Scanner", "--json").json
    password = parse(Secret(record["password"]))
    assert password is not None
    store = store_of(ann)
    row = store.find_login("ann@example.com", password.selector)
    store.close()
    assert row is not None
    assert row.credential is not None
    assert row.secret is not None
    assert row.credential.public_id == record["id"]
    assert row.secret.phc.startswith("$argon2id$v=19$m=8,t=1,p=1$")  # as [limits] of this test says
    assert Hasher(memory_kib=8, time=1, lanes=1).verify(row.secret.phc, password)


def test_app_password_is_printed_once_and_never_again(ann):
    out = ann.done("create", "ann", "--name", "Scanner").out
    password = GROUPS.search(out)
    assert password is not None
    assert out.count(password[0]) == 1
    assert "shown this once" in out
    (row,) = ann.done("list", "--json").json
    for words in (
        ("list",),
        ("list", "--json"),
        ("show", row["id"]),
        ("show", row["id"], "--json"),
        ("account", "list"),
    ):
        out = ann.done(*words).out
        assert password[0] not in out
        assert password[0].replace("-", "") not in out
    assert password[0].replace("-", "").encode() not in (ann.directory / "gatepost.db").read_bytes()


def test_id_is_no_piece_of_the_password(ann):
    for number in range(5):
        record = ann.done("create", "ann", "--name", f"No. {number}", "--json").json
        assert len(record["id"]) == 2 * ID_BYTES
        assert record["id"][:4] not in record["password"].replace("-", "")[:4]


def test_new_app_password_says_how_to_set_up_the_client(ann):
    out = ann.done("create", "ann", "--name", "Scanner", "--from", "10.1.2.0/24").out
    for words in (
        "user name    ann@example.com or ann",
        "imap server  this host, port 993, TLS",
        "smtp server  this host, port 465, TLS",
        "smtp server  this host, port 587, STARTTLS",
        "works for    imap, smtp",
        "works from   10.1.2.0/24",
        "expires      never",
    ):
        assert words in out


def test_new_app_password_says_when_nothing_can_log_in_yet(ann):
    out = ann.done("create", "ann", "--name", "Early").out
    assert out.endswith("\n\nNothing can log in yet. Next: gatepost account connect ann@example.com\n")
    ann.done("account", "add", "bob@example.com", "--upstream", "main", "--refresh-token-stdin", stdin=b"token\n")
    assert "Nothing can log in" not in ann.done("create", "bob@example.com", "--name", "Scanner").out
    ann.done("account", "add", "carl@example.com", "--upstream", "imaponly")
    assert "add it again with --password-stdin" in ann.done("create", "carl@example.com", "--name", "Scanner").out


def test_default_protocols_are_those_that_the_upstream_has(gatepost):
    gatepost.done("account", "add", "bob@example.com", "--upstream", "imaponly")
    assert gatepost.done("create", "bob@example.com", "--name", "x", "--json").json["protocols"] == ["imap"]


def test_expiry_on_a_date_is_its_first_moment(ann):
    record = ann.done("create", "ann", "--name", "x", "--expires", "2090-12-31", "--json").json
    assert record["expires"] == "2090-12-31T00:00:00Z"


def test_list_and_show_have_exactly_the_fixed_shape(ann):
    made = ann.done("create", "ann", "--name", "Scanner", "--json").json
    at = datetime(2026, 11, 23, 7, 8, 9, 123456, tzinfo=UTC)
    expected = {
        "id": made["id"],
        "account": "ann@example.com",
        "name": "Scanner",
        "protocols": ["imap", "smtp"],
        "networks": [],
        "created": made["created"],
        "created_by": who(),
        "expires": None,
        "state": "active",
        "last_used": None,
    }
    assert ann.done("list", "--json").json == [expected]
    assert ann.done("show", made["id"], "--json").json == expected
    use(ann, made["id"], LastUse(at, "10.1.2.3", "imap", "Thunderbird 140"))
    expected["last_used"] = {
        "at": "2026-11-23T07:08:09Z",
        "address": "10.1.2.3",
        "protocol": "imap",
        "client": "Thunderbird 140",
    }
    assert ann.done("list", "ann", "--json").json == [expected]
    assert ann.done("show", made["id"].upper(), "--json").json == expected
    assert list(expected) == list(ann.done("show", made["id"], "--json").json)


def test_tables_show_state_and_last_use(ann):
    assert "gatepost create" in ann.done("list").out
    made = ann.done("create", "ann", "--name", "Scanner", "--expires", "12h", "--json").json
    use(ann, made["id"], LastUse(datetime(2026, 11, 23, 7, 8, tzinfo=UTC), "10.1.2.3", "imap", "Thunderbird"))
    heading, line = ann.done("list").out.splitlines()
    assert heading.split()[:3] == ["ID", "ACCOUNT", "NAME"]
    assert line.split()[:3] == [made["id"], "ann@example.com", "Scanner"]
    assert "active" in line
    assert line.endswith("2026-11-23 07:08Z imap  10.1.2.3  Thunderbird")
    out = ann.done("show", made["id"]).out
    assert "last used   2026-11-23 07:08Z from 10.1.2.3 by imap, Thunderbird" in out
    assert "by cli:" in out


def test_client_names_cannot_move_the_cursor(ann):
    made = ann.done("create", "ann", "--name", "Scanner", "--json").json
    use(ann, made["id"], LastUse(datetime(2026, 11, 23, tzinfo=UTC), "10.1.2.3", "imap", "\x1b[2J"))
    assert "\x1b" not in ann.done("list").out
    assert "\x1b" not in ann.done("show", made["id"]).out
    assert ann.done("show", made["id"], "--json").json["last_used"]["client"] == "\x1b[2J"


def test_list_is_by_account_and_name(ann):
    ann.done("account", "add", "aaron@example.com", "--upstream", "main")
    for account, name in (("ann", "b"), ("ann", "a"), ("aaron@example.com", "z")):
        ann.done("create", account, "--name", name)
    names = [(row["account"], row["name"]) for row in ann.done("list", "--json").json]
    assert names == [("aaron@example.com", "z"), ("ann@example.com", "a"), ("ann@example.com", "b")]
    assert [row["name"] for row in ann.done("list", "ann@example.com", "--json").json] == ["a", "b"]


def test_revoke_by_ids(ann):
    ids = [ann.done("create", "ann", "--name", name, "--json").json["id"] for name in "abc"]
    rows = ann.done("revoke", ids[1], ids[0].upper(), ids[1], "--json").json
    assert [(row["id"], row["state"]) for row in rows] == [(ids[1], "revoked"), (ids[0], "revoked")]
    assert [row["state"] for row in ann.done("list", "--json").json] == ["revoked", "revoked", "active"]
    out = ann.done("revoke", ids[1], ids[2]).out  # again: no error
    assert f'Was revoked before: {ids[1]} "b"' in out
    assert f'Revoked {ids[2]} "c" of ann@example.com.' in out


def test_revoke_by_name_and_all(ann):
    for name in "abc":
        ann.done("create", "ann", "--name", name)
    assert [row["name"] for row in ann.done("revoke", "--account", "ann", "--name", "b", "--json").json] == ["b"]
    assert [row["name"] for row in ann.done("revoke", "--account", "ann", "--all", "--json").json] == ["a", "c"]
    assert ann.done("revoke", "--account", "ann", "--all", "--json").json == []
    assert "Nothing to revoke" in ann.done("revoke", "--account", "ann", "--name", "b").out


def test_name_of_a_revoked_app_password_is_free_again(ann):
    ann.done("create", "ann", "--name", "Scanner")
    ann.done("revoke", "--account", "ann", "--name", "Scanner")
    ann.done("create", "ann", "--name", "Scanner")
    assert [row["state"] for row in ann.done("list", "--json").json] == ["revoked", "active"]


# Words after `create`; what the line has to name, remedy included.
REFUSED = {
    "unknown account": (("bob@example.com", "--name", "x"), 'no account "bob@example.com"', "gatepost account"),
    "duplicate name": (("ann", "--name", "Scanner"), 'has an app password "Scanner" already', "gatepost revoke"),
    "duplicate in another form": (
        ("ann", "--name", " Caf\u0065\u0301 "),
        'an app password "Caf\u00e9"',
        "another name",
    ),
    "empty name": (("ann", "--name", " "), "name", "1 to 100"),
    "long name": (("ann", "--name", "x" * 101), "name", "1 to 100"),
    "terminal escape": (("ann", "--name", "\x1b]0;x\x07"), "\\x1b]0;x\\x07", "visible"),
    "line end": (("ann", "--name", "a\nb"), "a\\nb", "visible"),
    "right-to-left": (("ann", "--name", "a\u202eb"), "\\u202e", "visible"),
    "not UTF-8": (("ann", "--name", "a\udcff"), "\\udcff", "visible"),
    "unknown protocol": (("ann", "--name", "x", "--protocol", "pop3"), 'no protocol "pop3"', "imap or smtp"),
    "protocol not upstream": (("bea@example.com", "--name", "x", "--protocol", "smtp"), "imaponly has no smtp", "imap"),
    "past date": (("ann", "--name", "x", "--expires", "2020-01-01"), '"2020-01-01" is not in the future', "90d"),
    "now": (("ann", "--name", "x", "--expires", "0d"), "not in the future", "90d"),
    "no time": (("ann", "--name", "x", "--expires", "soon"), '"soon" is no time', "2030-12-31"),
    "no such date": (("ann", "--name", "x", "--expires", "2090-02-30"), "is no time"),
    "end of time": (("ann", "--name", "x", "--expires", "999999w"), "is no time"),
    "broken CIDR": (("ann", "--name", "x", "--from", "10.0.0.0/33"), '"10.0.0.0/33" is no network', "192.0.2.0/24"),
    "bits behind prefix": (("ann", "--name", "x", "--from", "10.0.0.1/8"), "10.0.0.1/8", "did you mean 10.0.0.0/8?"),
    "host name": (("ann", "--name", "x", "--from", "printer.example"), "is no network"),
    "scoped address": (("ann", "--name", "x", "--from", "fe80::1%eth0"), "is no network"),
    "second broken CIDR": (("ann", "--name", "x", "--from", "10.0.0.0/8", "--from", ""), '"" is no network'),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_request_is_refused_and_nothing_is_done(case, ann, snapshot):
    ann.done("account", "add", "bea@example.com", "--upstream", "imaponly")
    ann.done("create", "ann", "--name", "Scanner")
    ann.done("create", "ann", "--name", "Caf\u00e9")
    before = snapshot()
    words, *named = REFUSED[case]
    line = ann.refused("create", *words)
    for text in named:
        assert text in line
    assert snapshot() == before


def test_account_whose_upstream_is_gone_is_refused(ann, snapshot):
    text = ann.config.read_text()
    before = snapshot()
    ann.config.write_text(text.replace("[upstream.main", "[upstream.other"))
    line = ann.refused("create", "ann", "--name", "x")
    assert 'no upstream "main"' in line
    ann.config.write_text(text)
    assert snapshot() == before


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("show", "0000000000"), "gatepost list"),
        (("show", "\x1b[2J"), "gatepost list"),
        (("revoke", "ID", "0000000000"), 'no app password "0000000000"'),
        (("revoke", "--account", "ann", "--name", "Skanner"), "did you mean Scanner?"),
        (("revoke", "--account", "ann", "--name", "zzzzzz"), "gatepost list ann@example.com"),
        (("revoke", "--account", "bob@example.com", "--all"), 'no account "bob@example.com"'),
        (("list", "bob@example.com"), 'no account "bob@example.com"'),
    ],
)
def test_unknown_things_are_refused_and_nothing_is_done(words, named, ann, snapshot):
    made = ann.done("create", "ann", "--name", "Scanner", "--json").json
    before = snapshot()
    assert named in ann.refused(*(made["id"] if word == "ID" else word for word in words))
    assert snapshot() == before


def test_no_password_in_the_repr_of_what_create_returns(ann):
    from proxy.admin import passwords  # noqa: PLC0415
    from proxy.admin.desk import opened  # noqa: PLC0415
    from proxy.config.reader import load  # noqa: PLC0415

    with opened(load(ann.config), "test") as desk:
        created = passwords.create(desk, passwords.prepare(desk, passwords.PasswordRequest("ann", "x")))
    assert created.password not in repr(created)


def test_the_hash_is_under_way_before_the_store_is_opened_and_is_that_of_the_text_shown(ann, monkeypatch):
    from proxy.admin import passwords  # noqa: PLC0415
    from proxy.cli import creating  # noqa: PLC0415

    drafts, seen, really_drafted, really_opened = [], [], passwords.drafted, creating.opened
    monkeypatch.setattr(passwords, "drafted", lambda config: drafts.append(really_drafted(config)) or drafts[-1])
    monkeypatch.setattr(creating, "opened", lambda *words: seen.append(len(drafts)) or really_opened(*words))
    shown = ann.done("create", "ann", "--name", "x", "--json").json["password"]
    assert seen == [1]
    assert [draft.password.shown() for draft in drafts] == [shown]


def test_another_secret_is_drawn_where_the_selector_of_the_draft_is_taken(ann):
    from proxy.admin import passwords  # noqa: PLC0415
    from proxy.admin.desk import opened  # noqa: PLC0415
    from proxy.config.reader import load  # noqa: PLC0415

    config = load(ann.config)
    draft = passwords.drafted(config)
    texts = []
    with opened(config, "test") as desk:
        for name in ("one", "two"):
            prepared = passwords.prepare(desk, passwords.PasswordRequest("ann", name))
            texts.append(passwords.create(desk, prepared, draft=draft).password)
    assert draft.password.shown() == texts[0] != texts[1]
    assert draft.password.selector != parse(Secret(texts[1])).selector
    assert texts[0].replace("-", "") not in repr(draft)
