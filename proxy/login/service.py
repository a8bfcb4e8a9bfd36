"""The one path from credentials to a passage, whichever protocol they came by.

Order: throttle, a place in the hash lanes, one SELECT, one verify, what the row allows, token, dial (one retry on a
refused token), registry. Every refusal is answered on a time grid, so that queues, parameters and existence do not
show in when the answer comes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime
from time import monotonic
from typing import Generic

from proxy.config import UpstreamConfig
from proxy.errors import Answer, Refusal, Refused, StoreUnavailable
from proxy.live.sessions import Registry, Session
from proxy.login.attempt import Attempt, authzid_of, kind_of, name, name_for_log, session_of
from proxy.login.caps import Caps
from proxy.login.dialling import C, Dial, Dialler
from proxy.login.pace import GRID_S, Pace, next_point
from proxy.login.rules import Wanted, judge
from proxy.login.throttle import Throttle
from proxy.login.unlocking import Unlocker
from proxy.logs import Line
from proxy.meters import LOGIN_SECONDS, LOGINS, Meters
from proxy.oauth import TokenBroker
from proxy.record.journal import Journal
from proxy.record.refusals import RefusalLedger
from proxy.store.pool import StorePool
from proxy.store.rows import LastUse, LoginRow, SecretRow
from proxy.store.store import Store
from proxy.vault.apppassword import AppPassword, parse
from proxy.vault.cache import Fingerprints, Verified, VerifyCache
from proxy.vault.hashing import HashFailed, HashPool, Lane, QueueFull, Ticket
from proxy.vault.sealed import OpenKey
from proxy.wire.names import canonical_login

logger = logging.getLogger("gatepost.login")

LOGIN_S = 25.0  # from credentials to the answer: 5 s of queue, 10 s for a token, 10 s to dial
QUEUE_S = 5.0


@dataclass(slots=True)
class Passage(Generic[C]):
    """A login that was let in: a session that the registry knows, and the connection upstream."""

    session: Session
    connection: C


@dataclass(slots=True)
class _Finding:
    """What stays known of an attempt that is cut off: what its secret was found to be, if anybody looked."""

    wrong: Refused | None = None
    is_right: bool = False


class LoginService:
    """The login path. Owned by build(); one per process."""

    def __init__(
        self,
        *,
        upstreams: Callable[[str], UpstreamConfig | None],
        store: Store,
        pool: StorePool,
        hashes: HashPool,
        cache: VerifyCache,
        throttle: Throttle,
        broker: TokenBroker,
        registry: Registry,
        journal: Journal,
        refusals: RefusalLedger,
        caps: Caps,
        worker_id: str,
        fingerprints: Fingerprints | None = None,
        meters: Meters | None = None,
    ) -> None:
        """`fingerprints` are those of the node's workers, for a throttle that they share."""
        self._upstreams = upstreams
        self._store = store
        self._pool = pool
        self._hashes = hashes
        self._cache = cache
        self._throttle = throttle
        self._unlocker = Unlocker(store=store, pool=pool, hashes=hashes, cache=cache, broker=broker, queue_s=QUEUE_S)
        self._registry = registry
        self._journal = journal
        self._refusals = refusals
        self._worker_id = worker_id
        self._meters = meters or Meters()
        self._dialler = Dialler(broker=broker, caps=caps, do_later=self._do_later, meters=self._meters)
        self._fingerprints = fingerprints or Fingerprints()
        self._pace = Pace(monotonic)
        self._chores: set[asyncio.Task[None]] = set()

    async def enter(self, attempt: Attempt, dial: Dial[C]) -> Passage[C]:
        """Let an attempt in, or raise Refused; both are logged here, and a refusal comes on the grid.

        An attempt that is cancelled, mostly because the client hung up, is logged as well. If its secret was found to
        be wrong it is a refusal like any other: no answer was seen, but a hash was computed, and nobody shall have
        that without being counted. What was found right, or not looked at, counts against nobody; the latter has a
        line for debugging only, or anybody could fill the log.

        dial    opens an authenticated connection upstream; raises UpstreamError
        """
        finding = _Finding()
        try:
            async with asyncio.timeout_at(attempt.started + LOGIN_S):
                passage = await self._admit(attempt, dial, finding)
        except asyncio.CancelledError:
            if finding.wrong is not None:
                self._tell_refused(attempt, finding.wrong)
            else:
                self._log(attempt, "cut_off", level=logging.INFO if finding.is_right else logging.DEBUG)
            raise
        except Refused as error:
            refused = error
        except StoreUnavailable as error:
            refused = Refused(Refusal.STORE_DOWN, str(error))
        except TimeoutError:
            refused = finding.wrong or Refused(Refusal.LOGIN_DEADLINE)
        except HashFailed as error:
            refused = Refused(Refusal.HASH_QUEUE_FULL, str(error))
            logger.warning("%s", Line("hash_failed", error=str(error)))
        except Exception:
            logger.exception("%s", Line("login_crashed", id=attempt.id))
            refused = Refused(Refusal.INTERNAL)
        else:
            self._log(attempt, "ok", session=passage.session)
            return passage
        self._tell_refused(attempt, refused)
        await self._wait_for_grid(attempt.started, refused.refusal.answer)
        raise refused

    def refuse_unread(self, attempt: Attempt, refusal: Refusal) -> None:
        """Tell of a login that its front refused without a look at the credentials: it counts against nobody."""
        self._tell_refused(attempt, Refused(refusal))

    async def close(self) -> None:
        if self._chores:
            await asyncio.wait(self._chores)

    async def _admit(self, attempt: Attempt, dial: Dial[C], finding: _Finding) -> Passage[C]:
        login, password = self._read(attempt)
        row, key = await self._verified_row(attempt, login, password, finding)
        account, credential, secret = row.account, row.credential, row.secret
        assert credential is not None
        assert secret is not None
        try:
            upstream = self._upstreams(account.upstream)
            if upstream is None:
                raise Refused(Refusal.WRONG_LISTENER, "the account's upstream is not configured")
            connection, place = await self._dialler.open(row, key, upstream, attempt.protocol, dial)
        except Refused as refused:
            name(refused, row)
            raise
        session = session_of(attempt, account, credential, secret, row.revision)
        session.on_gone = place.leave
        self._registry.admit(session)
        # By the name that was typed: before the look-up no other is known.
        self._throttle.record_success(attempt.peer, login)
        use = LastUse(session.since, attempt.peer, attempt.protocol, attempt.client)
        self._journal.record(credential.id, use)
        return Passage(session, connection)

    # -- who is it ---------------------------------------------------------------------------------------------------

    async def _verified_row(
        self, attempt: Attempt, login: str, password: AppPassword, finding: _Finding
    ) -> tuple[LoginRow, OpenKey | None]:
        """The row of an app password that was verified and may be used in this way; and what opens a sealed account."""
        known = self._cache.find(login, password)
        is_regular = self._throttle.is_regular(attempt.peer, login)
        try:
            ticket = self._hashes.reserve(Lane.REGULARS if is_regular else Lane.STRANGERS)
        except QueueFull:
            if known is None:
                raise Refused(Refusal.HASH_QUEUE_FULL) from None
            ticket = None  # verified a moment ago: it will not hash
        try:
            row, is_confirmed = await self._find(attempt, login, password, known)
            try:
                await self._verify(row, password, known, ticket)
                finding.is_right = True
                wanted = Wanted(attempt.protocol, attempt.peer, attempt.upstreams, login, authzid_of(attempt))
                if (refusal := judge(row, wanted, datetime.now(UTC))) is not None:
                    raise Refused(refusal)
                key = await self._unlocker.key(row, password, known, ticket)
            except Refused as refused:
                name(refused, row)
                raise
            except asyncio.CancelledError:
                if ticket is not None and ticket.is_right:
                    finding.is_right = True
                elif ticket is not None and ticket.is_right is False:
                    finding.wrong = Refused(Refusal.WRONG_PASSWORD, "cut off before the answer")
                    name(finding.wrong, row)
                raise
        finally:
            if ticket is not None:
                self._hashes.release(ticket)
        if is_confirmed:
            self._cache.remember(login, password, row, key)
        return row, key

    async def _verify(
        self, row: LoginRow, password: AppPassword, known: Verified | None, ticket: Ticket | None
    ) -> None:
        """One argon2 verify, or none if this very secret was verified a moment ago."""
        if row.secret is None:
            raise Refused(Refusal.WRONG_PASSWORD, "no such selector")
        if known is not None and known.is_for(row):
            return
        if ticket is None:
            raise Refused(Refusal.HASH_QUEUE_FULL)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(QUEUE_S):
                await self._hashes.verify(ticket, row.secret.phc, password)
        if ticket.is_right is None:
            raise Refused(Refusal.HASH_QUEUE_FULL, "waited too long")
        if not ticket.is_right:
            raise Refused(Refusal.WRONG_PASSWORD)
        self._rehash_if_outdated(row.secret, password)

    def _read(self, attempt: Attempt) -> tuple[str, AppPassword]:
        """Login name and app password in their one form, before anything costs anything."""
        credentials = attempt.credentials
        if credentials is None:
            raise Refused(Refusal.MALFORMED_CREDENTIALS)
        login = canonical_login(credentials.login)
        if self._throttle.is_blocked(attempt.peer, login or ""):
            raise Refused(Refusal.THROTTLED)
        if login is None:
            raise Refused(Refusal.UNKNOWN_USER, "not a login name")
        password = parse(credentials.password)
        if password is None:
            raise Refused(Refusal.NOT_AN_APP_PASSWORD)
        return login, password

    async def _find(
        self, attempt: Attempt, login: str, password: AppPassword, known: Verified | None
    ) -> tuple[LoginRow, bool]:
        """The store's row and True; or, while the store is down, the row it confirmed lately and False."""
        try:
            row = await self._pool.run(
                self._store.find_login, login, password.selector, attempt.protocol, self._worker_id
            )
        except StoreUnavailable:
            if known is None:
                raise
            return known.row, False  # outcomes E27: it bridges the store's absence until its time is over
        if row is None:
            raise Refused(Refusal.UNKNOWN_USER)
        return row, True

    def _rehash_if_outdated(self, secret: SecretRow, password: AppPassword) -> None:
        if self._hashes.hasher.is_outdated(secret.phc):
            self._do_later(self._rehash(secret, password))

    async def _rehash(self, secret: SecretRow, password: AppPassword) -> None:
        try:
            ticket = self._hashes.reserve(Lane.STRANGERS)
        except QueueFull:
            return  # logins come first; the next one of this password leaves it again
        try:
            phc = await self._hashes.hash(password)
        finally:
            self._hashes.release(ticket)
        await self._pool.run(self._store.replace_phc, secret.id, secret.phc, phc)

    def _do_later(self, chore: Coroutine[None, None, None]) -> None:
        """Do what a login leaves behind without making it wait. If the store is down the next login leaves it again."""

        async def run() -> None:
            try:
                await chore
            except (StoreUnavailable, HashFailed):
                pass
            except Exception:
                logger.exception("%s", Line("chore_crashed"))

        task = asyncio.create_task(run())
        self._chores.add(task)
        task.add_done_callback(self._chores.discard)

    async def _wait_for_grid(self, started: float, answer: Answer) -> None:
        """Sleep until the refusal is due; at once would be another time for another cause."""
        loop = asyncio.get_running_loop()
        elapsed_s = loop.time() - started
        is_about_secrets = answer in (Answer.CREDENTIALS, Answer.AUTHORIZATION)
        due_s = self._pace.due_s(elapsed_s) if is_about_secrets else next_point(elapsed_s) * GRID_S
        await asyncio.sleep(due_s - elapsed_s)

    # -- what is told ------------------------------------------------------------------------------------------------

    def _tell_refused(self, attempt: Attempt, refused: Refused) -> None:
        is_new = self._count(attempt, refused)
        self._refusals.record(kind_of(attempt, refused))
        self._log(attempt, "refused", refused=refused, level=logging.INFO if is_new else logging.DEBUG)

    def _count(self, attempt: Attempt, refused: Refused) -> bool:
        """Count a wrong secret. Returns whether the refusal deserves a line at INFO (outcomes E30)."""
        credentials = attempt.credentials
        if refused.refusal.answer is not Answer.CREDENTIALS or credentials is None:
            return refused.refusal is not Refusal.THROTTLED
        login = canonical_login(credentials.login) or ""
        fingerprint = self._fingerprints.of(login, credentials.password)
        return self._throttle.record_wrong(attempt.peer, login, fingerprint)

    def _log(
        self,
        attempt: Attempt,
        result: str,
        *,
        session: Session | None = None,
        refused: Refused | None = None,
        level: int = logging.INFO,
    ) -> None:
        elapsed_s = asyncio.get_running_loop().time() - attempt.started
        self._meters.count(LOGINS, attempt.protocol, result, refused.refusal.value if refused else "")
        if session is not None:
            self._meters.observe(LOGIN_SECONDS, attempt.protocol, value=elapsed_s)
        line = Line(
            "login",
            service=attempt.protocol,
            user=session.email if session else (refused and refused.user) or name_for_log(attempt.credentials),
            peer=attempt.peer,
            result=result,
            cause=refused.refusal.value if refused else None,
            detail=(refused.detail or None) if refused else None,
            app_password=session.public_id if session else (refused and refused.app_password) or None,
            mechanism=attempt.mechanism or None,
            client=attempt.client or None,
            ms=round(elapsed_s * 1000),
            id=attempt.id,
        )
        logger.log(level, "%s", line)
