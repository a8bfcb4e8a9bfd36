"""How many sessions a mailbox may have upstream at one time, and who waits when it has them all.

Providers count sessions per mailbox and protocol (Gmail, Exchange), and answer too many with a refusal that looks like
any other to a mail client. So Gatepost counts its own, lets newcomers stand in a short fair line, and dials only when
there is room. This worker's sessions are counted exactly, those of all others as they have published them last.

An upstream that says "too many" all the same, to us or because of somebody else's sessions, sets a bound of its own:
as many as we have open then, for a while. After that it is tried with one dial at a time until the line is empty.

A mailbox that has not let us in yet, or refused us last time, is dialled once at a time too: to the upstream Gatepost
is one address, and ten phones with one dead token must be one failed login there, not ten.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from types import TracebackType

from proxy.config import Protocol, UpstreamConfig
from proxy.errors import Refusal, Refused, StoreUnavailable, UpstreamError, UpstreamFault

QUEUE_S = 5.0  # a login stands in line for so long at most; clients give up after some 30 s in all
MAX_WAITING = 256  # for one mailbox: as many as may wait from one address
HOLD_S = (10.0, 60.0)  # how long an upstream's "too many" counts: drawn at random, so that nodes come back apart

LOOK_S = 1.0  # as often as workers publish

CountElsewhere = Callable[[str, str, Protocol], Awaitable[int]]  # upstream, mailbox there as written, protocol
_Key = tuple[str, str, Protocol]  # upstream, mailbox there, protocol


@dataclass(eq=False, slots=True)
class _Mailbox:
    """One mailbox at one protocol; there while it has sessions or a line, or something to remember."""

    key: _Key
    limit: int = 0  # the configured one; 0 is none
    taken: int = 0  # sessions, and dials that may become one
    elsewhere: int = 0  # sessions that other workers have, as far as is known
    dialling: int = 0
    line: deque[asyncio.Future[None]] = field(default_factory=deque)
    held_at: int = 0  # what the upstream bears while `hold` runs
    hold: asyncio.TimerHandle | None = None
    is_careful: bool = False  # after a hold: one dial at a time until the line is empty
    is_proven: bool = False  # it let us in, and has not refused since

    @property
    def has_room(self) -> bool:
        is_one_at_a_time = self.is_careful or not self.is_proven
        return not self.is_full and not (is_one_at_a_time and self.dialling)

    @property
    def is_full(self) -> bool:
        if self.limit and self.taken + self.elsewhere >= self.limit:
            return True
        return self.hold is not None and self.taken >= self.held_at


class Place:
    """The right to one session. A context manager around the dial: what fails gives it back, what succeeds keeps it.

    leave() gives it back at the session's end; twice is as good as once.
    """

    def __init__(self, caps: Caps, mailbox: _Mailbox) -> None:
        self._caps = caps
        self._mailbox = mailbox
        self._is_dialling = True
        self._is_left = False

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, UpstreamError):
            if error.fault is UpstreamFault.BUSY:
                self._caps.hold(self._mailbox)
            elif error.fault is UpstreamFault.REFUSED:
                self._mailbox.is_proven = False
        if error is None:
            self._end_dial(is_in=True)
        else:
            self.leave()

    def leave(self) -> None:
        if self._is_left:
            return
        self._is_left = True
        self._mailbox.taken -= 1
        if self._is_dialling:
            self._end_dial(is_in=False)
        else:
            self._caps.serve(self._mailbox)

    def _end_dial(self, *, is_in: bool) -> None:
        self._is_dialling = False
        self._mailbox.dialling -= 1
        if is_in:
            self._mailbox.is_proven = True
            if self._mailbox.hold is None and not self._mailbox.line:
                self._mailbox.is_careful = False
        self._caps.serve(self._mailbox)


class Caps:
    """All mailboxes with sessions. Owned by build(); one per process. No task of its own."""

    def __init__(
        self,
        *,
        queue_s: float = QUEUE_S,
        waiting: int = MAX_WAITING,
        hold_s: tuple[float, float] = HOLD_S,
        count_elsewhere: CountElsewhere | None = None,
        look_s: float = LOOK_S,
    ) -> None:
        """`count_elsewhere` reads the store while somebody waits for others' sessions to end, every look_s."""
        self._queue_s = queue_s
        self._waiting = waiting
        self._hold_s = hold_s
        self._count_elsewhere = count_elsewhere
        self._look_s = look_s
        self._mailboxes: dict[_Key, _Mailbox] = {}

    def __len__(self) -> int:
        return len(self._mailboxes)

    async def place(self, upstream: UpstreamConfig, user: str, protocol: Protocol, elsewhere: int = 0) -> Place:
        """A place for one more session of this mailbox, first come, first served.

        elsewhere   sessions that other workers have of it, as of a moment ago
        raises  Refused after queue_s, or at once if the line is full: UPSTREAM_BUSY; or UPSTREAM_DOWN if it was
                only the dial before that did not end
        """
        key = (upstream.name, user.casefold(), protocol)
        mailbox = self._mailboxes.setdefault(key, _Mailbox(key))
        mailbox.limit = upstream.limits.of(protocol)
        mailbox.elsewhere = elsewhere
        if mailbox.line or not mailbox.has_room:
            await self._stand_in_line(mailbox, user)
        else:
            _take(mailbox)
        return Place(self, mailbox)

    async def _stand_in_line(self, mailbox: _Mailbox, user: str) -> None:
        """Return when the turn has come, with the place taken."""
        if len(mailbox.line) >= self._waiting:
            raise Refused(Refusal.UPSTREAM_BUSY, f"{len(mailbox.line)} logins wait for this mailbox already")
        turn = asyncio.get_running_loop().create_future()
        mailbox.line.append(turn)
        try:
            async with asyncio.timeout(self._queue_s):
                while not turn.done():
                    await asyncio.wait([turn], timeout=self._look_s if mailbox.elsewhere else None)
                    if not turn.done():
                        await self._look_elsewhere(mailbox, user)
                await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled():  # it came in the same instant: the next one's, then
                _give_back(mailbox)
            elif turn in mailbox.line:
                mailbox.line.remove(turn)
            self.serve(mailbox)
            if isinstance(error, TimeoutError):
                raise _late(mailbox) from None
            raise

    async def _look_elsewhere(self, mailbox: _Mailbox, user: str) -> None:
        """Others' sessions may have ended, and nobody here would hear of it. A store that is down changes nothing."""
        upstream, _, protocol = mailbox.key
        if self._count_elsewhere is None:
            mailbox.elsewhere = 0
        else:
            with contextlib.suppress(StoreUnavailable):
                mailbox.elsewhere = await self._count_elsewhere(upstream, user, protocol)
        self.serve(mailbox)

    def serve(self, mailbox: _Mailbox) -> None:
        """Let in who is next, as long as there is room."""
        while mailbox.line and mailbox.has_room:
            turn = mailbox.line.popleft()
            if not turn.done():
                _take(mailbox)
                turn.set_result(None)
        if not (mailbox.taken or mailbox.line or mailbox.hold or mailbox.is_careful):
            self._mailboxes.pop(mailbox.key, None)

    def hold(self, mailbox: _Mailbox) -> None:
        """The upstream said "too many" to a dial that is not over yet: bear in mind what it had let in."""
        if mailbox.hold is not None:
            mailbox.hold.cancel()
        mailbox.held_at = mailbox.taken - mailbox.dialling
        mailbox.is_careful = True
        pause_s = random.uniform(*self._hold_s)  # noqa: S311 - jitter, not a secret
        mailbox.hold = asyncio.get_running_loop().call_later(pause_s, self._release, mailbox)

    def _release(self, mailbox: _Mailbox) -> None:
        mailbox.hold = None
        self.serve(mailbox)

    def close(self) -> None:
        for mailbox in self._mailboxes.values():
            if mailbox.hold is not None:
                mailbox.hold.cancel()


def _take(mailbox: _Mailbox) -> None:
    mailbox.taken += 1
    mailbox.dialling += 1


def _give_back(mailbox: _Mailbox) -> None:
    mailbox.taken -= 1
    mailbox.dialling -= 1


def _late(mailbox: _Mailbox) -> Refused:
    if mailbox.limit and mailbox.taken + mailbox.elsewhere >= mailbox.limit:
        count = mailbox.taken + mailbox.elsewhere
        return Refused(Refusal.UPSTREAM_BUSY, f"{count} sessions of this mailbox are open")
    if mailbox.is_full:
        words = f"left alone after the upstream said too many, with {mailbox.taken} sessions open"
        return Refused(Refusal.UPSTREAM_BUSY, words)
    return Refused(Refusal.UPSTREAM_DOWN, "it does not answer another login of this mailbox")
