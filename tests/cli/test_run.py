"""proxy/cli/run.py and arguments.py: exit statuses, usage, help, where the configuration is found."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from proxy import __version__
from proxy.cli.arguments import DEFAULT_CONFIG
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
    assert "gatepost init" in line
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


def test_listing_does_without_cryptography_argon2_and_the_other_database(gatepost):
    ended = run(gatepost, "list")
    assert (ended.returncode, ended.stderr) == (0, "")
    script = (
        "import sys; from proxy.cli import main; assert main(['list']) == 0; "
        "heavy = {'cryptography', 'argon2', 'alembic', 'aiosmtpd', 'aioimaplib', 'uvloop', 'httpx2', "
        "'sqlalchemy.dialects.postgresql'}; "
        "sys.exit(' '.join(sorted(heavy & set(sys.modules))) or 0)"
    )
    environment = {**os.environ, "GATEPOST_CONFIG": str(gatepost.config), "PYTHONPATH": str(Path(__file__).parents[2])}
    ended = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert (ended.returncode, ended.stderr) == (0, "")
