"""`gatepost key rotate`: what was done to the master key, in words and JSON."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from proxy.admin import keys, service
from proxy.admin.desk import opened
from proxy.admin.keys import Rotated
from proxy.cli.output import Json, document, plain, say
from proxy.cli.person import who
from proxy.config.reader import load


def run(arguments: argparse.Namespace, config: Path) -> int:
    if arguments.verb == "new":
        keys.hand_over_new(sys.stdout)
        return 0
    loaded = load(config)
    if service.must_ask(loaded):
        rotated = service.rotate(loaded, who())
    else:
        with opened(loaded, who()) as desk:
            rotated = keys.rotate(desk)
    say(document(_record(rotated)) if arguments.json else plain_report(rotated))
    return 0


def plain_report(rotated: Rotated) -> str:
    wrapped = f"Re-wrapped: {rotated.secrets} stored secrets, {rotated.app_keys} app passwords of sealed accounts.\n"
    if rotated.path is None:
        return (
            f"The store is sealed to the new master key alone. Its id: {rotated.master}\n{wrapped}"
            "Now take the former key out of the credential, and keep a copy of the new one: docs/operations.md"
        )
    begun = "An interrupted rotation is finished." if rotated.has_resumed else "The master key is a new one."
    return (
        f"{begun} Its id: {rotated.master}\n{wrapped}"
        "Running servers on this host need no restart.\n"
        f"Now keep a copy of {plain(str(rotated.path))}, apart from the database. The copy of the former key belongs\n"
        "to the backups that were made before: keep it for as long as them, or destroy both."
    )


def _record(rotated: Rotated) -> Json:
    return {
        "master_key": rotated.master,
        "file": None if rotated.path is None else str(rotated.path),
        "resumed": rotated.has_resumed,
        "secrets": rotated.secrets,
        "app_keys": rotated.app_keys,
        "dropped": list(rotated.dropped),
    }
