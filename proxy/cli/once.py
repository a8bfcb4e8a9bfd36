"""The one showing of an app password's text: what is said beside it, and what opens a sealed account for it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from proxy.admin import accounts
from proxy.admin.accounts import AccountView
from proxy.admin.desk import Desk
from proxy.admin.passwords import Created
from proxy.admin.sealed import Opening, Way
from proxy.cli.arguments import UsageError
from proxy.cli.asking import read_secret
from proxy.cli.output import Json, day_and_time, moment, pairs, say
from proxy.cli.passwords import protocols
from proxy.config import PROTOCOLS, Config, ListenConfig, Tls
from proxy.store.rows import Account, AccountState, Credential, Purpose, TokenState

if TYPE_CHECKING:
    from proxy.admin.life import Rotated  # `create` does without

_TLS_WORDS = {Tls.IMPLICIT: "TLS", Tls.STARTTLS: "STARTTLS", Tls.NONE: "no encryption"}


def way_of(arguments: argparse.Namespace) -> Way:
    """How a sealed account is to be opened. Raises UsageError for words that don't fit together."""
    if (arguments.device or arguments.paste) and not arguments.sign_in:
        raise UsageError(f"--device and --paste are ways of --sign-in; see gatepost {arguments.verb} --help")
    return Way.SIGN_IN if arguments.sign_in else Way.UNLOCK if arguments.unlock_stdin else Way.PLAIN


def opening_of(config: Config, account: Account, way: Way, arguments: argparse.Namespace) -> Opening:
    """What opens a sealed account for one more text: asked for, or signed in for."""
    if way is Way.PLAIN:
        return Opening()
    if way is Way.UNLOCK:
        return Opening(unlock=read_secret("app password"))
    upstream = config.upstreams[account.upstream]
    if upstream.auth == "password":
        return Opening(token=read_secret("mailbox password"), purpose=Purpose.PASSWORD)
    from proxy.admin.consents import Mailbox  # noqa: PLC0415 - for a sign-in only
    from proxy.cli import connecting  # noqa: PLC0415 - asyncio, for a sign-in only

    tell = connecting.say_aside if arguments.json else say
    mailbox = Mailbox(account, upstream)
    connected = connecting.sign_in(mailbox, tell, device=arguments.device, paste=arguments.paste)
    return Opening(token=connected.refresh_token)


def text(desk: Desk, heading: str, new: Created | Rotated, facts: Sequence[tuple[str, str]] = ()) -> str:
    """For people: the text itself, how to set up the client, and what is left to do.

    facts   beyond those that every app password has
    """
    credential, account = new.credential, new.account
    servers = [
        (f"{listener.protocol} server", f"this host, port {listener.port}, {_TLS_WORDS[listener.tls]}")
        for listener in desk.config.listeners
        if _serves(listener, account.upstream, credential)
    ]
    lines = pairs(
        [
            ("user name", " or ".join((account.email, *account.aliases))),
            *servers,
            ("works for", protocols(credential)),
            ("works from", ", ".join(credential.networks) or "anywhere"),
            ("expires", day_and_time(credential.expires, "never")),
            *facts,
            ("id", credential.public_id),
        ]
    )
    return (
        f"{heading}\n\n"
        f"    {new.password}\n\n"
        "It is shown this once and cannot be shown again. Type it with or without the dashes, in any case.\n\n"
        f"{lines}\n\nTo end it: gatepost revoke {credential.public_id}{_what_is_left(desk, account)}"
    )


def _what_is_left(desk: Desk, account: Account) -> str:
    """What a person must know or do beside setting the client up."""
    now = accounts.show(desk, account.email)
    is_empty = now.account.token_state in (TokenState.NONE, TokenState.NEEDS_CONSENT)
    upstream = desk.config.upstreams[account.upstream]
    said = _sealed_text(now) if account.sealed else ""
    left = ""
    if now.account.state is AccountState.DISABLED:
        left = f"The mailbox is disabled: gatepost account enable {account.email}"
    elif is_empty and not upstream.is_app_only:
        left = f"Next: gatepost account connect {account.email}"
        if upstream.auth == "password":
            left = "Remove the account, and add it again with --password-stdin."
    if not left:
        return said
    gap = "\n" if said else "\n\n"
    return f"{said}{gap}Nothing can log in yet. {left}"


def _sealed_text(now: AccountView) -> str:
    return (
        f"\n\n{now.account.email} is sealed: what is stored for it opens with "
        + ("this app password alone" if now.app_passwords == 1 else f"its {now.app_passwords} app passwords alone")
        + ". Without the last one somebody must\nsign in again, and nothing is refreshed while no client logs in."
    )


def _serves(listener: ListenConfig, upstream: str, credential: Credential) -> bool:
    return upstream in listener.upstreams and listener.protocol in credential.protocols


def record(new: Created | Rotated) -> Json:
    """The JSON of an app password whose text is shown."""
    credential = new.credential
    return {
        "id": credential.public_id,
        "account": credential.email,
        "name": credential.name,
        "password": new.password,
        "protocols": [protocol for protocol in PROTOCOLS if protocol in credential.protocols],
        "networks": list(credential.networks),
        "created": moment(credential.created),
        "expires": moment(credential.expires),
    }
