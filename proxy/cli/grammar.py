"""The command line as plain data, read off the parser: for completion, the manual and the tests of the documentation.

argparse has no public way to list what a parser knows; the private names that are used stand here and nowhere else.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from proxy.cli.arguments import parser


@dataclass(frozen=True, slots=True)
class Option:
    """An option, or with no flags a positional argument. `value` is how its value is called; "" for a switch."""

    flags: tuple[str, ...]
    value: str
    help: str
    is_required: bool
    is_repeatable: bool  # several values, or given several times
    choices: tuple[str, ...]
    dest: str


@dataclass(frozen=True, slots=True)
class Command:
    """A command by its words ("account", "add"); () is gatepost itself. `below` are the commands under it."""

    words: tuple[str, ...]
    summary: str
    description: str
    usage: str  # in one line, without --help
    options: tuple[Option, ...]
    positionals: tuple[Option, ...]
    exclusive: tuple[tuple[str, ...], ...]  # flags of which one at most may be given
    below: tuple[Command, ...]
    runs_alone: bool  # not only with one of those below

    @property
    def name(self) -> str:
        return " ".join(("gatepost", *self.words))


def grammar() -> Command:
    """The whole command line."""
    return _read(parser(), (), "")


def commands(top: Command) -> Iterator[Command]:
    """A command and all below it, in the order of --help."""
    yield top
    for command in top.below:
        yield from commands(command)


def _read(source: argparse.ArgumentParser, words: tuple[str, ...], summary: str) -> Command:
    below: tuple[Command, ...] = ()
    runs_alone = True
    parts: list[Option] = []
    tail = ""
    for action in source._actions:  # noqa: SLF001 - see the module's words
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            runs_alone = not action.required
            tail = "COMMAND" if action.required else "[COMMAND]"
            summaries = {choice.dest: choice.help or "" for choice in action._choices_actions}  # noqa: SLF001
            below = tuple(_read(one, (*words, name), summaries[name]) for name, one in action.choices.items())
        else:
            parts.append(_option(action))
    groups = source._mutually_exclusive_groups  # noqa: SLF001
    exclusive = tuple(tuple(action.option_strings[0] for action in group._group_actions) for group in groups)  # noqa: SLF001
    return Command(
        words,
        summary,
        source.description or "",
        _usage(words, parts, exclusive, tail),
        tuple(part for part in parts if part.flags),
        tuple(part for part in parts if not part.flags),
        exclusive,
        below,
        runs_alone,
    )


def _option(action: argparse.Action) -> Option:
    takes_value = action.nargs != 0
    metavar = action.metavar if isinstance(action.metavar, str) else action.dest.upper()
    return Option(
        tuple(action.option_strings),
        metavar if takes_value else "",
        action.help or "",
        action.required and action.nargs not in (argparse.OPTIONAL, argparse.ZERO_OR_MORE),
        action.nargs in ("+", "*") or isinstance(action, argparse._AppendAction),  # noqa: SLF001
        tuple(str(choice) for choice in action.choices or ()),
        action.dest,
    )


def _usage(words: tuple[str, ...], parts: Sequence[Option], exclusive: Sequence[Sequence[str]], tail: str) -> str:
    """The command in one line: positional arguments first, alternatives in one bracket; --config for gatepost alone."""
    said = [" ".join(("gatepost", *words))]
    said += [_shown(part) for part in parts if not part.flags]
    told: set[str] = set()
    for part in parts:
        if not part.flags or part.flags[0] in told or "--help" in part.flags or (words and "--config" in part.flags):
            continue
        group = next((one for one in exclusive if part.flags[0] in one), ())
        if group:
            told.update(group)
            said.append(f"[{' | '.join(_bare(one) for one in parts if one.flags and one.flags[0] in group)}]")
        else:
            said.append(_shown(part))
    return " ".join([*said, tail] if tail else said)


def _shown(part: Option) -> str:
    shown = _bare(part) if part.is_required else f"[{_bare(part)}]"
    return f"{shown}..." if part.is_repeatable else shown


def _bare(part: Option) -> str:
    return f"{part.flags[-1]} {part.value}".rstrip() if part.flags else part.value
