"""`gatepost check`, the part that goes to the network: every upstream, and one mailbox from end to end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from time import monotonic

from proxy.admin import Finding, examine as local
from proxy.admin.desk import node_of
from proxy.config import PROTOCOLS, Config, Protocol, UpstreamConfig
from proxy.doctor import words as doctor_words
from proxy.doctor.words import Case
from proxy.edge.tls import client_context
from proxy.edge.upstream import examine, probe
from proxy.errors import OperatorError, Refusal, Refused, StoreUnavailable, UpstreamError
from proxy.oauth import TokenBroker, TokenClient
from proxy.store.audit_rows import Actor
from proxy.store.pool import StorePool
from proxy.store.rows import Account, TokenState
from proxy.store.store import Store
from proxy.vault.sealing import load_master
from proxy.wire.names import canonical_login
from proxy.wire.sasl import Bearer, Password, UpstreamCredential


def check(config: Config, login: str | None, by: str) -> list[Finding]:
    """All that `gatepost check` looks at, in its order; with `login` that mailbox too, unless the set-up is broken.

    Blocks, with an event loop of its own. A set-up that a probe can't even start from is a finding, too.
    """
    findings = local.local(config, datetime.now(UTC))
    is_sound = all(finding.ok for finding in findings)
    findings += _asked("upstreams", lambda: asyncio.run(check_upstreams(config)))
    if login is not None:
        name = f"login {login}"
        if is_sound:
            findings += _asked(name, lambda: asyncio.run(check_login(config, login, by)))
        else:
            findings.append(Finding(name, ok=False, detail="not tried", remedy="first mend what failed above"))
    return findings


def _asked(name: str, ask: Callable[[], list[Finding]]) -> list[Finding]:
    try:
        return ask()
    except OperatorError as error:
        return [Finding(name, ok=False, detail=error.problem, remedy=error.remedy)]
    except StoreUnavailable as error:
        return [Finding(name, ok=False, detail=str(error), remedy=error.remedy)]


async def check_upstreams(config: Config) -> list[Finding]:
    """Reach every server of every upstream: address, TLS, greeting. Never raises what it looks for."""
    pairs = [
        (upstream, protocol)
        for upstream in config.upstreams.values()
        for protocol in PROTOCOLS
        if upstream.endpoint(protocol) is not None
    ]
    return list(await asyncio.gather(*(_reach(upstream, protocol) for upstream, protocol in pairs)))


async def check_login(config: Config, email: str, by: str) -> list[Finding]:
    """Prove a mailbox end to end: token, login, and something that only a usable mailbox answers (outcomes E42).

    by      who asks, for the audit: what is learned of the account's token is kept
    raises  ConfigError, StoreError, StoreUnavailable if the set-up itself is broken
    """
    store = Store.open(config.store.url, migrate=False, actor=Actor(by, node_of(config)))
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
        return Finding(name, ok=False, detail=f"{where}: {error}", remedy=doctor_words.of_reach(error.fault))
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
    case = Case(upstream, account.email, account.upstream_user)
    try:
        credential = await _credential(broker, account, upstream)
    except (Refused, StoreUnavailable) as error:
        refused = error if isinstance(error, Refused) else Refused(Refusal.STORE_DOWN, str(error))
        return [Finding(f"{name} token", ok=False, detail=str(error), remedy=doctor_words.of_token(refused, case))]
    findings = [Finding(f"{name} token", ok=True, detail="there is one")]
    protocols = [protocol for protocol in PROTOCOLS if upstream.endpoint(protocol) is not None]
    findings += [await _enter(f"{name} {protocol}", case, protocol, credential) for protocol in protocols]
    if all(finding.ok for finding in findings) and account.token_state is TokenState.UPSTREAM_REFUSES:
        await broker.note_state(account, TokenState.FRESH, "")
    return findings


async def _credential(broker: TokenBroker, account: Account, upstream: UpstreamConfig) -> UpstreamCredential:
    if upstream.auth == "password":
        return Password(account.upstream_user, await broker.password(account))
    return Bearer(account.upstream_user, (await broker.token(account, upstream)).token)


async def _enter(name: str, case: Case, protocol: Protocol, credential: UpstreamCredential) -> Finding:
    try:
        objection = await examine(case.upstream, protocol, credential)
    except UpstreamError as error:
        return Finding(name, ok=False, detail=str(error), remedy=doctor_words.of_login(error, protocol, case))
    if objection:
        # Exchange says OK to the token and no to the mailbox: "BAD User is authenticated but not connected".
        remedy = doctor_words.of_objection(objection, protocol, case)
        return Finding(name, ok=False, detail=f"let in, but: {objection}", remedy=remedy)
    return Finding(name, ok=True, detail="the mailbox answers")
