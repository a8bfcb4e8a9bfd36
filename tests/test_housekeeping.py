"""What one worker of a node does for all: old rows go, and the node's log has what was done there."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime, timedelta

from sqlalchemy import text

from proxy.config import AuditConfig
from proxy.record.housekeeping import AuditLog, Housekeeper
from proxy.store.audit_rows import Actor, Event, Refusals, Wanted
from proxy.store.rows import AccountState, Seat
from tests.service.house import House, LogBook

pytest_plugins = ("tests.service.plugin",)


async def test_old_refusals_and_dead_workers_go_and_what_is_young_stays(house: House, book: LogBook) -> None:
    now = datetime.now(UTC)
    for days in (0, 31):
        at = now - timedelta(days=days)
        house.store.trail.record_refusals([Refusals(at, at, "", "", "", "imap", "192.0.2.7", f"{days} days ago", 1)])
    past = house.store.acting(Actor("system"))
    past.roster._clock = lambda: now - timedelta(hours=1)
    past.roster.publish(Seat("dead", "node9", 3), [], [])
    await house.publisher.publish()
    await Housekeeper(store=house.store, pool=house.pool, audit=AuditConfig()).tidy()
    left = house.store.trail.entries(Wanted(events=(Event.REFUSED,)), 0, 10)
    assert [one.cause for one in left] == ["0 days ago"]
    assert book.of(logging.INFO, "event=workers_forgotten", "count=1")
    assert house.store.roster.publish(house.publisher._seat, [], [])  # this worker is known still


async def test_what_commands_did_here_is_a_line_of_the_log_once(house: House, book: LogBook) -> None:
    account = house.account()  # before the log begins
    log = AuditLog(store=house.store, pool=house.pool, node="node1", clock=house.clock)
    root = house.store.acting(Actor("cli:root", "node1"))
    root.set_account_state(account.id, AccountState.DISABLED)
    house.store.acting(Actor("cli:root", "node2")).set_account_state(account.id, AccountState.ACTIVE)
    for _ in range(2):
        await log.look()
    root.add_alias(account.id, "printer", 5)
    await log.look()
    lines = book.of(logging.INFO, "event=audit")
    assert [("act=account_disabled" in line, "act=alias_added" in line) for line in lines] == [
        (True, False), (False, True),
    ]  # fmt: skip
    assert "actor=cli:root" in lines[0]
    assert "user=ann@x.test" in lines[0]


async def test_the_log_looks_once_more_when_it_ends(house: House, book: LogBook) -> None:
    account = house.account()
    log = AuditLog(store=house.store, pool=house.pool, node="node1", clock=house.clock)
    running = asyncio.create_task(log.run())
    await asyncio.sleep(0)
    house.store.acting(Actor("cli:root", "node1")).set_account_state(account.id, AccountState.DISABLED)
    running.cancel()
    await asyncio.wait([running])
    assert running.cancelled()
    assert ["act=account_disabled" in line for line in book.of(logging.INFO, "event=audit")] == [True]


async def test_a_clock_that_was_an_hour_ahead_hides_nothing_from_the_log(house: House, book: LogBook) -> None:
    account = house.account()
    log = AuditLog(store=house.store, pool=house.pool, node="node1", clock=house.clock)
    ahead = house.store.acting(Actor("cli:root", "node1"))
    ahead._clock = lambda: datetime.now(UTC) + timedelta(hours=1)
    ahead.set_account_state(account.id, AccountState.DISABLED)
    await log.look()
    root = house.store.acting(Actor("cli:root", "node1"))
    for number in range(3):  # the clock is right again
        root.add_alias(account.id, f"printer{number}", 5)
        house.clock.pass_s(45)
        await log.look()
    assert [line.split("act=")[1].split()[0] for line in book.of(logging.INFO, "event=audit")] == [
        "account_disabled", "alias_added", "alias_added", "alias_added",
    ]  # fmt: skip


async def test_an_entry_that_became_visible_late_is_logged_all_the_same(house: House, book: LogBook) -> None:
    account = house.account()
    log = AuditLog(store=house.store, pool=house.pool, node="node1", clock=house.clock)
    root = house.store.acting(Actor("cli:root", "node1"))
    root.add_alias(account.id, "printer1", 5)
    root.add_alias(account.id, "printer2", 5)
    late, former = house.store.trail.deeds_on("node1", house.store.trail.last_id() - 2)
    with house.store._write() as connection:  # its transaction began first and is not over yet
        connection.execute(text("UPDATE audit SET node = 'not yet' WHERE id = :id"), {"id": late.id})
    await log.look()
    house.clock.pass_s(30)
    await log.look()
    with house.store._write() as connection:
        connection.execute(text("UPDATE audit SET node = 'node1' WHERE id = :id"), {"id": late.id})
    await log.look()
    assert [("printer2" in line) for line in book.of(logging.INFO, "event=audit")] == [True, False]
    assert former.id > late.id
