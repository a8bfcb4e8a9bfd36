"""The way in and out: off to the provider, back from it, and what is kept of that.

Every way back ends in a redirect or in a page that says why not; a code or state is never in an address that stays.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from time import time

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from proxy.admin import consents, people
from proxy.admin.claims import Claimed, Turned, TurnedAway, judge
from proxy.admin.desk import Desk
from proxy.admin.people import LACKING, Welcome
from proxy.connecting.connect import prove
from proxy.errors import ConsentError, GatepostError, OperatorError, StoreError, StoreUnavailable
from proxy.logs import Line
from proxy.oauth.consent import Consent
from proxy.oauth.signin import TICKET_S, SignedIn, Ticket, finish, sign_in_url
from proxy.secret import Secret
from proxy.store.rows import Account, AccountState, AlreadySpent, NewAccount, TokenState
from proxy.vault.parcel import wrap_up
from proxy.web.cookies import drawn, hash_of, state_once
from proxy.web.forms import read_form
from proxy.web.house import House, Visit
from proxy.web.problems import N_, Problem
from proxy.web.rates import CHANGES, SIGN_INS, network_of

logger = logging.getLogger("gatepost.web")

SIGN_IN, NEW, CONNECT = "in", "new", "connect"  # what a sign-in is for


@dataclass(frozen=True, slots=True)
class Kept:
    """What a sign-in left behind: a note for the next page, and a sealed account's token that waits for a form."""

    note: str = ""
    held_for: int | None = None
    held: Secret | None = None


class SigningIn:
    """Handlers of /sign-in, /signed-in, /sign-out and the ways to the provider from a mailbox."""

    def __init__(self, house: House) -> None:
        self._house = house

    async def begin(self, request: Request) -> Response:
        visit = await self._house.visit(request)
        return await self._to_provider(visit, SIGN_IN, 0, is_fresh=False)

    async def begin_again(self, request: Request) -> Response:
        """Sign in once more before an app password is made: asks for a password or more (Google knows no such wish)."""
        visit, session, account = await self._house.at_mailbox(request)
        return await self._to_provider(visit, NEW, account.id, is_fresh=True, hint=session.person.address)

    async def begin_connect(self, request: Request) -> Response:
        """Give Gatepost its way into the mailbox again."""
        visit, session, account = await self._house.at_mailbox(request)
        return await self._to_provider(visit, CONNECT, account.id, is_fresh=False, hint=session.person.address)

    async def _to_provider(
        self, visit: Visit, purpose: str, account_id: int, *, is_fresh: bool, hint: str = ""
    ) -> Response:
        house = self._house
        house.count_address(SIGN_INS, visit)
        browser = house.cookies.browser(visit.request) or drawn()
        ticket = Ticket(purpose, account_id, int(time()))
        try:
            url = await sign_in_url(
                house.client, house.upstream, house.web, ticket, Secret(browser), is_fresh=is_fresh, hint=hint
            )
        except ConsentError as error:
            logger.warning("%s", Line("web_sign_in_failed", cause="provider", detail=str(error)))
            raise failure("provider") from None
        response = RedirectResponse(url, 303)
        house.cookies.set_browser(response, browser)
        return response

    async def end(self, request: Request) -> Response:
        """The browser is back from the provider; it leaves this address, and the code in it, whatever comes."""
        try:
            return await self._end(request)
        except Failed as failed:
            why = failed.why
        except (OperatorError, StoreUnavailable) as error:
            logger.warning("%s", Line("web_sign_in_failed", cause="store", detail=str(error)))
            why = "store"
        return RedirectResponse(f"/sign-in-failed?why={why}", 303)

    async def _end(self, request: Request) -> Response:
        house = self._house
        visit = await house.visit(request)
        if not house.rates.take(SIGN_INS, network_of(visit.address)):
            raise Failed("too_often")
        browser = house.cookies.browser(request)
        state = request.query_params.get("state", "")
        ticket = Ticket.read(state, Secret(browser), time()) if browser else None
        if ticket is None:
            raise Failed("over")
        try:
            # Before anything else: whatever becomes of this sign-in, it comes to its end once.
            await house.ask(visit, _spend, state)
            came = await self._finish(ticket, browser, request.url.query)
            claimed = judge(house.web, came.claims, house.now())
            return await self._let_in(visit, ticket, came, claimed)
        except AlreadySpent:
            raise Failed("over") from None
        except TurnedAway as error:
            fields = {"cause": error.cause.value, "who": error.who, "detail": error.detail, "peer": visit.address}
            logger.warning("%s", Line("web_sign_in_refused", **fields))
            await house.ask(visit, _refused, error)
            raise Failed(error.cause.value) from None

    async def _finish(self, ticket: Ticket, browser: str, query: str) -> SignedIn:
        house = self._house
        try:
            return await finish(house.client, house.upstream, house.web, ticket, Secret(browser), query=query)
        except ConsentError as error:
            logger.warning("%s", Line("web_sign_in_failed", cause="provider", detail=str(error)))
            raise Failed("cancelled" if "access_denied" in error.problem else "provider") from None

    async def failed(self, request: Request) -> Response:
        """Says why, at an address that holds nothing."""
        raise failure(request.query_params.get("why", ""))

    async def _let_in(self, visit: Visit, ticket: Ticket, came: SignedIn, claimed: Claimed) -> Response:
        house = self._house
        # E64: who signs in for a mailbox is who is signed in here, or nothing comes of it.
        is_same = visit.session is not None and visit.session.person.identity == claimed.identity
        if ticket.purpose != SIGN_IN and not is_same:
            raise TurnedAway(Turned.OTHER_PERSON, str(claimed.identity), claimed.display)
        if ticket.purpose == NEW and not house.is_recent(claimed.auth_time):
            # It was asked for with max_age=0; without this the browser would go round in circles.
            raise TurnedAway(Turned.NOT_FRESH, "the provider did not ask again", claimed.display)
        welcome = await house.ask(visit, people.welcome, house.web, claimed)
        visit = replace(visit, name=claimed.name)
        own = welcome.own
        if welcome.new is not None:
            own = (await self._made(visit, welcome.new, came, claimed),)
        person = await house.ask(visit, people.settle, claimed, own)
        mine = await house.ask(visit, people.mailboxes, person)
        kept = await self._keep(visit, ticket, came, Welcome(claimed, own, None), mine)
        cookie = drawn()
        await house.ask(
            visit,
            people.open_session,
            house.web,
            claimed,
            person,
            id_hash=hash_of(cookie),
            former=hash_of(visit.cookie),
            address=visit.address,
        )
        if kept.held is not None and kept.held_for is not None:
            parcel = wrap_up(Secret(cookie), kept.held_for, kept.held)
            await house.ask(visit, _hold, hash_of(cookie), kept.held_for, parcel)
        logger.info("%s", Line("web_signed_in", user=person.name, peer=visit.address, purpose=ticket.purpose))
        response = RedirectResponse(_next(ticket, kept, mine), 303)
        house.cookies.set_session(response, cookie, house.web.session_s)
        return response

    async def _made(self, visit: Visit, new: NewAccount, came: SignedIn, claimed: Claimed) -> Account:
        """An account at the first sign-in: only once the mailbox has opened."""
        house = self._house
        if came.refresh_token is None:
            raise TurnedAway(Turned.NO_MAILBOX, "no refresh token", claimed.display)
        now = house.now()
        draft = Account(
            0, new.email, new.upstream, new.upstream_user, AccountState.ACTIVE, False, TokenState.NONE, now, "", now, ""
        )
        try:
            await prove(house.upstream, draft, Consent(came.refresh_token, came.access_token, claimed.address))
            return await house.ask(visit, people.make, new, came.refresh_token)
        except (ConsentError, StoreError) as error:
            raise TurnedAway(Turned.NO_MAILBOX, error.problem, claimed.display) from None

    async def _keep(self, visit: Visit, ticket: Ticket, came: SignedIn, welcome: Welcome, mine: list[Account]) -> Kept:
        """Deposit the new token where one is wanted, or hold it for the form of a sealed account."""
        wanted = self._wanted(ticket, welcome, mine)
        if wanted is None:
            return Kept()
        house = self._house
        if not house.rates.take(CHANGES, str(welcome.claimed.identity)):
            raise Failed("too_often")
        if came.refresh_token is None:
            logger.warning("%s", Line("web_no_refresh_token", user=wanted.email))
            return Kept("no_token")
        try:
            await prove(house.upstream, wanted, Consent(came.refresh_token, came.access_token, welcome.claimed.address))
            if wanted.sealed and (ticket.purpose == NEW or not await house.ask(visit, _can_deposit, wanted)):
                return Kept("", wanted.id, came.refresh_token)
            await house.ask(visit, consents.deposit, wanted, came.refresh_token)
        except OperatorError as error:
            logger.warning("%s", Line("web_not_connected", user=wanted.email, detail=str(error)))
            return Kept("not_opened")
        return Kept("connected")

    def _wanted(self, ticket: Ticket, welcome: Welcome, mine: list[Account]) -> Account | None:
        """The one account that this sign-in's token is for, if any needs it.

        Without being asked only the person's own: what was granted has an owner, whose token is not replaced by chance.
        """
        if ticket.purpose != SIGN_IN:
            found = next((one for one in mine if one.id == ticket.account_id), None)
            is_needed = ticket.purpose == CONNECT or (found and (found.sealed or found.token_state in LACKING))
            return found if found and found.upstream == self._house.web.upstream and is_needed else None
        lacking = [one for one in welcome.own if one.token_state in LACKING]
        return lacking[0] if lacking else None

    async def sign_out(self, request: Request) -> Response:
        visit, session = await self._house.signed_in(request)
        self._house.check_form(visit, await read_form(request))
        await self._house.ask(visit, _close, session.id_hash)
        return self._gone("/")

    async def sign_out_everywhere(self, request: Request) -> Response:
        visit, session = await self._house.signed_in(request)
        self._house.check_form(visit, await read_form(request))
        await self._house.ask(visit, _close_all, session.person.id)
        return self._gone("/?note=signed_out")

    def _gone(self, where: str) -> Response:
        response = RedirectResponse(where, 303)
        self._house.cookies.drop_session(response)
        return response


def _next(ticket: Ticket, kept: Kept, mine: list[Account]) -> str:
    note = f"?note={kept.note}" if kept.note else ""
    if ticket.purpose == NEW or kept.held_for is not None:
        account_id = kept.held_for or ticket.account_id
        return f"/mailbox/{account_id}/new" if not kept.note else f"/mailbox/{account_id}{note}"
    if ticket.purpose == CONNECT:
        return f"/mailbox/{ticket.account_id}{note}"
    return f"/mailbox/{mine[0].id}{note}" if len(mine) == 1 else f"/{note}"


def _spend(desk: Desk, state: str) -> None:
    desk.store.web.spend(state_once(state, desk.now, TICKET_S))


def _refused(desk: Desk, error: TurnedAway) -> None:
    desk.store.web.refuse(error.who, error.cause.value, error.detail)


def _hold(desk: Desk, id_hash: str, account_id: int, parcel: bytes) -> None:
    desk.store.web.hold(id_hash, account_id, parcel)


def _can_deposit(desk: Desk, account: Account) -> bool:
    return bool(desk.store.recipients(account.id))


def _close(desk: Desk, id_hash: str) -> None:
    desk.store.web.close(id_hash)


def _close_all(desk: Desk, person_id: int) -> None:
    desk.store.web.close_all(person_id)


_FAILURES = {
    "over": (
        403,
        N_("This sign-in is over"),
        N_("It was finished before, took too long, or began in another browser. Nothing was changed."),
    ),
    "cancelled": (403, N_("The sign-in was broken off"), N_("Nothing was stored or changed.")),
    "provider": (
        502,
        N_("The sign-in did not work"),
        N_("The sign-in service gave no usable answer. Try again; if it stays like this, tell your administrator."),
    ),
    "too_often": (429, N_("That was a little fast"), N_("Please wait a few minutes, then try again.")),
    "store": (503, N_("Not right now"), N_("Gatepost cannot reach its store. Please try again shortly.")),
    Turned.NOT_FRESH.value: (
        403,
        N_("Please sign in once more"),
        N_("The sign-in service let you through without asking who you are. Sign out there, then sign in again."),
    ),
    Turned.NO_MFA.value: (
        403,
        N_("One more factor is needed"),
        N_(
            "You signed in with a password only. App passwords are made after a sign-in with a second factor: set one "
            "up at your provider, then sign in again."
        ),
    ),
    Turned.OTHER_PERSON.value: (
        403,
        N_("That was somebody else"),
        N_("Another person signed in than the one this page was opened by. Nothing was stored or changed."),
    ),
    Turned.BOUND_TO_ANOTHER.value: (
        403,
        N_("This mailbox has another owner"),
        N_("It belongs to somebody who signed in here before. Your administrator can change that."),
    ),
    Turned.NO_MAILBOX.value: (
        403,
        N_("There is no mailbox for you here"),
        N_("You signed in well, but no mailbox here is yours. Your administrator can add it, or give you access."),
    ),
}
_MAY_NOT = (
    403,
    N_("You may not use this page"),
    N_("You signed in well, but not as somebody whom this page is for. Your administrator decides who that is."),
)


class Failed(GatepostError):
    """A sign-in came to nothing; `why` is a key of _FAILURES or another cause of Turned."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


def failure(why: str) -> Problem:
    """What is said of it."""
    status, title, text = _FAILURES.get(why, _MAY_NOT)
    return Problem(status, title, text, ("/sign-in", N_("Sign in again")))
