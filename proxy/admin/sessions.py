"""Live sessions of every worker and node, as they were published: a second late at most."""

from __future__ import annotations

from proxy.admin import accounts, inputs
from proxy.admin.desk import Desk
from proxy.errors import StoreError
from proxy.store.rows import SeatedSession


def listing(desk: Desk, account: str | None) -> list[SeatedSession]:
    """Live sessions of one account or of all, oldest first."""
    account_id = None if account is None else accounts.find(desk, account).id
    return desk.store.roster.sessions(account_id)


def kick(desk: Desk, session_id: str) -> SeatedSession:
    """Have a session ended, wherever it is. Raises StoreError, with the nearest id, if there is none with this one."""
    wanted = session_id.strip().lower()
    found = desk.store.roster.kick(wanted)
    if found is None:
        known = [one.session.id for one in desk.store.roster.sessions(None)]
        remedy = inputs.suggestion(wanted, known, "gatepost sessions shows those that are still open", cutoff=_NEAR)
        raise StoreError(f"there is no live session {inputs.repeated(session_id)}", remedy)
    return found


_NEAR = 0.75
