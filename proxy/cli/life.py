"""`gatepost rotate`, `suspend`, `resume` in words and JSON."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from proxy.admin import backup, life, passwords
from proxy.admin.desk import Desk, opened
from proxy.admin.life import Rotated
from proxy.cli import once
from proxy.cli.arguments import UsageError
from proxy.cli.output import day_and_time, document, say
from proxy.cli.passwords import record
from proxy.cli.person import who
from proxy.config.reader import load
from proxy.errors import OperatorError
from proxy.store.rows import Credential, CredentialState


def run(arguments: argparse.Namespace, config: Path) -> int:
    verbs: dict[str, Callable[[Desk, argparse.Namespace], None]] = {"suspend": _suspend, "resume": _resume}
    if arguments.verb == "rotate":
        return _rotate(arguments, config)
    if arguments.verb == "resume" and bool(arguments.ids) == arguments.all:
        raise UsageError("resume needs IDs, or --all; see gatepost resume --help")
    with opened(load(config), who()) as desk:
        verbs[arguments.verb](desk, arguments)
    return 0


def _rotate(arguments: argparse.Namespace, config: Path) -> int:
    way = once.way_of(arguments)
    loaded = load(config)
    with opened(loaded, who()) as desk:
        prepared = life.prepare_rotation(desk, arguments.id, arguments.overlap, way)
    # The store is not held over a sign-in, which takes a person's time.
    opening = once.opening_of(loaded, prepared.account, way, arguments)
    with opened(loaded, who()) as desk:
        _show_once(desk, life.rotate(desk, prepared, opening), as_json=arguments.json)
    return 0


def _show_once(desk: Desk, rotated: Rotated, *, as_json: bool) -> None:
    answer = document(once.record(rotated)) if as_json else _text(desk, rotated)
    try:
        say(answer)
    except (OSError, OperatorError):
        life.not_shown(desk, rotated)
        is_over = rotated.former_until <= desk.now
        former = "has ended, too" if is_over else f"works until {day_and_time(rotated.former_until, '')}"
        raise OperatorError(
            f"the new app password could not be shown, so it was ended; the former one {former}",
            f"look at where stdout goes, and run gatepost rotate {rotated.credential.public_id} again"
            + ("" if is_over else " before then"),
        ) from None
    life.shown(desk, rotated)


def _text(desk: Desk, rotated: Rotated) -> str:
    credential = rotated.credential
    is_over = rotated.former_until <= desk.now
    former = "has ended" if is_over else f"works until {day_and_time(rotated.former_until, '')}"
    heading = f'New app password "{credential.name}" for {credential.email}:'
    text = once.text(desk, heading, rotated, [("former one", former)])
    if credential.is_suspended:
        text += f"\nIt is suspended, and neither works before: gatepost resume {credential.public_id}"
    return text


def _suspend(desk: Desk, arguments: argparse.Namespace) -> None:
    before = _states(desk, arguments)
    rows = life.suspend(desk, arguments.ids)
    if arguments.json:
        say(document([record(row, desk.now) for row in rows]))
        return
    for row in rows:
        done = "Was suspended before:" if before[row.public_id] is CredentialState.SUSPENDED else "Suspended"
        expired = ", which has expired" if row.is_expired(desk.now) else ""
        say(f"{done} {_named(row)}{expired}.")
    ids = " ".join(row.public_id for row in rows)
    say(f"Nobody logs in by it any more, and its live sessions end within a second. To undo: gatepost resume {ids}")


def _resume(desk: Desk, arguments: argparse.Namespace) -> None:
    if arguments.all:
        _resume_restored(desk, as_json=arguments.json)
        return
    before = _states(desk, arguments)
    rows = life.resume(desk, arguments.ids)
    if arguments.json:
        say(document([record(row, desk.now) for row in rows]))
        return
    for row in rows:
        done = "Was active before:" if before[row.public_id] is CredentialState.ACTIVE else "Resumed"
        say(f"{done} {_named(row)}.")


def _resume_restored(desk: Desk, *, as_json: bool) -> None:
    count = backup.resume_restored(desk)
    if as_json:
        say(document({"resumed": count}))
    else:
        say(f"Resumed {count} app passwords that a restore had suspended." if count else "No restore suspended any.")


def _states(desk: Desk, arguments: argparse.Namespace) -> dict[str, CredentialState]:
    found = [passwords.show(desk, public_id) for public_id in arguments.ids]
    return {row.public_id: row.state for row in found}


def _named(row: Credential) -> str:
    return f'{row.public_id} "{row.name}" of {row.email}'
