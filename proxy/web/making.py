"""Making an app password: the form, and the one answer that shows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field as data_field, replace

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from proxy.admin import inputs, passwords
from proxy.admin.desk import Desk
from proxy.admin.passwords import Created, PasswordRequest
from proxy.admin.sealed import Opening, Way
from proxy.config import PROTOCOLS
from proxy.errors import OperatorError, StoreError
from proxy.secret import Secret
from proxy.store.people_rows import WebSession
from proxy.store.rows import Account, AccountState, AlreadySpent
from proxy.vault.parcel import unwrap
from proxy.vault.sealing import SealBroken
from proxy.web.cookies import once_of, read_once
from proxy.web.forms import field, read_form
from proxy.web.house import House, Visit
from proxy.web.problems import N_, Problem, forged
from proxy.web.qr import svg_of
from proxy.web.rates import CHANGES
from proxy.web.settings import KEYS, PROGRAMS, program, servers

PERIODS = {"": None, "30d": "30d", "90d": "90d", "365d": "365d"}


@dataclass(frozen=True, slots=True)
class Typed:
    """The form as it was sent; `errors` by field, to be translated."""

    name: str = ""
    protocols: tuple[str, ...] = PROTOCOLS
    expires: str = ""
    networks: str = ""
    program: str = "outlook"
    errors: Mapping[str, str] = data_field(default_factory=dict)


class Making:
    """Handlers of /mailbox/ID/new."""

    def __init__(self, house: House) -> None:
        self._house = house

    async def form(self, request: Request) -> Response:
        """The form; whoever signed in too long ago goes to the provider first, and comes back here."""
        visit, session, account = await self._house.at_mailbox(request)
        self._require_active(account)
        self._require_openable(account)
        if not self._may_make(session, account):
            return RedirectResponse(f"/mailbox/{account.id}/sign-in-again", 303)
        return self._show_form(visit, account, Typed(protocols=self._offered(account)))

    async def make(self, request: Request) -> Response:
        """Make it, and show it in this answer alone."""
        house = self._house
        visit, session, account = await house.at_mailbox(request)
        form = await read_form(request)
        house.check_form(visit, form)
        once = read_once(visit.cookie, field(form, "once"), house.now(), house.web.session_s)
        if once is None:
            raise forged()
        self._require_active(account)
        typed = read_typed(form)
        asked = PasswordRequest(
            account.email,
            typed.name,
            typed.protocols,
            PERIODS.get(typed.expires),
            tuple(typed.networks.replace(",", " ").split()),
            once,
        )
        try:
            if await house.ask(visit, _is_spent, once.token_hash):
                raise AlreadySpent("it was made", "")
            if not self._may_make(session, account):
                raise stale(account)
            errors = await house.ask(visit, _errors, account, typed, asked)
            if errors:
                return self._show_form(visit, account, replace(typed, errors=errors), 422)
            house.count(CHANGES, str(session.person.id))
            opening = self._opening(visit, session, account)
            created = await house.ask(visit, _create, asked, opening)
        except AlreadySpent:
            raise made_before(account) from None
        if account.sealed:
            await house.ask(visit, _let_go, session.id_hash)
        return self._show_made(visit, account, created, typed.program)

    def _may_make(self, session: WebSession, account: Account) -> bool:
        return self._house.is_fresh(session) and (not account.sealed or session.held_for == account.id)

    def _opening(self, visit: Visit, session: WebSession, account: Account) -> Opening | None:
        """What opens a sealed account for its new app password: the token of the sign-in just before."""
        if not account.sealed:
            return None
        assert session.held is not None, "held_for says so"
        try:
            return Opening(token=unwrap(Secret(visit.cookie), account.id, session.held))
        except SealBroken:
            raise stale(account) from None

    def _require_active(self, account: Account) -> None:
        if account.state is not AccountState.ACTIVE:
            raise Problem(
                403,
                N_("This mailbox is switched off"),
                N_("Your administrator switched it off, so nothing can log in to it."),
                (f"/mailbox/{account.id}", N_("Back to the mailbox")),
            )

    def _require_openable(self, account: Account) -> None:
        """A sealed mailbox opens by a sign-in here, so it has to be one of those that people sign in for here."""
        if account.sealed and account.upstream != self._house.web.upstream:
            raise Problem(
                403,
                N_("This mailbox is sealed"),
                N_("Its app passwords are made by your administrator: people do not sign in for it here."),
                (f"/mailbox/{account.id}", N_("Back to the mailbox")),
            )

    def _offered(self, account: Account) -> tuple[str, ...]:
        upstream = self._house.config.upstreams.get(account.upstream)
        return tuple(one for one in PROTOCOLS if upstream and upstream.endpoint(one))

    def _show_form(self, visit: Visit, account: Account, typed: Typed, status: int = 200) -> Response:
        return self._house.show(
            visit,
            "new.html",
            status,
            account=account,
            typed=typed,
            offered=self._offered(account),
            programs=PROGRAMS,
            once=once_of(visit.cookie),
        )

    def _show_made(self, visit: Visit, account: Account, created: Created, key: str) -> Response:
        house = self._house
        chosen = program(key)
        return house.show(
            visit,
            "made.html",
            account=account,
            credential=created.credential,
            password=created.password,
            qr=svg_of(created.password),
            program=chosen,
            others=[one for one in PROGRAMS if one is not chosen],
            servers=servers(house.config, house.web, account.upstream, created.credential.protocols),
        )


def read_typed(form: Mapping[str, tuple[str, ...]]) -> Typed:
    key = field(form, "program")
    return Typed(
        field(form, "name"),
        form.get("protocols", ()),
        field(form, "expires"),
        field(form, "networks"),
        key if key in KEYS else "other",
    )


def _errors(desk: Desk, account: Account, typed: Typed, asked: PasswordRequest) -> dict[str, str]:
    """What is wrong, by field, in words for people."""
    errors: dict[str, str] = {}
    name = ""
    try:
        name = inputs.name(typed.name)
    except OperatorError:
        errors["name"] = N_("Give it a name of 1 to 100 visible characters.")
    if any(one.name == name for one in desk.store.credentials(account.id) if one.state_at(desk.now) != "revoked"):
        errors["name"] = N_("There is an app password of this name already. Choose another name, or revoke that one.")
    if not typed.protocols or not set(typed.protocols) <= set(PROTOCOLS):
        errors["protocols"] = N_("Choose at least one.")
    if typed.expires not in PERIODS:
        errors["expires"] = N_("Choose one of the list.")
    try:
        inputs.networks(asked.networks)
    except OperatorError:
        errors["networks"] = N_("Write addresses or networks like 192.0.2.7 or 192.0.2.0/24, one on each line.")
    return errors


def _create(desk: Desk, asked: PasswordRequest, opening: Opening | None) -> Created:
    try:
        prepared = passwords.prepare(desk, asked, Way.PLAIN if opening is None else Way.SIGN_IN)
        return passwords.create(desk, prepared, opening)
    except StoreError:
        # The other of two clicks may have taken the name in between.
        if asked.once is not None and desk.store.web.is_spent(asked.once.token_hash):
            raise AlreadySpent("it was made", "") from None
        raise


def _is_spent(desk: Desk, token_hash: str) -> bool:
    return desk.store.web.is_spent(token_hash)


def _let_go(desk: Desk, id_hash: str) -> None:
    desk.store.web.hold(id_hash, None, None)


def made_before(account: Account) -> Problem:
    return Problem(
        409,
        N_("It was made, and shown, before"),
        N_(
            "An app password is shown a single time. If you did not keep it, revoke it in the list and make another: "
            "that is quick."
        ),
        (f"/mailbox/{account.id}", N_("Back to the mailbox")),
    )


def stale(account: Account) -> Problem:
    return Problem(
        403,
        N_("Please sign in once more"),
        N_("An app password is made shortly after a sign-in. Nothing was made yet."),
        (f"/mailbox/{account.id}/sign-in-again", N_("Sign in again")),
    )
