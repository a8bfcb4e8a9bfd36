"""`gatepost account grant`, `revoke-grant`: who may look after a mailbox at the web page."""

from __future__ import annotations

import argparse
from pathlib import Path

from proxy.admin import people
from proxy.admin.desk import opened
from proxy.admin.people import Granted
from proxy.cli.output import Json, document, moment, plain, say
from proxy.cli.person import who
from proxy.config.reader import load
from proxy.store.people_rows import Access


def run(arguments: argparse.Namespace, config: Path) -> int:
    is_grant = arguments.verb == "grant"
    with opened(load(config), who()) as desk:
        done = (people.grant if is_grant else people.revoke_grant)(desk, arguments.email, arguments.person)
    if arguments.json:
        say(document({"account": done.account.email, "access": [_record(one) for one in done.access]}))
        return 0
    say(plain(_grant_words(done, arguments.person) if is_grant else _revoke_words(done, arguments.person)))
    for one in done.access:
        say(plain(f"  {_access_words(one)}"))
    return 0


def _grant_words(done: Granted, person: str) -> str:
    what = "may look after" if done.changed else "could look after it before:"
    return f"{person} {what} {done.account.email} at the web page. Who may:"


def _revoke_words(done: Granted, person: str) -> str:
    left = "Who may still:" if done.access else "Nobody may now."
    return (
        f"{person} may no longer look after {done.account.email}, and is signed out. App passwords that were made stay "
        f"until they are revoked: gatepost list {done.account.email}. {left}"
    )


def _access_words(one: Access) -> str:
    role = "owner" if one.is_owner else "granted"
    return f"{one.grantee} ({role if one.person else f'{role}, not signed in yet'})"


def _record(one: Access) -> Json:
    person = one.person
    return {
        "person": one.grantee,
        "owner": one.is_owner,
        "identity": None
        if person is None
        else {
            "issuer": person.identity.issuer,
            "tenant": person.identity.tenant or None,
            "subject": person.identity.subject,
        },
        "since": moment(one.created),
    }
