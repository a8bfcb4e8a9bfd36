"""`gatepost backup` and `restore` in words and JSON."""

from __future__ import annotations

import argparse
from pathlib import Path

from proxy.admin import backup
from proxy.admin.backup import Kept
from proxy.admin.desk import opened
from proxy.cli.output import Json, document, plain, say
from proxy.cli.person import who
from proxy.config import Config
from proxy.config.reader import load


def run(arguments: argparse.Namespace, config: Path) -> int:
    loaded = load(config)
    file = Path(arguments.file)
    with opened(loaded, who()) as desk:
        kept = backup.backup(desk, file) if arguments.verb == "backup" else backup.restore(desk, file)
    if arguments.json:
        say(document(_record(kept)))
        return 0
    words = _after_backup if arguments.verb == "backup" else _after_restore
    say(words(kept, loaded))
    return 0


def _after_backup(kept: Kept, config: Config) -> str:
    where = plain(str(config.keys.master))
    return (
        f"Wrote {plain(str(kept.file))}: {_counts(kept)}.\n"
        f"The master key is not in it. Keep a copy of {where} (id {_master(kept)}) in another place:\n"
        "without it nobody can open the tokens in this file, and with both anybody can."
    )


def _after_restore(kept: Kept, config: Config) -> str:
    where = plain(str(config.keys.master))
    if kept.has_master:
        key = f"Its master key (id {_master(kept)}) is the one in {where}."
    elif kept.has_master is None:
        key = f"Its master key has the id {_master(kept)}; {where} could not be looked at."
    else:
        key = (
            f"Its master key has the id {_master(kept)}, and {where} holds another one: put the copy that belongs to\n"
            "this backup there before gatepost serve."
        )
    return (
        f"Restored {plain(str(kept.file))}, made {kept.made_at} by {plain(kept.made_by)}: {_counts(kept)}.\n"
        f"{key}\n"
        "Every app password is suspended, since one that was revoked after the backup must not work again. Look\n"
        "through gatepost list, revoke what has to go, then: gatepost resume --all\n"
        "Tokens are as they were. One that was renewed since will be refused once, and its mailbox needs a sign-in:\n"
        "see gatepost account list."
    )


def _counts(kept: Kept) -> str:
    rows = kept.rows
    return f"{rows['account']} mailboxes, {rows['credential']} app passwords, {rows['audit']} entries of the audit"


def _master(kept: Kept) -> str:
    return kept.masters[0] if kept.masters else "unknown"


def _record(kept: Kept) -> Json:
    return {
        "file": str(kept.file),
        "schema": kept.schema,
        "made_at": kept.made_at,
        "made_by": kept.made_by,
        "rows": kept.rows,
        "sha256": kept.sha256,
        "master_keys": list(kept.masters),
        "has_master_key": kept.has_master,
    }
