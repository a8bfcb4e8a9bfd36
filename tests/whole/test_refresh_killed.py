"""Outcomes E37: kill -9 at every step between the provider's answer and the commit leaves no torn account."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from proxy.config import Config
from proxy.config.reader import load
from proxy.edge.tls import client_context
from proxy.edge.upstream import dial
from proxy.errors import Refusal, Refused
from proxy.oauth import TokenBroker, TokenClient
from proxy.secret import Secret
from proxy.store.pool import StorePool
from proxy.store.rows import NewAccount, Purpose
from proxy.store.schema import lease
from proxy.store.store import Store
from proxy.vault.sealing import MasterPrivate, Recipient, load_master, seal, unseal
from proxy.wire.sasl import Bearer
from tests.gate import Gate
from tests.lab import Lab
from tests.whole.dying import STEPS

ANN = "ann@example.test"
DIE_S = 40.0
# The provider has spent the old refresh token, and nobody knows the new one: strict rotation ends the family.
LOST = ("answered", "sealed", "half_written", "written")
KEPT = ("committed", "noting", "releasing", "released")


@pytest.fixture
def gate(lab: Lab, tmp_path: Path) -> Gate:
    return Gate.prepare(lab, tmp_path / "gate")


@contextmanager
def opened(config: Config) -> Iterator[tuple[Store, MasterPrivate]]:
    store = Store.open(config.store.url, migrate=False)
    try:
        yield store, load_master(config.keys.master.read())
    finally:
        store.close()


def email(step: str) -> str:
    return f"{step}@example.test"


def add_accounts(lab: Lab, store: Store) -> dict[str, str]:
    """An account for each step, all for one mailbox, each with a grant of its own; their refresh tokens."""
    newest = store.masters()[0]
    to = [Recipient(newest.key_id, newest.public)]
    tokens = {step: lab.refresh_token(ANN) for step in STEPS}
    for step, token in tokens.items():
        new = NewAccount(email(step), "lab", ANN, (), "test")
        store.add_account(new, lambda number, token=token: [seal(Purpose.REFRESH_TOKEN, number, Secret(token), to)])
    return tokens


def kill_at_every_step(gate: Gate) -> None:
    """All at once, each in a process of its own."""
    dying = {
        step: subprocess.Popen(
            [sys.executable, "-m", "tests.whole.dying", str(gate.config), email(step), step],
            stderr=subprocess.PIPE,
        )
        for step in STEPS
    }
    for step, process in dying.items():
        _, error = process.communicate(timeout=DIE_S)
        assert process.returncode == -signal.SIGKILL, (step, error.decode()[-2000:])


async def test_kill_9_at_every_step_leaves_an_account_that_works_or_needs_consent(lab: Lab, gate: Gate) -> None:
    config = load(gate.config)
    with opened(config) as (store, master):
        old = add_accounts(lab, store)
        kill_at_every_step(gate)
        store.check(deep=True)
        now = datetime.now(UTC)
        for step in STEPS:
            account = store.account(email(step))
            assert account is not None
            refresh, access = (store.deposit(account.id, one) for one in (Purpose.REFRESH_TOKEN, Purpose.ACCESS_TOKEN))
            assert refresh is not None
            # Both of the old, or both of the new: never one of each, and never one that does not open.
            is_new = unseal(refresh, master).reveal() != old[step]
            assert (is_new, access is not None) == (step in KEPT, step in KEPT), step
            if access is not None:
                assert unseal(access, master).reveal()
            # Until the dead process's lease has run out nobody else begins.
            if step != "released":
                assert store.take_lease(account.id, "test", now, now + timedelta(seconds=1)) is None, step
        with store._database.write() as connection:  # it runs out
            connection.execute(lease.update().values(until=now - timedelta(seconds=1)))
        outcomes = {step: await _restarted(config, store, master, email(step)) for step in STEPS}
        works = ("asking", *KEPT)
        assert outcomes == {step: "works" if step in works else "needs_consent" for step in STEPS}
        assert set(LOST) | set(works) == set(STEPS)


async def _restarted(config: Config, store: Store, master: MasterPrivate, address: str) -> str:
    """What a process that starts finds: "works", with a token that opens the mailbox; or the account's token state."""
    pool = StorePool(store)
    broker = TokenBroker(
        store=store, pool=pool, master=master, client=TokenClient(client_context), clock=time.monotonic
    )
    try:
        account = store.account(address)
        assert account is not None
        try:
            held = await broker.token(account, config.upstreams["lab"])
        except Refused as refused:
            now = store.account(address)
            assert now is not None
            # What the client is told, and what people are.
            return now.token_state.value if refused.refusal is Refusal.NEEDS_CONSENT else refused.refusal.value
        (await dial(config.upstreams["lab"], "imap", Bearer(account.upstream_user, held.token))).abort()
        return "works"
    finally:
        await broker.close()
        pool.close()
