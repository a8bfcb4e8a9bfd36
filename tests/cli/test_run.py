"""proxy/cli/run.py and arguments.py: exit statuses, usage, help, where the configuration is found."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from proxy import __version__
from proxy.cli.arguments import COMMANDS, DEFAULT_CONFIG, parser
from proxy.cli.grammar import grammar
from proxy.cli.run import config_path, main

VERBS = (
    ("init",),
    ("serve",),
    ("reload",),
    ("check",),
    ("db", "upgrade"),
    ("account", "add"),
    ("account", "connect"),
    ("account", "list"),
    ("account", "show"),
    ("account", "remove"),
    ("account", "disable"),
    ("account", "enable"),
    ("account", "alias"),
    ("account", "grant"),
    ("account", "revoke-grant"),
    ("create",),
    ("key", "new"),
    ("key", "rotate"),
    ("list",),
    ("show",),
    ("revoke",),
    ("rotate",),
    ("suspend",),
    ("resume",),
    ("sessions",),
    ("sessions", "kick"),
    ("audit",),
    ("completion",),
    ("backup",),
    ("restore",),
)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_that_names_the_configuration(verb, capsys):
    assert main([*verb, "--help"]) == 0
    out = capsys.readouterr().out
    assert f"usage: gatepost {' '.join(verb)}" in out
    assert "--config FILE" in out


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb not in (("serve",), ("completion",), ("key", "new"))])
def test_every_verb_that_answers_takes_json(verb, capsys):
    assert main([*verb, "--help"]) == 0
    assert "--json" in capsys.readouterr().out


def listed(text: str) -> set[str]:
    """The commands of a help text: the first words behind its headings."""
    lines = text.partition("commands:")[2].splitlines()
    return {line.split()[0] for line in lines if line.startswith("    ") and line[4] != " "}  # not wrapped help


def test_help_names_every_verb(capsys):
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert listed(out) >= {verb[0] for verb in VERBS}
    assert main(["account", "--help"]) == 0
    assert listed(capsys.readouterr().out) == {verb[1] for verb in VERBS if verb[0] == "account"}


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"gatepost {__version__}\n"


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("frobnicate",),
        ("account",),
        ("db",),
        ("create",),
        ("create", "ann@example.com"),
        ("create", "ann@example.com", "--name"),
        ("create", "ann@example.com", "--nam", "x"),
        ("account", "add", "ann@example.com"),
        ("account", "add", "a@b", "--upstream", "main", "--password-stdin", "--refresh-token-stdin"),
        ("account", "add", "a@b", "--upstream", "main", "--password", "hunter2"),
        ("show",),
        ("list", "one", "two"),
        ("serve", "--json"),
        ("list", "\x1b[2J", "\n"),
        ("revoke",),
        ("revoke", "0011223344", "--account", "ann@example.com"),
        ("revoke", "0011223344", "--all"),
        ("revoke", "--account", "ann@example.com"),
        ("revoke", "--name", "x"),
        ("revoke", "--all"),
        ("revoke", "--account", "ann@example.com", "--name", "x", "--all"),
        ("rotate",),
        ("rotate", "0011223344", "4433221100"),
        ("rotate", "0011223344", "--sign-in", "--unlock-stdin"),
        ("rotate", "0011223344", "--paste"),
        ("suspend",),
        ("resume",),
        ("account", "alias", "ann@example.com"),
        ("account", "alias", "ann@example.com", "rename", "x"),
        ("account", "alias", "ann@example.com", "add"),
        ("account", "disable"),
        ("sessions", "kick"),
        ("sessions", "end", "x"),
        ("sessions", "--account", "ann@example.com", "kick", "x"),
        ("audit", "--json", "--jsonl"),
        ("audit", "ann@example.com"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(words, gatepost):
    result = gatepost(*words)
    assert (result.status, result.out) == (2, "")
    assert result.err.startswith("gatepost: ")
    assert result.err.count("\n") == 1
    assert result.err.endswith("--help\n")
    assert result.err.removesuffix("\n").isprintable()


def test_configuration_is_found_by_option_then_environment_then_default(monkeypatch):
    monkeypatch.setenv("GATEPOST_CONFIG", "/env.toml")
    assert config_path("/option.toml") == Path("/option.toml")
    assert config_path(None) == Path("/env.toml")
    monkeypatch.setenv("GATEPOST_CONFIG", "")
    assert config_path(None) == Path(DEFAULT_CONFIG)
    monkeypatch.delenv("GATEPOST_CONFIG")
    assert config_path(None) == Path("/etc/gatepost/gatepost.toml")


@pytest.mark.parametrize(
    "words",
    [
        ("--config", "FILE", "account", "list"),
        ("account", "--config", "FILE", "list"),
        ("account", "list", "--config", "FILE"),
    ],
)
def test_configuration_may_be_named_before_and_behind_the_verb(words, gatepost, monkeypatch):
    monkeypatch.setenv("GATEPOST_CONFIG", "/nowhere/gatepost.toml")
    gatepost.done(*(str(gatepost.config) if word == "FILE" else word for word in words))


def test_missing_configuration_is_one_line_with_the_remedy(gatepost, tmp_path):
    line = gatepost.refused("list", "--config", str(tmp_path / "gone.toml"))
    assert line == f"gatepost: {tmp_path}/gone.toml does not exist; run gatepost init, or name your file with --config"


def test_unknown_key_is_one_line_that_names_file_and_key(gatepost):
    gatepost.config.write_text("[stroe]\n" + gatepost.config.read_text())
    assert gatepost.refused("list") == f"gatepost: {gatepost.config}: stroe: unknown key; did you mean store?"


def test_missing_database_names_file_and_remedy(gatepost):
    (gatepost.directory / "gatepost.db").unlink()
    line = gatepost.refused("list")
    assert str(gatepost.directory / "gatepost.db") in line
    assert "gatepost restore" in line
    assert not (gatepost.directory / "gatepost.db").exists()


def run(gatepost, *words: str, stdout=subprocess.PIPE) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "GATEPOST_CONFIG": str(gatepost.config), "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.run(
        [sys.executable, "-m", "proxy", *words],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )


def test_reader_that_left_is_no_story(gatepost):
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as pipe:
        ended = run(gatepost, "list", stdout=pipe)
    assert (ended.returncode, ended.stderr) == (1, "")


def test_full_disk_behind_stdout_is_one_line(gatepost):
    with Path("/dev/full").open("w") as full:
        ended = run(gatepost, "list", stdout=full)
    assert ended.returncode == 1
    assert ended.stderr == "gatepost: cannot write the answer: No space left on device; look at where stdout goes\n"


def test_password_that_nobody_could_see_is_revoked(gatepost):
    gatepost.add_ann()
    with Path("/dev/full").open("w") as full:
        ended = run(gatepost, "create", "ann@example.com", "--name", "Scanner", stdout=full)
    assert ended.returncode == 1
    assert ended.stderr.startswith("gatepost: the app password could not be shown, so it was revoked; ")
    assert ended.stderr.count("\n") == 1
    assert [row["state"] for row in gatepost.done("list", "--json").json] == ["revoked"]


def test_interrupt_is_quiet(gatepost, monkeypatch):
    def interrupt(*_arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("proxy.cli.run.config_path", interrupt)
    result = gatepost("list")
    assert (result.status, result.out, result.err) == (130, "", "")


def ran(gatepost, script: str, *words: str) -> str:
    """What this script, which has main() run these words, leaves on stderr."""
    environment = {**os.environ, "GATEPOST_CONFIG": str(gatepost.config), "PYTHONPATH": str(Path(__file__).parents[2])}
    ended = subprocess.run(
        [sys.executable, "-c", script, *words],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stderr


# What is of no use to somebody who lists or makes an app password of an ordinary account; each costs milliseconds.
HEAVY = {
    "aioimaplib",
    "aiosmtpd",
    "alembic",
    "cryptography",
    "difflib",
    "httpx2",
    "joserfc",
    "psycopg",
    "sqlalchemy.dialects.postgresql",
    "sqlalchemy.orm",
    "uvloop",
    "proxy.admin.consents",
    "proxy.admin.life",
    "proxy.store.archive",
    "proxy.store.backup",
    "proxy.store.people",
    "proxy.store.web_sessions",
}
IMPORTED = "import sys; from proxy.__main__ import main; assert main() == 0; print(*sys.modules, file=sys.stderr)"


def test_listing_imports_only_what_it_needs(gatepost):
    imported = set(ran(gatepost, IMPORTED, "list").split())
    assert "proxy.store.store" in imported
    assert imported & (HEAVY | {"argon2", "proxy.cli.once", "proxy.vault"}) == set()


def test_creating_imports_only_what_it_needs(gatepost):
    gatepost.add_ann()
    imported = set(ran(gatepost, IMPORTED, "create", "ann@example.com", "--name", "Scanner").split())
    assert "argon2" in imported
    assert imported & HEAVY == set()


def test_creating_opens_the_store_once(gatepost):
    gatepost.add_ann()
    script = (
        "import sys; from proxy.__main__ import main; "
        "sys.addaudithook(lambda event, _: event == 'sqlite3.connect' and print('opened', file=sys.stderr)); "
        "assert main() == 0"
    )
    assert ran(gatepost, script, "create", "ann@example.com", "--name", "Scanner") == "opened\n"


def test_command_ends_before_the_first_collection_of_garbage(gatepost):
    gatepost.add_ann()
    script = (
        "import gc, sys; from proxy.__main__ import main; "
        "gc.callbacks.append(lambda phase, info: print(phase, info, file=sys.stderr)); "
        "status = main(); gc.callbacks.clear(); assert status == 0"
    )
    assert ran(gatepost, script, "create", "ann@example.com", "--name", "Scanner") == ""


@pytest.mark.parametrize("words", VERBS, ids=" ".join)
def test_parser_for_one_command_shows_the_same_help(words, capsys):
    def shown(first: str) -> str:
        with pytest.raises(SystemExit) as end:
            parser(first).parse_args([*words, "--help"])
        assert end.value.code == 0
        return capsys.readouterr().out

    assert shown(words[0]) == shown("")


def test_parser_for_one_command_makes_few_others(capsys):
    with pytest.raises(SystemExit):
        parser("list").parse_args(["--help"])
    assert "completion" not in capsys.readouterr().out


def test_every_command_says_where_it_is_made():
    assert tuple(one.words[0] for one in grammar().below) == COMMANDS
