"""People at the web page: whose mailbox is whose, who was granted another, and the sessions of their browsers.

A person gets a mailbox in three ways, and a login at the mail server is none of them (a colleague with rights to a
mailbox passes it, too): the provider vouches for its address and nobody else has it yet; it is his since an earlier
sign-in; an administrator granted it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from proxy.admin import accounts, inputs
from proxy.admin.claims import Claimed, Turned, TurnedAway
from proxy.admin.desk import Desk
from proxy.config import WebConfig
from proxy.config.address import BadAddress, issuer
from proxy.errors import OperatorError, StoreError
from proxy.secret import Secret
from proxy.store.people_rows import Access, NewWebSession, Person
from proxy.store.rows import Account, NewAccount, Purpose, TokenState
from proxy.wire.names import canonical_login

MAX_SUBJECT = 255  # OpenID Connect Core 2
# What a new token is kept for: the others have one that works, and theirs stays.
LACKING = (TokenState.NONE, TokenState.NEEDS_CONSENT, TokenState.UPSTREAM_REFUSES)


@dataclass(frozen=True, slots=True)
class Welcome:
    """Somebody who may come in.

    own     mailboxes of the address that the provider vouches for, nobody else's: to be bound
    new     an account to make for the address
    """

    claimed: Claimed
    own: tuple[Account, ...]
    new: NewAccount | None


def welcome(desk: Desk, web: WebConfig, claimed: Claimed) -> Welcome:
    """Decide whether somebody has anything to do here; writes nothing. Raises TurnedAway."""
    open_ids = desk.store.people.open_to(claimed.identity, claimed.address)
    known = desk.store.people.find(claimed.identity)
    matching = _matching(desk, web, claimed.address)
    owners = desk.store.people.owners([account.id for account in matching])
    own = tuple(one for one in matching if one.id not in owners or (known and owners[one.id] == known.id))
    if own or open_ids or claimed.is_admin:
        return Welcome(claimed, own, None)
    who = claimed.display or str(claimed.identity)
    if matching:
        raise TurnedAway(Turned.BOUND_TO_ANOTHER, str(claimed.identity), who)
    if not web.create_accounts or not _is_wanted(web, claimed.address) or "@" not in claimed.address:
        raise TurnedAway(Turned.NO_MAILBOX, claimed.address or "the provider vouches for no address", who)
    try:
        return Welcome(claimed, (), accounts.prepare(desk, accounts.AccountRequest(claimed.address, web.upstream)))
    except StoreError as error:  # an alias of somebody else's account
        raise TurnedAway(Turned.BOUND_TO_ANOTHER, error.problem, who) from None


def make(desk: Desk, new: NewAccount, refresh_token: Secret) -> Account:
    """Make the account of somebody whose token has just opened the mailbox. Raises StoreError if the name is taken."""
    return accounts.add(desk, new, Purpose.REFRESH_TOKEN, refresh_token).account


def settle(desk: Desk, claimed: Claimed, own: tuple[Account, ...]) -> Person:
    """Keep who it is, and make the mailboxes theirs."""
    person = desk.store.people.meet(claimed.identity, claimed.address, claimed.display)
    for account in own:
        if not desk.store.people.bind(account.id, person.id):
            raise TurnedAway(Turned.BOUND_TO_ANOTHER, str(claimed.identity), person.name)
    return person


def open_session(
    desk: Desk, web: WebConfig, claimed: Claimed, person: Person, *, id_hash: str, former: str, address: str
) -> None:
    """Begin a session of a browser in place of its former one."""
    new = NewWebSession(
        id_hash=id_hash,
        person_id=person.id,
        is_admin=claimed.is_admin,
        expires=desk.now + timedelta(seconds=web.session_s),
        auth_time=claimed.auth_time,
        amr=claimed.amr,
        acr=claimed.acr,
        address=address,
    )
    desk.store.web.open(new, former)


def mailboxes(desk: Desk, person: Person) -> list[Account]:
    """What a person may look after, by e-mail."""
    return desk.store.people.accounts_of(person.id)


@dataclass(frozen=True, slots=True)
class Granted:
    """An account, and all who may look after it."""

    account: Account
    access: tuple[Access, ...]
    changed: int


def grant(desk: Desk, email: str, to: str) -> Granted:
    """Let somebody look after a mailbox at the web page. Raises OperatorError."""
    account = accounts.find(desk, email)
    changed = desk.store.people.grant(account.id, grantee(to))
    return Granted(account, tuple(desk.store.people.access_to(account.id)), int(changed))


def revoke_grant(desk: Desk, email: str, whose: str) -> Granted:
    """Take that away, or an owner's binding; their browsers are signed out. Raises OperatorError."""
    account = accounts.find(desk, email)
    changed = desk.store.people.revoke_grant(account.id, grantee(whose))
    if not changed:
        names = [one.grantee for one in desk.store.people.access_to(account.id)]
        remedy = inputs.suggestion(whose, names, f"it has {', '.join(names)}" if names else "nobody has access to it")
        raise StoreError(f"{inputs.repeated(whose)} has no access to {account.email}", remedy)
    return Granted(account, tuple(desk.store.people.access_to(account.id)), changed)


def grantee(text: str) -> str:
    """Who is meant: an e-mail in canonical form, or ISSUER#SUBJECT as it is. Raises OperatorError."""
    url, mark, subject = text.strip().partition("#")
    if not mark:
        return inputs.email(text)
    remedy = "write the issuer, #, and the subject (for Entra the object id) of its ID tokens"
    try:
        issuer(url)
    except BadAddress as error:
        raise OperatorError(f"the issuer in {inputs.repeated(text)} {error.what}", remedy) from None
    if not subject or len(subject) > MAX_SUBJECT or not subject.isprintable():
        raise OperatorError(f"{inputs.repeated(text)} has no subject", remedy)
    return f"{url}#{subject}"


def _matching(desk: Desk, web: WebConfig, address: str) -> list[Account]:
    """Accounts whose mailbox upstream has this very address: what the login name is like does not matter."""
    if not address or not _is_wanted(web, address):
        return []
    found = [one for one in desk.store.accounts() if one.upstream == web.upstream]
    return [one for one in found if canonical_login(one.upstream_user) == address]


def _is_wanted(web: WebConfig, address: str) -> bool:
    return not web.domains or address.rpartition("@")[2] in web.domains
