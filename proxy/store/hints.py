"""PostgreSQL's NOTIFY as a hint that the revision has risen: sooner than the next look at the row, never in its place.

A connection of its own, in a thread of its own. What it misses while it has no connection, the look finds.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from proxy.store.engine import parse_url, sqlite_file
from proxy.store.revisions import CHANNEL

if TYPE_CHECKING:
    import psycopg

LISTEN_S = 0.5  # how long the thread waits at a time, and so how late it hears of its end
PAUSES_S = (1.0, 30.0)  # between two tries to connect: at first, doubled each time, at last
CONNECT_S = 5


@contextlib.contextmanager
def hints(url: str, tell: Callable[[], None]) -> Iterator[None]:
    """Call `tell`, in another thread, when somebody has changed something; with SQLite never."""
    parsed = parse_url(url)
    if sqlite_file(parsed) is not None:
        yield
        return
    ended = threading.Event()
    conninfo = parsed.set(drivername="postgresql").render_as_string(hide_password=False)
    # A daemon: a connection attempt that hangs must not keep a process that was told to end.
    thread = threading.Thread(target=_listen, args=(conninfo, tell, ended), name="store-hints", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(2 * LISTEN_S)


def _listen(conninfo: str, tell: Callable[[], None], ended: threading.Event) -> None:
    import psycopg  # noqa: PLC0415 - an extra

    first_s, last_s = PAUSES_S
    pause_s = first_s
    while not ended.is_set():
        try:
            with psycopg.connect(
                conninfo, autocommit=True, connect_timeout=CONNECT_S, application_name="gatepost-hints"
            ) as connection:
                connection.execute(f"LISTEN {CHANNEL}")
                pause_s = first_s
                _pass_on(connection, tell, ended)
        except psycopg.Error:
            # Said nowhere: the look at the row tells the operator of a database that is down.
            ended.wait(pause_s)
            pause_s = min(2 * pause_s, last_s)


def _pass_on(connection: psycopg.Connection, tell: Callable[[], None], ended: threading.Event) -> None:
    while not ended.is_set():
        for _ in connection.notifies(timeout=LISTEN_S, stop_after=1):
            tell()
