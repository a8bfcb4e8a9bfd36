"""`gatepost completion`: each shell, a real one, completes from the script what the parser knows."""

from __future__ import annotations

import os
import pty
import re
import select
import shlex
import subprocess
import time
from pathlib import Path

import pytest

from proxy.cli.arguments import SHELLS
from proxy.cli.completion import script
from proxy.cli.grammar import Command, commands, grammar
from tests.needs import needs

DEADLINE_S = 20.0
EVERY = list(commands(grammar()))


@pytest.fixture(params=SHELLS)
def shell(request: pytest.FixtureRequest) -> str:
    return needs(request.param)


def flags(command: Command) -> set[str]:
    return {flag for option in command.options for flag in option.flags}


# --- bash: the function is asked as bash asks it ---------------------------------------------------------------------


def offered_by_bash(line: str, directory: Path) -> set[str]:
    """What bash offers behind a line; its last word is the one that is being typed."""
    words = shlex.split(line) + ([""] if line.endswith(" ") else [])
    asked = f"""
{script("bash")}
COMP_WORDS=({shlex.join(words)})
COMP_CWORD={len(words) - 1}
_gatepost
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    done = subprocess.run(
        ["bash", "--norc", "-c", asked], check=True, capture_output=True, text=True, timeout=DEADLINE_S, cwd=directory
    )
    assert done.stderr == ""
    return set(done.stdout.split())


def test_bash_offers_every_command_below_another_and_every_option(tmp_path) -> None:
    for command in EVERY:
        assert {below.words[-1] for below in command.below} <= offered_by_bash(f"{command.name} ", tmp_path)
        assert offered_by_bash(f"{command.name} -", tmp_path) == flags(command), command.name


def test_bash_knows_values_from_commands(tmp_path) -> None:
    (tmp_path / "mine.toml").touch()
    assert offered_by_bash("gatepost --config ", tmp_path) == {"mine.toml"}
    assert offered_by_bash("gatepost --config mine.toml account a", tmp_path) == {"add", "alias"}
    assert offered_by_bash("gatepost --config = mine.toml account a", tmp_path) == {"add", "alias"}
    assert offered_by_bash("gatepost create ann@example.com --name ", tmp_path) == set()
    assert offered_by_bash("gatepost create ann@example.com --name list --pro", tmp_path) == {"--protocol"}
    assert offered_by_bash("gatepost create ann@example.com --protocol ", tmp_path) == {"imap", "smtp"}
    assert offered_by_bash("gatepost account alias ann@example.com ", tmp_path) == {"add", "remove"}
    assert offered_by_bash("gatepost completion ", tmp_path) == set(SHELLS)


# --- fish completes for anybody who asks -----------------------------------------------------------------------------


def offered_by_fish(line: str, directory: Path) -> set[str]:
    (directory / "gatepost.fish").write_text(script("fish") + "\n")
    done = subprocess.run(
        [needs("fish"), "--no-config", "-c", f"source gatepost.fish; complete -C {shlex.quote(line)}"],
        check=True, capture_output=True, text=True, timeout=DEADLINE_S, cwd=directory,
        env={**os.environ, "HOME": str(directory)},
    )  # fmt: skip
    assert done.stderr == ""
    return {one.partition("\t")[0] for one in done.stdout.splitlines()}


def test_fish_offers_commands_options_and_values(tmp_path) -> None:
    for command in (command for command in EVERY if command.below):
        assert {below.words[-1] for below in command.below} <= offered_by_fish(f"{command.name} ", tmp_path)
    assert offered_by_fish("gatepost --config x account connect --", tmp_path) == {
        "--config", "--device", "--help", "--json", "--paste", "--refresh-token-stdin",
    }  # fmt: skip
    assert offered_by_fish("gatepost create ann@example.com --protocol ", tmp_path) == {"imap", "smtp"}
    assert offered_by_fish("gatepost create --name account ", tmp_path) == set()
    assert "gatepost.fish" in offered_by_fish("gatepost --config g", tmp_path)


# --- the key itself, on a terminal -----------------------------------------------------------------------------------

_START = {
    # Ctrl-T prints the line as it stands, between marks.
    "bash": ["bash", "--norc", "-i"],
    "zsh": ["zsh", "-f", "-i"],
}
_PREPARE = {
    "bash": "source ./gatepost.bash; bind -x '\"\\C-t\": echo \"<$READLINE_LINE>\"'; echo rea''dy",
    "zsh": (
        "autoload -Uz compinit; compinit -D; source ./gatepost.zsh; "
        "show() { print -r -- \"<$BUFFER>\" }; zle -N show; bindkey '^T' show; echo rea''dy"
    ),
}


class Terminal:
    """An interactive shell on a terminal of its own."""

    def __init__(self, shell: str, directory: Path) -> None:
        (directory / f"gatepost.{shell}").write_text(script(shell) + "\n")
        self.pid, self.master = pty.fork()
        if self.pid == 0:
            os.chdir(directory)
            os.environ.update(HOME=str(directory), TERM="xterm", PS1="$ ", COLUMNS="200")
            os.execvp(_START[shell][0], _START[shell])
        self.seen = ""
        self.type(_PREPARE[shell] + "\r")
        self.await_("ready")

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def await_(self, pattern: str) -> str:
        deadline = time.monotonic() + DEADLINE_S
        while not (found := re.search(pattern, self.seen)):
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self.master], [], [], left)[0]:
                pytest.fail(f"no {pattern!r} on the terminal: {self.seen!r}")
            self.seen += os.read(self.master, 65536).decode(errors="replace")
        self.seen = self.seen[found.end() :]
        return found[0]

    def line_after(self, typed: str) -> str:
        """Type, press TAB, and look at the line; then empty it."""
        self.type(f"{typed}\t\x14")
        line = self.await_(r"<gatepost[^>\r\n]*>")[1:-1]
        self.type("\x15")
        return line

    def close(self) -> None:
        self.type("\x15\rexit\r")
        os.close(self.master)
        os.waitpid(self.pid, 0)


@pytest.mark.parametrize("shell", sorted(_START))
def test_tab_completes_on_a_terminal(shell, tmp_path) -> None:
    needs(shell)
    (tmp_path / "mine.toml").touch()
    terminal = Terminal(shell, tmp_path)
    try:
        assert terminal.line_after("gatepost acc") == "gatepost account "
        assert terminal.line_after("gatepost --config mi").rstrip() == "gatepost --config mine.toml"
        assert terminal.line_after("gatepost --config mine.toml account conn") == (
            "gatepost --config mine.toml account connect "
        )
        assert terminal.line_after("gatepost account add ann@example.com --seal").rstrip() == (
            "gatepost account add ann@example.com --sealed"
        )
        assert terminal.line_after("gatepost create ann@example.com --protocol sm").rstrip() == (
            "gatepost create ann@example.com --protocol smtp"
        )
    finally:
        terminal.close()


# --- the verb --------------------------------------------------------------------------------------------------------


def test_the_verb_prints_a_script_that_the_shell_reads(shell, gatepost, tmp_path) -> None:
    done = gatepost.done("completion", shell)
    assert done.out == script(shell) + "\n"
    file = tmp_path / "script"
    file.write_text(done.out)
    checked = subprocess.run([shell, "-n", file], check=False, capture_output=True, text=True, timeout=DEADLINE_S)
    assert (checked.returncode, checked.stderr) == (0, "")


def test_an_unknown_shell_is_wrong_usage(gatepost) -> None:
    assert gatepost("completion", "tcsh").status == 2
