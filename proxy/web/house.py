"""What every page works with, and what a request is: who is there, in which language, and may they be here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Concatenate, ParamSpec, TypeVar

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from proxy.admin import people
from proxy.admin.desk import Desk
from proxy.config import Config, UpstreamConfig, WebConfig
from proxy.oauth.client import TokenClient
from proxy.store.audit_rows import Actor
from proxy.store.people_rows import WebSession
from proxy.store.pool import StorePool
from proxy.store.rows import Account
from proxy.web.cookies import Cookies, csrf_of, hash_of, is_csrf
from proxy.web.forms import field
from proxy.web.problems import SignInFirst, forged, nothing_here, too_often
from proxy.web.rates import Rate, Rates, network_of
from proxy.web.rendering import Pages
from proxy.web.words import Words, chosen

STORE_S = 10.0  # for one verb: a hash, and a lock that somebody holds; nobody waits as a mail program does
NOBODY = "web:nobody"

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Visit:
    """One request. `cookie` is the session's id, which forms are tied to; both are empty for nobody."""

    request: Request
    address: str
    words: Words
    session: WebSession | None = None
    cookie: str = ""
    name: str = ""  # of somebody who is on the way in

    @property
    def actor(self) -> str:
        name = self.name or (self.session.person.name if self.session else "")
        return f"web:{name}" if name else NOBODY


@dataclass(frozen=True, slots=True)
class House:
    """Wired by serve.build."""

    config: Config
    web: WebConfig
    pool: StorePool
    client: TokenClient
    rates: Rates
    cookies: Cookies
    pages: Pages
    node: str
    clock: Callable[[], datetime]

    @property
    def upstream(self) -> UpstreamConfig:
        return self.config.upstreams[self.web.upstream]

    def now(self) -> datetime:
        return self.clock().astimezone(UTC).replace(microsecond=0)

    async def ask(self, visit: Visit, verb: Callable[Concatenate[Desk, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run one of admin's verbs in the visitor's name."""
        store = self.pool.store.acting(Actor(visit.actor, self.node, visit.address))
        desk = Desk(self.config, store, visit.actor, self.now())
        return await self.pool.run(lambda: verb(desk, *args, **kwargs), deadline_s=STORE_S)

    async def visit(self, request: Request) -> Visit:
        """Who is there, signed in or not."""
        words = chosen(request.headers.get("accept-language", ""))
        visit = Visit(request, request.state.address, words)
        cookie = self.cookies.session(request)
        session = await self.ask(visit, _session, hash_of(cookie)) if cookie else None
        return Visit(request, visit.address, words, session, cookie) if session else visit

    async def signed_in(self, request: Request) -> tuple[Visit, WebSession]:
        """Raises SignInFirst."""
        visit = await self.visit(request)
        if visit.session is None:
            raise SignInFirst
        return visit, visit.session

    async def at_mailbox(self, request: Request) -> tuple[Visit, WebSession, Account]:
        """Somebody at a mailbox that they may look after. Raises SignInFirst, Problem."""
        visit, session = await self.signed_in(request)
        return visit, session, await self.mailbox(visit, session, request.path_params["account_id"])

    async def mailbox(self, visit: Visit, session: WebSession, account_id: int) -> Account:
        for account in await self.ask(visit, people.mailboxes, session.person):
            if account.id == account_id:
                return account
        raise nothing_here()

    def check_form(self, visit: Visit, form: Mapping[str, tuple[str, ...]]) -> None:
        """Raises Problem for a form that this session was not given."""
        if not visit.cookie or not is_csrf(visit.cookie, field(form, "csrf")):
            raise forged()

    def count(self, rate: Rate, key: str) -> None:
        """Raises Problem for what is done too often."""
        if not self.rates.take(rate, key):
            raise too_often()

    def count_address(self, rate: Rate, visit: Visit) -> None:
        self.count(rate, network_of(visit.address))

    def is_fresh(self, session: WebSession) -> bool:
        """Whether the person showed who they are lately enough to make an app password."""
        return self.is_recent(session.auth_time)

    def is_recent(self, at: datetime) -> bool:
        return (self.now() - at).total_seconds() <= self.web.fresh_s

    def show(self, visit: Visit, template: str, status: int = 200, **values: object) -> Response:
        """A page, with what all of them need."""
        session = visit.session
        text = self.pages.render(
            template,
            visit.words,
            person=session.person if session else None,
            is_admin=bool(session and session.is_admin),
            csrf=csrf_of(visit.cookie) if session else "",
            now=self.now(),
            **values,
        )
        return HTMLResponse(text, status)


def _session(desk: Desk, id_hash: str) -> WebSession | None:
    return desk.store.web.find(id_hash)
