"""Sealed accounts on the service floor: made as the CLI makes them, and looked into as only a test can."""

from __future__ import annotations

from datetime import datetime
from itertools import count
from typing import Any

from proxy.secret import Secret
from proxy.store.rows import Account, Credential, Deposit, NewAccount, NewCredential, NewSecret, Purpose
from proxy.vault.apppassword import AppPassword, generate, parse
from proxy.vault.hashing import Hasher
from proxy.vault.sealed import OpenKey, make_app_key, recipient_of, unlocked, unwrapped
from proxy.vault.sealing import seal, unseal, wrap_for
from tests.service.house import CHEAP, House

HASHER = Hasher(**CHEAP)
_numbers = count(1)


def sealed_account(house: House, email: str = "sue@x.test", upstream: str = "mail") -> Account:
    return house.store.add_account(NewAccount(email, upstream, f"box-{email}", (), "test", sealed=True))


def app_password(
    house: House, account: Account, *, unlock: str | None = None, token: str | None = None, **changes: Any
) -> tuple[str, Credential]:
    """A new app password with its key: opened by `unlock`, or with a new token, or alone while nothing is stored."""
    password = generate()
    text = password.whole.reveal()
    house.secrets |= {text, password.shown()}
    key = make_app_key(account.id, password, house.store.masters()[0], HASHER)
    number = next(_numbers)
    values: dict[str, Any] = {
        "public_id": f"sealed{number}",
        "account_id": account.id,
        "name": f"sealed {number}",
        "protocols": frozenset({"imap", "smtp"}),
        "networks": (),
        "expires": None,
        "created_by": "test",
        "selector": password.selector,
        "phc": HASHER.hash(password),
    }
    new = NewCredential(**{**values, **changes})
    opened, tokens = [], []
    if token is not None:
        tokens = [sealed_to_all(house, account, token, extra=[recipient_of(key)])]
    elif unlock is not None:
        opener = opened_key(house, account, unlock)
        deposits = [house.store.deposit(account.id, purpose) for purpose in Purpose]
        opened = [(one, wrap_for(one, opener, recipient_of(key))) for one in deposits if one is not None]
    return text, house.store.add_credential(new, key, opened=opened, tokens=tokens)


def rotated(house: House, account: Account, public_id: str, until: datetime, *, unlock: str) -> str:
    """A new text for an app password, with its key, opened by `unlock`; the former until then."""
    password = generate()
    house.secrets |= {password.whole.reveal(), password.shown()}
    key = make_app_key(account.id, password, house.store.masters()[0], HASHER)
    opener = opened_key(house, account, unlock)
    deposits = [house.store.deposit(account.id, purpose) for purpose in Purpose]
    opened = [(one, wrap_for(one, opener, recipient_of(key))) for one in deposits if one is not None]
    new = NewSecret(password.selector, HASHER.hash(password))
    house.store.rotate(public_id, new, until, key, opened=opened)
    return password.whole.reveal()


def sealed_to_all(house: House, account: Account, token: str, *, extra: list[Any] | None = None) -> Deposit:
    house.secrets.add(token)
    purpose = Purpose.REFRESH_TOKEN if account.upstream == "mail" else Purpose.PASSWORD
    return seal(purpose, account.id, Secret(token), [*house.store.recipients(account.id), *(extra or [])])


def opened_key(house: House, account: Account, typed: str) -> OpenKey:
    password = parsed(typed)
    row = house.store.find_login(account.email, password.selector)
    assert row is not None
    assert row.secret is not None
    key = house.store.app_key(row.secret.id)
    assert key is not None
    locked = unwrapped(key, house.master)
    return unlocked(locked, HASHER.stretched(locked.stretch, password))


def kept(house: House, account: Account, typed: str, purpose: Purpose = Purpose.REFRESH_TOKEN) -> str | None:
    """What the store holds right now, opened with this app password."""
    deposit = house.store.deposit(account.id, purpose)
    return None if deposit is None else unseal(deposit, opened_key(house, account, typed)).reveal()


def parsed(typed: str) -> AppPassword:
    password = parse(Secret(typed))
    assert password is not None
    return password
