"""What a management verb works at: the configuration, the open store, who asks and when."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from proxy.config import Config
from proxy.store.audit_rows import Actor

if TYPE_CHECKING:
    from proxy.store.store import Store  # imported when opened: it brings SQLAlchemy


@dataclass(frozen=True, slots=True)
class Desk:
    """`by`, for example "cli:root", goes into the rows that are made and the audit; `now` is aware and in UTC."""

    config: Config
    store: Store
    by: str
    now: datetime


@contextmanager
def opened(config: Config, by: str) -> Iterator[Desk]:
    """A desk over the configured store, which is closed at the end.

    The store is never migrated here: a running service of another version may be using it.
    raises  StoreError, StoreUnavailable
    """
    from proxy.store.store import Store  # noqa: PLC0415 - see TYPE_CHECKING above

    store = Store.open(config.store.url, migrate=False, actor=Actor(by, node_of(config)))
    try:
        yield Desk(config, store, by, datetime.now(UTC).replace(microsecond=0))
    finally:
        store.close()


def node_of(config: Config) -> str:
    """What this machine is called among those that share a store."""
    return config.workers.node or socket.gethostname()
