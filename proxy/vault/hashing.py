"""argon2id: hashing and verifying app passwords, on threads of its own with bounded lanes.

argon2-cffi releases the GIL, so threads compute in parallel; more threads than cores would only multiply memory
(threads x argon2 memory is the bound, outcomes E28). So the workers of a node share the cores; but each has two threads
at least, of which strangers never take the last.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import Enum
from time import monotonic
from typing import Generic, TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import HashingError, InvalidHashError, VerificationError, VerifyMismatchError
from argon2.low_level import Type, error_to_str, hash_secret_raw

from proxy.errors import OperatorError
from proxy.meters import HASH_PLACES, HASH_SECONDS, HASH_WAIT, Meters
from proxy.vault.apppassword import AppPassword

T = TypeVar("T")

STRETCHED_BYTES = 32
SALT_BYTES = 16  # RFC 9106 3.1
# argon2.h's ARGON2_MEMORY_ALLOCATION_ERROR and ARGON2_THREAD_FAIL; argon2-cffi gives the words only.
_NO_ROOM = frozenset({error_to_str(-22), error_to_str(-33)})
_STRETCH = b"gatepost app key 1\n"  # what is stretched is never what is verified, whatever the salts


@dataclass(frozen=True, slots=True)
class Stretch:
    """How a key is made of an app password: argon2id with these parameters and this salt."""

    salt: bytes
    memory_kib: int
    time: int
    lanes: int


class HashFailed(OperatorError):
    """argon2id got no memory or no thread: nothing is known of the password. The message has no secret."""

    def __init__(self, why: str) -> None:
        super().__init__(f"argon2id failed: {why}", "free some memory, or lower [limits] argon2_memory_kib")


class Hasher:
    """argon2id with this installation's parameters (RFC 9106); PHC strings in and out. All raise HashFailed."""

    def __init__(self, *, memory_kib: int, time: int, lanes: int) -> None:
        self._argon2 = PasswordHasher(time_cost=time, memory_cost=memory_kib, parallelism=lanes)

    def hash(self, password: AppPassword) -> str:
        with _as_failed():
            return self._argon2.hash(password.whole.reveal())

    def verify(self, phc: str, password: AppPassword) -> bool:
        """Whether the password fits. A damaged PHC string is no match: it can never let anybody in."""
        try:
            return self._argon2.verify(phc, password.whole.reveal())
        except (VerifyMismatchError, InvalidHashError):
            return False
        except VerificationError as error:
            if str(error) in _NO_ROOM:
                raise HashFailed(str(error)) from None
            return False

    def new_stretch(self) -> Stretch:
        """With a salt of its own, and this installation's parameters."""
        ours = self._argon2
        return Stretch(secrets.token_bytes(SALT_BYTES), ours.memory_cost, ours.time_cost, ours.parallelism)

    def stretched(self, stretch: Stretch, password: AppPassword) -> bytes:
        """The key of STRETCHED_BYTES that this password makes: as much work as a verify."""
        with _as_failed():
            return hash_secret_raw(
                _STRETCH + password.whole.reveal().encode(),
                stretch.salt,
                time_cost=stretch.time,
                memory_cost=stretch.memory_kib,
                parallelism=stretch.lanes,
                hash_len=STRETCHED_BYTES,
                type=Type.ID,
            )

    def is_outdated(self, phc: str) -> bool:
        """Whether the string was made with weaker parameters than ours; stronger ones are left as they are."""
        return self._argon2.check_needs_rehash(phc) and _is_weaker(phc, self._argon2)


@contextlib.contextmanager
def _as_failed() -> Iterator[None]:
    try:
        yield
    except HashingError as error:
        raise HashFailed(str(error)) from None


def _is_weaker(phc: str, ours: PasswordHasher) -> bool:
    # "$argon2id$v=19$m=19456,t=2,p=1$salt$hash"
    fields = dict(pair.split("=", 1) for pair in phc.split("$")[3].split(","))
    return int(fields["m"]) < ours.memory_cost or int(fields["t"]) < ours.time_cost or not phc.startswith("$argon2id$")


class Lane(Enum):
    """Two queues to the same threads, so that strangers can't keep regulars waiting."""

    REGULARS = "regulars"  # (account, network) pairs with a recent success
    STRANGERS = "strangers"


class QueueFull(Exception):
    """The lane holds as many waiting logins as it may. Not an error of anybody: the front says UNAVAILABLE."""


@dataclass(slots=True, eq=False)
class Ticket:
    """A place in a lane, taken before any look-up so that a full lane says nothing about accounts."""

    lane: Lane
    is_held: bool = True
    is_right: bool | None = None  # what its verify found, whether or not anybody waited for that; None: none has ended


class HashPool:
    """The hashing threads and their two lanes. One pool per process, owned by build()."""

    def __init__(self, hasher: Hasher, *, threads: int, queue: int = 64, meters: Meters | None = None) -> None:
        """The strangers' lane may use all threads but one, if there is more than one.

        queue   logins that may hold a ticket, per lane
        """
        self.hasher = hasher
        self._threads = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="argon2")
        # The strangers' semaphore leaves one thread to the regulars; a single one they share in turn.
        self._strangers = asyncio.Semaphore(max(1, threads - 1))
        self._queue = queue
        self._held = dict.fromkeys(Lane, 0)
        self._meters = meters or Meters()

    def reserve(self, lane: Lane) -> Ticket:
        """Take a place. Raises QueueFull at once when there is none."""
        if self._held[lane] >= self._queue:
            raise QueueFull
        self._hold(lane, 1)
        return Ticket(lane)

    def release(self, ticket: Ticket) -> None:
        """Give the place back; giving it back twice is harmless."""
        if ticket.is_held:
            ticket.is_held = False
            self._hold(ticket.lane, -1)

    def _hold(self, lane: Lane, change: int) -> None:
        self._held[lane] += change
        self._meters.put(HASH_PLACES, lane.value, value=self._held[lane])

    async def verify(self, ticket: Ticket, phc: str, password: AppPassword) -> bool:
        """Whether the password fits; `ticket.is_right` says so as well, also to a waiter that was cancelled."""

        def work() -> bool:
            ticket.is_right = self.hasher.verify(phc, password)
            return ticket.is_right

        return await self._compute(ticket.lane, work)

    async def stretched(self, ticket: Ticket, stretch: Stretch, password: AppPassword) -> bytes:
        return await self._compute(ticket.lane, lambda: self.hasher.stretched(stretch, password))

    async def hash(self, password: AppPassword) -> str:
        return await self._compute(Lane.STRANGERS, lambda: self.hasher.hash(password))

    async def _compute(self, lane: Lane, work: Callable[[], T]) -> T:
        asked = monotonic()
        if lane is Lane.REGULARS:
            return self._told(lane, asked, await self._run(work))
        async with self._strangers:
            return self._told(lane, asked, await self._run(work))

    async def _run(self, work: Callable[[], T]) -> _Done[T]:
        job = self._threads.submit(_timed, work)
        done = asyncio.wrap_future(job)
        try:
            return await asyncio.shield(done)
        except asyncio.CancelledError:
            # What no thread has begun is not computed. What one has, ends in its time, and a cancelled waiter with it,
            # however often he is cancelled: his place is taken until then, and somebody counts what was found.
            if not job.cancel():
                while not done.done():
                    with contextlib.suppress(asyncio.CancelledError):
                        await asyncio.wait([done])
            raise

    def _told(self, lane: Lane, asked: float, done: _Done[T]) -> T:
        self._meters.observe(HASH_WAIT, lane.value, value=done.began - asked)
        self._meters.observe(HASH_SECONDS, value=done.ended - done.began)
        return done.result

    def close(self) -> None:
        self._threads.shutdown(wait=True, cancel_futures=True)


@dataclass(frozen=True, slots=True)
class _Done(Generic[T]):
    """What a thread computed, and when; monotonic seconds."""

    result: T
    began: float
    ended: float


def _timed(work: Callable[[], T]) -> _Done[T]:
    began = monotonic()
    result = work()
    return _Done(result, began, monotonic())
