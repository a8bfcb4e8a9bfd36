"""Pages for administrators: all mailboxes, the health of their tokens, live sessions, the audit; and revoking.

They see what the commands show, never a secret, and make nothing: an administrator who needs a mailbox grants it.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from proxy.admin import accounts, passwords
from proxy.admin.accounts import AccountView
from proxy.admin.desk import Desk
from proxy.admin.people import LACKING
from proxy.store.people_rows import Access
from proxy.store.rows import Account, SeatedSession
from proxy.web.activity import SHOWN_TO_ADMINS, latest
from proxy.web.forms import read_form
from proxy.web.house import House, Visit
from proxy.web.mailboxes import NOTES, desktop_of, live_one, sessions_of
from proxy.web.problems import nothing_here


class Managing:
    """Handlers of /admin."""

    def __init__(self, house: House) -> None:
        self._house = house

    async def _visit(self, request: Request) -> Visit:
        visit, session = await self._house.signed_in(request)
        if not session.is_admin:
            raise nothing_here()
        return visit

    async def _at(self, request: Request) -> tuple[Visit, Account]:
        visit = await self._visit(request)
        account = await self._house.ask(visit, _account, request.path_params["account_id"])
        if account is None:
            raise nothing_here()
        return visit, account

    async def start(self, request: Request) -> Response:
        visit = await self._visit(request)
        views: list[AccountView] = await self._house.ask(visit, accounts.listing)
        views.sort(key=lambda one: (one.account.token_state not in LACKING, one.account.email))
        return self._house.show(visit, "admin/accounts.html", views=views, lacking=LACKING)

    async def mailbox(self, request: Request) -> Response:
        visit, account = await self._at(request)
        house = self._house
        return house.show(
            visit,
            "admin/account.html",
            account=account,
            desktop=await house.ask(visit, desktop_of, account),
            sessions=await house.ask(visit, sessions_of, account),
            access=await house.ask(visit, _access, account),
            is_lacking=account.token_state in LACKING,
            note=NOTES.get(request.query_params.get("note", ""), ""),
        )

    async def sessions(self, request: Request) -> Response:
        visit = await self._visit(request)
        return self._house.show(visit, "admin/sessions.html", sessions=await self._house.ask(visit, _all_sessions))

    async def audit(self, request: Request) -> Response:
        visit = await self._visit(request)
        happened = await self._house.ask(visit, latest, None, SHOWN_TO_ADMINS)
        return self._house.show(visit, "admin/audit.html", happened=happened)

    async def ask_revoke(self, request: Request) -> Response:
        visit, account = await self._at(request)
        row = await self._house.ask(visit, live_one, account, request.path_params["public_id"])
        return self._house.show(visit, "admin/revoke.html", account=account, row=row)

    async def revoke(self, request: Request) -> Response:
        visit, account = await self._at(request)
        self._house.check_form(visit, await read_form(request))
        row = await self._house.ask(visit, live_one, account, request.path_params["public_id"])
        await self._house.ask(visit, passwords.revoke, [row.public_id])
        return RedirectResponse(f"/admin/mailbox/{account.id}?note=revoked", 303)

    async def kick(self, request: Request) -> Response:
        """End a session; its app password still opens another."""
        visit = await self._visit(request)
        self._house.check_form(visit, await read_form(request))
        await self._house.ask(visit, _kick, request.path_params["session_id"])
        return RedirectResponse("/admin/sessions", 303)


def _account(desk: Desk, account_id: int) -> Account | None:
    return next((one for one in desk.store.accounts() if one.id == account_id), None)


def _access(desk: Desk, account: Account) -> list[Access]:
    return desk.store.people.access_to(account.id)


def _all_sessions(desk: Desk) -> list[SeatedSession]:
    return desk.store.roster.sessions(None)


def _kick(desk: Desk, session_id: str) -> None:
    desk.store.roster.kick(session_id)
