"""Reading a non-blocking socket, in the clear or under TLS: as much as has come, up to a bound, in one go."""

from __future__ import annotations

import os
import socket
import ssl
import threading
from enum import Enum, auto

RECORD_BYTES = 16_384  # the most that a TLS record carries (RFC 8446 5.1)
BURST_BYTES = 8 * RECORD_BYTES  # read at once from a connection; then it is the others' turn
SHORT_BYTES = 2048  # who sends less than this at once is hardly sending more: a command, an answer

NOT_NOW = (BlockingIOError, InterruptedError, ssl.SSLWantReadError)


class Stop(Enum):
    """Why a reading stopped."""

    FULL = auto()  # at the bound: there may be more
    EMPTY = auto()  # nothing more now, as far as was looked: the loop tells of what comes
    END = auto()  # the peer has said its last
    MUST_WRITE = auto()  # TLS has to write something first (RFC 8446 4.6.3, or TLS 1.2 renegotiates)


class _Room(threading.local):
    """Where reads go, one for each thread, so for each loop: it is empty again before anybody else reads."""

    def __init__(self) -> None:
        self.view = memoryview(bytearray(BURST_BYTES + RECORD_BYTES))


_room = _Room()


def receive(sock: socket.socket) -> tuple[bytes, Stop | OSError]:
    """What has come, and why there is no more of it; an OSError if the connection is lost."""
    view, size = _room.view, 0
    stop: Stop | OSError = Stop.FULL
    try:
        while size < BURST_BYTES:
            got = sock.recv_into(view[size:], RECORD_BYTES)
            size += got
            if not got:
                stop = Stop.END
                break
            if got < SHORT_BYTES:  # looking in vain for more would cost as much as all this; OpenSSL holds none back
                stop = _reset(sock) or Stop.EMPTY
                break
    except NOT_NOW:
        stop = Stop.EMPTY
    except ssl.SSLWantWriteError:
        stop = Stop.MUST_WRITE
    except OSError as error:
        stop = error
    return bytes(view[:size]), stop  # a copy costs little; a view could be kept


def throw_away(sock: socket.socket) -> bool:
    """Read what nobody wants any more; False at the end."""
    try:
        return all(sock.recv_into(_room.view, RECORD_BYTES) for _ in range(BURST_BYTES // RECORD_BYTES))
    except NOT_NOW:
        return True
    except OSError:
        return False


def _reset(sock: socket.socket) -> OSError | None:
    """What a reset by the peer left. The loop may have told of it once and for all, with the bytes that came before."""
    number = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    return OSError(number, os.strerror(number)) if number else None
