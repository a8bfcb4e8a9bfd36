"""What a verified app password may do: the rules, without clock, store or network."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache

from proxy.errors import Refusal, UpstreamFault
from proxy.store.rows import AccountState, CredentialState, LoginRow
from proxy.wire.addresses import normal_address

# What it means for the login that the upstream did not let it in.
OF_UPSTREAM = {
    UpstreamFault.UNREACHABLE: Refusal.UPSTREAM_DOWN,
    UpstreamFault.SILENT: Refusal.UPSTREAM_DOWN,
    UpstreamFault.GARBAGE: Refusal.UPSTREAM_DOWN,
    UpstreamFault.UNAVAILABLE: Refusal.UPSTREAM_DOWN,
    UpstreamFault.UNTRUSTED: Refusal.UPSTREAM_UNTRUSTED,
    UpstreamFault.BUSY: Refusal.UPSTREAM_BUSY,
    UpstreamFault.REFUSED: Refusal.UPSTREAM_REFUSES,
    UpstreamFault.PROTOCOL_OFF: Refusal.UPSTREAM_PROTOCOL_OFF,
}

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the client wants to do. `authzid` is "" if none was sent, None if it was no login name."""

    protocol: str
    peer: str
    upstreams: tuple[str, ...]
    login: str
    authzid: str | None


def judge(row: LoginRow, wanted: Wanted, now: datetime) -> Refusal | None:
    """Why a login with the right secret is refused all the same; None if it is not. `now` is aware."""
    account, credential, secret = row.account, row.credential, row.secret
    if credential is None or secret is None:
        return Refusal.WRONG_PASSWORD
    is_expired = credential.is_expired(now) or (secret.valid_until is not None and secret.valid_until <= now)
    rules = (
        (credential.state is CredentialState.REVOKED, Refusal.REVOKED),
        (account.state is AccountState.DISABLED, Refusal.ACCOUNT_DISABLED),
        (credential.is_suspended, Refusal.SUSPENDED),
        (is_expired, Refusal.EXPIRED),
        (wanted.protocol not in credential.protocols, Refusal.WRONG_PROTOCOL),
        (not _is_within(wanted.peer, credential.networks), Refusal.WRONG_NETWORK),
        (account.upstream not in wanted.upstreams, Refusal.WRONG_LISTENER),
        # RFC 4616 2: nobody acts for anybody else here.
        (wanted.authzid not in ("", wanted.login, account.email), Refusal.WRONG_AUTHZID),
    )
    return next((refusal for is_broken, refusal in rules if is_broken), None)


def _is_within(peer: str, networks: tuple[str, ...]) -> bool:
    if not networks:
        return True
    address = normal_address(peer)
    return any(address in network for network in _parsed(networks) if network.version == address.version)


@lru_cache(maxsize=4096)
def _parsed(networks: tuple[str, ...]) -> tuple[_Network, ...]:
    return tuple(ipaddress.ip_network(network) for network in networks)
