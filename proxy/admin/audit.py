"""Reading the audit: who asks for what, and entry after entry in flat memory."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from datetime import datetime

from proxy.admin import inputs
from proxy.admin.desk import Desk
from proxy.errors import OperatorError
from proxy.store.audit_rows import Entry, Event, Wanted
from proxy.wire.names import canonical_login

PAGE = 500  # entries that are in memory at one time, of each name that is looked for


def entries(desk: Desk, account: str | None, since: str | None, events: Sequence[str]) -> Iterator[Entry]:
    """The entries asked for, oldest first; every field as typed.

    account an e-mail, an alias, or anything that somebody tried to log in as: accounts that are gone are found, too
    raises  OperatorError, before the first entry: no such time, no such event
    """
    begin = None if since is None else inputs.since(since, desk.now)
    chosen = tuple(dict.fromkeys(_event(text) for text in events))
    if account is None:
        return _pages(desk, None, begin, chosen)
    # One after the other by the index, and merged: their ids rise.
    names = [_pages(desk, name, begin, chosen) for name in _names(desk, account)]
    return heapq.merge(*names, key=lambda entry: entry.id)


def _names(desk: Desk, typed: str) -> list[str]:
    """What entries on this account stand under: its e-mail; and for refusals of nobody's login, the name as typed."""
    canonical = canonical_login(typed)
    account = None if canonical is None else desk.store.account(canonical)
    names = [typed, typed.strip(), canonical, None if account is None else account.email]
    return list(dict.fromkeys(name for name in names if name))


def _event(text: str) -> Event:
    try:
        return Event(text.strip().lower())
    except ValueError:
        known = [event.value for event in Event]
        remedy = inputs.suggestion(text, known, f"there are {', '.join(known)}")
        raise OperatorError(f"there is no event {inputs.repeated(text)}", remedy) from None


def _pages(desk: Desk, name: str | None, since: datetime | None, events: tuple[Event, ...]) -> Iterator[Entry]:
    wanted = Wanted(name, since, events)
    page = desk.store.trail.entries(wanted, 0, PAGE)
    while page:
        yield from page
        if len(page) < PAGE:
            return
        page = desk.store.trail.entries(wanted, page[-1].id, PAGE)
