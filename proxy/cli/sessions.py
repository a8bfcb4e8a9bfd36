"""`gatepost sessions` and `sessions kick`: who is logged in, on every worker and node, in a table and JSON."""

from __future__ import annotations

import argparse
from pathlib import Path

from proxy.admin import sessions
from proxy.admin.desk import Desk, opened
from proxy.cli.arguments import UsageError
from proxy.cli.output import Json, day_and_time, document, moment, plain, say, table
from proxy.cli.person import who
from proxy.config.reader import load
from proxy.store.rows import SeatedSession


def run(arguments: argparse.Namespace, config: Path) -> int:
    if arguments.verb == "kick" and arguments.account is not None:
        raise UsageError("sessions kick takes an ID and no --account; see gatepost sessions kick --help")
    with opened(load(config), who()) as desk:
        if arguments.verb == "kick":
            _kick(desk, arguments)
        else:
            _list(desk, arguments)
    return 0


def _list(desk: Desk, arguments: argparse.Namespace) -> None:
    found = sessions.listing(desk, arguments.account)
    if arguments.json:
        say(document([_record(one) for one in found]))
    elif not found:
        say("No live sessions.")
    else:
        headings = ("ID", "ACCOUNT", "APP PASSWORD", "PROTOCOL", "FROM", "SINCE", "NODE", "WORKER")
        say(table(headings, [_row(one) for one in found]))


def _row(one: SeatedSession) -> tuple[str, ...]:
    session = one.session
    return (
        session.id,
        session.email,
        session.name,
        session.protocol,
        session.address,
        day_and_time(session.since, ""),
        one.node,
        str(one.worker),
    )


def _kick(desk: Desk, arguments: argparse.Namespace) -> None:
    found = sessions.kick(desk, arguments.id)
    if arguments.json:
        say(document(_record(found)))
        return
    session = found.session
    say(
        plain(
            f'Kicked {session.id}: {session.protocol} from {session.address} by "{session.name}" of {session.email}, '
            f"on {found.node}."
        )
    )
    say(f"It ends within a second. To keep its client from coming back: gatepost suspend {session.public_id}")


def _record(one: SeatedSession) -> Json:
    session = one.session
    return {
        "id": session.id,
        "account": session.email,
        "app_password": session.public_id,
        "name": session.name,
        "protocol": session.protocol,
        "address": session.address,
        "since": moment(session.since),
        "node": one.node,
        "worker": one.worker,
    }
