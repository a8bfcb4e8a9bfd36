"""Access tokens in this process's memory: an ordinary account's as they are, a sealed one's as the store has them."""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from datetime import datetime

from proxy.secret import Secret
from proxy.store.rows import Account, Deposit
from proxy.vault.sealing import Keys, SealBroken, unseal

MAX_HELD = 100_000


@dataclass(frozen=True, slots=True)
class Held:
    """An access token in memory; times are monotonic seconds of this process.

    obtained    None for one found in the store: how old it was then nobody knows
    """

    token: Secret
    obtained: float | None
    expires: float
    since: datetime  # the account's token_since then: a new deposit makes it later, and this token an old one

    def is_same(self, token: Secret) -> bool:
        return hmac.compare_digest(self.token.reveal().encode(), token.reveal().encode())


@dataclass(frozen=True, slots=True)
class _Sealed:
    """The same without the token, and the deposit that has it."""

    deposit: Deposit
    obtained: float | None
    expires: float
    since: datetime


class HeldTokens:
    """What is held, by account; beyond MAX_HELD the oldest goes. Expiry is for the caller to judge."""

    def __init__(self) -> None:
        self._by_account: dict[int, Held | _Sealed] = {}

    def find(self, account: Account, keys: Keys) -> Held | None:
        """What is held of this account; of a sealed one only if the keys open it."""
        held = self._by_account.get(account.id)
        if not isinstance(held, _Sealed):
            return held
        try:
            return Held(unseal(held.deposit, keys), held.obtained, held.expires, held.since)
        except SealBroken:  # this app password is younger than that token
            return None

    def keep(self, account: Account, held: Held, deposit: Deposit) -> None:
        """Hold a token; `deposit` is where the store has it."""
        if len(self._by_account) >= MAX_HELD:
            self._by_account.pop(next(iter(self._by_account)))
        is_open = not account.sealed
        self._by_account[account.id] = held if is_open else _Sealed(deposit, held.obtained, held.expires, held.since)

    def drop(self, account_id: int) -> None:
        self._by_account.pop(account_id, None)
