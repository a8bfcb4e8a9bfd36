"""The registry: every live session of this process, its app password, and why it ended.

It also makes revocation felt: a watcher compares the live sessions with the store whenever the revision there has
risen, and ends those that may no longer be.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from typing import Protocol

from proxy.errors import StoreUnavailable
from proxy.logs import Line
from proxy.store.rows import AccountState, CredentialState, Standing

logger = logging.getLogger("gatepost.sessions")

WATCH_INTERVAL_S = 0.25  # revocation must be felt within a second
RECONSIDER_INTERVAL_S = 1.0  # for what is remembered: it decides only when the store is down
EXPIRY_INTERVAL_S = 15.0  # expiry within 30 s
QUIET_S = 2.0  # a draining session without a byte for so long is between two commands, not amid one


class End(Enum):
    """Why a session ended."""

    CLIENT_LEFT = "client_left"
    UPSTREAM_LEFT = "upstream_left"
    IDLE = "idle"
    REVOKED = "revoked"  # revoked, suspended, expired, account disabled or removed
    KICKED = "kicked"
    DRAINED = "drained"
    DEADLINE = "drain_deadline"


class Relay(Protocol):
    """What the registry needs of a running relay (edge/relay)."""

    @property
    def last_byte_at(self) -> float: ...

    def end(self, why: End) -> None: ...


class Memory(Protocol):
    """What is remembered of logins for as long as the store is down (vault/cache)."""

    def secret_ids(self) -> Collection[int]: ...

    def reconsider(self, standings: Mapping[int, Standing], revision: int) -> None: ...


@dataclass(slots=True, eq=False)
class Session:
    """A login that was let in. `revision` is the store's revision that its row was read at."""

    id: str
    account_id: int
    email: str
    credential_id: int
    public_id: str
    name: str
    secret_id: int
    generation: int
    revision: int
    protocol: str
    upstream: str
    upstream_user: str
    peer: str
    client: str
    since: datetime = field(default_factory=lambda: datetime.now(UTC))
    relay: Relay | None = None
    ending: End | None = None
    on_gone: Callable[[], None] = lambda: None  # called when it leaves the registry

    def end(self, why: End) -> None:
        """End it now, or as soon as its relay starts. Told once: each telling would put off the relay's deadline."""
        if self.ending is not None:
            return
        self.ending = why
        if self.relay is not None:
            self.relay.end(why)


class Registry:
    """All live sessions of this process. Owned by build(); its watcher is a task of the worker."""

    def __init__(
        self,
        *,
        read_revision: Callable[[], Awaitable[int]],
        read_standings: Callable[[list[int]], Awaitable[Mapping[int, Standing]]],
        read_kicked: Callable[[], Awaitable[Collection[str]]],
        memory: Memory | None = None,
        watch_interval_s: float = WATCH_INTERVAL_S,
    ) -> None:
        """The functions read the store; each raises StoreUnavailable.

        read_standings      secret ids to their standings; an id that is gone is missing from the answer
        read_kicked         ids of sessions of this worker that an administrator wants to end
        """
        self._read_revision = read_revision
        self._read_standings = read_standings
        self._read_kicked = read_kicked
        self._memory = memory
        self._reconsidered_revision = -1
        self._watch_interval_s = watch_interval_s
        self._sessions: dict[str, Session] = {}
        self._checked_revision = -1
        self._has_stale = False
        self._hinted = asyncio.Event()
        self._emptied = asyncio.Event()
        self._emptied.set()

    def __len__(self) -> int:
        return len(self._sessions)

    def __iter__(self) -> Iterator[Session]:
        return iter(tuple(self._sessions.values()))

    def admit(self, session: Session) -> None:
        self._sessions[session.id] = session
        self._emptied.clear()
        # Its row was read before the watcher's last look: a revocation between the two would go unseen.
        self._has_stale |= session.revision < self._checked_revision

    def remove(self, session: Session) -> None:
        if self._sessions.pop(session.id, None) is not None:
            session.on_gone()
        if not self._sessions:
            self._emptied.set()

    def hint(self) -> None:
        """The store seems to have changed: look now. Only saves time; the look itself is what counts."""
        self._hinted.set()

    async def watch(self) -> None:
        """Run until cancelled: end what is no longer allowed. A store that is down ends nothing."""
        loop = asyncio.get_running_loop()
        next_expiry = loop.time() + EXPIRY_INTERVAL_S
        next_reconsidering = 0.0
        is_store_down = False
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._watch_interval_s):
                    await self._hinted.wait()
            self._hinted.clear()
            try:
                revision = await self._read_revision()
                is_expiry_due = loop.time() >= next_expiry
                if revision != self._checked_revision or self._has_stale or is_expiry_due:
                    # Both before the comparison: who is admitted during it is not among those compared.
                    self._has_stale, self._checked_revision = False, revision
                    await self._compare()
                    if is_expiry_due:
                        next_expiry = loop.time() + EXPIRY_INTERVAL_S
                if revision != self._reconsidered_revision and loop.time() >= next_reconsidering:
                    next_reconsidering = loop.time() + RECONSIDER_INTERVAL_S
                    await self._reconsider(revision)
            except StoreUnavailable as error:
                if not is_store_down:
                    logger.warning("%s", Line("store_down", error=str(error)))
                is_store_down, self._has_stale = True, True
            else:
                if is_store_down:
                    logger.warning("%s", Line("store_back"))
                is_store_down = False

    async def _compare(self) -> None:
        sessions = tuple(self._sessions.values())
        if not sessions:
            return
        standings = await self._read_standings(sorted({session.secret_id for session in sessions}))
        kicked = await self._read_kicked()
        now = datetime.now(UTC)
        for session in sessions:
            if not _may_go_on(session, standings.get(session.secret_id), now):
                session.end(End.REVOKED)
            elif session.id in kicked:
                session.end(End.KICKED)

    async def _reconsider(self, revision: int) -> None:
        if self._memory is not None:
            secret_ids = self._memory.secret_ids()
            standings = await self._read_standings(sorted(secret_ids)) if secret_ids else {}
            self._memory.reconsider(standings, revision)
        self._reconsidered_revision = revision

    async def drain(self, deadline: float) -> None:
        """End sessions as they fall quiet, the rest at `deadline` (loop time); returns when all are gone."""
        loop = asyncio.get_running_loop()
        while self._sessions:
            now = loop.time()
            is_late = now >= deadline
            for session in tuple(self._sessions.values()):
                if is_late or session.relay is None or now - session.relay.last_byte_at >= QUIET_S:
                    session.end(End.DEADLINE if is_late else End.DRAINED)
            with contextlib.suppress(TimeoutError):
                # A late relay aborts its legs within a second; two are enough for anything.
                await asyncio.wait_for(self._emptied.wait(), timeout=2.0 if is_late else 0.25)
            if is_late:
                return

    def end_idle(self, limits_s: Mapping[str, float]) -> None:
        """End sessions without a byte either way for longer than their protocol's limit."""
        now = asyncio.get_running_loop().time()
        for session in tuple(self._sessions.values()):
            if session.relay is not None and now - session.relay.last_byte_at > limits_s[session.protocol]:
                session.end(End.IDLE)


def _may_go_on(session: Session, standing: Standing | None, now: datetime) -> bool:
    return (
        standing is not None
        and standing.account_state is AccountState.ACTIVE
        and standing.state is CredentialState.ACTIVE
        and standing.generation == session.generation
        and (standing.expires is None or standing.expires > now)
        and (standing.secret_valid_until is None or standing.secret_valid_until > now)
    )
