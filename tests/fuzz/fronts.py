"""A visit and a transport in memory for either front, for fuzzing: what it said, whom it let in, what was left."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from proxy.config import Tls
from proxy.edge.imap import ImapFront
from proxy.edge.smtp import SmtpFront
from proxy.errors import Refusal
from tests.edge.smtp_front_kit import Visit, Wire, soon
from tests.fuzz.kit import demand

# What a client may make the front say without ever reading: 100 commands, the greeting and a list each.
MAX_SAID_BYTES = 262_144

REFUSALS = (Refusal.UNKNOWN_USER, Refusal.STORE_DOWN, Refusal.THROTTLED, Refusal.NEEDS_CONSENT, Refusal.SHUTTING_DOWN)


class Door:
    """A passage: the upstream's connection, as far as a front knows one."""

    untagged = b"* CAPABILITY IMAP4rev1\r\n"
    ok_rest = b" OK in\r\n"

    def __init__(self) -> None:
        self.connection = self
        self.is_aborted = False

    def abort(self) -> None:
        self.is_aborted = True


class Caller(Visit):
    """The kit's visit, with a door that both fronts can use."""

    async def enter(self, credentials: Any, mechanism: str, client: str) -> Any:
        await super().enter(credentials, mechanism, client)
        return Door()


@dataclass(frozen=True)
class Outcome:
    """What must not depend on the split."""

    said: bytes
    attempts: tuple[object, ...]
    clients: tuple[str, ...]
    relayed: bytes | None  # what the relay was given to send first, with what the client sent afterwards
    reasons: tuple[str, ...]


def listener(flags: int) -> Tls:
    # Without STARTTLS: its handshake needs a socket.
    return Tls.NONE if flags & 1 else Tls.IMPLICIT


async def call(make: Callable[[Visit], Any], pieces: tuple[bytes, ...], flags: int) -> Outcome:
    """Send all pieces as the front reads them, then hang up; it must end by itself."""
    count = flags >> 1 & 3
    kind = REFUSALS[(flags >> 3) % len(REFUSALS)]
    visit = Caller(listener(flags), script=(kind,) * count, extensions=("IDLE", "SIZE 1000"))
    front: SmtpFront | ImapFront = make(visit)
    wire = Wire(front, secured=visit.listener.tls is Tls.IMPLICIT)
    front.connection_made(wire)
    left = list(pieces)
    while left and not visit.relayed and not wire.is_closing():
        await _until_quiet(wire)
        if visit.relayed or wire.is_closing():
            break
        demand(wire.readable.is_set(), "the front reads no more, and waits for nothing")
        front.data_received(left.pop(0))
        if flags & 0x80:
            await asyncio.sleep(0)
    await _until_quiet(wire)
    if not visit.relayed:
        if not wire.is_closing():
            wire.hang_up()
        await soon(visit.over.wait())
    task = getattr(front, "_handler_coroutine", None) or getattr(front, "_task", None)
    if task is not None:
        await soon(asyncio.wait([task]))
    demand(len(visit.relayed) + len(visit.reasons) == 1, "neither one end nor one relay", visit.reasons)
    demand(len(wire.said) <= MAX_SAID_BYTES, "too much is said")
    relayed = visit.relayed[0][2] + b"".join(left) if visit.relayed else None
    return Outcome(bytes(wire.said), tuple(visit.attempts), tuple(visit.clients), relayed, tuple(visit.reasons))


async def _until_quiet(wire: Wire) -> None:
    """Turn the loop until the front says nothing more: its answers come within a few turns of each other."""
    quiet, said = 0, -1
    while quiet < 8:
        await asyncio.sleep(0)
        quiet = quiet + 1 if len(wire.said) == said else 0
        said = len(wire.said)
