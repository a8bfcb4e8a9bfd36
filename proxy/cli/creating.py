"""`gatepost create`: an app password is made, and its text shown once."""

from __future__ import annotations

import argparse
from pathlib import Path

from proxy.admin import passwords
from proxy.admin.desk import Desk, opened
from proxy.admin.passwords import Created, Draft, PasswordRequest, Prepared
from proxy.admin.sealed import Opening, Way
from proxy.cli import once
from proxy.cli.output import document, say
from proxy.cli.person import who
from proxy.config.reader import load
from proxy.errors import OperatorError


def run(arguments: argparse.Namespace, config: Path) -> int:
    way = once.way_of(arguments)
    loaded = load(config)
    request = PasswordRequest(
        arguments.account,
        arguments.name,
        tuple(arguments.protocols),
        arguments.expires,
        tuple(arguments.networks),
    )
    draft = passwords.drafted(loaded)  # before the store is opened, which imports the most of a command
    with opened(loaded, who()) as desk:
        prepared = passwords.prepare(desk, request, way)
        if way is Way.PLAIN:  # nobody is asked for anything, so the store is opened once
            _make(desk, prepared, Opening(), draft, as_json=arguments.json)
            return 0
    # The store is not held over a sign-in, which takes a person's time.
    opening = once.opening_of(loaded, prepared.account, way, arguments)
    with opened(loaded, who()) as desk:
        _make(desk, prepared, opening, draft, as_json=arguments.json)
    return 0


def _make(desk: Desk, prepared: Prepared, opening: Opening, draft: Draft, *, as_json: bool) -> None:
    created = passwords.create(desk, prepared, opening, draft=draft)
    answer = document(once.record(created)) if as_json else _text(desk, created)
    try:
        say(answer)
    except (OSError, OperatorError):
        # Nobody has seen it and nobody ever can: an entry that looks usable must not stay.
        passwords.revoke(desk, [created.credential.public_id])
        raise OperatorError(
            "the app password could not be shown, so it was revoked", "look at where stdout goes, and create another"
        ) from None


def _text(desk: Desk, created: Created) -> str:
    credential, account = created.credential, created.account
    heading = f'App password "{credential.name}" for {account.email}:'
    return once.text(desk, heading, created)
