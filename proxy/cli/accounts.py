"""`gatepost account ...`: mailboxes in words, tables and JSON."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from proxy.admin import accounts
from proxy.admin.accounts import AccountRequest, AccountView
from proxy.admin.desk import Desk, opened
from proxy.cli.asking import read_secret
from proxy.cli.output import Json, day_and_time, document, moment, pairs, plain, say, table
from proxy.cli.person import who
from proxy.config.reader import load
from proxy.store.rows import LAST_REVOKED, Account, AccountState, Purpose, TokenState

# What a token state means to whoever has to act on it.
_TOKEN_WORDS = {
    TokenState.NONE: "nothing stored",
    TokenState.FRESH: "ok",
    TokenState.FAILING: "failing, being retried",
    TokenState.NEEDS_CONSENT: "needs consent",
    TokenState.UPSTREAM_REFUSES: "refused upstream",
}


def run(arguments: argparse.Namespace, config: Path) -> int:
    verbs: dict[str, Callable[[Desk, argparse.Namespace], None]] = {
        "add": _add,
        "list": _list,
        "show": _show,
        "remove": _remove,
        "disable": _disable,
        "enable": _enable,
        "alias": _alias,
    }
    with opened(load(config), who()) as desk:
        verbs[arguments.verb](desk, arguments)
    return 0


def _add(desk: Desk, arguments: argparse.Namespace) -> None:
    purpose = None
    if arguments.password_stdin:
        purpose = Purpose.PASSWORD
    elif arguments.refresh_token_stdin:
        purpose = Purpose.REFRESH_TOKEN
    request = AccountRequest(
        arguments.email, arguments.upstream, arguments.upstream_user, tuple(arguments.alias), purpose, arguments.sealed
    )
    new = accounts.prepare(desk, request)
    secret = None if purpose is None else read_secret(purpose.value.replace("_", " "))
    view = accounts.add(desk, new, purpose, secret)
    if arguments.json:
        say(document(_record(view)))
        return
    email = view.account.email
    say(f"Added {email}; it logs in to {view.account.upstream} as {view.account.upstream_user}.")
    upstream = desk.config.upstreams[new.upstream]
    if new.sealed:
        say(
            "It is sealed: only its app passwords open what will be stored for it, so nothing is refreshed while no\n"
            "client logs in, a further app password needs --sign-in or an existing one (--unlock-stdin), and without\n"
            "the last one somebody must sign in again."
        )
        say(f'Nothing can log in yet. Next: gatepost create {email} --name "..." --sign-in')
    elif secret is not None or upstream.is_app_only:
        say(f'Next: gatepost create {email} --name "..."')
    elif upstream.auth == "password":
        say("Nothing can log in yet: remove it, and add it again with --password-stdin.")
    else:
        say(f"Nothing can log in yet. Next: gatepost account connect {email}")


def _list(desk: Desk, arguments: argparse.Namespace) -> None:
    views = accounts.listing(desk)
    if arguments.json:
        say(document([_record(view) for view in views]))
    elif not views:
        say("No accounts. Add one: gatepost account add EMAIL --upstream NAME")
    else:
        headings = ("ACCOUNT", "UPSTREAM", "STATE", "TOKEN", "SINCE", "APP PASSWORDS", "ALIASES")
        say(table(headings, [_row(view) for view in views]))


def _row(view: AccountView) -> tuple[str, ...]:
    account = view.account
    return (
        account.email,
        account.upstream,
        account.state.value + (", sealed" if account.sealed else ""),
        _token_words(account),
        day_and_time(account.token_since, ""),
        str(view.app_passwords),
        ", ".join(account.aliases),
    )


def _token_words(account: Account) -> str:
    if account.sealed and account.token_detail == LAST_REVOKED:
        return "needs sign-in: no app password is left"
    return _TOKEN_WORDS[account.token_state]


def _show(desk: Desk, arguments: argparse.Namespace) -> None:
    view = accounts.show(desk, arguments.email)
    account = view.account
    if arguments.json:
        say(document(_record(view)))
        return
    token = _token_words(account) + (f" ({account.token_detail})" if account.token_detail else "")
    say(
        pairs(
            [
                ("account", account.email),
                ("aliases", ", ".join(account.aliases) or "none"),
                ("upstream", f"{account.upstream}, as {account.upstream_user}"),
                ("state", account.state.value),
                ("sealed", "yes: only its app passwords open what is stored" if account.sealed else "no"),
                ("token", f"{token}, since {day_and_time(account.token_since, '')}"),
                ("app passwords", str(view.app_passwords)),
                ("created", f"{day_and_time(account.created, '')} by {account.created_by}"),
            ]
        )
    )


def _remove(desk: Desk, arguments: argparse.Namespace) -> None:
    view = accounts.remove(desk, arguments.email)
    if arguments.json:
        say(document(_record(view)))
    else:
        say(f"Removed {view.account.email}, its app passwords and its token.")


def _disable(desk: Desk, arguments: argparse.Namespace) -> None:
    view, has_changed = accounts.set_state(desk, arguments.email, AccountState.DISABLED)
    email = view.account.email
    done = f"Disabled {email}." if has_changed else f"Was disabled before: {email}."
    then = f"Nobody logs in to it, and its live sessions end within a second. To undo: gatepost account enable {email}"
    say(document(_record(view)) if arguments.json else f"{done} {then}")


def _enable(desk: Desk, arguments: argparse.Namespace) -> None:
    view, has_changed = accounts.set_state(desk, arguments.email, AccountState.ACTIVE)
    email = view.account.email
    done = f"Enabled {email}: its app passwords work again." if has_changed else f"Was enabled before: {email}."
    say(document(_record(view)) if arguments.json else done)


def _alias(desk: Desk, arguments: argparse.Namespace) -> None:
    if arguments.change == "add":
        view, has_changed = accounts.add_alias(desk, arguments.email, arguments.name)
        done = "Added." if has_changed else "It was one before."
    else:
        view = accounts.remove_alias(desk, arguments.email, arguments.name)
        done = "Removed. Nobody logs in by it any more; live sessions go on."
    if arguments.json:
        say(document(_record(view)))
        return
    names = plain(" or ".join((view.account.email, *view.account.aliases)))
    say(f"{done} Clients log in to {view.account.email} as {names}.")


def _record(view: AccountView) -> Json:
    account = view.account
    return {
        "account": account.email,
        "aliases": list(account.aliases),
        "upstream": account.upstream,
        "upstream_user": account.upstream_user,
        "state": account.state.value,
        "sealed": account.sealed,
        "token": {
            "state": account.token_state.value,
            "since": moment(account.token_since),
            "detail": account.token_detail,
        },
        "app_passwords": view.app_passwords,
        "created": moment(account.created),
    }
