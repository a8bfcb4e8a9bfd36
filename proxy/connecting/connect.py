"""`gatepost account connect`, the part that goes to the network: a sign-in, and the proof that it opens the mailbox.

Nothing is stored here, and a Connected is only ever made after the mail server let the new token in. Every wait has an
end; every failure is an OperatorError, which says that nothing was stored by being raised.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

from proxy.config import PROTOCOLS, Protocol, UpstreamConfig
from proxy.connecting.loopback import Loopback, Page
from proxy.edge.tls import client_context
from proxy.edge.upstream import examine, probe
from proxy.errors import ConsentError, OperatorError, UpstreamError, UpstreamFault
from proxy.oauth.answers import DeviceCode
from proxy.oauth.client import TokenClient
from proxy.oauth.consent import CodeFlow, Consent, DeviceFlow, imported
from proxy.secret import Secret
from proxy.store.rows import Account
from proxy.wire.names import canonical_login
from proxy.wire.sasl import Bearer

__all__ = [
    "Connected",
    "DeviceCode",
    "begin_paste",
    "by_browser",
    "by_device",
    "by_token",
    "finish_paste",
    "prove",
]

SIGN_IN_S = 600.0  # to find the phone, and have MFA set up; providers keep a sign-in page about as long
MAX_DEVICE_S = 1_800.0  # whatever life the provider gives a device code

_REMEDY_OF = {
    UpstreamFault.UNREACHABLE: "check the upstream's host and port: gatepost check",
    UpstreamFault.SILENT: "check the upstream's port and the firewall: gatepost check",
    UpstreamFault.UNTRUSTED: "check the upstream's name and TLS; a private authority goes into tls_ca",
    UpstreamFault.GARBAGE: "check that the upstream's port speaks this protocol",
    UpstreamFault.UNAVAILABLE: "try again; the server says that it cannot check logins right now",
    UpstreamFault.BUSY: "close other sessions of this mailbox, or wait, and try again",
    UpstreamFault.PROTOCOL_OFF: "switch the protocol on for this mailbox or tenant, and try again",
}


@dataclass(frozen=True, slots=True)
class Connected:
    """A sign-in that opens the mailbox.

    identity    the address that signed in, "" if the provider did not tell
    opened      protocols by which the mailbox let the token in: never empty
    refused     by protocol, the words of a server that did not
    """

    refresh_token: Secret
    identity: str
    opened: tuple[Protocol, ...]
    refused: tuple[tuple[Protocol, str], ...]

    def is_shared(self, account: Account) -> bool:
        """Whether somebody else signed in than the mailbox itself: a member of a shared mailbox."""
        names = {account.email, canonical_login(account.upstream_user)}
        return bool(self.identity) and canonical_login(self.identity) not in names


async def by_browser(
    upstream: UpstreamConfig, account: Account, tell: Callable[[str], None], *, wait_s: float = SIGN_IN_S
) -> Connected:
    """Tell the address to sign in at, and wait for the browser to come back to this machine. Raises OperatorError."""
    async with _client() as client, Loopback.bound(_redirect_url(upstream)) as loopback:
        await _reach(upstream)
        flow = await CodeFlow.begin(client, upstream, loopback.redirect_url, account.email)
        tell(flow.url)
        try:
            address = await loopback.visit(flow.is_answered_by, wait_s)
        except TimeoutError:
            raise ConsentError(
                f"nobody came back from the sign-in within {wait_s / 60:.0f} minutes",
                f"start again; if the provider's page showed an error, register {loopback.redirect_url} there",
            ) from None
        try:
            connected = await prove(upstream, account, await flow.finish(client, address))
        except OperatorError as error:
            await loopback.show(Page("The mailbox is not connected", f"{error}. Nothing was stored.", 400))
            raise
        text = "Gatepost has what it needs. You can close this page and go back to the terminal."
        await loopback.show(Page(f"{account.email} is connected", text))
        return connected


async def begin_paste(upstream: UpstreamConfig, account: Account) -> CodeFlow:
    """Begin a sign-in whose end a person copies from the browser's address bar. Raises OperatorError."""
    async with _client() as client:
        await _reach(upstream)
        return await CodeFlow.begin(client, upstream, _without_port_0(_redirect_url(upstream)), account.email)


async def finish_paste(flow: CodeFlow, account: Account, address: str) -> Connected:
    """Take the address that the browser ended at. Raises OperatorError."""
    async with _client() as client:
        return await prove(flow.upstream, account, await flow.finish(client, address.strip()))


async def by_device(
    upstream: UpstreamConfig,
    account: Account,
    tell: Callable[[DeviceCode], None],
    *,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> Connected:
    """Tell the code to type on another device, and wait until that was done. Raises OperatorError."""
    async with _client() as client:
        await _reach(upstream)
        flow = await DeviceFlow.begin(client, upstream)
        tell(flow.shown)
        left_s = min(flow.shown.expires_in_s, MAX_DEVICE_S)
        while left_s > 0:
            pause_s = min(flow.interval_s, left_s)
            await sleep(pause_s)
            left_s -= pause_s
            consent = await flow.poll(client)
            if consent is not None:
                return await prove(upstream, account, consent)
    raise ConsentError("nobody signed in before the code ended", "start again")


async def by_token(upstream: UpstreamConfig, account: Account, refresh_token: Secret) -> Connected:
    """Take a refresh token that was got elsewhere. Raises OperatorError."""
    async with _client() as client:
        await _reach(upstream)  # before the token is used: one that rotates could not be used again
        return await prove(upstream, account, await imported(client, upstream, refresh_token))


@asynccontextmanager
async def _client() -> AsyncIterator[TokenClient]:
    client = TokenClient(client_context)
    try:
        yield client
    finally:
        await client.close()


def _redirect_url(upstream: UpstreamConfig) -> str:
    assert upstream.oauth2 is not None, "admin refuses the others"
    return upstream.oauth2.redirect_url


def _without_port_0(redirect_url: str) -> str:
    """An address that can stand in an authorization request: RFC 8252 7.3 lets any port be used, also none."""
    parts = urlsplit(redirect_url)
    if parts.port != 0:
        return redirect_url
    return parts._replace(netloc=parts.netloc.removesuffix(":0")).geturl()


async def _reach(upstream: UpstreamConfig) -> None:
    """Before anybody signs in: is there a mail server to prove it at?"""
    protocol = _protocols(upstream)[0]
    try:
        await probe(upstream, protocol)
    except UpstreamError as error:
        raise OperatorError(f"the {protocol} server does not answer ({error})", _REMEDY_OF[error.fault]) from None


async def prove(upstream: UpstreamConfig, account: Account, consent: Consent) -> Connected:
    """Log in to the mailbox with the new token; one protocol is proof enough, and the others are told of.

    raises  OperatorError
    """
    opened: list[Protocol] = []
    refused: list[tuple[Protocol, str]] = []
    first: ConsentError | None = None
    for protocol in _protocols(upstream):
        try:
            objection = await examine(upstream, protocol, Bearer(account.upstream_user, consent.access_token))
        except UpstreamError as error:
            refused.append((protocol, str(error)))
            first = first or _refusal(account, consent, error)
            continue
        if objection:
            # Exchange says OK to the token and no to the mailbox: "BAD User is authenticated but not connected".
            refused.append((protocol, objection))
            remedy = "check the scopes, and that this account has a mailbox with this protocol on"
            first = first or ConsentError(
                f"{_who(consent)}, but {account.upstream_user} does not open: {objection}", remedy
            )
            continue
        opened.append(protocol)
    if not opened:
        assert first is not None, "an upstream has a server"
        raise first
    return Connected(consent.refresh_token, consent.identity, tuple(opened), tuple(refused))


def _refusal(account: Account, consent: Consent, error: UpstreamError) -> ConsentError:
    mailbox = account.upstream_user
    if error.fault is not UpstreamFault.REFUSED:
        return ConsentError(f"{_who(consent)}, but {mailbox} can't be tried ({error})", _REMEDY_OF[error.fault])
    if consent.identity and canonical_login(consent.identity) == canonical_login(mailbox):
        remedy = "check the scopes, and that the mailbox has this protocol on"
    else:
        remedy = f"sign in as {mailbox}, or as a member of it if it is a shared mailbox"
    return ConsentError(f"{_who(consent)}, which does not open {mailbox} ({error.said or 'refused'})", remedy)


def _who(consent: Consent) -> str:
    return f"signed in as {consent.identity}" if consent.identity else "somebody signed in"


def _protocols(upstream: UpstreamConfig) -> tuple[Protocol, ...]:
    return tuple(protocol for protocol in PROTOCOLS if upstream.endpoint(protocol) is not None)
