"""Access tokens in this process's memory: an ordinary account's as they are, a sealed one's as the store has them."""

from __future__ import annotations

import hmac
import math
import random
from dataclasses import dataclass
from datetime import datetime

from proxy.secret import Secret
from proxy.store.rows import Account, Deposit
from proxy.vault.sealing import Keys, SealBroken, unseal

MAX_HELD = 100_000
# Renewed at some point of this part of its life, so that accounts and processes that began together come apart.
AHEAD = (0.75, 0.85)
AHEAD_MARGIN_S = 90.0  # and so long before its end at least: logins renew a token themselves with 60 s left


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
        self._renew_at: dict[int, float] = {}  # of those that somebody logged in with; infinite: not ahead of need

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
            self.drop(next(iter(self._by_account)))
        is_open = not account.sealed
        if account.id in self._renew_at:
            self._renew_at[account.id] = 0.0  # to be drawn
        self._by_account[account.id] = held if is_open else _Sealed(deposit, held.obtained, held.expires, held.since)

    def drop(self, account_id: int) -> None:
        self._by_account.pop(account_id, None)
        self._renew_at.pop(account_id, None)

    def note_use(self, account: Account) -> None:
        """Somebody logs in with its token, the present one or the one that he waits for: it is to be renewed ahead."""
        if not account.sealed and len(self._renew_at) < MAX_HELD:
            self._renew_at.setdefault(account.id, 0.0)

    def rest(self, account_id: int) -> bool:
        """The token is about to be renewed: the next is not, ahead of need, until somebody used it. Was this one?"""
        return self._renew_at.pop(account_id, None) is not None

    def due(self, now: float) -> list[int]:
        """Accounts, never sealed ones, whose token was used and has come to the last part of its life."""
        found = []
        for account_id, drawn in self._renew_at.items():
            held = self._by_account.get(account_id)
            if not isinstance(held, Held):
                continue
            self._renew_at[account_id] = renew_at = drawn or _moment(held, now)
            if renew_at <= now:
                found.append(account_id)
        return found


def _moment(held: Held, now: float) -> float:
    """When to renew; never, if its life is too short for that."""
    begin = held.obtained if held.obtained is not None else now  # how old it was in the store nobody knows
    life_s = held.expires - begin
    share = random.uniform(*AHEAD)  # noqa: S311 - jitter, not a secret
    moment_s = min(life_s * share, life_s - AHEAD_MARGIN_S)
    return begin + moment_s if moment_s > life_s / 2 else math.inf
