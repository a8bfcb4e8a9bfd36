"""The audit in words for people: each event one sentence, to be translated; and its latest entries."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from proxy.admin.desk import Desk
from proxy.store.audit_rows import Entry, Event
from proxy.web.problems import N_

SENTENCES = {
    Event.ACCOUNT_ADDED: N_("Mailbox added"),
    Event.ACCOUNT_REMOVED: N_("Mailbox removed"),
    Event.ACCOUNT_DISABLED: N_("Mailbox switched off"),
    Event.ACCOUNT_ENABLED: N_("Mailbox switched on"),
    Event.ALIAS_ADDED: N_("Login name added"),
    Event.ALIAS_REMOVED: N_("Login name removed"),
    Event.CREATED: N_("App password made"),
    Event.ROTATED: N_("App password renewed"),
    Event.SUSPENDED: N_("App password suspended"),
    Event.RESUMED: N_("App password in force again"),
    Event.REVOKED: N_("App password revoked"),
    Event.USED: N_("App password used"),
    Event.REFUSED: N_("Login refused"),
    Event.KICKED: N_("Session ended"),
    Event.CONSENT_GIVEN: N_("Gatepost got access to the mailbox"),
    Event.CONSENT_LOST: N_("Gatepost lost access to the mailbox"),
    Event.UPSTREAM_REFUSES: N_("The mail server refuses Gatepost"),
    Event.BACKED_UP: N_("Backup made"),
    Event.RESTORED: N_("Restored from a backup"),
    Event.KEY_ADDED: N_("Master key added"),
    Event.KEY_DROPPED: N_("Master key dropped"),
    Event.SIGNED_IN: N_("Signed in at this page"),
    Event.SIGN_IN_REFUSED: N_("Sign-in at this page refused"),
    Event.SIGNED_OUT: N_("Signed out everywhere"),
    Event.BOUND: N_("Mailbox given to its owner"),
    Event.GRANTED: N_("Access granted"),
    Event.GRANT_REVOKED: N_("Access taken away"),
}
SHOWN = 25
SHOWN_TO_ADMINS = 200


@dataclass(frozen=True, slots=True)
class Happened:
    """One entry; `sentence` is to be translated."""

    at: datetime
    sentence: str
    is_bad: bool
    entry: Entry

    @property
    def by(self) -> str:
        """Who, in a form for people: "web:ann@x" is Ann at the page, a mail program is nobody by name."""
        return "" if self.entry.actor == "client" else self.entry.actor.partition(":")[2] or self.entry.actor


_BAD = (Event.REFUSED, Event.CONSENT_LOST, Event.UPSTREAM_REFUSES, Event.SIGN_IN_REFUSED)


def latest(desk: Desk, account: str | None, limit: int = SHOWN) -> list[Happened]:
    """The newest entries of an account or (None) of all, newest first."""
    entries = desk.store.trail.latest(account, limit)
    return [Happened(one.at, SENTENCES[one.event], one.event in _BAD, one) for one in entries]
