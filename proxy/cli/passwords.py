"""`gatepost list`, `show`, `revoke`: app passwords in words, tables and JSON."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from proxy.admin import passwords
from proxy.admin.desk import Desk, opened
from proxy.cli.arguments import UsageError
from proxy.cli.output import Json, day_and_time, document, moment, pairs, say, table
from proxy.cli.person import who
from proxy.config import PROTOCOLS
from proxy.config.reader import load
from proxy.store.rows import Credential, CredentialState


def run(arguments: argparse.Namespace, config: Path) -> int:
    verbs: dict[str, Callable[[Desk, argparse.Namespace], None]] = {
        "list": _list,
        "show": _show,
        "revoke": _revoke,
    }
    if arguments.verb == "revoke":
        _require_one_way(arguments)
    with opened(load(config), who()) as desk:
        verbs[arguments.verb](desk, arguments)
    return 0


def _list(desk: Desk, arguments: argparse.Namespace) -> None:
    rows = passwords.listing(desk, arguments.account)
    if arguments.json:
        say(document([record(row, desk.now) for row in rows]))
    elif not rows:
        say(f"No app passwords. Make one: gatepost create {arguments.account or 'EMAIL'} --name NAME")
    else:
        headings = ("ID", "ACCOUNT", "NAME", "PROTOCOLS", "STATE", "EXPIRES", "LAST USED", "FROM", "CLIENT")
        say(table(headings, [_row(row, desk.now) for row in rows]))


def _row(row: Credential, now: datetime) -> tuple[str, ...]:
    use = row.last_use
    return (
        row.public_id,
        row.email,
        row.name,
        protocols(row),
        row.state_at(now),
        day_and_time(row.expires, "never"),
        "never" if use is None else f"{day_and_time(use.at, '')} {use.protocol}",
        "" if use is None else use.address,
        "" if use is None else use.client,
    )


def _show(desk: Desk, arguments: argparse.Namespace) -> None:
    row = passwords.show(desk, arguments.id)
    if arguments.json:
        say(document(record(row, desk.now)))
        return
    use = row.last_use
    used = "never"
    if use is not None:
        used = (
            f"{day_and_time(use.at, '')} from {use.address} by {use.protocol}{f', {use.client}' if use.client else ''}"
        )
    say(
        pairs(
            [
                ("id", row.public_id),
                ("account", row.email),
                ("name", row.name),
                ("state", row.state_at(desk.now)),
                ("works for", protocols(row)),
                ("works from", ", ".join(row.networks) or "anywhere"),
                ("expires", day_and_time(row.expires, "never")),
                *_former(desk, row),
                ("last used", used),
                ("created", f"{day_and_time(row.created, '')} by {row.created_by}"),
            ]
        )
    )


def _former(desk: Desk, row: Credential) -> list[tuple[str, str]]:
    """What a rotation has left, for `show`."""
    from proxy.admin import life  # noqa: PLC0415 - `list` does without

    texts = life.texts(desk, row)
    former = (
        [] if texts.former_until is None else [("former one", f"works until {day_and_time(texts.former_until, '')}")]
    )
    if texts.has_lasting or row.state is CredentialState.REVOKED:
        return former
    return [*former, ("attention", f"its new password was never shown: gatepost rotate {row.public_id}")]


def _require_one_way(arguments: argparse.Namespace) -> None:
    has_which = arguments.name is not None or arguments.all
    if bool(arguments.ids) == (arguments.account is not None) or has_which != (arguments.account is not None):
        raise UsageError("revoke needs IDs, or --account with --name or --all; see gatepost revoke --help")


def _revoke(desk: Desk, arguments: argparse.Namespace) -> None:
    if arguments.ids:
        before = [passwords.show(desk, public_id) for public_id in arguments.ids]
        live = {row.public_id for row in before if row.state is not CredentialState.REVOKED}
        rows = passwords.revoke(desk, arguments.ids)
    else:
        rows = passwords.revoke_of(desk, arguments.account, arguments.name)
        live = {row.public_id for row in rows}
    if arguments.json:
        say(document([record(row, desk.now) for row in rows]))
        return
    for row in rows:
        done = "Revoked" if row.public_id in live else "Was revoked before:"
        say(f'{done} {row.public_id} "{row.name}" of {row.email}.')
    for email in passwords.locked_out(desk, rows):
        say(
            f"{email} is sealed and has no app password left, so what was stored for it is gone: somebody must\n"
            f'sign in again. Next: gatepost create {email} --name "..." --sign-in'
        )
    if not rows:
        say("Nothing to revoke: no app password is live.")


def protocols(row: Credential) -> str:
    return ", ".join(protocol for protocol in PROTOCOLS if protocol in row.protocols)


def record(row: Credential, now: datetime) -> Json:
    """What `list`, `show` and every verb that changes one say of an app password."""
    use = row.last_use
    return {
        "id": row.public_id,
        "account": row.email,
        "name": row.name,
        "protocols": [protocol for protocol in PROTOCOLS if protocol in row.protocols],
        "networks": list(row.networks),
        "created": moment(row.created),
        "created_by": row.created_by,
        "expires": moment(row.expires),
        "state": row.state_at(now),
        "last_used": None
        if use is None
        else {"at": moment(use.at), "address": use.address, "protocol": use.protocol, "client": use.client},
    }
