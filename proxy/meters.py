"""What is counted, and where the numbers lie: memory that the workers of a node share, so that no death loses a count.

A Board is the supervisor's, and lends a Sheet for each worker before that is forked; a sheet has one writer at a time,
and a replacement goes on where the one that died stopped. A worker may read all that there were at its fork. Labels
are few and known: protocols, causes, upstreams; never an address, never a mailbox. Knows nothing of Prometheus: see
live/exposition.
"""

from __future__ import annotations

import math
import mmap
import os
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

SHEET_BYTES = 1_048_576  # of a worker: more than ten thousand numbers. Only pages that are written take memory
PRIVATE_BYTES = 65_536  # of Meters that nobody else reads: commands, tests
# Seconds; from a cached login to the deadline of a slow one.
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0)
_CELL = 8  # bytes: every number is an aligned double, which no reader can see half written
_SEPARATOR = "\x1f"


class Kind(Enum):
    """How the numbers of a meter behave: rise only, go up and down, or count by size."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Meter:
    """Something that is measured. `name` is as Prometheus shows it, without _total, _bucket, _sum, _count."""

    name: str
    kind: Kind
    words: str
    labels: tuple[str, ...] = ()
    bounds: tuple[float, ...] = SECONDS  # of a histogram: upper ends of its buckets but the last


def _counter(name: str, words: str, *labels: str) -> Meter:
    return Meter(f"gatepost_{name}", Kind.COUNTER, words, labels)


def _gauge(name: str, words: str, *labels: str) -> Meter:
    return Meter(f"gatepost_{name}", Kind.GAUGE, words, labels)


def _seconds(name: str, words: str, *labels: str) -> Meter:
    return Meter(f"gatepost_{name}_seconds", Kind.HISTOGRAM, words, labels)


CONNECTIONS = _counter("connections", "Client connections that were accepted.", "protocol")
HANDSHAKES_FAILED = _counter("handshake_failures", "TLS handshakes of clients that failed.", "protocol")
HEADERS_REFUSED = _counter("proxy_header_refusals", "Connections closed for a bad PROXY header.", "protocol")
TURNED_AWAY = _counter(
    "turned_away", "Connections that were sent away before a login, by cause and limit.", "protocol", "cause", "limit"
)
ACCEPT_PAUSES = _counter("accept_pauses", "Times that nobody was accepted for want of room.", "reason")
OPEN_CONNECTIONS = _gauge("open_connections", "Client connections that are open, logged in or not.")

LOGINS = _counter("logins", "Logins by outcome (ok, refused, cut_off) and cause.", "protocol", "outcome", "cause")
LOGIN_SECONDS = _seconds("login", "From credentials to OK, of logins that were let in.", "protocol")
SESSIONS = _gauge("sessions", "Live sessions.", "protocol")
SESSIONS_ENDED = _counter("sessions_ended", "Sessions that ended, by reason.", "protocol", "reason")
BYTES = _counter("relayed_bytes", "Bytes from clients (up) and to them (down) after login.", "protocol", "direction")

HASH_PLACES = _gauge("hash_queue_length", "Logins that hold a place in the argon2 queue.", "lane")
HASH_WAIT = _seconds("hash_wait", "How long an argon2 computation waited for a thread.", "lane")
HASH_SECONDS = _seconds("hash", "How long argon2 computed.")

REFRESHES = _counter("token_requests", "Requests for tokens by outcome: ok or a fault.", "upstream", "outcome")
ACCOUNTS = _gauge("accounts", "Accounts by the state of their token.", "token_state")
TOKEN_AGE = _gauge(
    "token_state_age_seconds", "How long the account that is longest in a state is in it.", "token_state"
)
DIALS = _seconds("upstream_dial", "From dialling an upstream to being logged in there.", "upstream", "protocol")
UPSTREAM_ERRORS = _counter(
    "upstream_errors", "Upstreams that did not let Gatepost in, by fault.", "upstream", "protocol", "fault"
)

STORE_SECONDS = _seconds("store_call", "How long the store took to answer.")
STORE_FAILURES = _counter("store_failures", "Calls that the store did not answer: down, locked, late.")

LOOP_LAG = _seconds("loop_lag", "How late the event loop of a worker woke up.")
TASKS = _gauge("event_loop_tasks", "Tasks that are not done; rising while the connections do not is a leak.")
WORKER_STARTS = _counter("worker_starts", "Workers that began to accept; more than their number: some were replaced.")
MEMORY = _gauge("resident_memory_bytes", "Resident memory of all workers; what they share counts for each.")
LINES_LOST = _counter("log_lines_lost", "Log lines of workers that nobody will read: their reader was stuck or gone.")
CERTIFICATE_ENDS = _gauge("certificate_expiry_timestamp_seconds", "When the certificate ends, in Unix time.")
SERIES_DROPPED = _counter("series_dropped", "Numbers that had no room: more upstreams than Gatepost can count for.")

METERS = tuple(value for value in tuple(globals().values()) if isinstance(value, Meter))

# Not shown as they are: exposition and readiness count the workers by them.
HEARTBEAT = _gauge("heartbeat", "Monotonic seconds of a worker's last sign of life.")
ACCEPTING = _gauge("accepting", "1 while a worker accepts.")
STALE_S = 10.0  # a worker without a sign of life for so long hangs


class Sheet:
    """One worker's numbers: keys that are appended, each with its cell. One writer; any number of readers.

    Layout, in cells: where the entries end; then entries of key length, key, value.
    """

    def __init__(self, memory: memoryview) -> None:
        """`memory` is zero, or was a sheet before; its length is a multiple of eight."""
        self._bytes = memory
        self._words = memory.cast("Q")
        self._cells = memory.cast("d")
        if self._words[0] == 0:
            self._words[0] = _CELL

    def cells(self) -> Iterator[tuple[str, int]]:
        """The keys with the places of their values."""
        at, end = _CELL, self._words[0]
        while at < end:
            length = self._words[at // _CELL]
            value_at = at + _CELL + _padded(length)
            yield bytes(self._bytes[at + _CELL : at + _CELL + length]).decode(), value_at // _CELL
            at = value_at + _CELL

    def append(self, key: str) -> int | None:
        """A new cell, of zero; None if there is no room. Readers see it when it is whole."""
        data = key.encode()
        at = self._words[0]
        value_at = at + _CELL + _padded(len(data))
        if value_at + _CELL > len(self._bytes):
            return None
        self._words[at // _CELL] = len(data)
        self._bytes[at + _CELL : at + _CELL + len(data)] = data
        self._cells[value_at // _CELL] = 0.0
        self._words[0] = value_at + _CELL
        return value_at // _CELL

    def get(self, cell: int) -> float:
        return self._cells[cell]

    def add(self, cell: int, amount: float) -> None:
        self._cells[cell] += amount

    def put(self, cell: int, value: float) -> None:
        self._cells[cell] = value

    def forget_gauges(self) -> None:
        """What a worker that is gone said of itself holds no more; what it counted does."""
        for key, cell in self.cells():
            if _KINDS.get(key.partition(_SEPARATOR)[0]) is Kind.GAUGE:
                self.put(cell, math.nan)


def _padded(length: int) -> int:
    return -(-length // _CELL) * _CELL


_KINDS = {meter.name: meter.kind for meter in (*METERS, HEARTBEAT, ACCEPTING)}


class Board:
    """All sheets of a node, each in memory that is shared by fork. It outlives every worker."""

    def __init__(self) -> None:
        self._sheets: list[Sheet] = []
        self._free: list[Sheet] = []
        self._owner = os.getpid()

    def lend(self) -> Sheet:
        """A sheet for a worker and its replacements: one that was given back, with its counts, or a new one."""
        if self._free:
            return self._free.pop()
        sheet = Sheet(memoryview(mmap.mmap(-1, SHEET_BYTES)))
        self._sheets.append(sheet)
        return sheet

    def take_back(self, sheet: Sheet) -> None:
        """Nobody writes to it any more. What was counted there stays in the totals.

        Without effect in a worker, which closes its copies of what other generations share.
        """
        if os.getpid() != self._owner:
            return
        sheet.forget_gauges()
        self._free.append(sheet)

    def totals(self) -> dict[tuple[str, ...], float]:
        """The sum over all workers, by key: the meter's name, its labels' values, and for a histogram which part."""
        found: dict[tuple[str, ...], float] = {}
        for sheet in self._sheets:
            for key, cell in sheet.cells():
                value = sheet.get(cell)
                if not math.isnan(value):
                    parts = tuple(key.split(_SEPARATOR))
                    found[parts] = found.get(parts, 0.0) + value
        return found

    def accepting(self, now: float) -> int:
        """How many workers accept and live. `now` is monotonic seconds."""
        return sum(self._is_accepting(sheet, now) for sheet in self._sheets)

    @staticmethod
    def _is_accepting(sheet: Sheet, now: float) -> bool:
        values = {key: sheet.get(cell) for key, cell in sheet.cells() if key in (HEARTBEAT.name, ACCEPTING.name)}
        return values.get(ACCEPTING.name) == 1.0 and values.get(HEARTBEAT.name, -math.inf) > now - STALE_S


_BUCKETS = tuple(str(number) for number in range(64))  # as labels


class Tally:
    """A number that is added to often: its cell is found once."""

    __slots__ = ("_cell", "_sheet")

    def __init__(self, sheet: Sheet, cell: int) -> None:
        self._sheet = sheet
        self._cell = cell

    def add(self, amount: float = 1.0) -> None:
        self._sheet.add(self._cell, amount)


class Meters:
    """What the parts of a worker count with. One per process, made by build(); called from its loop's thread only."""

    def __init__(self, sheet: Sheet | None = None) -> None:
        """Without a sheet the numbers are nobody's: for commands and tests."""
        self._sheet = sheet or Sheet(memoryview(bytearray(PRIVATE_BYTES)))
        self._spare = Sheet(memoryview(bytearray(4 * _CELL)))  # takes what has no room
        self._known = dict(self._sheet.cells())
        self._tallies: dict[tuple[str, ...], Tally] = {}  # of those in use, by name and labels
        self._dropped = self.tally(SERIES_DROPPED)

    def count(self, meter: Meter, *labels: str, amount: float = 1.0) -> None:
        self.tally(meter, *labels).add(amount)

    def put(self, meter: Meter, *labels: str, value: float) -> None:
        """Set a gauge."""
        key = _key(meter, labels)
        cell = self._cell(key)
        if cell is not None:
            self._sheet.put(cell, value)

    def observe(self, meter: Meter, *labels: str, value: float) -> None:
        """Count one more of this size in a histogram."""
        bucket = bisect_left(meter.bounds, value)
        self.tally(meter, *labels, _BUCKETS[bucket]).add()
        self.tally(meter, *labels, "sum").add(value)

    def tally(self, meter: Meter, *labels: str) -> Tally:
        parts = (meter.name, *labels)
        known = self._tallies.get(parts)
        if known is None:
            cell = self._cell(_SEPARATOR.join(parts))
            if cell is None:
                return Tally(self._spare, 1)
            known = self._tallies[parts] = Tally(self._sheet, cell)
        return known

    def read(self, meter: Meter, *labels: str) -> float:
        """A counter or gauge of this process, 0 if it never was."""
        cell = self._known.get(_key(meter, labels))
        return 0.0 if cell is None else self._sheet.get(cell)

    def _cell(self, key: str) -> int | None:
        cell = self._known.get(key)
        if cell is None:
            cell = self._sheet.append(key)
            if cell is None:
                self._dropped.add()
                return None
            self._known[key] = cell
        return cell


def _key(meter: Meter, labels: tuple[str, ...]) -> str:
    return _SEPARATOR.join((meter.name, *labels))
