"""What the workers of a node tell each other: who failed and who succeeded, so that the throttle counts for all.

One pair of datagram sockets per worker, made before the workers are: each reads its own end and writes to the others'.
Best effort and bounded: a worker that does not keep up loses what its socket (some 200 kB, hundreds of messages) can't
hold, and one that starts anew knows only what was sent from then on. Nothing here leaves the node.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import secrets
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from proxy.meters import Board, Sheet

KEY_BYTES = 32
FINGERPRINT_BYTES = 32  # what vault/cache makes: keyed BLAKE2b
MAX_MESSAGE_BYTES = 512  # a login name has 254 octets at most, an address 45
READS_PER_TURN = 64  # then the loop serves clients again

_WRONG, _SUCCESS = b"w", b"s"


@dataclass(frozen=True, slots=True)
class Wires:
    """A worker's ends. `key` makes the fingerprints, the same in all workers; it is never stored nor shown.

    board   the numbers of all workers; `sheet` is where this one writes its own
    """

    inbox: socket.socket
    outboxes: tuple[socket.socket, ...]
    key: bytes = field(repr=False)
    board: Board = field(repr=False)
    sheet: Sheet = field(repr=False)


def lay(workers: int, stack: contextlib.ExitStack, board: Board | None = None) -> tuple[Wires, ...]:
    """The wires for so many workers, all open until `stack` ends: a replacement gets those of the one that died.

    board   where their numbers are kept, beyond the end of `stack`; without one they are kept for so long only
    """
    pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(workers)]
    for end in (end for pair in pairs for end in pair):
        stack.enter_context(end).setblocking(False)
    key = secrets.token_bytes(KEY_BYTES)
    board = board or Board()
    sheets = [board.lend() for _ in range(workers)]
    for sheet in sheets:
        stack.callback(board.take_back, sheet)
    return tuple(
        Wires(
            inbox,
            tuple(sender for other, (_, sender) in enumerate(pairs) if other != number),
            key,
            board,
            sheets[number],
        )
        for number, (inbox, _) in enumerate(pairs)
    )


class Hearer(Protocol):
    """Who counts what the others tell."""

    def hear_wrong(self, address: str, login: str, fingerprint: bytes) -> None: ...

    def hear_success(self, address: str, login: str) -> None: ...


class Bus:
    """Tells the other workers, and passes on what they tell. One per process, owned by build()."""

    def __init__(self, wires: Wires) -> None:
        self._wires = wires

    def tell_wrong(self, address: str, login: str, fingerprint: bytes) -> None:
        self._send(_WRONG + fingerprint + _words(address, login))

    def tell_success(self, address: str, login: str) -> None:
        self._send(_SUCCESS + _words(address, login))

    def listen(self, hearer: Hearer) -> Callable[[], None]:
        """Pass on what arrives to `hearer`, on the running loop. Returns what ends it."""
        loop, inbox = asyncio.get_running_loop(), self._wires.inbox
        loop.add_reader(inbox.fileno(), self._receive, hearer)

        def end() -> None:
            loop.remove_reader(inbox.fileno())

        return end

    def _send(self, message: bytes) -> None:
        for outbox in self._wires.outboxes:
            # Full, or gone: the others count without this one.
            with contextlib.suppress(OSError):
                outbox.send(message)

    def _receive(self, hearer: Hearer) -> None:
        for _ in range(READS_PER_TURN):
            try:
                message = self._wires.inbox.recv(MAX_MESSAGE_BYTES + 1)
            except OSError:
                return
            hear(message, hearer)


def hear(message: bytes, hearer: Hearer) -> None:
    """Pass one message on; one that can't be read is nobody's."""
    kind, rest = message[:1], message[1:]
    size = {_WRONG: FINGERPRINT_BYTES, _SUCCESS: 0}.get(kind)
    if size is None or len(message) > MAX_MESSAGE_BYTES:
        return
    fingerprint, (address, separator, login) = rest[:size], rest[size:].partition(b"\0")
    try:
        told = str(ipaddress.ip_address(address.decode())), login.decode()
    except ValueError:
        return
    if not separator:
        return
    if kind == _WRONG:
        hearer.hear_wrong(*told, fingerprint)
    else:
        hearer.hear_success(*told)


def _words(address: str, login: str) -> bytes:
    return address.encode() + b"\0" + login.encode()
