"""Which changes people are told of, and that they are told once, whichever process or node noticed.

The store keeps what people were told last; a round compares it with what is true and tells the difference. So nothing
is lost when a hook or the store is down or a process ends, what was over before anybody was told is never told, and
what the CLI does (`account connect`) ends an alert as well. A telling is claimed in the store first, and noted there
when somebody took it. A process that is killed while it tells leaves its claim, which runs out: then another one tells,
perhaps for the second time.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Protocol

from proxy.errors import StoreUnavailable
from proxy.logs import Line
from proxy.store.audit_rows import Entry
from proxy.store.pool import StorePool
from proxy.store.rows import Account, AccountState, Claim, TokenState, Told
from proxy.store.store import Store
from proxy.store.trail import entry_subject

logger = logging.getLogger("gatepost.alerts")

FAILING_FOR = timedelta(minutes=15)  # shorter trouble of a provider mends itself
POLL_S = 5.0  # how late we notice what others wrote into the store
USES_PER_ROUND = 50
BREATH_S = 1.0  # between two rounds, however much happens
PAUSES_S = (30.0, 600.0)  # after a failed telling: at first, doubled each time, at last
CLAIM = timedelta(minutes=2)  # the hooks end within 30 s; the rest is for a store that is slow, and clocks that differ
REJECTED = "rejected"


class Ear(Protocol):
    """Who is told by the broker what it learns about tokens."""

    def noted(self, account: Account, state: TokenState, *, has_changed: bool) -> None:
        """An account's token state was written, the same or another."""

    def client_rejected(self, upstream: str, code: str) -> None:
        """The provider does not know our client id or secret."""

    def client_accepted(self, upstream: str) -> None:
        """The provider gave a token."""


class Nobody:
    """An Ear where there are no alerts: in commands, and in tests."""

    def noted(self, account: Account, state: TokenState, *, has_changed: bool) -> None:
        pass

    def client_rejected(self, upstream: str, code: str) -> None:
        pass

    def client_accepted(self, upstream: str) -> None:
        pass


@dataclass(frozen=True, slots=True)
class _Change:
    """Something to tell. `name` is the e-mail or the upstream's name; `new` is None when the trouble is over."""

    subject: str
    account_id: int | None
    name: str
    former: Told | None
    new: Told | None
    detail: str
    since: datetime
    is_silent: bool = False


class Alerts:
    """Rounds of telling. One per process, its run() a task of the worker; it is the broker's Ear."""

    def __init__(
        self,
        *,
        store: Store,
        pool: StorePool,
        deliver: Callable[[bytes], Awaitable[bool]],
        node: str,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """`deliver` says whether somebody took the alert; see hooks."""
        self._store = store
        self._pool = pool
        self._deliver = deliver
        self._node = node
        self._now = now
        self._wake = asyncio.Event()
        self._rejected: dict[str, Told] = {}  # by upstream: events, each for one round
        self._codes: dict[str, str] = {}
        self._accepted: set[str] = set()
        self._believed_rejected: set[str] | None = (
            None  # upstreams, as of the last round; before the first nobody knows
        )
        self._sealed_failing: set[int] = set()  # accounts, since the last round
        self._owner = secrets.token_hex(8)
        self._owed: list[Callable[[], object]] = []  # how claims ended, which the store does not know yet
        self._failures: Counter[str] = Counter()  # by subject: what fails comes last

    # -- what the broker tells -----------------------------------------------------------------------------------------

    def noted(self, account: Account, state: TokenState, *, has_changed: bool) -> None:
        is_news = has_changed
        if account.sealed and state is TokenState.FAILING:
            self._sealed_failing.add(account.id)
            is_news = True
        if is_news:
            self._wake.set()

    def client_rejected(self, upstream: str, code: str) -> None:
        self._accepted.discard(upstream)
        if upstream not in self._rejected:
            self._rejected[upstream] = Told(REJECTED, self._now())
            self._codes[upstream] = code
            self._wake.set()

    def client_accepted(self, upstream: str) -> None:
        self._rejected.pop(upstream, None)
        if self._believed_rejected is None or upstream in self._believed_rejected:
            self._accepted.add(upstream)
            self._wake.set()

    # -- rounds --------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Tell until cancelled."""
        first_s, last_s = PAUSES_S
        pause_s = first_s
        while True:
            self._wake.clear()
            try:
                is_told = await self.tell()
            except StoreUnavailable:  # the registry's watcher logs it
                is_told = True
            except Exception:
                logger.exception("%s", Line("alerts_crashed"))  # mail goes on without them
                is_told = False
            if is_told:
                pause_s = first_s
                await asyncio.sleep(BREATH_S)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(POLL_S):
                        await self._wake.wait()
            else:
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, last_s)

    async def tell(self) -> bool:
        """One round. False if somebody should have been told, but nobody was there. Raises StoreUnavailable."""
        await self._settle()
        changes = [*await self._upstream_changes(), *await self._account_changes()]
        for change in sorted(changes, key=lambda one: self._failures[one.subject]):
            if not await self._tell(change):
                self._failures[change.subject] += 1
                return False
            self._failures.pop(change.subject, None)
        return await self._tell_of_uses()

    async def _tell_of_uses(self) -> bool:
        """Tell of app passwords that are used from new networks, each once. False if nobody took it."""
        trail = self._store.trail
        for entry in await self._pool.run(trail.untold, USES_PER_ROUND):
            if not await self._pool.run(trail.claim_entry, entry.id, self._claim()):
                continue  # another process tells it
            if not await self._deliver_claimed(
                self._text_of_use(entry),
                Line("alert", account=entry.account, state=entry.cause, app_password=entry.app_password),
                done=partial(trail.settle_entry, entry.id, self._owner),
                failed=partial(self._store.upkeep.drop_claim, entry_subject(entry.id), self._owner),
            ):
                return False
        return True

    def _claim(self) -> Claim:
        now = self._now()
        return Claim(self._owner, now, now + CLAIM)

    async def _deliver_claimed(
        self, text: bytes, line: Line, *, done: Callable[[], object], failed: Callable[[], object]
    ) -> bool:
        """Tell, and have the store know how it went: `done` or `failed`, also when this process is told to end."""
        try:
            is_told = await self._deliver(text)
        except BaseException:
            self._owed.append(failed)
            with contextlib.suppress(StoreUnavailable):  # which must not take the place of a cancellation
                await self._settle()
            raise
        if is_told:
            logger.info("%s", line)
        self._owed.append(done if is_told else failed)
        await self._settle()
        return is_told

    async def _settle(self) -> None:
        """What the store does not take now it gets in the next round."""
        while self._owed:
            await self._pool.run(self._owed[0])
            del self._owed[0]

    async def _upstream_changes(self) -> list[_Change]:
        told = await self._pool.run(self._store.upkeep.upstreams_told_of)
        believed = self._believed_rejected = {subject.partition(":")[2] for subject in told}
        changes = []
        for name, new in self._rejected.items():
            if name not in believed:
                changes.append(_Change(f"upstream:{name}", None, name, None, new, self._codes[name], new.since))
        for name in self._accepted & believed:
            former = told[f"upstream:{name}"]
            changes.append(_Change(f"upstream:{name}", None, name, former, None, "", self._now()))
        # Events: what others told meanwhile needs no telling.
        self._rejected = {name: new for name, new in self._rejected.items() if name not in believed}
        self._accepted &= believed
        return changes

    async def _account_changes(self) -> list[_Change]:
        found = await self._pool.run(self._store.upkeep.accounts_to_tell_of)
        changes = [self._change(account, told) for account, told in found]
        self._sealed_failing -= {account.id for account, _ in found}  # who failed during the query waits for the next
        return [change for change in changes if change is not None]

    def _change(self, account: Account, told: Told | None) -> _Change | None:
        is_over = account.token_state in (TokenState.FRESH, TokenState.NONE)
        is_disabled = account.state is AccountState.DISABLED
        new = None if is_over or is_disabled else Told(account.token_state.value, account.token_since)
        if new == told or (new is not None and account.token_state is TokenState.FAILING and self._is_young(account)):
            return None
        return _Change(
            f"account:{account.id}",
            account.id,
            account.email,
            told,
            new,
            "" if new is None else account.token_detail,
            account.token_since,
            is_silent=is_disabled,
        )

    def _is_young(self, account: Account) -> bool:
        """Whether a failure may still mend itself; a sealed account's is old only when a login fails once more."""
        if account.sealed and account.id not in self._sealed_failing:
            return True
        return self._now() - account.token_since < FAILING_FOR

    async def _tell(self, change: _Change) -> bool:
        upkeep = self._store.upkeep
        noted = (change.subject, change.account_id, change.former, change.new)
        if change.is_silent:
            await self._pool.run(upkeep.replace_told, *noted)
            return True
        if not await self._pool.run(upkeep.claim_change, change.subject, change.former, self._claim()):
            return True  # another process tells it
        key = "upstream" if change.account_id is None else "account"
        is_told = await self._deliver_claimed(
            self._text(change),
            Line("alert", **{key: change.name}, state=_state(change), detail=change.detail or None),
            done=partial(upkeep.settle_change, *noted, self._owner),
            failed=partial(upkeep.drop_claim, change.subject, self._owner),
        )
        if is_told:
            self._forget(change)
        return is_told

    def _forget(self, change: _Change) -> None:
        if change.account_id is not None or self._believed_rejected is None:
            return
        if change.new:
            self._rejected.pop(change.name, None)
            self._believed_rejected.add(change.name)
        else:
            self._accepted.discard(change.name)
            self._believed_rejected.discard(change.name)

    def _text_of_use(self, entry: Entry) -> bytes:
        fields = {
            "event": entry.cause,
            "account": entry.account,
            "app_password": entry.app_password,
            "name": entry.name,
            "protocol": entry.protocol,
            "address": entry.address,
            "client": entry.detail,
            "since": entry.at.isoformat(timespec="seconds"),
            "node": self._node,
        }
        return json.dumps(fields).encode() + b"\n"

    def _text(self, change: _Change) -> bytes:
        """The alert on the wire; see hooks for the contract."""
        is_upstream = change.account_id is None
        fields = {
            "event": "provider_client" if is_upstream else "token_state",
            "upstream" if is_upstream else "account": change.name,
            "state": _state(change),
            "detail": change.detail,
            "since": change.since.isoformat(timespec="seconds"),
            "node": self._node,
        }
        return json.dumps(fields).encode() + b"\n"


def _state(change: _Change) -> str:
    if change.account_id is None:
        return REJECTED if change.new else "accepted"
    return change.new.state if change.new else TokenState.FRESH.value
