"""The parts of the store that only some processes ask for, each imported when it is first asked for.

The page has people and their browsers' sessions, `backup` and `restore` have the archive; a worker and most commands
have none of them.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING

from proxy.store.audit_rows import Actor
from proxy.store.engine import Database

if TYPE_CHECKING:
    from proxy.store.backup import Backups
    from proxy.store.people import People
    from proxy.store.web_sessions import WebSessions


class Seldom:
    """What Store has beside itself. It holds nothing of its own, so making one of them twice would be no harm."""

    def __init__(self, database: Database, clock: Callable[[], datetime], actor: Actor) -> None:
        self._database, self._clock, self._actor = database, clock, actor

    @cached_property
    def backups(self) -> Backups:
        """All that is stored, in a file."""
        from proxy.store.backup import Backups  # noqa: PLC0415 - see the module's words

        return Backups(self._database, self._clock, self._actor)

    @cached_property
    def people(self) -> People:
        """Who may look after which account."""
        from proxy.store.people import People  # noqa: PLC0415 - see the module's words

        return People(self._database, self._clock, self._actor)

    @cached_property
    def web(self) -> WebSessions:
        """The sessions of their browsers."""
        from proxy.store.web_sessions import WebSessions  # noqa: PLC0415 - see the module's words

        return WebSessions(self._database, self._clock, self._actor)
