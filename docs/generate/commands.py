"""docs/cli.md and gatepost(1), from the parser."""

from __future__ import annotations

from docs.generate import roff
from docs.generate.examples import EXAMPLES
from proxy.cli.grammar import Command, Option, commands

COMMON = ("--help", "--config", "--json")

_MARKDOWN = """\
# Every command

Generated from the program by `make docs`; the same stands in `man gatepost` and behind `--help`. What the commands do
to logins and live sessions, with real runs, is in [App passwords](app-passwords.md).

All of them take:

- `--config FILE`: the configuration; default: what `GATEPOST_CONFIG` names, else `/etc/gatepost/gatepost.toml`.
- `--json`, where the line below has it: exactly one JSON document on standard output.
- `--help`.

| exit status | means |
| --- | --- |
| 0 | done |
| 1 | refused: one line on standard error says why, and after its last semicolon what to do |
| 2 | wrong usage |

"""


def cli_page(top: Command) -> str:
    parts = [_MARKDOWN]
    for command in commands(top):
        if command.words and command.runs_alone:
            parts.append(f"## {command.name}\n\n{command.description}\n\n```text\n{command.usage}\n```\n")
            if listed := [_bullet(part) for part in _own(command)]:
                parts.append("\n".join(listed) + "\n")
            parts.append("```sh\n" + "\n".join(examples(command)) + "\n```\n")
    return "\n".join(parts).replace("\n\n\n", "\n\n")


def examples(command: Command) -> tuple[str, ...]:
    """At least one line for every command that does something; a KeyError says that examples.py lacks it."""
    return EXAMPLES[" ".join(command.words)]


def _own(command: Command) -> list[Option]:
    """What is not common to all commands."""
    return [part for part in (*command.positionals, *command.options) if not set(part.flags) & set(COMMON)]


def _term(part: Option) -> str:
    return " ".join((*part.flags[-1:], part.value)).strip()


def _bullet(part: Option) -> str:
    needed = " (needed)" if part.flags and part.is_required else ""
    return f"- `{_term(part)}`{needed}: {part.help}"


def manual(top: Command) -> str:
    lines = roff.head("GATEPOST", 1, "app passwords for mail behind MFA")
    lines += [".SH SYNOPSIS", *_synopsis(top), ".SH DESCRIPTION", *roff.wrapped(top.description)]
    for words in (
        (
            "Mail programs that know nothing of OAuth2 log in to Gatepost by an app password; Gatepost checks it, gets "
            "a token for the mailbox, logs in to the real mail server, and from then on moves bytes."
        ),
        "gatepost serve is the service; all other commands manage it, and may be run while it runs.",
    ):
        lines += roff.paragraph(words)
    lines += [".SH OPTIONS"]
    for option in top.options:
        lines += roff.tagged(_roff_term(option), f"{option.help}.")
    lines += roff.tagged(roff.bold("--json"), "Print exactly one JSON document. For all commands that answer.")
    lines += [".SH COMMANDS"]
    for command in commands(top):
        if command.words and command.runs_alone:
            lines += [f'.SS "{roff.text(" ".join(command.words))}"', *_synopsis(command)]
            lines += roff.paragraph(command.description)
            for part in _own(command):
                lines += roff.tagged(_roff_term(part), f"{part.help}.")
    lines += [".SH EXIT STATUS"]
    for status, words in (("0", "Done."), ("1", "Refused; one line on stderr has the remedy."), ("2", "Wrong usage.")):
        lines += roff.tagged(roff.bold(status), words)
    lines += [".SH ENVIRONMENT", *roff.tagged(roff.bold("GATEPOST_CONFIG"), "The configuration, without --config.")]
    lines += [".SH FILES"]
    for file, words in (
        ("/etc/gatepost/gatepost.toml", "The configuration; see gatepost.toml(5)."),
        ("/etc/gatepost/master.key", "Opens the stored tokens. Keep a copy apart from the database."),
        ("/var/lib/gatepost/gatepost.db", "The database, unless [store] url says otherwise."),
    ):
        lines += roff.tagged(roff.bold(file), words)
    lines += [".SH EXAMPLES", roff.text("A mailbox, its sign-in, and an app password for a scanner:")]
    lines += roff.code(line for name in ("account add", "account connect", "create") for line in EXAMPLES[name][:1])
    lines += [".SH SEE ALSO", f"{roff.bold('gatepost.toml')}(5)"]
    return "\n".join(lines) + "\n"


def _synopsis(command: Command) -> list[str]:
    """The usage, with the command's words in bold."""
    first, *rest = roff.wrapped(command.usage.removeprefix(command.name).strip()) or [""]
    return [f"{roff.bold(command.name)} {first}".strip(), *rest]


def _roff_term(part: Option) -> str:
    if not part.flags:
        return f"\\fI{roff.text(part.value)}\\fR"
    value = f" \\fI{roff.text(part.value)}\\fR" if part.value else ""
    return ", ".join(roff.bold(flag) for flag in part.flags) + value
