"""The store: what Gatepost keeps in its database, and the only importer of SQLAlchemy and Alembic.

`proxy.store.rows` is plain data for every floor and must not cost SQLAlchemy's import (half a second), so the two
classes offered here are imported when they are asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from proxy.store.pool import StorePool
    from proxy.store.store import Store

__all__ = ["Store", "StorePool"]

_HOMES = {"Store": "proxy.store.store", "StorePool": "proxy.store.pool"}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
