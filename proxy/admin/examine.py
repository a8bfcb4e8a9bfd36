"""`gatepost check`, the part that needs no network: certificate, keys, store, secrets of the upstreams.

The probes of the upstreams are the edge's; the CLI joins both.
"""

from __future__ import annotations

import functools
import os
import ssl
import stat
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from proxy.admin.finding import Finding
from proxy.admin.first_config import UNEDITED_CLIENT_ID
from proxy.config import Config, Tls, UpstreamConfig
from proxy.config.address import is_loopback
from proxy.errors import OperatorError, StoreError, StoreUnavailable
from proxy.secret import SecretSource
from proxy.store.rows import CredentialState, MasterKey

SOON = timedelta(days=21)  # a certificate that ends within it is worth a warning: ACME renews at 30 days


def local(config: Config, now: datetime) -> list[Finding]:
    """Look at everything that the configuration names on this host. Changes nothing, raises nothing expected."""
    findings = [_configuration(config)]
    findings += _clear_listeners(config)
    findings += _legacy_listeners(config)
    findings += _believing_listeners(config)
    if any(listener.tls is not Tls.NONE for listener in config.listeners):
        findings.append(_found("certificate", lambda: _certificate(config.tls.certificate, config.tls.key, now)))
    if config.web is not None and config.web.certificate is not None:
        certificate, key = config.web.certificate, config.web.key
        findings.append(_found("web certificate", lambda: _certificate(certificate, key, now)))
    store, masters = _store(config)
    findings.append(store)
    findings.append(_found("master key", lambda: _master_key(config, masters if store.ok else None)))
    for upstream in config.upstreams.values():
        findings += _upstream(upstream, now)
    if config.alerts.command:
        program = Path(config.alerts.command[0])
        findings.append(_found("alerts command", lambda: _program(program)))
    return findings


@dataclass(frozen=True, slots=True)
class _Good:
    """What a step says when nothing is wrong; with a remedy, a warning."""

    detail: str
    remedy: str = ""


def _found(name: str, look: Callable[[], _Good]) -> Finding:
    try:
        good = look()
    except OperatorError as error:
        return Finding(name, ok=False, detail=error.problem, remedy=error.remedy)
    except StoreUnavailable as error:
        return Finding(name, ok=False, detail=str(error), remedy=error.remedy)
    return Finding(name, ok=True, detail=good.detail, remedy=good.remedy)


def _configuration(config: Config) -> Finding:
    counts = f"{_count(len(config.listeners), 'listener')}, {_count(len(config.upstreams), 'upstream')}"
    return Finding("configuration", ok=True, detail=f"{config.path}: {counts}")


def _count(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def _clear_listeners(config: Config) -> list[Finding]:
    remedy = 'give it tls = "implicit" or "starttls", unless only this host connects'
    return [
        Finding(
            f"listener {listener.name}",
            ok=True,
            detail="passwords cross this socket in clear text"
            + ("" if is_loopback(listener.host) else ", and it is not on loopback"),
            remedy=remedy,
        )
        for listener in config.listeners
        if listener.tls is Tls.NONE
    ]


def _legacy_listeners(config: Config) -> list[Finding]:
    return [
        Finding(
            f"listener {listener.name} minimum_tls",
            ok=True,
            detail=f"takes TLS {listener.minimum_tls}, which can be broken, and it is not on loopback",
            remedy="give old devices a listener on their own network, and let a firewall keep others from it",
        )
        for listener in config.listeners
        if listener.minimum_tls in ("1.0", "1.1") and not is_loopback(listener.host)
    ]


def _believing_listeners(config: Config) -> list[Finding]:
    return [
        Finding(
            f"listener {listener.name} proxy_protocol_from",
            ok=True,
            detail=f"{' and '.join(str(network) for network in everybody)} is everybody: whoever reaches this socket "
            "can say that he comes from any address",
            remedy="name the load balancers' own addresses",
        )
        for listener in config.listeners
        if (everybody := [network for network in listener.proxy_protocol_from if not network.prefixlen])
    ]


def _certificate(certificate: Path | None, key: Path | None, now: datetime) -> _Good:
    from proxy.vault.certificate import inspect  # noqa: PLC0415 - cryptography

    assert certificate is not None, "the reader demands it for listeners with TLS"
    assert key is not None, "the reader demands both"
    facts = inspect(certificate, key)
    left = _left(certificate, facts.not_before, facts.not_after, now)
    detail = f"{', '.join(_printable(name) for name in facts.names) or 'no names'}; {_count(left.days, 'day')} left"
    if left < SOON:
        return _Good(detail, f"renew it before {facts.not_after:%Y-%m-%d}")
    if _is_open_to_others(key):
        return _Good(detail, f"chmod 600 {key}: every user of this host can read it")
    if not facts.names:
        return _Good(detail, "use a certificate with subjectAltName: mail programs look nowhere else")
    return _Good(f"{detail}, self-signed" if facts.is_self_signed else detail)


def _left(certificate: Path, not_before: datetime, not_after: datetime, now: datetime) -> timedelta:
    if now < not_before:
        raise OperatorError(f"{certificate} is valid from {not_before:%Y-%m-%d} on", "check this host's clock")
    if not_after <= now:
        raise OperatorError(f"{certificate} ended on {not_after:%Y-%m-%d}", "renew it")
    return not_after - now


def _store(config: Config) -> tuple[Finding, list[MasterKey]]:
    masters: list[MasterKey] = []

    def look() -> _Good:
        from proxy.store.store import Store  # noqa: PLC0415 - SQLAlchemy

        store = Store.open(config.store.url, migrate=False)
        try:
            store.check(deep=True)
            masters.extend(store.masters())
            accounts = store.accounts()
            live = sum(row.state is not CredentialState.REVOKED for row in store.credentials(None))
        finally:
            store.close()
        unknown = sorted({row.upstream for row in accounts} - set(config.upstreams))
        detail = f"{_count(len(accounts), 'account')}, {_count(live, 'app password')}"
        if unknown:
            return _Good(detail, f"add [upstream.{unknown[0]}] again: accounts belong to it, and can't log in")
        return _Good(detail)

    return _found("store", look), masters


def _master_key(config: Config, masters: list[MasterKey] | None) -> _Good:
    # None: the store can't be asked, which is a finding of its own.
    from proxy.vault.sealing import load_master  # noqa: PLC0415 - cryptography

    source = config.keys.master
    held = load_master(source.read()).key_ids
    if masters is None:
        raise OperatorError(f"{source} is readable, but not compared with the store", "first mend the store")
    if not masters:
        raise StoreError("the store knows no master key", "run gatepost db upgrade as a user who can read it")
    if masters[0].key_id not in held:
        raise OperatorError(
            f"{source} holds {' '.join(held)}, but the store is sealed to {masters[0].key_id}",
            "restore the key file that belongs to this database",
        )
    detail = f"{source} fits the store ({masters[0].key_id})"
    if len(masters) > 1:
        return _Good(detail, "run gatepost key rotate: one was interrupted, and the old key is still in use")
    if source.kind == "file" and _is_open_to_others(Path(source.name)):
        return _Good(detail, f"chmod 600 {source.name}: every user of this host can read it")
    return _Good(detail)


def _upstream(upstream: UpstreamConfig, now: datetime) -> list[Finding]:
    findings = []
    oauth2 = upstream.oauth2
    if oauth2 is not None:
        if oauth2.client_id == UNEDITED_CLIENT_ID:
            findings.append(
                Finding(
                    f"upstream {upstream.name} client_id",
                    ok=False,
                    detail=f'is still "{UNEDITED_CLIENT_ID}"',
                    remedy="write the client id of the app that you registered at the provider",
                )
            )
        secrets = {
            "client_secret": oauth2.client_secret,
            "client_key": oauth2.client_key,
            "service_account": oauth2.service_account,
        }
        findings += [
            _found(f"upstream {upstream.name} {key}", functools.partial(_secret, source))
            for key, source in secrets.items()
            if source is not None
        ]
        if oauth2.client_certificate is not None and oauth2.client_key is not None and oauth2.client_key.kind == "file":
            pair = (oauth2.client_certificate, Path(oauth2.client_key.name))
            findings.append(
                _found(f"upstream {upstream.name} client_certificate", lambda: _client_certificate(*pair, now))
            )
    if upstream.tls_ca is not None:
        path = upstream.tls_ca
        findings.append(_found(f"upstream {upstream.name} tls_ca", lambda: _authority(path)))
    return findings


def _secret(source: SecretSource) -> _Good:
    source.read()
    if source.kind == "file" and _is_open_to_others(Path(source.name)):
        return _Good(f"{source} is readable", f"chmod 600 {source.name}: every user of this host can read it")
    return _Good(f"{source} is readable")


def _client_certificate(certificate: Path, key: Path, now: datetime) -> _Good:
    from proxy.vault.certificate import inspect  # noqa: PLC0415 - cryptography

    facts = inspect(certificate, key)
    left = _left(certificate, facts.not_before, facts.not_after, now)
    remedy = f"upload a new one at the provider before {facts.not_after:%Y-%m-%d}" if left < SOON else ""
    return _Good(f"{certificate} fits its key; {_count(left.days, 'day')} left", remedy)


def _program(path: Path) -> _Good:
    if not os.access(path, os.X_OK) or path.is_dir():
        raise OperatorError(f"{path} is no program that this user may run", "check that it exists, and its mode")
    return _Good(f"{path}")


def _authority(path: Path) -> _Good:
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cafile=path)
    except ssl.SSLError:
        raise OperatorError(f"{path} holds no PEM certificate", "name the file of your private CA") from None
    except OSError as error:
        raise OperatorError(f"cannot read {path}: {error.strerror}", "check that it exists and who owns it") from None
    return _Good(f"{path}: {_count(len(context.get_ca_certs()), 'authority certificate')}")


def _is_open_to_others(path: Path) -> bool:
    try:
        return bool(path.stat().st_mode & stat.S_IROTH)
    except OSError:
        return False


def _printable(text: str) -> str:
    return text if text.isprintable() else ascii(text)[1:-1]
