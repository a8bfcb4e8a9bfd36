"""Last used, and first uses of a day: remembered at each login, written in batches, so that a login costs no write."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from datetime import date
from itertools import islice

from proxy.errors import StoreUnavailable
from proxy.logs import Line
from proxy.store.rows import LastUse, Use
from proxy.wire.addresses import neighbourhood

logger = logging.getLogger("gatepost.journal")

INTERVAL_S = 2.0  # what a crash may lose
MAX_SIGHTED = 100_000  # (app password, address) pairs known to be in the audit of their day; about 20 MB
AT_ONCE = 250  # uses in one transaction: it must end well within the store's deadline, and others write between two
MAX_PENDING = 200_000  # pairs not written yet, while the store is down; beyond it only their last use is kept

_Place = tuple[int, str]  # app password, address


class Journal:
    """The latest use of each app password from each address that is not in the store yet."""

    def __init__(self, write: Callable[[Sequence[Use]], Awaitable[None]], *, interval_s: float = INTERVAL_S) -> None:
        self._write = write
        self._interval_s = interval_s
        self._last: dict[int, LastUse] = {}
        self._sightings: dict[_Place, LastUse] = {}  # the first of the day from each address
        self._sighted: OrderedDict[_Place, date] = OrderedDict()

    def record(self, credential_id: int, use: LastUse) -> None:
        self._last[credential_id] = use
        place = (credential_id, use.address)
        if self._sighted.get(place) != use.at.date() and len(self._sightings) < MAX_PENDING:
            self._sightings.setdefault(place, use)

    async def run(self) -> None:
        """Write every interval_s until cancelled; call flush() once more after that."""
        while True:
            await asyncio.sleep(self._interval_s)
            await self.flush()

    async def flush(self) -> None:
        """Write what is pending; what can't be written now stays for the next time."""
        if not self._last:
            return
        last, self._last = self._last, {}
        sightings, self._sightings = self._sightings, {}
        try:
            while sightings or last:
                await self._write_some(sightings, last)
        except BaseException as error:
            # Also when cancelled: a use that is written twice does no harm.
            self._last = last | self._last
            self._sightings |= sightings
            if not isinstance(error, StoreUnavailable):
                raise
            logger.info("%s", Line("last_used_delayed", error=str(error), pending=len(self._last)))

    async def _write_some(self, sightings: dict[_Place, LastUse], last: dict[int, LastUse]) -> None:
        """Write AT_ONCE of them, and take those away."""
        seen = dict(islice(sightings.items(), AT_ONCE))
        used = dict(islice(last.items(), AT_ONCE - len(seen)))
        uses = [Use(credential_id, use, neighbourhood(use.address)) for (credential_id, _), use in seen.items()]
        uses += [Use(credential_id, use, "") for credential_id, use in used.items()]
        await self._write(uses)
        for credential_id in used:
            del last[credential_id]
        for place, use in seen.items():
            del sightings[place]
            self._sighted[place] = use.at.date()
            self._sighted.move_to_end(place)
        while len(self._sighted) > MAX_SIGHTED:
            self._sighted.popitem(last=False)
