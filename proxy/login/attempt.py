"""A login attempt: what a front knows of it, and how its session, its refusal and its log line are made of it."""

from __future__ import annotations

from dataclasses import dataclass

from proxy.config import Protocol
from proxy.errors import Refused
from proxy.live.sessions import Session
from proxy.record.refusals import Kind
from proxy.store.rows import Account, Credential, LoginRow, SecretRow
from proxy.wire.names import canonical_login
from proxy.wire.sasl import Credentials


@dataclass(frozen=True, slots=True)
class Attempt:
    """What a front knows when credentials have arrived. `credentials` is None if they were malformed."""

    id: str
    protocol: Protocol
    upstreams: tuple[str, ...]  # those behind this listener
    peer: str  # address without port, IPv4-mapped ones as IPv4
    credentials: Credentials | None
    mechanism: str  # "" of one that was refused unread
    client: str
    started: float  # loop time


def authzid_of(attempt: Attempt) -> str | None:
    """The authorization identity in canonical form: "" if none was sent, None if it is no login name."""
    if attempt.credentials is None or not attempt.credentials.authzid:
        return ""
    return canonical_login(attempt.credentials.authzid)


def session_of(attempt: Attempt, account: Account, credential: Credential, secret: SecretRow, revision: int) -> Session:
    return Session(
        id=attempt.id,
        account_id=account.id,
        email=account.email,
        credential_id=credential.id,
        public_id=credential.public_id,
        name=credential.name,
        secret_id=secret.id,
        generation=credential.generation,
        revision=revision,
        protocol=attempt.protocol,
        upstream=account.upstream,
        upstream_user=account.upstream_user,
        peer=attempt.peer,
        client=attempt.client,
    )


def name(refused: Refused, row: LoginRow) -> None:
    """Note for log and audit which account and app password a refused login meant."""
    refused.user = row.account.email
    if row.credential is not None:
        refused.app_password, refused.name = row.credential.public_id, row.credential.name


def kind_of(attempt: Attempt, refused: Refused) -> Kind:
    return Kind(
        account=refused.user or name_for_log(attempt.credentials) or "",
        app_password=refused.app_password,
        name=refused.name,
        protocol=attempt.protocol,
        address=attempt.peer,
        cause=refused.refusal.value,
    )


def name_for_log(credentials: Credentials | None) -> str | None:
    """The login name as typed, unless it may be a password in the wrong field."""
    if credentials is None:
        return None
    login = canonical_login(credentials.login)
    return login if login is not None and "@" in login else None
