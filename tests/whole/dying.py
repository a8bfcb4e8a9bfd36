"""A process that refreshes one account's token and kills itself, as kill -9 would, at a step of that refresh.

python -m tests.whole.dying CONFIG EMAIL STEP
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

import proxy.store.deposits as deposits_module
from proxy.config import UpstreamConfig
from proxy.config.reader import load
from proxy.edge.tls import client_context
from proxy.oauth import Grant, TokenBroker, TokenClient
from proxy.secret import Secret
from proxy.store.pool import StorePool
from proxy.store.rows import Deposit
from proxy.store.store import Store
from proxy.vault.sealing import load_master

# In their order. The provider answers between the first two; the commit lies between `written` and `committed`.
STEPS = ("asking", "answered", "sealed", "half_written", "written", "committed", "noting", "releasing", "released")


class Dying:
    step = ""

    @classmethod
    def at(cls, step: str) -> None:
        assert step in STEPS
        if step == cls.step:
            os.kill(os.getpid(), signal.SIGKILL)


class DyingClient(TokenClient):
    async def refresh(self, upstream: UpstreamConfig, refresh_token: Secret) -> Grant:
        Dying.at("asking")
        grant = await super().refresh(upstream, refresh_token)
        Dying.at("answered")
        return grant


class DyingStore(Store):
    is_committing = False

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        write = self._write

        @contextmanager
        def dying_write() -> Iterator[Connection]:
            with write() as connection:
                yield connection
                if self.is_committing:
                    Dying.at("written")  # everything but the COMMIT

        self._write = dying_write

    def put_tokens(self, account_id: int, fence: int, tokens: Sequence[Deposit]) -> bool:
        Dying.at("sealed")
        self.is_committing = True
        is_kept = super().put_tokens(account_id, fence, tokens)
        self.is_committing = False
        Dying.at("committed")
        return is_kept

    def set_token_state(self, *args: Any, **more: Any) -> bool:
        Dying.at("noting")
        return super().set_token_state(*args, **more)

    def release_lease(self, account_id: int, fence: int) -> None:
        Dying.at("releasing")
        super().release_lease(account_id, fence)
        Dying.at("released")


def die_between_the_deposits() -> None:
    """The access token's row is new, the refresh token's still old."""
    real = deposits_module._replace
    seen: list[str] = []

    def replace(connection: Connection, new: Deposit, now: Any) -> None:
        if seen:
            Dying.at("half_written")
        seen.append(new.row)
        real(connection, new, now)

    deposits_module._replace = replace


async def refresh(config_file: Path, email: str) -> None:
    config = load(config_file)
    store = DyingStore.open(config.store.url, migrate=False)
    pool = StorePool(store)
    broker = TokenBroker(
        store=store,
        pool=pool,
        master=load_master(config.keys.master.read()),
        client=DyingClient(client_context),
        clock=time.monotonic,
    )
    account = store.account(email)
    assert account is not None
    await broker.token(account, config.upstreams[account.upstream])


if __name__ == "__main__":
    Dying.step = sys.argv[3]
    die_between_the_deposits()
    asyncio.run(refresh(Path(sys.argv[1]), sys.argv[2]))
