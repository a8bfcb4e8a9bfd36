"""People at the web page as plain data: who they are by their provider's word, and what their browsers hold."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Identity:
    """What a provider never gives to anybody else: (iss, tid, oid) of Entra, (iss, "", sub) of the others."""

    issuer: str
    tenant: str
    subject: str

    def __str__(self) -> str:
        """As `account grant --to` takes it."""
        return f"{self.issuer}#{self.subject}"


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody who signed in.

    address     canonical, that the provider vouched for at the last sign-in; "" for none
    display     an e-mail for people to read: nothing is decided by it
    """

    id: int
    identity: Identity
    address: str
    display: str

    @property
    def name(self) -> str:
        """What the audit calls them: nothing that they could choose themselves."""
        return self.address or str(self.identity)


@dataclass(frozen=True, slots=True)
class Access:
    """Who may look after an account. `is_owner`: bound at a first sign-in; else granted by an administrator.

    grantee     as granted; of an owner the name of the person
    person      None while nobody signed in who it is meant for
    """

    grantee: str
    person: Person | None
    is_owner: bool
    created: datetime
    created_by: str


@dataclass(frozen=True, slots=True)
class NewWebSession:
    """`auth_time`: when the person showed who they are, by the provider's word if it gave one."""

    id_hash: str
    person_id: int
    is_admin: bool
    expires: datetime
    auth_time: datetime
    amr: tuple[str, ...]
    acr: str
    address: str


@dataclass(frozen=True, slots=True)
class WebSession:
    """A browser that somebody is signed in with. `held` is a new token of a sealed account, under the session's id."""

    id_hash: str
    person: Person
    is_admin: bool
    created: datetime
    last_seen: datetime
    expires: datetime
    auth_time: datetime
    address: str
    held_for: int | None = None
    held: bytes | None = field(default=None, repr=False)
