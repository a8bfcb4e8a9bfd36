"""The words of the command line: every verb, its options and its help. Runs nothing and imports nothing heavy."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn

from proxy import __version__
from proxy.cli.output import plain

DEFAULT_CONFIG = "/etc/gatepost/gatepost.toml"
SHELLS = ("bash", "zsh", "fish")

if TYPE_CHECKING:
    _Verbs = argparse._SubParsersAction["Parser"]  # noqa: SLF001 - it has no public name


class UsageError(Exception):
    """The words don't make a command: exit status 2."""


class Parser(argparse.ArgumentParser):
    """argparse with errors of one line and no guessing of shortened options."""

    def __init__(self, **options: object) -> None:
        super().__init__(allow_abbrev=False, **options)  # type: ignore[arg-type]

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"gatepost: {plain(message)}; see {self.prog} --help\n")


def parser(first: str = "") -> Parser:
    """The whole command line. The result of parsing has `area` and `verb`: which function is meant.

    first   the first of the words that will be parsed. If it is a command, only it and its like are made, a third of
            the work: neither a help nor an error of theirs names another
    """
    top = Parser(
        prog="gatepost",
        description="App passwords for mail behind MFA: an IMAP and SMTP authentication proxy.",
        epilog="Exit status: 0 done, 1 refused (the reason and the remedy are on stderr), 2 wrong usage.",
    )
    top.add_argument("--version", action="version", version=f"gatepost {__version__}")
    top.add_argument("--config", metavar="FILE", help=_CONFIG_HELP)
    verbs = top.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for add, names in _VERBS.items():
        if first in names or first not in COMMANDS:
            add(verbs)
    return top


_CONFIG_HELP = f"configuration; default: $GATEPOST_CONFIG, else {DEFAULT_CONFIG}"


_ACCOUNT_HELP = "its e-mail or an alias"
_ID_HELP = "as gatepost list shows it"


def _verb(verbs: _Verbs, name: str, area: str, summary: str, *, details: str = "", has_json: bool = True) -> Parser:
    verb = verbs.add_parser(name, help=summary, description=details or f"{summary[0].upper()}{summary[1:]}.")
    _take_config(verb)
    if has_json:
        verb.add_argument("--json", action="store_true", help="print one JSON document")
    verb.set_defaults(area=area, verb=name, json=False)
    return verb


def _group(verbs: _Verbs, name: str, summary: str) -> _Verbs:
    group = verbs.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
    _take_config(group)
    return group.add_subparsers(title="commands", metavar="COMMAND", required=True)


def _take_config(verb: Parser) -> None:
    # Suppressed, so that a verb without --config does not hide the one in front of it.
    verb.add_argument("--config", metavar="FILE", default=argparse.SUPPRESS, help=_CONFIG_HELP)


def _setup_verbs(verbs: _Verbs) -> None:
    init = _verb(
        verbs,
        "init",
        "setup",
        "make a working set-up in a directory",
        details="Make gatepost.toml, a master key, a database and a self-signed certificate. Never overwrites.",
    )
    init.add_argument(
        "directory", nargs="?", metavar="DIRECTORY", help="default: where the configuration is expected, /etc/gatepost"
    )
    serve = _verb(verbs, "serve", "setup", "run the listeners in the foreground", has_json=False)
    page = serve.add_mutually_exclusive_group()
    page.add_argument("--web-only", action="store_true", help="run the web page alone, which needs no master key")
    page.add_argument("--no-web", action="store_true", help="leave the web page to a unit of its own")
    _verb(
        verbs,
        "reload",
        "setup",
        "have the service read its configuration again",
        details="Asks the systemd service on this machine, and says whether the new configuration took effect.",
    )
    check = _verb(verbs, "check", "setup", "look at the configuration, the certificate, the store and every upstream")
    check.add_argument("--login", metavar="EMAIL", help="also log in to this mailbox upstream, end to end")
    check.add_argument("--dns", action="store_true", help="also print the SRV records that let mail programs find it")
    _verb(
        _group(verbs, "db", "look after the database"),
        "upgrade",
        "setup",
        "bring the database to this version's schema",
    )


def _account_verbs(verbs: _Verbs) -> None:
    below = _group(verbs, "account", "manage mailboxes")
    add = _verb(below, "add", "account", "add a mailbox, with what Gatepost logs in to it by")
    add.add_argument("email", metavar="EMAIL", help="its address, which clients log in with")
    add.add_argument("--upstream", metavar="NAME", required=True, help="the [upstream.NAME] that has the mailbox")
    add.add_argument("--upstream-user", metavar="U", help="what the upstream calls the mailbox; default: EMAIL")
    add.add_argument(
        "--alias", metavar="NAME", action="append", default=[], help="a further login name; may be repeated"
    )
    add.add_argument(
        "--sealed", action="store_true", help="let nobody open what is stored without one of its app passwords"
    )
    secret = add.add_mutually_exclusive_group()
    secret.add_argument("--password-stdin", action="store_true", help="read the mailbox's password from stdin")
    secret.add_argument("--refresh-token-stdin", action="store_true", help="read an OAuth2 refresh token from stdin")
    connect = _verb(
        below,
        "connect",
        "connect",
        "sign in for a mailbox, which gives Gatepost its token",
        details=(
            "Sign in at the mailbox's provider with everything it asks for, MFA too; Gatepost keeps the token that it "
            "gives. Without an option: in a browser on this machine. Nothing is stored unless the token opens the "
            "mailbox."
        ),
    )
    connect.add_argument("email", metavar="EMAIL", help=_ACCOUNT_HELP)
    way = connect.add_mutually_exclusive_group()
    way.add_argument("--device", action="store_true", help="with a code that is typed on any other device")
    way.add_argument("--paste", action="store_true", help="in a browser elsewhere, whose last address is pasted here")
    way.add_argument("--refresh-token-stdin", action="store_true", help="read an OAuth2 refresh token from stdin")
    _verb(below, "list", "account", "list the mailboxes")
    _grant_verbs(below)
    for name, summary in (
        ("show", "show a mailbox and the state of its token"),
        ("remove", "remove a mailbox, its app passwords and its token"),
    ):
        verb = _verb(below, name, "account", summary)
        verb.add_argument("email", metavar="EMAIL", help=_ACCOUNT_HELP)
    disable = _verb(
        below,
        "disable",
        "account",
        "let nobody log in to a mailbox; live sessions end",
        details="Let nobody log in to a mailbox until it is enabled again. Live sessions end within a second.",
    )
    enable = _verb(below, "enable", "account", "let clients log in to a disabled mailbox again")
    alias = _verb(below, "alias", "account", "add or remove a further login name of a mailbox")
    for verb in (disable, enable, alias):
        verb.add_argument("email", metavar="EMAIL", help=_ACCOUNT_HELP)
    alias.add_argument("change", metavar="add|remove", choices=("add", "remove"), help="what to do")
    alias.add_argument("name", metavar="NAME", help="the login name: an address, or a word like scanner2")


def _grant_verbs(below: _Verbs) -> None:
    for name, option, summary, whom in (
        ("grant", "--to", "let somebody else look after a mailbox at the web page", "who may"),
        ("revoke-grant", "--from", "take that away again, or a mailbox from its owner", "who may no longer"),
    ):
        verb = _verb(below, name, "grant", summary)
        verb.add_argument("email", metavar="EMAIL", help="its e-mail or an alias")
        verb.add_argument(
            option, metavar="PERSON", required=True, dest="person", help=f"{whom}: an e-mail, or ISSUER#SUBJECT"
        )


def _password_verbs(verbs: _Verbs) -> None:
    create = _verb(verbs, "create", "create", "make an app password and print it once")
    create.add_argument("account", metavar="EMAIL", help="the mailbox it is for")
    create.add_argument("--name", metavar="NAME", required=True, help="what it is for, like Scanner")
    create.add_argument(
        "--protocol",
        metavar="P",
        action="append",
        default=[],
        dest="protocols",
        help="imap or smtp; may be repeated; default: all that the upstream has",
    )
    create.add_argument(
        "--expires", metavar="90d|DATE", help="a time from now (12h, 90d, 8w) or a date in UTC; default: never"
    )
    create.add_argument(
        "--from",
        metavar="CIDR",
        action="append",
        default=[],
        dest="networks",
        help="a network that it works from; may be repeated; default: anywhere",
    )
    _take_opening(create)
    listing = _verb(verbs, "list", "password", "list app passwords with their state and last use")
    listing.add_argument("account", nargs="?", metavar="EMAIL", help="of this mailbox only")
    show = _verb(verbs, "show", "password", "show an app password; never its text")
    show.add_argument("id", metavar="ID", help=_ID_HELP)
    revoke = _verb(
        verbs,
        "revoke",
        "password",
        "revoke app passwords; live sessions end",
        details="Revoke app passwords, by ID or by --account with --name or --all. Live sessions end within a second.",
    )
    revoke.add_argument("ids", nargs="*", metavar="ID", help=_ID_HELP)
    revoke.add_argument("--account", metavar="EMAIL", help="the mailbox, in place of IDs")
    which = revoke.add_mutually_exclusive_group()
    which.add_argument("--name", metavar="NAME", help="the app password of this name")
    which.add_argument("--all", action="store_true", help="all app passwords of the mailbox")


def _take_opening(verb: Parser) -> None:
    opening = verb.add_mutually_exclusive_group()
    opening.add_argument("--sign-in", action="store_true", help="of a sealed mailbox: sign in for it again")
    opening.add_argument(
        "--unlock-stdin", action="store_true", help="of a sealed mailbox: read one of its app passwords from stdin"
    )
    way = verb.add_mutually_exclusive_group()
    way.add_argument("--device", action="store_true", help="with --sign-in: by a code, as account connect does")
    way.add_argument("--paste", action="store_true", help="with --sign-in: in a browser elsewhere")


def _life_verbs(verbs: _Verbs) -> None:
    rotate = _verb(
        verbs,
        "rotate",
        "life",
        "give an app password a new text and print it once",
        details=(
            "Give an app password a new text and print it once; its id, name, scope and expiry stay. The former text "
            "works for the overlap, and so do its live sessions."
        ),
    )
    rotate.add_argument("id", metavar="ID", help=_ID_HELP)
    rotate.add_argument(
        "--overlap",
        metavar="24h",
        default="24h",
        help="for how long the former one works (12h, 7d, 2w; at most 90d); 0h ends it at once; default: 24h",
    )
    _take_opening(rotate)
    suspend = _verb(
        verbs,
        "suspend",
        "life",
        "suspend app passwords until they are resumed; live sessions end",
        details="Let nobody log in by app passwords until they are resumed. Live sessions end within a second.",
    )
    resume = _verb(verbs, "resume", "life", "let suspended app passwords work again")
    suspend.add_argument("ids", nargs="+", metavar="ID", help=_ID_HELP)
    resume.add_argument("ids", nargs="*", metavar="ID", help=_ID_HELP)
    resume.add_argument(
        "--all", action="store_true", help="in place of IDs: all that gatepost restore suspended, and no others"
    )


def _watching_verbs(verbs: _Verbs) -> None:
    sessions = _verb(verbs, "sessions", "sessions", "list live sessions of every worker and node, or end one")
    sessions.add_argument("--account", metavar="EMAIL", help="of this mailbox only")
    below = sessions.add_subparsers(title="commands", metavar="kick ID")
    kick = below.add_parser(
        "kick",
        help="end a live session",
        description="End a live session within a second. Its client may log in again: suspend or revoke keeps it out.",
    )
    _take_config(kick)
    # Suppressed, as in _take_config: `sessions --json kick ID` is meant, too.
    kick.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print one JSON document")
    kick.set_defaults(verb="kick")
    kick.add_argument("id", metavar="ID", help="as gatepost sessions shows it")
    audit = _verb(
        verbs,
        "audit",
        "audit",
        "show who did what, which app passwords were used, and who was refused why",
        has_json=False,
    )
    audit.add_argument(
        "--account", metavar="EMAIL", help="of this mailbox only; also one that is gone, or any address that was tried"
    )
    audit.add_argument(
        "--since", metavar="7d", help="a time ago (12h, 7d, 8w), or a date in UTC; default: all there is"
    )
    audit.add_argument(
        "--event",
        metavar="NAME",
        action="append",
        default=[],
        dest="events",
        help="of this kind only, like created, revoked, used or refused; may be repeated",
    )
    form = audit.add_mutually_exclusive_group()
    form.add_argument("--jsonl", action="store_true", help="print one JSON object a line")
    form.add_argument("--json", action="store_true", help="print one JSON document")


def _key_verbs(verbs: _Verbs) -> None:
    below = _group(verbs, "key", "look after the master key")
    _verb(
        below,
        "rotate",
        "key",
        "make a new master key and re-wrap every sealed secret under it",
        details=(
            "Make a new master key, re-wrap every sealed secret under it, and drop the old one from the file and the "
            "database. Servers keep running. If it was interrupted, run it again: it goes on where it was. A key that "
            "is a systemd credential gets its new one by key new first; then the running service is asked to do this."
        ),
    )
    _verb(
        below,
        "new",
        "key",
        "write a new master key to a pipe, for a systemd credential",
        details="Write a new master key to standard output, which must not be a terminal. Changes nothing else.",
        has_json=False,
    )


def _backup_verbs(verbs: _Verbs) -> None:
    backup = _verb(
        verbs,
        "backup",
        "backup",
        "write the whole database into a file, while servers go on",
        details=(
            "Write the whole database into a new file, while servers go on. What is sealed stays sealed; the master "
            "key is not in it: keep a copy of that in another place. SQLite and PostgreSQL give the same kind of file."
        ),
    )
    restore = _verb(
        verbs,
        "restore",
        "backup",
        "put a backup into a new database",
        details=(
            "Put a backup into a database that is as gatepost init or gatepost db upgrade made it, all or nothing. "
            "Afterwards every app password is suspended until gatepost resume --all."
        ),
    )
    for verb in (backup, restore):
        verb.add_argument("file", metavar="FILE", help="the backup")


def _shell_verbs(verbs: _Verbs) -> None:
    completion = _verb(
        verbs,
        "completion",
        "completion",
        "print what makes a shell complete gatepost's words",
        details=(
            "Print a script that makes a shell complete gatepost's commands and options: for bash "
            '"source <(gatepost completion bash)" in ~/.bashrc, for the others a file in their own folder.'
        ),
        has_json=False,
    )
    completion.add_argument("shell", metavar="SHELL", choices=SHELLS, help="bash, zsh or fish")


# What adds which commands, in the order of --help.
_VERBS: dict[Callable[[_Verbs], None], tuple[str, ...]] = {
    _setup_verbs: ("init", "serve", "reload", "check", "db"),
    _account_verbs: ("account",),
    _password_verbs: ("create", "list", "show", "revoke"),
    _life_verbs: ("rotate", "suspend", "resume"),
    _watching_verbs: ("sessions", "audit"),
    _key_verbs: ("key",),
    _backup_verbs: ("backup", "restore"),
    _shell_verbs: ("completion",),
}
COMMANDS = tuple(name for names in _VERBS.values() for name in names)
