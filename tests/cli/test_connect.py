"""`gatepost account connect` where no network is needed: what is refused before anybody is troubled, and its words."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import termios
import time

import pytest

from proxy.cli import main
from tests.gate import _environment

APP_ONLY = """
[upstream.apponly]
imap = "imaps://imap.example.com"

[upstream.apponly.oauth2]
client_id = "app"
client_secret = "file:client.secret"
grant = "client_credentials"
token_url = "https://login.example.com/token"
"""


@pytest.fixture
def with_app(gatepost):
    gatepost.config.write_text(gatepost.config.read_text() + APP_ONLY)
    return gatepost


def test_an_account_that_does_not_exist_is_named(gatepost):
    assert "there is no account" in gatepost.refused("account", "connect", "ann@example.com")


def test_an_upstream_with_passwords_has_nobody_sign_in(gatepost):
    gatepost.done("account", "add", "bob@example.com", "--upstream", "imaponly")
    assert "--password-stdin" in gatepost.refused("account", "connect", "bob@example.com")


def test_an_app_only_upstream_has_nobody_sign_in(with_app):
    out = with_app.done("account", "add", "bob@example.com", "--upstream", "apponly").out
    assert "Next: gatepost create bob@example.com" in out
    assert "gatepost check --login bob@example.com" in with_app.refused("account", "connect", "bob@example.com")
    line = with_app.refused(
        "account", "add", "cy@example.com", "--upstream", "apponly", "--refresh-token-stdin", stdin=b"token\n"
    )
    assert "gets its tokens itself" in line


def test_an_upstream_whose_server_is_away_is_said_before_the_token_is_spent(gatepost):
    gatepost.config.write_text(gatepost.config.read_text().replace("imap.example.com:993", "127.0.0.1:1"))
    gatepost.add_ann()
    for way in ((), ("--paste",), ("--device",), ("--refresh-token-stdin",)):
        line = gatepost.refused("account", "connect", "ann@example.com", *way, stdin=b"my-refresh-token\n")
        assert "imap server does not answer" in line
        assert "my-refresh-token" not in line
    assert gatepost.done("account", "show", "ann@example.com", "--json").json["token"]["state"] == "none"


def test_an_empty_stdin_is_no_token(gatepost):
    gatepost.add_ann()
    line = gatepost.refused("account", "connect", "ann@example.com", "--refresh-token-stdin")
    assert "no refresh token on stdin" in line


@pytest.mark.parametrize(
    "words", [("--device", "--paste"), ("--paste", "--refresh-token-stdin"), ("--sealed",), ("--token", "x")]
)
def test_ways_exclude_each_other(words, capsys):
    assert main(["account", "connect", "ann@example.com", *words]) == 2
    assert capsys.readouterr().err.count("\n") == 1


READ_A_LINE = "from proxy.cli.asking import read_line; print('ready', flush=True); print(len(read_line('address')))"


def typed_on_a_terminal(text: str, *, stdout_too: bool) -> tuple[int, str]:
    """The exit status of a process that reads a line, and what it wrote."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", READ_A_LINE],
        stdin=theirs,
        stdout=theirs if stdout_too else subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=_environment() | {"TERM": "dumb"},
    ) as process:
        os.close(theirs)
        output = ours if stdout_too else process.stdout.fileno()
        said = b""
        while b"ready" not in said:
            said += os.read(output, 10_000)
        deadline = time.monotonic() + 20
        while stdout_too and termios.tcgetattr(ours)[3] & termios.ICANON:  # readline is not there yet
            assert time.monotonic() < deadline
            time.sleep(0.01)
        for begin in range(0, len(text), 400):
            os.write(ours, text[begin : begin + 400].encode())
        os.write(ours, b"\n")
        try:
            while data := os.read(output, 10_000):
                said += data
        except OSError:  # EIO: the other end of the terminal is closed
            pass
        status = process.wait(20)
    os.close(ours)
    return status, said.decode()


ADDRESS = "http://127.0.0.1/?code=" + "x" * 6000


def test_a_terminal_takes_an_address_longer_than_its_own_line():
    """Entra's codes come near to what a terminal hands over of one line; with readline there is no such limit."""
    status, said = typed_on_a_terminal(ADDRESS, stdout_too=True)
    assert (status, said.split()[-1]) == (0, str(len(ADDRESS)))


def test_an_address_that_the_terminal_cut_off_is_refused():
    status, said = typed_on_a_terminal(ADDRESS, stdout_too=False)
    assert status == 1
    assert "the terminal cut the address off" in said
