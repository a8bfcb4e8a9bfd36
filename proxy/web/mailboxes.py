"""A person's mailboxes: their app passwords, what happened lately, and revoking."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from proxy.admin import passwords, people
from proxy.admin.desk import Desk
from proxy.admin.people import LACKING
from proxy.errors import StoreError
from proxy.store.rows import Account, Credential, CredentialState, SeatedSession
from proxy.web.activity import Happened, latest
from proxy.web.forms import read_form
from proxy.web.house import House
from proxy.web.problems import N_, nothing_here

# What ?note= may say: nothing else is shown, so that no link can put words into this page.
NOTES = {
    "connected": N_("Gatepost has access to this mailbox now. You can make app passwords."),
    "not_opened": N_("You are signed in, but the mailbox did not open. Try to connect it, or ask your administrator."),
    "no_token": N_("You are signed in, but the sign-in service gave no lasting access. Ask your administrator."),
    "revoked": N_("Revoked. Programs that used it are cut off within a second."),
    "revoked_all": N_("All app passwords of this mailbox are revoked."),
    "signed_out": N_("You are signed out on all your devices."),
}


@dataclass(frozen=True, slots=True)
class Card:
    """An app password as its owner sees it."""

    row: Credential
    state: str
    live: int  # sessions at this moment


@dataclass(frozen=True, slots=True)
class Desktop:
    """All that the page of a mailbox shows."""

    cards: Sequence[Card]
    happened: Sequence[Happened]


class Mailboxes:
    """Handlers of / and /mailbox/ID."""

    def __init__(self, house: House) -> None:
        self._house = house

    async def start(self, request: Request) -> Response:
        """The mailboxes of who is signed in; an invitation for everybody else."""
        house = self._house
        visit = await house.visit(request)
        note = NOTES.get(request.query_params.get("note", ""), "")
        if visit.session is None:
            return house.show(visit, "welcome.html", note=note)
        mine = await house.ask(visit, people.mailboxes, visit.session.person)
        if len(mine) == 1:
            return RedirectResponse(f"/mailbox/{mine[0].id}", 303)
        return house.show(visit, "mailboxes.html", mailboxes=mine, note=note, lacking=LACKING)

    async def show(self, request: Request) -> Response:
        house = self._house
        visit, _, account = await house.at_mailbox(request)
        desktop = await house.ask(visit, desktop_of, account)
        note = NOTES.get(request.query_params.get("note", ""), "")
        is_sign_in = account.upstream == house.web.upstream
        return house.show(
            visit,
            "mailbox.html",
            account=account,
            desktop=desktop,
            note=note,
            is_lacking=is_sign_in and account.token_state in LACKING,
        )

    async def ask_revoke(self, request: Request) -> Response:
        """Sure? Works without scripts."""
        visit, _, account = await self._house.at_mailbox(request)
        row = await self._house.ask(visit, live_one, account, request.path_params["public_id"])
        return self._house.show(visit, "revoke.html", account=account, row=row, is_last=False)

    async def revoke(self, request: Request) -> Response:
        visit, _, account = await self._house.at_mailbox(request)
        self._house.check_form(visit, await read_form(request))
        row = await self._house.ask(visit, live_one, account, request.path_params["public_id"])
        await self._house.ask(visit, passwords.revoke, [row.public_id])
        return RedirectResponse(f"/mailbox/{account.id}?note=revoked", 303)

    async def ask_revoke_all(self, request: Request) -> Response:
        visit, _, account = await self._house.at_mailbox(request)
        return self._house.show(visit, "revoke.html", account=account, row=None, is_last=True)

    async def revoke_all(self, request: Request) -> Response:
        visit, _, account = await self._house.at_mailbox(request)
        self._house.check_form(visit, await read_form(request))
        await self._house.ask(visit, passwords.revoke_of, account.email, None)
        return RedirectResponse(f"/mailbox/{account.id}?note=revoked_all", 303)


def desktop_of(desk: Desk, account: Account) -> Desktop:
    """Live app passwords, newest first, and what happened."""
    live: dict[str, int] = {}
    for seated in sessions_of(desk, account):
        live[seated.session.public_id] = live.get(seated.session.public_id, 0) + 1
    rows = [one for one in desk.store.credentials(account.id) if one.state is not CredentialState.REVOKED]
    rows.sort(key=lambda one: (one.created, one.id), reverse=True)
    cards = [Card(one, one.state_at(desk.now), live.get(one.public_id, 0)) for one in rows]
    return Desktop(cards, latest(desk, account.email))


def sessions_of(desk: Desk, account: Account) -> list[SeatedSession]:
    return desk.store.roster.sessions(account.id)


def live_one(desk: Desk, account: Account, public_id: str) -> Credential:
    """An app password of this very account that is not revoked yet. Raises Problem."""
    try:
        row = passwords.show(desk, public_id)
    except StoreError:
        raise nothing_here() from None
    if row.account_id != account.id or row.state is CredentialState.REVOKED:
        raise nothing_here()
    return row
