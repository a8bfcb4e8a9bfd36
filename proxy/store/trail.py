"""Trail: the audit's part of Store, and the housekeeping that lets go of what is old."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from proxy.store import audit, recipients
from proxy.store.audit import Scribe
from proxy.store.audit_rows import Actor, Entry, Refusals, Wanted
from proxy.store.engine import Database
from proxy.store.rows import Claim
from proxy.store.upkeep import drop_claim, take_claim


class Trail:
    """What happened, who did it, and for how long that is kept. Management verbs write their own entries."""

    def __init__(self, database: Database, clock: Callable[[], datetime], actor: Actor) -> None:
        self._database = database
        self._clock = clock
        self._actor = actor

    def entries(self, wanted: Wanted, after: int, limit: int) -> list[Entry]:
        """A page of what fits, oldest first: those with an id beyond `after`."""
        with self._database.read() as connection:
            return audit.entries(connection, wanted, after, limit)

    def latest(self, account: str | None, limit: int) -> list[Entry]:
        """The newest entries, of one account or (None) of all, newest first."""
        with self._database.read() as connection:
            return audit.latest(connection, Wanted(account), limit)

    def record_refusals(self, refusals: Sequence[Refusals]) -> None:
        with self._database.write() as connection:
            Scribe(self._actor, self._clock()).note_refusals(connection, refusals)

    def deeds_on(self, node: str, after: int) -> list[Entry]:
        """What was done on this node, but for ordinary logins: what its log is told of. A page, beyond the id."""
        with self._database.read() as connection:
            return audit.deeds_on(connection, node, after)

    def last_id(self) -> int:
        """The newest entry's id; 0 if there is none."""
        with self._database.read() as connection:
            return audit.last_id(connection)

    def last_id_before(self, at: datetime) -> int:
        """The id behind which all entries are that were written since then."""
        with self._database.read() as connection:
            return audit.last_id_before(connection, at)

    def untold(self, limit: int) -> list[Entry]:
        """Entries of which an alert is to be sent."""
        with self._database.read() as connection:
            return audit.untold(connection, limit)

    def claim_entry(self, entry_id: int, claim: Claim) -> bool:
        """Claim the telling of an entry; False if somebody else has it, or has told it already."""
        with self._database.write() as connection:
            if not take_claim(connection, entry_subject(entry_id), claim):
                return False
            is_ours = audit.is_untold(connection, entry_id)
            if not is_ours:
                drop_claim(connection, entry_subject(entry_id), claim.owner)
            return is_ours

    def settle_entry(self, entry_id: int, owner: str) -> None:
        """It was told: note that, and end the claim."""
        with self._database.write() as connection:
            audit.set_told(connection, entry_id)
            drop_claim(connection, entry_subject(entry_id), owner)

    def drop_old(self, keep: timedelta, keep_refusals: timedelta) -> int:
        """Delete some of what is older than that. Returns how many rows; call it again until it is 0."""
        now = self._clock()
        # Found before the transaction: among a million entries that takes longer than other writers should wait.
        with self._database.read() as connection:
            old = audit.old_rows(connection, now - keep, now - keep_refusals)
        if old:
            with self._database.write() as connection:
                audit.drop(connection, old)
        return len(old)

    def drop_outlived_keys(self) -> int:
        """Let secrets that `rotate` replaced open nothing any more once their time is over."""
        with self._database.write() as connection:
            return recipients.drop_outlived_keys(connection, Scribe(self._actor, self._clock()))


def entry_subject(entry_id: int) -> str:
    """What a claim to tell of an entry is about."""
    return f"entry:{entry_id}"
