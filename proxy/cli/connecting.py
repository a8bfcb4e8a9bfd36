"""`gatepost account connect`: the sign-in in words, asked and shown here; the network is proxy.connecting's."""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from proxy.admin import consents
from proxy.admin.consents import Mailbox
from proxy.admin.desk import opened
from proxy.cli.asking import read_line, read_secret
from proxy.cli.output import Json, document, plain, say
from proxy.cli.person import who
from proxy.config.reader import load

if TYPE_CHECKING:
    from proxy.connecting.connect import Connected, DeviceCode  # the whole server: imported when a sign-in begins

Say = Callable[[str], None]


def run(arguments: argparse.Namespace, config: Path) -> int:
    loaded = load(config)
    with opened(loaded, who()) as desk:
        mailbox = consents.prepare(desk, arguments.email)
    # Not held over the sign-in, which takes a person's time.
    tell = say_aside if arguments.json else say
    if arguments.refresh_token_stdin:
        connected = _import(mailbox)
    else:
        connected = sign_in(mailbox, tell, device=arguments.device, paste=arguments.paste)
    with opened(loaded, who()) as desk:
        consents.deposit(desk, mailbox.account, connected.refresh_token)
    if arguments.json:
        say(document(_record(mailbox, connected)))
    else:
        say("\n".join(_report(mailbox, connected)))
    return 0


def sign_in(mailbox: Mailbox, tell: Say, *, device: bool = False, paste: bool = False) -> Connected:
    """Have a person sign in; by default in a browser on this machine. Stores nothing. Raises OperatorError.

    tell    prints what the person has to do
    """
    from proxy.connecting import connect  # noqa: PLC0415 - the whole server

    _keep_quiet()
    account, upstream = mailbox.account, mailbox.upstream
    if device:
        return asyncio.run(connect.by_device(upstream, account, lambda code: tell(_device_text(mailbox, code))))
    if paste:
        flow = asyncio.run(connect.begin_paste(upstream, account))
        tell(_paste_text(mailbox, flow.url, flow.redirect_url))
        # Read between two event loops: a loop would keep Ctrl-C from whoever changes his mind here.
        return asyncio.run(connect.finish_paste(flow, account, read_line("address")))
    return asyncio.run(connect.by_browser(upstream, account, lambda url: tell(_browser_text(mailbox, url))))


def _import(mailbox: Mailbox) -> Connected:
    from proxy.connecting import connect  # noqa: PLC0415 - the whole server

    token = read_secret("refresh token")
    _keep_quiet()
    return asyncio.run(connect.by_token(mailbox.upstream, mailbox.account, token))


def _keep_quiet() -> None:
    """Dialling warns in a server's log; here the error says it, and stderr has one line."""
    if not logging.getLogger().handlers:
        logging.getLogger().addHandler(logging.NullHandler())


def say_aside(text: str) -> None:
    """Where --json has stdout for its document."""
    if sys.stderr is not None:
        print(text, file=sys.stderr, flush=True)


def _browser_text(mailbox: Mailbox, url: str) -> str:
    return (
        f"{_whom(mailbox)} Open this address in a browser on this machine:\n\n"
        f"{plain(url)}\n\n"
        "Waiting for the end of the sign-in. (Ctrl-C ends it; without a browser here use --paste or --device.)"
    )


def _paste_text(mailbox: Mailbox, url: str, redirect_url: str) -> str:
    return (
        f"{_whom(mailbox)} Open this address in a browser, anywhere:\n\n"
        f"{plain(url)}\n\n"
        f"The browser ends at an address that begins with {plain(redirect_url)} and that it may not be able to show:\n"
        "that is right. Copy the whole address from its address bar, paste it here and press Enter:"
    )


def _device_text(mailbox: Mailbox, code: DeviceCode) -> str:
    lines = [
        f"{_whom(mailbox)} On any device:",
        "",
        f"    open      {plain(code.verification_url)}",
        f"    and type  {plain(code.user_code)}",
        "",
    ]
    if code.complete_url is not None:
        lines += [f"or open  {plain(code.complete_url)}", ""]
    lines.append(f"Waiting for {code.expires_in_s / 60:.0f} minutes. (Ctrl-C ends it.)")
    return "\n".join(lines)


def _whom(mailbox: Mailbox) -> str:
    return f"Sign in as {plain(mailbox.account.upstream_user)}, or as a member of it if it is a shared mailbox."


def _report(mailbox: Mailbox, connected: Connected) -> list[str]:
    account = mailbox.account
    as_whom = f" {connected.identity} signed in." if connected.identity else ""
    lines = [plain(f"Connected {account.email}: {' and '.join(connected.opened)} let it in.{as_whom}")]
    if connected.is_shared(account):
        lines.append(
            plain(
                f"It is a shared mailbox: this works for as long as {connected.identity} may open it and can sign in."
            )
        )
    lines += [
        plain(f"{protocol} did not let it in ({said}): gatepost check --login {account.email}")
        for protocol, said in connected.refused
    ]
    lines.append(plain(f'Next: gatepost create {account.email} --name "..."'))
    return lines


def _record(mailbox: Mailbox, connected: Connected) -> Json:
    account = mailbox.account
    return {
        "account": account.email,
        "upstream": account.upstream,
        "upstream_user": account.upstream_user,
        "signed_in_as": connected.identity or None,
        "shared": connected.is_shared(account),
        "opened": list(connected.opened),
        "refused": [{"protocol": protocol, "said": said} for protocol, said in connected.refused],
    }
