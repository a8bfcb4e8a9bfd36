"""proxy/cli/accounts.py with proxy/admin/accounts.py: gatepost account add, list, show, remove, disable, alias."""

from __future__ import annotations

import pytest

from proxy.secret import SecretSource
from proxy.store.rows import Purpose
from proxy.store.store import Store
from proxy.vault.sealing import load_master, unseal

TOKEN = "0.AXrefresh-token-for-tests"


def opened_secret(gatepost, email: str, purpose: Purpose) -> str | None:
    """What the serving process would find: opened with the master's private half."""
    store = Store.open(f"sqlite:///{gatepost.directory}/gatepost.db", migrate=False)
    try:
        account = store.account(email)
        assert account is not None
        deposit = store.deposit(account.id, purpose)
        master = load_master(SecretSource("file", str(gatepost.directory / "master.key")).read())
        return None if deposit is None else unseal(deposit, master).reveal()
    finally:
        store.close()


def test_refresh_token_is_sealed_to_the_master(gatepost):
    result = gatepost.done(
        "account", "add", "Ann@Example.COM", "--upstream", "main", "--refresh-token-stdin", stdin=TOKEN.encode() + b"\n"
    )
    assert "Added ann@example.com" in result.out
    assert opened_secret(gatepost, "ann@example.com", Purpose.REFRESH_TOKEN) == TOKEN
    assert TOKEN.encode() not in (gatepost.directory / "gatepost.db").read_bytes()
    assert gatepost.done("account", "show", "ann@example.com", "--json").json["token"]["state"] == "fresh"


def test_token_is_deposited_without_the_private_half(gatepost):
    (gatepost.directory / "master.key").rename(gatepost.directory / "away.key")
    gatepost.done(
        "account", "add", "ann@example.com", "--upstream", "main", "--refresh-token-stdin", stdin=TOKEN.encode()
    )
    (gatepost.directory / "away.key").rename(gatepost.directory / "master.key")
    assert opened_secret(gatepost, "ann@example.com", Purpose.REFRESH_TOKEN) == TOKEN


def test_password_is_sealed_for_an_upstream_that_takes_passwords(gatepost):
    gatepost.done(
        "account", "add", "bob@example.com", "--upstream", "imaponly", "--password-stdin", stdin=b" hunter 2 \r\nrest\n"
    )
    assert opened_secret(gatepost, "bob@example.com", Purpose.PASSWORD) == "hunter 2"


def test_json_of_a_new_account(gatepost):
    words = [
        "--upstream-user",
        "Shared@Example.com",
        "--alias",
        "ANN",
        "--alias",
        "ann",
        "--alias",
        r"CORP\old",
        "--json",
    ]
    record = gatepost.done("account", "add", "ann@example.com", "--upstream", "main", *words).json
    created = record.pop("created")
    since = record["token"].pop("since")
    assert created.endswith("Z")
    assert since.endswith("Z")
    assert record == {
        "account": "ann@example.com",
        "aliases": ["ann", "old"],
        "upstream": "main",
        "upstream_user": "Shared@Example.com",
        "state": "active",
        "sealed": False,
        "token": {"state": "none", "detail": ""},
        "app_passwords": 0,
    }


def test_account_without_a_secret_says_what_is_missing(gatepost):
    out = gatepost.done("account", "add", "ann@example.com", "--upstream", "main").out
    assert "Nothing can log in yet" in out
    assert "gatepost account connect ann@example.com" in out


def test_accounts_are_listed_with_token_and_live_app_passwords(gatepost):
    assert gatepost.done("account", "list", "--json").json == []
    assert "account add" in gatepost.done("account", "list").out
    gatepost.add_ann("--alias", "ann")
    gatepost.done("account", "add", "aaron@example.com", "--upstream", "main")
    first = gatepost.done("create", "ann", "--name", "one", "--json").json
    gatepost.done("create", "ann", "--name", "two")
    gatepost.done("revoke", first["id"])
    rows = gatepost.done("account", "list", "--json").json
    assert [(row["account"], row["app_passwords"]) for row in rows] == [
        ("aaron@example.com", 0),
        ("ann@example.com", 1),
    ]
    lines = gatepost.done("account", "list").out.splitlines()
    assert lines[0].split() == ["ACCOUNT", "UPSTREAM", "STATE", "TOKEN", "SINCE", "APP", "PASSWORDS", "ALIASES"]
    assert lines[2].startswith("ann@example.com")
    assert "nothing stored" in lines[2]
    assert lines[2].endswith("ann")


def test_account_is_shown_by_alias_in_any_case(gatepost):
    gatepost.add_ann("--alias", "ann")
    out = gatepost.done("account", "show", r"CORP\ANN").out
    assert "main, as ann@example.com" in out
    assert "nothing stored, since" in out


def test_removed_account_takes_its_app_passwords_along(gatepost):
    gatepost.add_ann("--alias", "ann")
    gatepost.done("create", "ann", "--name", "Scanner")
    removed = gatepost.done("account", "remove", "ann", "--json").json
    assert (removed["account"], removed["app_passwords"]) == ("ann@example.com", 1)
    assert gatepost.done("list", "--json").json == []
    assert gatepost.done("account", "list", "--json").json == []
    gatepost.add_ann("--alias", "ann")  # both names are free again
    assert "Removed ann@example.com" in gatepost.done("account", "remove", "ann@example.com").out


LONG = "x" * 300

# Words after `account add`; what the line has to name, remedy included.
REFUSED = {
    "unknown upstream": (("new@example.com", "--upstream", "mian"), 'no upstream "mian"', "did you mean main?"),
    "unlike any upstream": (("new@example.com", "--upstream", "zzz"), "main, imaponly"),
    "no e-mail": (("new", "--upstream", "main"), '"new" is no e-mail address', "ann@example.com"),
    "two @": (("a@b@c", "--upstream", "main"), '"a@b@c" is no e-mail'),
    "no domain": (("ann@", "--upstream", "main"), "is no e-mail"),
    "blank in it": (("an n@example.com", "--upstream", "main"), "is no e-mail"),
    "Windows domain": ((r"CORP\new@example.com", "--upstream", "main"), "is no e-mail"),
    "too long": ((f"{LONG}@example.com", "--upstream", "main"), "is no e-mail"),
    "terminal escape": (("\x1b]0;x\x07@example.com", "--upstream", "main"), "\\x1b]0;x\\x07"),
    "line end": (("a\n@example.com", "--upstream", "main"), "a\\n@example.com"),
    "right-to-left": (("a\u202e@example.com", "--upstream", "main"), "\\u202e"),
    "not UTF-8": (("a\udcff@example.com", "--upstream", "main"), "\\udcff"),
    "account exists": (("ANN@example.com", "--upstream", "main"), "account ann@example.com exists", "account show"),
    "alias taken": (("new@example.com", "--upstream", "main", "--alias", "Ann"), "ann is an alias of ann@example.com"),
    "alias is an account": (("new@example.com", "--upstream", "main", "--alias", "ann@example.com"), "exists already"),
    "e-mail is an alias": (("other@example.com", "--upstream", "main"), "is an alias of ann@example.com"),
    "bad alias": (("new@example.com", "--upstream", "main", "--alias", "a@b@c"), 'alias "a@b@c"'),
    "alias with escape": (("new@example.com", "--upstream", "main", "--alias", "\x1b[2J"), "alias"),
    "bad upstream user": (
        ("new@example.com", "--upstream", "main", "--upstream-user", "a\nb"),
        "upstream user",
        "a\\nb",
    ),
    "empty upstream user": (("new@example.com", "--upstream", "main", "--upstream-user", " "), "upstream user"),
    "password for tokens": (("new@example.com", "--upstream", "main", "--password-stdin"), "--refresh-token-stdin"),
    "token for passwords": (
        ("new@example.com", "--upstream", "imaponly", "--refresh-token-stdin"),
        'auth = "password"',
        "--password-stdin",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_account_is_refused_and_nothing_is_done(case, gatepost, snapshot):
    gatepost.add_ann("--alias", "ann", "--alias", "other@example.com")
    before = snapshot()
    words, *named = REFUSED[case]
    line = gatepost.refused("account", "add", *words, stdin=b"hunter2\n")
    for text in named:
        assert text in line
    assert "hunter2" not in line
    assert snapshot() == before


@pytest.mark.parametrize(
    ("stdin", "named"),
    [
        (b"", "no refresh token on stdin"),
        (b"\n", "no refresh token on stdin"),
        (b"x" * 20_000, "longer than 16384 bytes"),
        (b"\xff\xfe\n", "not UTF-8"),
        (b"hunter2\x00\n", "control characters"),
        (b"hunter2\x1b[2J\n", "control characters"),
    ],
)
def test_bad_secret_is_refused_and_nothing_is_done(stdin, named, gatepost, snapshot):
    before = snapshot()
    words = ("account", "add", "ann@example.com", "--upstream", "main", "--refresh-token-stdin")
    line = gatepost.refused(*words, stdin=stdin)
    assert named in line
    assert "hunter2" not in line
    assert snapshot() == before


@pytest.mark.parametrize("verb", ["show", "remove"])
def test_unknown_account_is_refused_with_the_nearest(verb, gatepost, snapshot):
    gatepost.add_ann("--alias", "ann")
    before = snapshot()
    line = gatepost.refused("account", verb, "anne@example.com")
    assert line == 'gatepost: there is no account "anne@example.com"; did you mean ann@example.com?'
    assert "gatepost account list" in gatepost.refused("account", verb, "zoe@example.org")
    assert "is no login name" in gatepost.refused("account", verb, "a@b@c")
    assert snapshot() == before


def test_store_without_master_key_says_how_it_gets_one(gatepost, tmp_path):
    url = f"sqlite:///{tmp_path}/empty.db"
    Store.create(url).close()
    gatepost.config.write_text(gatepost.config.read_text().replace("sqlite:///gatepost.db", url))
    words = ("account", "add", "ann@example.com", "--upstream", "main", "--refresh-token-stdin")
    line = gatepost.refused(*words, stdin=b"hunter2\n")
    assert "knows no master key" in line
    assert "gatepost db upgrade" in line
    gatepost.done("db", "upgrade")
    gatepost.done(*words, stdin=b"hunter2\n")


# -- disable, enable, alias ----


def test_disabled_account_is_enabled_again(gatepost):
    gatepost.add_ann("--alias", "ann")
    out = gatepost.done("account", "disable", "ANN").out
    assert out.startswith("Disabled ann@example.com. ")
    assert "gatepost account enable ann@example.com" in out
    shown = gatepost.done("account", "show", "ann", "--json").json
    assert shown["state"] == "disabled"
    assert gatepost.done("account", "disable", "ann", "--json").json == shown
    assert "Was disabled before: ann@example.com." in gatepost.done("account", "disable", "ann").out
    assert "The mailbox is disabled: gatepost account enable" in gatepost.done("create", "ann", "--name", "x").out
    assert gatepost.done("account", "enable", "ann").out.startswith("Enabled ann@example.com")
    assert gatepost.done("account", "enable", "ann", "--json").json["state"] == "active"
    assert "Was enabled before" in gatepost.done("account", "enable", "ann").out
    events = [entry["event"] for entry in gatepost.done("audit", "--json").json]
    assert events.count("account_disabled") == events.count("account_enabled") == 1


def test_alias_is_a_login_name_until_it_is_removed(gatepost):
    gatepost.add_ann()
    out = gatepost.done("account", "alias", "ann@example.com", "add", r" CORP\Scanner2 ").out
    assert out == "Added. Clients log in to ann@example.com as ann@example.com or scanner2.\n"
    assert gatepost.done("list", "scanner2", "--json").json == []
    record = gatepost.done("account", "alias", "scanner2", "add", "a@example.com", "--json").json
    assert record == gatepost.done("account", "show", "ann@example.com", "--json").json
    assert record["aliases"] == ["a@example.com", "scanner2"]
    assert gatepost.done("account", "alias", "scanner2", "add", "SCANNER2").out.startswith("It was one before.")
    assert gatepost.done("account", "alias", "scanner2", "add", "Ann@example.com").out.startswith("It was one before.")
    out = gatepost.done("account", "alias", "scanner2", "remove", "Scanner2").out
    assert out.startswith("Removed. ")
    assert "as ann@example.com or a@example.com." in out
    assert 'no account "scanner2"' in gatepost.refused("list", "scanner2")


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("ann", "add", "bob@example.com"), "bob@example.com is another account; gatepost account show bob@"),
        (("ann", "add", "robert"), "robert is an alias of bob@example.com; gatepost account show bob@"),
        (("ann", "add", "a@b@c"), 'alias "a@b@c" is no login name'),
        (("ann", "add", "a\u202eb"), "\\u202e"),
        (("ann", "add", ""), 'alias "" is no login name'),
        (("ann", "remove", "an"), 'has no alias "an"; did you mean ann?'),
        (("ann", "remove", "robert"), 'ann@example.com has no alias "robert"; gatepost account show ann@example.com'),
        (("ann", "remove", "Ann@example.com"), "is its e-mail, which stays"),
        (("carl", "add", "x"), 'no account "carl"'),
    ],
)
def test_bad_alias_is_refused_and_nothing_is_done(words, named, gatepost, snapshot):
    gatepost.add_ann("--alias", "ann")
    gatepost.done("account", "add", "bob@example.com", "--upstream", "main", "--alias", "robert")
    before = snapshot()
    email, *rest = words
    assert named in gatepost.refused("account", "alias", email, *rest)
    assert snapshot() == before


def test_aliases_are_bounded(gatepost):
    from proxy.admin.inputs import MAX_ALIASES  # noqa: PLC0415

    gatepost.add_ann(*(word for number in range(MAX_ALIASES) for word in ("--alias", f"a{number}")))
    assert f"{MAX_ALIASES} aliases already" in gatepost.refused("account", "alias", "a0", "add", "one-more")


@pytest.mark.parametrize("words", [("disable", "bob@example.com"), ("enable", "bob@example.com")])
def test_unknown_account_is_neither_disabled_nor_enabled(words, gatepost):
    gatepost.add_ann()
    assert 'no account "bob@example.com"' in gatepost.refused("account", *words)
