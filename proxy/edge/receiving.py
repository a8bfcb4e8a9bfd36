"""Reading a non-blocking socket, in the clear or under TLS: as much as has come, up to a bound, in one go."""

from __future__ import annotations

import os
import socket
import ssl
import threading
from enum import Enum, auto

RECORD_BYTES = 16_384  # the most that a TLS record carries (RFC 8446 5.1)
BURST_BYTES = 8 * RECORD_BYTES  # read at once from a connection; then it is the others' turn
# Who sends less than this at once is hardly sending more: a command, an answer. Bulk comes in TLS records of 1.3 KB
# from servers that fill one packet with each, but also line by line: see `receive`.
SHORT_BYTES = 512

NOT_NOW = (BlockingIOError, InterruptedError, ssl.SSLWantReadError)


class Stop(Enum):
    """Why a reading stopped."""

    FULL = auto()  # at the bound: there may be more
    EMPTY = auto()  # nothing more now, as far as was looked: the loop tells of what comes
    END = auto()  # the peer has said its last
    RESET = auto()  # so has it here, but TLS records may still lie in the socket, and it must be watched anew to hear
    MUST_WRITE = auto()  # TLS has to write something first (RFC 8446 4.6.3, or TLS 1.2 renegotiates)


class _Room(threading.local):
    """Where reads go, one for each thread, so for each loop: it is empty again before anybody else reads."""

    def __init__(self) -> None:
        self.view = memoryview(bytearray(BURST_BYTES + RECORD_BYTES))


_room = _Room()


def receive(sock: socket.socket, *, may_stop_early: bool = True) -> tuple[bytes, Stop | OSError]:
    """What has come, and why there is no more of it; an OSError if the connection is lost.

    may_stop_early  a short piece is taken to be all that has come. Not for who has sent several without an answer: some
                    write a mail with a TLS record for each line, and each would cost a turn of the loop.
    """
    view, size = _room.view, 0
    stop: Stop | OSError = Stop.FULL
    try:
        while size < BURST_BYTES:
            got = sock.recv_into(view[size:], RECORD_BYTES)
            size += got
            if not got:
                stop = Stop.END
                break
            if got < SHORT_BYTES and may_stop_early:
                # Looking in vain for more would cost as much as all this; OpenSSL holds none back.
                stop = _after_short(sock)
                break
    except NOT_NOW:
        stop = Stop.EMPTY
    except ssl.SSLWantWriteError:
        stop = Stop.MUST_WRITE
    except OSError as error:
        stop = error
    return bytes(view[:size]), stop  # a copy costs little; a view could be kept


def throw_away(sock: socket.socket) -> Stop:
    """Read what nobody wants any more: FULL, EMPTY or END."""
    try:
        for _ in range(BURST_BYTES // RECORD_BYTES):
            if not sock.recv_into(_room.view, RECORD_BYTES):
                return Stop.END
    except NOT_NOW:
        return Stop.EMPTY
    except OSError:
        return Stop.END
    return Stop.FULL


def _after_short(sock: socket.socket) -> Stop | OSError:
    """A reset by the peer: the loop may have told of it once and for all, together with the bytes that came before."""
    number = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)  # which forgets it
    if not number:
        return Stop.EMPTY
    return Stop.RESET if isinstance(sock, ssl.SSLSocket) else OSError(number, os.strerror(number))
