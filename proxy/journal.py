"""Last used: remembered at each login, written to the store in batches, so that a login costs no write."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from proxy.errors import StoreUnavailable
from proxy.logs import Line
from proxy.store.rows import LastUse, Use

logger = logging.getLogger("gatepost.journal")

INTERVAL_S = 2.0  # what a crash may lose


class Journal:
    """The latest use of each app password that is not in the store yet: bounded by their number."""

    def __init__(self, write: Callable[[Sequence[Use]], Awaitable[None]]) -> None:
        self._write = write
        self._pending: dict[int, LastUse] = {}

    def record(self, credential_id: int, use: LastUse) -> None:
        self._pending[credential_id] = use

    async def run(self) -> None:
        """Write every INTERVAL_S until cancelled; call flush() once more after that."""
        while True:
            await asyncio.sleep(INTERVAL_S)
            await self.flush()

    async def flush(self) -> None:
        """Write what is pending; what can't be written now stays for the next time."""
        if not self._pending:
            return
        batch, self._pending = self._pending, {}
        try:
            await self._write([Use(credential_id, use, "") for credential_id, use in batch.items()])
        except BaseException as error:
            # Also when cancelled: a use that is written twice does no harm.
            self._pending = batch | self._pending
            if not isinstance(error, StoreUnavailable):
                raise
            logger.info("%s", Line("last_used_delayed", error=str(error), pending=len(self._pending)))
