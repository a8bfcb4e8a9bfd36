"""`gatepost check`, the part that goes to the network: every upstream, and one mailbox from end to end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic

from proxy.admin import Finding
from proxy.config import PROTOCOLS, Config, Protocol, UpstreamConfig
from proxy.edge.tls import client_context
from proxy.edge.upstream import examine, probe
from proxy.errors import Refusal, Refused, StoreUnavailable, UpstreamError, UpstreamFault
from proxy.oauth import TokenBroker, TokenClient
from proxy.store.pool import StorePool
from proxy.store.rows import Account, TokenState
from proxy.store.store import Store
from proxy.vault.sealing import load_master
from proxy.wire.names import canonical_login
from proxy.wire.sasl import Bearer, Password, UpstreamCredential

_OF_FAULT = {
    UpstreamFault.UNREACHABLE: "check its host and port, and this host's firewall",
    UpstreamFault.SILENT: "check its port, and whether a firewall swallows the connection",
    UpstreamFault.UNTRUSTED: "check its name and STARTTLS or TLS; a private authority goes into tls_ca",
    UpstreamFault.GARBAGE: "check that the port speaks this protocol",
    UpstreamFault.UNAVAILABLE: "try again; the server says that it cannot check logins right now",
    UpstreamFault.BUSY: "close other sessions of this mailbox, or wait",
    UpstreamFault.REFUSED: "check upstream_user, the scopes of the token, and that the mailbox allows this protocol",
    UpstreamFault.PROTOCOL_OFF: "switch the protocol on for this mailbox or tenant (Exchange: SMTP AUTH)",
}
_OF_REFUSAL = {
    Refusal.NEEDS_CONSENT: "sign in again and deposit the new refresh token",
    Refusal.CLIENT_REJECTED: "check client_id and client_secret, and that the secret has not expired",
    Refusal.PROVIDER_DOWN: "check token_url, or wait until the provider answers",
    Refusal.STORE_DOWN: "start the database, or correct [store] url",
}


async def check_upstreams(config: Config) -> list[Finding]:
    """Reach every server of every upstream: address, TLS, greeting. Never raises what it looks for."""
    pairs = [
        (upstream, protocol)
        for upstream in config.upstreams.values()
        for protocol in PROTOCOLS
        if upstream.endpoint(protocol) is not None
    ]
    return list(await asyncio.gather(*(_reach(upstream, protocol) for upstream, protocol in pairs)))


async def check_login(config: Config, email: str) -> list[Finding]:
    """Prove a mailbox end to end: token, login, and something that only a usable mailbox answers (outcomes E42).

    raises  ConfigError, StoreError, StoreUnavailable if the set-up itself is broken
    """
    store = Store.open(config.store.url, migrate=False)
    try:
        account = store.account(canonical_login(email) or "")
        if account is None:
            return [
                Finding(f"login {email}", ok=False, detail="there is no such account", remedy="gatepost account list")
            ]
        upstream = config.upstreams.get(account.upstream)
        if upstream is None:
            remedy = f"add [upstream.{account.upstream}], or remove the account"
            return [Finding(f"login {email}", ok=False, detail="its upstream is not configured", remedy=remedy)]
        if account.sealed:
            remedy = "log in with one of them, and look for event=login in the log"
            detail = "not tried: the account is sealed, and only its app passwords open it"
            return [Finding(f"login {account.email}", ok=True, detail=detail, remedy=remedy)]
        async with _broker(config, store) as broker:
            return await _log_in(broker, account, upstream)
    finally:
        store.close()


async def _reach(upstream: UpstreamConfig, protocol: Protocol) -> Finding:
    name = f"upstream {upstream.name} {protocol}"
    endpoint = upstream.endpoint(protocol)
    assert endpoint is not None
    where = f"{endpoint.host}:{endpoint.port}"
    try:
        offers = await probe(upstream, protocol)
    except UpstreamError as error:
        return Finding(name, ok=False, detail=f"{where}: {error}", remedy=_OF_FAULT[error.fault])
    return Finding(name, ok=True, detail=f"{where} answers, {len(offers)} extensions")


@asynccontextmanager
async def _broker(config: Config, store: Store) -> AsyncIterator[TokenBroker]:
    pool = StorePool(store, threads=1)
    try:
        master = load_master(config.keys.master.read())
        broker = TokenBroker(store=store, pool=pool, master=master, client=TokenClient(client_context), clock=monotonic)
        try:
            yield broker
        finally:
            await broker.close()
    finally:
        pool.close()


async def _log_in(broker: TokenBroker, account: Account, upstream: UpstreamConfig) -> list[Finding]:
    name = f"login {account.email}"
    try:
        credential = await _credential(broker, account, upstream)
    except (Refused, StoreUnavailable) as error:
        refusal = error.refusal if isinstance(error, Refused) else Refusal.STORE_DOWN
        return [Finding(f"{name} token", ok=False, detail=str(error), remedy=_OF_REFUSAL.get(refusal, "see the log"))]
    findings = [Finding(f"{name} token", ok=True, detail="there is one")]
    protocols = [protocol for protocol in PROTOCOLS if upstream.endpoint(protocol) is not None]
    findings += [await _enter(f"{name} {protocol}", upstream, protocol, credential) for protocol in protocols]
    if all(finding.ok for finding in findings) and account.token_state is TokenState.UPSTREAM_REFUSES:
        await broker.note_state(account, TokenState.FRESH, "")
    return findings


async def _credential(broker: TokenBroker, account: Account, upstream: UpstreamConfig) -> UpstreamCredential:
    if upstream.auth == "password":
        return Password(account.upstream_user, await broker.password(account))
    return Bearer(account.upstream_user, (await broker.token(account, upstream)).token)


async def _enter(name: str, upstream: UpstreamConfig, protocol: Protocol, credential: UpstreamCredential) -> Finding:
    try:
        objection = await examine(upstream, protocol, credential)
    except UpstreamError as error:
        return Finding(name, ok=False, detail=str(error), remedy=_OF_FAULT[error.fault])
    if objection:
        # Exchange says OK to the token and no to the mailbox: "BAD User is authenticated but not connected".
        remedy = "check the scopes, that upstream_user is the mailbox's address, and that the mailbox has this protocol"
        return Finding(name, ok=False, detail=f"let in, but: {objection}", remedy=remedy)
    return Finding(name, ok=True, detail="the mailbox answers")
