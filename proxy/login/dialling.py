"""From a verified account to an open connection upstream: whether to dial at all, with what, and how often.

To the upstream Gatepost is one address: one dead token must not bring penalties on everyone. So an account that the
upstream refuses is not dialled again until something changes, and a mailbox that is full upstream is waited for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from datetime import UTC, datetime
from typing import NoReturn, Protocol as Interface, TypeVar

from proxy.config import Protocol, UpstreamConfig
from proxy.errors import Refusal, Refused, UpstreamError, UpstreamFault
from proxy.login.caps import Caps, Place
from proxy.login.rules import OF_UPSTREAM
from proxy.meters import DIALS, UPSTREAM_ERRORS, Meters
from proxy.oauth import TokenBroker
from proxy.oauth.held import Held
from proxy.store.rows import Account, LoginRow, TokenState
from proxy.vault.cache import Fingerprints
from proxy.vault.sealed import OpenKey
from proxy.wire.sasl import Bearer, Password, UpstreamCredential

# An upstream that refuses an account's fresh token is asked again after this: at first, doubled each time, at last.
REFUSED_REDIAL_S = (300.0, 3600.0)


class Abortable(Interface):
    def abort(self) -> None: ...


C = TypeVar("C", bound=Abortable)
Dial = Callable[[UpstreamConfig, Protocol, UpstreamCredential], Awaitable[C]]


class Dialler:
    """Opens connections for accounts. One per LoginService."""

    def __init__(
        self,
        *,
        broker: TokenBroker,
        caps: Caps,
        do_later: Callable[[Coroutine[None, None, None]], None],
        meters: Meters | None = None,
    ) -> None:
        """`do_later` runs what a login leaves behind, without making it wait."""
        self._broker = broker
        self._caps = caps
        self._do_later = do_later
        self._meters = meters or Meters()
        self._redial_at: dict[int, float] = {}  # by account; loop time
        self._refused_since: dict[int, datetime] = {}  # by account: the token_since of the row that was refused
        self._refusals: dict[int, int] = {}  # in a row
        self._fingerprints = Fingerprints()
        self._not_renewed: dict[int, bytes] = {}  # by account: the token that was refused, and could not be renewed yet

    async def open(
        self, row: LoginRow, key: OpenKey | None, upstream: UpstreamConfig, protocol: Protocol, dial: Dial[C]
    ) -> tuple[C, Place]:
        """A connection that is logged in, and the place that it takes, to be left at the session's end.

        row     as the login found it
        key     opens a sealed account; from the app password that logs in
        raises  Refused, StoreUnavailable
        """
        account = row.account
        self._refuse_if_hopeless(account, upstream)
        # This may take long, so it comes before the line.
        held = None if upstream.auth == "password" else await self._broker.token(account, upstream, key)
        place = await self._caps.place(upstream, account.upstream_user, protocol, row.elsewhere)
        try:
            with place:
                self._refuse_if_just_refused(account)  # to another login, while this one stood in line
                measured = self._measured(dial)
                connection = await self._dialled(
                    account, held, key, upstream=upstream, protocol=protocol, dial=measured
                )
        except UpstreamError as error:
            await self._failed(account, error)
        self._refusals.pop(account.id, None)
        self._refused_since.pop(account.id, None)
        if account.token_state is TokenState.UPSTREAM_REFUSES:
            self._redial_at.pop(account.id, None)
            # Not awaited: whoever is cancelled here would leave the connection to nobody.
            self._do_later(self._broker.note_state(account, TokenState.FRESH, ""))
        return connection, place

    async def _dialled(
        self,
        account: Account,
        held: Held | None,
        key: OpenKey | None,
        *,
        upstream: UpstreamConfig,
        protocol: Protocol,
        dial: Dial[C],
    ) -> C:
        if held is None:
            secret = await self._broker.password(account, key)
            return await dial(upstream, protocol, Password(account.upstream_user, secret))
        held = self._broker.latest(account, held, key)  # a login before us in line may have had it renewed
        if self._was_refused(account, held):
            # Raises while the provider is down, and then nobody is dialled.
            renewed = await self._broker.renewed(account, upstream, held, key) or held
        else:
            try:
                return await dial(upstream, protocol, _bearer(account, held))
            except UpstreamError as error:
                if error.fault is not UpstreamFault.REFUSED:
                    raise
                self._not_renewed[account.id] = self._fingerprints.of(account.email, held.token)
                other = await self._broker.renewed(account, upstream, held, key)
                if other is None:
                    self._not_renewed.pop(account.id, None)  # another login may have been here
                    raise
                renewed = other
        self._not_renewed.pop(account.id, None)
        # Outcomes E38: once, on a fresh connection.
        return await dial(upstream, protocol, _bearer(account, renewed))

    def _was_refused(self, account: Account, held: Held) -> bool:
        refused = self._not_renewed.get(account.id)
        return refused is not None and refused == self._fingerprints.of(account.email, held.token)

    def _measured(self, dial: Dial[C]) -> Dial[C]:
        async def measured(upstream: UpstreamConfig, protocol: Protocol, credential: UpstreamCredential) -> C:
            clock = asyncio.get_running_loop().time
            began = clock()
            try:
                connection = await dial(upstream, protocol, credential)
            except UpstreamError as error:
                self._meters.count(UPSTREAM_ERRORS, upstream.name, protocol, error.fault.value)
                raise
            self._meters.observe(DIALS, upstream.name, protocol, value=clock() - began)
            return connection

        return measured

    def _refuse_if_hopeless(self, account: Account, upstream: UpstreamConfig) -> None:
        lacks_token = account.token_state in (TokenState.NEEDS_CONSENT, TokenState.NONE)
        if lacks_token and not upstream.is_app_only:
            raise Refused(Refusal.NEEDS_CONSENT, account.token_detail)
        if account.token_state is TokenState.UPSTREAM_REFUSES:
            now = asyncio.get_running_loop().time()
            if now < self._redial_at.get(account.id, 0.0) or _is_new(account):
                raise Refused(Refusal.UPSTREAM_REFUSES, account.token_detail)
            self._redial_at[account.id] = now + REFUSED_REDIAL_S[0]

        self._refuse_if_just_refused(account)

    def _refuse_if_just_refused(self, account: Account) -> None:
        """Refuse a login whose row was read before the store knew that the upstream refuses the account."""
        is_same = self._refused_since.get(account.id) == account.token_since
        is_known = account.token_state is TokenState.UPSTREAM_REFUSES
        if is_same and not is_known and asyncio.get_running_loop().time() < self._redial_at.get(account.id, 0.0):
            raise Refused(Refusal.UPSTREAM_REFUSES, "refused a moment ago")

    async def _failed(self, account: Account, error: UpstreamError) -> NoReturn:
        if error.fault is UpstreamFault.REFUSED:
            count = self._refusals.get(account.id, 0)
            self._refusals[account.id] = count + 1
            self._refused_since[account.id] = account.token_since
            first_s, last_s = REFUSED_REDIAL_S
            pause_s = min(first_s * 2 ** min(count, 16), last_s)
            self._redial_at[account.id] = asyncio.get_running_loop().time() + pause_s
            await self._broker.note_state(account, TokenState.UPSTREAM_REFUSES, error.said)
        raise Refused(OF_UPSTREAM[error.fault], str(error)) from None


def _is_new(account: Account) -> bool:
    """Whether the account's state was noted a moment ago, by whichever process: for all it is too early to dial."""
    age_s = (datetime.now(UTC) - account.token_since).total_seconds()
    return abs(age_s) < REFUSED_REDIAL_S[0]  # another node's clock may be ahead


def _bearer(account: Account, held: Held) -> Bearer:
    return Bearer(account.upstream_user, held.token)
