"""The registry: what ends a live session, what must not, and how a house is emptied."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest

from proxy.errors import StoreUnavailable
from proxy.live.sessions import End, Registry, Session
from proxy.store.rows import AccountState, CredentialState, Standing, TokenState
from tests.service.house import House, LogBook, until

pytest_plugins = ("tests.service.plugin",)
GOOD = Standing(1, AccountState.ACTIVE, CredentialState.ACTIVE, None, 1, None)


@dataclass(eq=False)
class Legs:
    """A relay as the registry sees it; `on_end` is what its end leads to."""

    last_byte_at: float = 0.0
    ends: list[End] = field(default_factory=list)
    registry: Registry | None = None
    session: Session | None = None

    def end(self, why: End) -> None:
        self.ends.append(why)
        if self.registry is not None and self.session is not None:
            self.registry.remove(self.session)


@dataclass
class Ledger:
    """The store's two answers, as the test sets them."""

    revision: int = 7
    standings: dict[int, Standing] = field(default_factory=dict)
    kicked: set[str] = field(default_factory=set)
    is_down: bool = False
    reads: int = 0
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    hold: asyncio.Event | None = None  # what the answer to a comparison waits for

    async def read_revision(self) -> int:
        if self.is_down:
            raise StoreUnavailable("down")
        return self.revision

    async def read_kicked(self) -> set[str]:
        return self.kicked

    async def read_standings(self, secret_ids: list[int]) -> Mapping[int, Standing]:
        self.reads += 1
        found = {one: self.standings[one] for one in secret_ids if one in self.standings}
        self.asked.set()
        if self.hold is not None:
            await self.hold.wait()
        return found


def session(number: int = 1, **changes: object) -> Session:
    values: dict[str, object] = {
        "id": f"visit{number}", "account_id": 1, "email": "ann@x.test", "credential_id": 1, "public_id": "id1",
        "name": "scanner", "secret_id": number, "generation": 1, "revision": 7, "protocol": "imap",
        "upstream": "mail", "upstream_user": "ann", "peer": "192.0.2.1", "client": "",
    }  # fmt: skip
    return Session(**{**values, **changes})


@pytest.fixture
def ledger() -> Ledger:
    return Ledger(standings={1: GOOD, 2: GOOD})


@pytest.fixture
def registry(ledger: Ledger) -> Registry:
    return Registry(
        read_revision=ledger.read_revision,
        read_standings=ledger.read_standings,
        read_kicked=ledger.read_kicked,
        watch_interval_s=0.002,
    )


@asynccontextmanager
async def watched(registry: Registry) -> AsyncIterator[asyncio.Task[None]]:
    watcher = asyncio.create_task(registry.watch())
    try:
        yield watcher
    finally:
        assert not watcher.done(), "the watcher died"
        watcher.cancel()
        await asyncio.wait([watcher])


async def turns(ledger: Ledger, count: int = 3) -> None:
    """Let the watcher look a few times more."""
    for _ in range(count):
        await asyncio.sleep(0.003)


@pytest.mark.parametrize(
    "standing",
    [
        None,
        Standing(1, AccountState.DISABLED, CredentialState.ACTIVE, None, 1, None),
        Standing(1, AccountState.ACTIVE, CredentialState.REVOKED, None, 1, None),
        Standing(1, AccountState.ACTIVE, CredentialState.SUSPENDED, None, 1, None),
        Standing(1, AccountState.ACTIVE, CredentialState.ACTIVE, datetime.now(UTC) - timedelta(seconds=1), 1, None),
        Standing(1, AccountState.ACTIVE, CredentialState.ACTIVE, None, 2, None),
        Standing(1, AccountState.ACTIVE, CredentialState.ACTIVE, None, 1, datetime.now(UTC) - timedelta(seconds=1)),
    ],
)
async def test_a_session_whose_right_is_gone_is_ended_and_others_stay(
    registry: Registry, ledger: Ledger, standing: Standing | None
) -> None:
    gone, stays = session(1, relay=Legs()), session(2, relay=Legs())
    for one in (gone, stays):
        registry.admit(one)
    async with watched(registry):
        await ledger.asked.wait()
        ledger.standings.pop(1)
        if standing is not None:
            ledger.standings[1] = standing
        ledger.revision += 1
        await until(lambda: gone.ending is not None)
    assert (gone.relay.ends, stays.relay.ends) == ([End.REVOKED], [])


async def test_nothing_is_compared_while_the_revision_rests(registry: Registry, ledger: Ledger) -> None:
    registry.admit(session(relay=Legs()))
    async with watched(registry):
        await ledger.asked.wait()
        await turns(ledger, 10)
    assert ledger.reads == 1


async def test_a_session_that_was_read_before_the_watcher_s_last_look_is_compared(
    registry: Registry, ledger: Ledger
) -> None:
    """The SELECT, then the revocation, then the watcher's look, then the registration."""
    async with watched(registry):
        await turns(ledger)
        ledger.revision = 8
        await turns(ledger)
        ledger.standings.pop(1)
        late = session(revision=7, relay=Legs())
        registry.admit(late)
        await until(lambda: late.ending is not None)


async def test_a_session_that_registers_amid_a_comparison_is_compared_next(registry: Registry, ledger: Ledger) -> None:
    """It was read before the revision that is being compared, and is not among those that are."""
    registry.admit(session(2, relay=Legs()))
    async with watched(registry):
        await ledger.asked.wait()
        ledger.asked.clear()
        ledger.hold = asyncio.Event()
        ledger.standings.pop(1)
        ledger.revision = 8
        await ledger.asked.wait()
        late = session(1, revision=7, relay=Legs())
        registry.admit(late)
        ledger.hold.set()
        await until(lambda: late.ending is not None)


async def test_a_store_that_is_down_ends_nobody_and_is_compared_when_it_is_back(
    registry: Registry, ledger: Ledger, book: LogBook
) -> None:
    one = session(relay=Legs())
    registry.admit(one)
    async with watched(registry):
        await ledger.asked.wait()
        ledger.is_down = True
        ledger.standings.clear()
        await until(lambda: bool(book.of(logging.WARNING, "event=store_down")))
        await turns(ledger)
        assert one.ending is None
        ledger.is_down = False  # and the revision it lost count of is the same as before
        await until(lambda: one.ending is not None)
    assert len(book.of(logging.WARNING, "event=store_down")) == 1
    assert len(book.of(logging.WARNING, "event=store_back")) == 1


async def test_a_session_ended_before_its_relay_stands_is_remembered(registry: Registry) -> None:
    one = session()
    one.end(End.REVOKED)
    one.end(End.DRAINED)
    assert one.ending is End.REVOKED


async def test_a_session_is_told_once_that_it_ends(registry: Registry, ledger: Ledger) -> None:
    """Each telling would set the deadline anew at which a leg that does not answer is aborted."""
    one = session(relay=Legs())
    registry.admit(one)
    async with watched(registry):
        ledger.standings.clear()
        for _ in range(5):
            ledger.revision += 1
            await turns(ledger)
    drain = asyncio.create_task(registry.drain(asyncio.get_running_loop().time() + 0.01))
    await turns(ledger, 8)
    registry.remove(one)
    await drain
    assert one.relay.ends == [End.REVOKED]


async def test_draining_ends_the_quiet_first_and_the_busy_at_the_deadline(registry: Registry) -> None:
    loop = asyncio.get_running_loop()
    quiet = session(1, relay=Legs(last_byte_at=loop.time() - 10, registry=registry))
    busy = session(2, relay=Legs(last_byte_at=loop.time() + 1000, registry=registry))
    for one in (quiet, busy):
        one.relay.session = one
        registry.admit(one)
    drain = asyncio.create_task(registry.drain(loop.time() + 0.3))
    await until(lambda: quiet.ending is not None)
    assert (quiet.relay.ends, busy.relay.ends, len(registry)) == ([End.DRAINED], [], 1)
    await drain
    assert (busy.relay.ends, len(registry)) == ([End.DEADLINE], 0)


async def test_draining_an_empty_house_is_done_at_once(registry: Registry) -> None:
    await registry.drain(asyncio.get_running_loop().time() + 1000)


async def test_draining_waits_for_nobody_who_left_by_himself(registry: Registry) -> None:
    one = session(relay=Legs(last_byte_at=asyncio.get_running_loop().time() + 1000))
    registry.admit(one)
    drain = asyncio.create_task(registry.drain(asyncio.get_running_loop().time() + 1000))
    await asyncio.sleep(0)
    registry.remove(one)
    registry.remove(one)  # saying so again is harmless
    await drain
    assert one.ending is None


async def test_idle_sessions_end_by_the_limit_of_their_protocol(registry: Registry) -> None:
    now = asyncio.get_running_loop().time()
    imap = session(1, protocol="imap", relay=Legs(last_byte_at=now - 700))
    smtp = session(2, protocol="smtp", relay=Legs(last_byte_at=now - 700))
    fresh = session(3)  # its relay does not stand yet
    for one in (imap, smtp, fresh):
        registry.admit(one)
    registry.end_idle({"imap": 1860, "smtp": 660})
    assert (imap.ending, smtp.ending, fresh.ending) == (None, End.IDLE, None)


async def test_a_revocation_ends_the_live_session_and_the_next_login(house: House) -> None:
    """The same with the real store and a real login."""
    password, credential = house.app_password(house.account())
    session = (await house.enter("ann@x.test", password)).session
    session.relay = Legs(registry=house.registry, session=session)
    house.registry._watch_interval_s = 0.002
    async with watched(house.registry):
        house.store.revoke([credential.public_id])
        await until(lambda: session.ending is not None)
    assert (session.relay.ends, len(house.registry)) == ([End.REVOKED], 0)


async def test_losing_consent_lets_a_live_session_be(house: House) -> None:
    account = house.account()
    password, _ = house.app_password(account)
    session = (await house.enter("ann@x.test", password)).session
    house.registry._watch_interval_s = 0.002
    async with watched(house.registry):
        house.store.set_token_state(account.id, TokenState.NEEDS_CONSENT, "invalid_grant", datetime.now(UTC))
        await asyncio.sleep(0.02)
    assert session.ending is None


@pytest.mark.parametrize("how", ["disabled", "suspended"])
async def test_what_was_taken_back_before_a_worker_looked_has_ended_its_sessions(house: House, how: str) -> None:
    """One that could not reach the store for a minute looks only then."""
    ann = house.account()
    password, credential = house.app_password(ann)
    other, _ = house.app_password(house.account("bob@x.test"))
    ended = (await house.enter("ann@x.test", password)).session
    stays = (await house.enter("bob@x.test", other)).session
    if how == "disabled":
        for state in (AccountState.DISABLED, AccountState.ACTIVE):
            house.store.set_account_state(ann.id, state)
    else:
        for back in (CredentialState.SUSPENDED, CredentialState.ACTIVE):
            house.store.set_credential_states([credential.public_id], back)
    async with watched(house.registry):
        await until(lambda: house.registry._reconsidered_revision == house.store.revision())
    assert (ended.ending, stays.ending) == (End.REVOKED, None)
    await house.enter("ann@x.test", password)
