"""`gatepost create`, `list`, `show`, `revoke`: app passwords in words, tables and JSON."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from proxy.admin import accounts, passwords
from proxy.admin.accounts import AccountView
from proxy.admin.consents import Mailbox
from proxy.admin.desk import Desk, opened
from proxy.admin.passwords import Created, PasswordRequest, Prepared
from proxy.admin.sealed import Opening, Way
from proxy.cli.arguments import UsageError
from proxy.cli.asking import read_secret
from proxy.cli.output import Json, day_and_time, document, moment, pairs, say, table
from proxy.cli.person import who
from proxy.config import PROTOCOLS, Config, ListenConfig, Tls
from proxy.config.reader import load
from proxy.errors import OperatorError
from proxy.store.rows import Account, Credential, CredentialState, Purpose, TokenState

_TLS_WORDS = {Tls.IMPLICIT: "TLS", Tls.STARTTLS: "STARTTLS", Tls.NONE: "no encryption"}


def run(arguments: argparse.Namespace, config: Path) -> int:
    verbs: dict[str, Callable[[Desk, argparse.Namespace], None]] = {
        "list": _list,
        "show": _show,
        "revoke": _revoke,
    }
    if arguments.verb == "revoke":
        _require_one_way(arguments)
    if arguments.verb == "create":
        return _create(arguments, config)
    with opened(load(config), who()) as desk:
        verbs[arguments.verb](desk, arguments)
    return 0


def _create(arguments: argparse.Namespace, config: Path) -> int:
    if (arguments.device or arguments.paste) and not arguments.sign_in:
        raise UsageError("--device and --paste are ways of --sign-in; see gatepost create --help")
    way = Way.SIGN_IN if arguments.sign_in else Way.UNLOCK if arguments.unlock_stdin else Way.PLAIN
    loaded = load(config)
    request = PasswordRequest(
        arguments.account,
        arguments.name,
        tuple(arguments.protocols),
        arguments.expires,
        tuple(arguments.networks),
    )
    with opened(loaded, who()) as desk:
        prepared = passwords.prepare(desk, request, way)
    # The store is not held over a sign-in, which takes a person's time.
    opening = _opening(loaded, prepared, way, arguments)
    with opened(loaded, who()) as desk:
        created = passwords.create(desk, prepared, opening)
        _show_once(desk, created, as_json=arguments.json)
    return 0


def _opening(config: Config, prepared: Prepared, way: Way, arguments: argparse.Namespace) -> Opening:
    """What opens a sealed account for one more app password."""
    if way is Way.PLAIN:
        return Opening()
    if way is Way.UNLOCK:
        return Opening(unlock=read_secret("app password"))
    upstream = config.upstreams[prepared.account.upstream]
    if upstream.auth == "password":
        return Opening(token=read_secret("mailbox password"), purpose=Purpose.PASSWORD)
    from proxy.cli import connecting  # noqa: PLC0415 - asyncio, for a sign-in only

    tell = connecting.say_aside if arguments.json else say
    mailbox = Mailbox(prepared.account, upstream)
    connected = connecting.sign_in(mailbox, tell, device=arguments.device, paste=arguments.paste)
    return Opening(token=connected.refresh_token)


def _show_once(desk: Desk, created: Created, *, as_json: bool) -> None:
    answer = document(_created_record(created)) if as_json else _created_text(desk, created)
    try:
        say(answer)
    except (OSError, OperatorError):
        # Nobody has seen it and nobody ever can: an entry that looks usable must not stay.
        passwords.revoke(desk, [created.credential.public_id])
        raise OperatorError(
            "the app password could not be shown, so it was revoked", "look at where stdout goes, and create another"
        ) from None


def _created_text(desk: Desk, created: Created) -> str:
    credential, account = created.credential, created.account
    servers = [
        (f"{listener.protocol} server", f"this host, port {listener.port}, {_TLS_WORDS[listener.tls]}")
        for listener in desk.config.listeners
        if _serves(listener, account.upstream, credential)
    ]
    facts = pairs(
        [
            ("user name", " or ".join((account.email, *account.aliases))),
            *servers,
            ("works for", _protocols(credential)),
            ("works from", ", ".join(credential.networks) or "anywhere"),
            ("expires", day_and_time(credential.expires, "never")),
            ("id", credential.public_id),
        ]
    )
    return (
        f'App password "{credential.name}" for {account.email}:\n\n'
        f"    {created.password}\n\n"
        "It is shown this once and cannot be shown again. Type it with or without the dashes, in any case.\n\n"
        f"{facts}\n\nTo end it: gatepost revoke {credential.public_id}{_what_is_left(desk, account)}"
    )


def _what_is_left(desk: Desk, account: Account) -> str:
    """What a person must know or do beside setting the client up."""
    now = accounts.show(desk, account.email)
    is_empty = now.account.token_state in (TokenState.NONE, TokenState.NEEDS_CONSENT)
    upstream = desk.config.upstreams[account.upstream]
    text = _sealed_text(now) if account.sealed else ""
    if not is_empty or accounts.is_app_only(upstream):
        return text
    left = f"Next: gatepost account connect {account.email}"
    if upstream.auth == "password":
        left = "Remove the account, and add it again with --password-stdin."
    gap = "\n" if text else "\n\n"
    return f"{text}{gap}Nothing can log in yet. {left}"


def _sealed_text(now: AccountView) -> str:
    return (
        f"\n\n{now.account.email} is sealed: what is stored for it opens with "
        + ("this app password alone" if now.app_passwords == 1 else f"its {now.app_passwords} app passwords alone")
        + ". Without the last one somebody must\nsign in again, and nothing is refreshed while no client logs in."
    )


def _serves(listener: ListenConfig, upstream: str, credential: Credential) -> bool:
    return upstream in listener.upstreams and listener.protocol in credential.protocols


def _list(desk: Desk, arguments: argparse.Namespace) -> None:
    rows = passwords.listing(desk, arguments.account)
    if arguments.json:
        say(document([_record(row, desk.now) for row in rows]))
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
        _protocols(row),
        row.state_at(now),
        day_and_time(row.expires, "never"),
        "never" if use is None else f"{day_and_time(use.at, '')} {use.protocol}",
        "" if use is None else use.address,
        "" if use is None else use.client,
    )


def _show(desk: Desk, arguments: argparse.Namespace) -> None:
    row = passwords.show(desk, arguments.id)
    if arguments.json:
        say(document(_record(row, desk.now)))
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
                ("works for", _protocols(row)),
                ("works from", ", ".join(row.networks) or "anywhere"),
                ("expires", day_and_time(row.expires, "never")),
                ("last used", used),
                ("created", f"{day_and_time(row.created, '')} by {row.created_by}"),
            ]
        )
    )


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
        say(document([_record(row, desk.now) for row in rows]))
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


def _protocols(credential: Credential) -> str:
    return ", ".join(protocol for protocol in PROTOCOLS if protocol in credential.protocols)


def _created_record(created: Created) -> Json:
    credential = created.credential
    return {
        "id": credential.public_id,
        "account": credential.email,
        "name": credential.name,
        "password": created.password,
        "protocols": [protocol for protocol in PROTOCOLS if protocol in credential.protocols],
        "networks": list(credential.networks),
        "created": moment(credential.created),
        "expires": moment(credential.expires),
    }


def _record(row: Credential, now: datetime) -> Json:
    use = row.last_use
    return {
        "id": row.public_id,
        "account": row.email,
        "name": row.name,
        "protocols": [protocol for protocol in PROTOCOLS if protocol in row.protocols],
        "networks": list(row.networks),
        "created": moment(row.created),
        "expires": moment(row.expires),
        "state": row.state_at(now),
        "last_used": None
        if use is None
        else {"at": moment(use.at), "address": use.address, "protocol": use.protocol, "client": use.client},
    }
