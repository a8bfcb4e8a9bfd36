"""Refused logins in the audit: the first at once, the rest counted, and an attack from everywhere in a few rows."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from proxy.errors import Refusal, Refused, StoreUnavailable
from proxy.record.refusals import MAX_KINDS, WINDOW_S, Kind, RefusalLedger
from proxy.store.audit_rows import Event, Refusals, Wanted
from tests.service.house import House, wrong_password

pytest_plugins = ("tests.service.plugin",)
NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
WRONG = Kind("ann@x.test", "id1", "scanner", "imap", "192.0.2.1", "wrong_password")


class Paper:
    """What was written, and the time."""

    def __init__(self) -> None:
        self.rows: list[Refusals] = []
        self.is_down = False
        self.now_s = 0.0
        self.ledger = RefusalLedger(
            self.write, interval_s=2, clock=lambda: self.now_s, now=lambda: NOON + timedelta(seconds=self.now_s)
        )

    async def write(self, rows: Sequence[Refusals]) -> None:
        await asyncio.sleep(0)
        if self.is_down:
            raise StoreUnavailable("down")
        self.rows += rows

    @property
    def counts(self) -> list[tuple[str, str, int]]:
        return [(row.address, row.cause, row.count) for row in self.rows]


@pytest.fixture
def paper() -> Paper:
    return Paper()


async def test_the_first_is_written_at_once_and_those_that_follow_are_one_row_at_the_end_of_the_window(
    paper: Paper,
) -> None:
    paper.ledger.record(WRONG)
    await paper.ledger.flush()
    for _ in range(30):
        paper.now_s += 1
        paper.ledger.record(WRONG)
        await paper.ledger.flush()
    assert paper.counts == [("192.0.2.1", "wrong_password", 1)]
    paper.now_s = WINDOW_S
    await paper.ledger.flush()
    assert paper.counts == [("192.0.2.1", "wrong_password", 1), ("192.0.2.1", "wrong_password", 30)]
    assert (paper.rows[1].at, paper.rows[1].until) == (NOON + timedelta(seconds=1), NOON + timedelta(seconds=30))
    paper.ledger.record(WRONG)  # in the next window it is new again
    await paper.ledger.flush()
    assert len(paper.rows) == 3


async def test_an_attack_from_everywhere_is_counted_by_cause_and_memory_stays_flat(paper: Paper) -> None:
    for number in range(10_000):
        paper.ledger.record(replace(WRONG, address=f"10.0.{number // 256}.{number % 256}"))
    assert len(paper.ledger._tallies) == len(paper.ledger._known) == MAX_KINDS + 1
    await paper.ledger.flush()
    assert len(paper.rows) == MAX_KINDS + 1
    assert sum(row.count for row in paper.rows) == 10_000
    (rest,) = [row for row in paper.rows if not row.address]
    assert (rest.account, rest.app_password, rest.cause) == ("", "", "wrong_password")
    assert rest.count == 10_000 - MAX_KINDS


async def test_a_store_that_is_down_loses_no_count(paper: Paper) -> None:
    paper.is_down = True
    for _ in range(3):
        paper.ledger.record(WRONG)
        await paper.ledger.flush()
    paper.now_s = WINDOW_S
    await paper.ledger.flush()
    paper.ledger.record(WRONG)
    paper.is_down = False
    await paper.ledger.flush()
    assert paper.counts == [("192.0.2.1", "wrong_password", 4)]
    assert paper.rows[0].at == NOON


async def test_the_end_of_the_server_loses_no_count(paper: Paper) -> None:
    paper.ledger.record(WRONG)
    await paper.ledger.flush()
    paper.ledger.record(WRONG)
    await paper.ledger.close()
    await paper.ledger.close()
    assert [row.count for row in paper.rows] == [1, 1]


async def test_the_audit_knows_why_and_which_app_password_was_meant(house: House) -> None:
    account = house.account()
    text, credential = house.app_password(account)
    house.store.revoke([credential.public_id])
    smtp_only, scoped = house.app_password(account, protocols=frozenset({"smtp"}))
    tries = [
        ("ann@x.test", text),
        ("ann@x.test", smtp_only),
        ("ann@x.test", wrong_password(smtp_only)),
        ("ann@x.test", "my real password"),
        ("bob@x.test", smtp_only),
        ("a password in the wrong field", smtp_only),
    ]
    for login, password in tries:
        with pytest.raises(Refused):
            await house.enter(login, password)
    await house.refusals.flush()
    found = house.store.trail.entries(Wanted(events=(Event.REFUSED,)), 0, 100)
    assert {(one.account, one.app_password, one.name, one.cause) for one in found} == {
        ("ann@x.test", credential.public_id, credential.name, "revoked"),
        ("ann@x.test", scoped.public_id, scoped.name, "wrong_protocol"),
        ("ann@x.test", scoped.public_id, scoped.name, "wrong_password"),
        ("ann@x.test", "", "", "not_an_app_password"),
        ("bob@x.test", "", "", "unknown_user"),
        ("", "", "", "unknown_user"),
    }
    assert all(one.actor == "client" and one.protocol == "imap" for one in found)


async def test_a_login_in_clear_is_in_the_audit_without_a_name(house: House) -> None:
    attempt = replace(house.attempt("ann@x.test", "never read"), credentials=None, mechanism="")
    house.login.refuse_unread(attempt, Refusal.CLEAR_TEXT)
    await house.refusals.flush()
    [found] = house.store.trail.entries(Wanted(events=(Event.REFUSED,)), 0, 100)
    assert (found.account, found.cause, found.address) == ("", "clear_text", attempt.peer)
