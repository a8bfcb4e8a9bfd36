"""Opening a sealed account with the app password that logs in: one more argon2, after the verify and never for nothing.

What comes out is an app key, which the broker needs for this one login; nobody keeps it, but the verify cache under
the password itself.
"""

from __future__ import annotations

import asyncio
import logging

from proxy.errors import Refusal, Refused
from proxy.logs import Line
from proxy.oauth import TokenBroker
from proxy.store.pool import StorePool
from proxy.store.rows import LoginRow
from proxy.store.store import Store
from proxy.vault.apppassword import AppPassword
from proxy.vault.cache import Verified, VerifyCache
from proxy.vault.hashing import HashPool, Ticket
from proxy.vault.sealed import OpenKey, unlocked
from proxy.vault.sealing import NotForUs, SealBroken

logger = logging.getLogger("gatepost.login")


class Unlocker:
    """Gives the app key of a verified login. Stateless; one per LoginService."""

    def __init__(
        self,
        *,
        store: Store,
        pool: StorePool,
        hashes: HashPool,
        cache: VerifyCache,
        broker: TokenBroker,
        queue_s: float,
    ) -> None:
        self._store = store
        self._pool = pool
        self._hashes = hashes
        self._cache = cache
        self._broker = broker
        self._queue_s = queue_s

    async def key(
        self, row: LoginRow, password: AppPassword, known: Verified | None, ticket: Ticket | None
    ) -> OpenKey | None:
        """The app key of a sealed account's login, None for an ordinary account.

        known   this very login if it was verified a moment ago: then nothing is computed
        raises  Refused, StoreUnavailable
        """
        if not row.account.sealed:
            return None
        if known is not None and known.is_for(row):
            return self._cache.app_key(known, password)
        if ticket is None:
            raise Refused(Refusal.HASH_QUEUE_FULL)
        assert row.secret is not None
        key = await self._pool.run(self._store.app_key, row.secret.id)
        if key is None:  # revoked in this instant
            raise Refused(Refusal.REVOKED, "its app key is gone")
        try:
            locked = self._broker.unwrapped(key)
            async with asyncio.timeout(self._queue_s):
                stretched = await self._hashes.stretched(ticket, locked.stretch, password)
            return unlocked(locked, stretched)
        except TimeoutError:
            raise Refused(Refusal.HASH_QUEUE_FULL, "waited too long") from None
        except SealBroken as error:
            why = "key_unknown" if isinstance(error, NotForUs) else "altered"
            logger.error("%s", Line("seal_broken", user=row.account.email, cause=why, error=str(error)))  # noqa: TRY400
            raise Refused(Refusal.NEEDS_CONSENT, "the app key cannot be opened") from None
