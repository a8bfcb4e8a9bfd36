"""`gatepost completion SHELL`: a script for bash, zsh or fish that completes commands, options and fixed values.

Made from the parser, so it knows what --help knows. It never runs gatepost: mailboxes and ids are not completed, since
looking them up would open the database at a key press.

Each script walks the words before the cursor to the command that they name ("account add"), by one table of commands,
and offers what that command takes, by others. Where the value of an option comes next, it offers files, fixed words, or
nothing.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from proxy.cli.grammar import Command, Option, commands, grammar
from proxy.cli.output import say

# Values that argparse leaves open and that a shell can complete all the same, by metavar or dest.
_FILES = {"FILE", "DIRECTORY"}
_WORDS = {"protocols": ("imap", "smtp")}


def run(arguments: argparse.Namespace, config: Path) -> int:
    del config
    say(script(arguments.shell))
    return 0


def script(shell: str) -> str:
    """The whole script, without a line end behind its last line."""
    makers: dict[str, Callable[[Command], str]] = {"bash": _bash, "zsh": _zsh, "fish": _fish}
    return makers[shell](grammar()).rstrip("\n")


def _words_of(option: Option) -> tuple[str, ...]:
    return option.choices or _WORDS.get(option.dest, ())


def _takes_files(option: Option) -> bool:
    return option.value in _FILES


def _key(command: Command) -> str:
    return " ".join(command.words)


def _offers(command: Command) -> list[tuple[str, str]]:
    """Words that may stand where no option does, each with its help."""
    words = [(below.words[-1], below.summary) for below in command.below]
    return words + [(word, one.help) for one in command.positionals for word in _words_of(one)]


def _steps(top: Command) -> list[tuple[str, str]]:
    """The table of commands: ("account:add", "account add"); the part before the colon is the command so far."""
    return [(f"{_key(command)}:{below.words[-1]}", _key(below)) for command in commands(top) for below in command.below]


def _values(command: Command) -> list[str]:
    """Flags behind which a value stands."""
    return [flag for option in command.options if option.value for flag in option.flags]


def _bash(top: Command) -> str:
    steps = "\n".join(f"            {_quoted(step)}) at={_quoted(to)} ;;" for step, to in _steps(top))
    cases = []
    for command in commands(top):
        flags = [flag for option in command.options for flag in option.flags]
        lines = [
            f"words={_quoted(' '.join(word for word, _ in _offers(command)))}",
            f"flags={_quoted(' '.join(flags))}",
            f"values={_quoted(' '.join(('', *_values(command), '')))}",
        ]
        if any(_takes_files(one) for one in command.positionals):
            lines.append("files=yes")
        cases.append(f"        {_quoted(_key(command))})\n" + "\n".join(f"            {line}" for line in lines))
        cases.append("            ;;")
    behind = _behind(top)
    return _BASH.format(
        steps=steps,
        cases="\n".join(cases),
        files="|".join(sorted(flag for flag, words in behind.items() if not words)),
        fixed="\n".join(
            f'        {flag}) COMPREPLY=($(compgen -W {_quoted(" ".join(words))} -- "$current")); return ;;'
            for flag, words in sorted(behind.items())
            if words
        ),
    )


def _behind(top: Command) -> dict[str, tuple[str, ...]]:
    """What may stand behind a flag, wherever it is: fixed words, or () for a file."""
    found = {}
    for command in commands(top):
        for option in command.options:
            for flag in option.flags:
                if _words_of(option) or _takes_files(option):
                    found[flag] = _words_of(option)
    return found


def _zsh(top: Command) -> str:
    steps = "\n".join(f"            {_quoted(step)}) at={_quoted(to)} ;;" for step, to in _steps(top))
    cases = []
    for command in commands(top):
        offers = " ".join(_quoted(f"{word}:{help_}") for word, help_ in _offers(command))
        flags = " ".join(_quoted(f"{flag}:{option.help}") for option in command.options for flag in option.flags)
        lines = [f"offers=({offers})", f"flags=({flags})", f"values=({' '.join(_values(command))})"]
        if any(_takes_files(one) for one in command.positionals):
            lines.append("files=yes")
        cases.append(f"        {_quoted(_key(command))})\n" + "\n".join(f"            {line}" for line in lines))
        cases.append("            ;;")
    behind = _behind(top)
    return _ZSH.format(
        steps=steps,
        cases="\n".join(cases),
        files="|".join(sorted(flag for flag, words in behind.items() if not words)),
        fixed="\n".join(
            f"        {flag}) compadd -- {' '.join(words)}; return ;;"
            for flag, words in sorted(behind.items())
            if words
        ),
    )


def _fish(top: Command) -> str:
    steps = "\n".join(
        f"            case {_quoted(step)}\n                set at {_quoted(to)}" for step, to in _steps(top)
    )
    values = "\n".join(
        f"            case {_quoted(_key(command))}\n                set values {' '.join(_values(command))}"
        for command in commands(top)
    )
    lines = ["complete -c gatepost -f"]
    for command in commands(top):
        here = f"complete -c gatepost -n {_quoted(f'__gatepost_at {_fish_quoted(_key(command))}')}"
        if any(_takes_files(one) for one in command.positionals):
            lines.append(f"{here} -F")
        lines += [f"{here} -a {_quoted(word)} -d {_quoted(help_)}" for word, help_ in _offers(command)]
        for option in command.options:
            names = [f"-l {flag[2:]}" if flag.startswith("--") else f"-s {flag[1:]}" for flag in option.flags]
            value = ""
            if option.value:
                words = _words_of(option)
                value = " -r -F" if _takes_files(option) else f" -x -a {_quoted(' '.join(words))}" if words else " -x"
            lines.append(f"{here} {' '.join(names)}{value} -d {_quoted(option.help)}")
    return _FISH.format(steps=steps, values=values, lines="\n".join(lines))


def _quoted(text: str) -> str:
    """A word for bash and zsh, and for fish where it holds no quotes."""
    return "'" + text.replace("'", "'\\''") + "'"


def _fish_quoted(text: str) -> str:
    return f'"{text}"'


_BASH = """\
# bash completion for gatepost. Made by "gatepost completion bash".
_gatepost() {{
    local current=${{COMP_WORDS[COMP_CWORD]}} previous=${{COMP_WORDS[COMP_CWORD-1]}}
    local at= expects= words= flags= values= files= word index
    # "--config=FILE" comes as three words.
    if [[ $current == "=" ]]; then current=; fi
    if [[ $previous == "=" ]]; then previous=${{COMP_WORDS[COMP_CWORD-2]}}; fi
    COMPREPLY=()
    for ((index = 1; index < COMP_CWORD; index++)); do
        word=${{COMP_WORDS[index]}}
        if [[ $word == "=" ]]; then expects=yes; continue; fi
        if [[ $expects ]]; then expects=; continue; fi
        _gatepost_at "$at"
        if [[ $values == *" $word "* ]]; then expects=yes; continue; fi
        case "$at:$word" in
{steps}
        esac
    done
    _gatepost_at "$at"
    case $previous in
        {files}) COMPREPLY=($(compgen -f -- "$current")); compopt -o filenames 2>/dev/null; return ;;
{fixed}
    esac
    if [[ $values == *" $previous "* ]]; then return; fi
    if [[ $current == -* ]]; then
        COMPREPLY=($(compgen -W "$flags" -- "$current"))
    else
        COMPREPLY=($(compgen -W "$words" -- "$current"))
        if [[ $files ]]; then COMPREPLY+=($(compgen -f -- "$current")); compopt -o filenames 2>/dev/null; fi
    fi
}}
_gatepost_at() {{
    files=
    case $1 in
{cases}
    esac
}}
complete -F _gatepost gatepost
"""

_ZSH = """\
#compdef gatepost
# zsh completion for gatepost. Made by "gatepost completion zsh".
_gatepost() {{
    local at= expects= files= word
    local -a offers flags values
    for word in "${{(@)words[2,CURRENT-1]}}"; do
        if [[ -n $expects ]]; then expects=; continue; fi
        _gatepost_at "$at"
        if (( ${{values[(Ie)$word]}} )); then expects=yes; continue; fi
        case "$at:$word" in
{steps}
        esac
    done
    _gatepost_at "$at"
    case ${{words[CURRENT-1]}} in
        {files}) _files; return ;;
{fixed}
    esac
    if [[ -n $expects ]]; then return 1; fi
    if [[ ${{words[CURRENT]}} == -* ]]; then
        _describe -o option flags
    else
        if (( ${{#offers}} )); then _describe command offers; fi
        if [[ -n $files ]]; then _files; fi
    fi
}}
_gatepost_at() {{
    files=
    case $1 in
{cases}
    esac
}}
if [[ ${{funcstack[1]}} == _gatepost ]]; then _gatepost "$@"; else compdef _gatepost gatepost; fi
"""

_FISH = """\
# fish completion for gatepost. Made by "gatepost completion fish".
function __gatepost_at
    set -l at ''
    set -l expects no
    set -l values
    set -l words (commandline -opc)
    for word in $words[2..-1]
        if test $expects = yes
            set expects no
            continue
        end
        switch $at
{values}
        end
        if contains -- $word $values
            set expects yes
            continue
        end
        switch "$at:$word"
{steps}
        end
    end
    test "$at" = "$argv[1]"
end
{lines}
"""
