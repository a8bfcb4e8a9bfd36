"""Outcomes E36 against a real identity provider with rotation and reuse detection: one refresh, no lost family."""

from __future__ import annotations

import asyncio
import json
import ssl
import urllib.parse
import urllib.request
from base64 import b64encode
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from proxy.secret import SecretSource
from proxy.store.rows import Purpose
from proxy.store.store import Store
from proxy.vault.sealing import load_master, unseal
from tests.gate import Gate
from tests.lab import Endpoint, Lab
from tests.lab.talk import TIMEOUT_S, tls

ANN = "ann@example.test"
LOGINS = 50  # at each process
MARGIN_S = 60  # a token with less left is renewed before use
Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@pytest.fixture
def twins(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Gate, Gate]]:
    """Two processes on one store, as two workers or nodes are."""
    first = Gate.prepare(lab, tmp_path_factory.mktemp("proof"))
    first.add_account(ANN)
    second = Gate(lab, first.directory)
    second.log_file = first.directory / "second.log"
    try:
        for gate in (first, second):
            gate.start()
        yield first, second
        assert first.leaked() == []
        assert second.leaked() == []
    finally:
        first.kill()
        second.kill()
        lab.idp.set_ttl(3600)


def stored(gate: Gate, purpose: Purpose) -> tuple[str, datetime | None]:
    """A token in the store, and when it ends."""
    store = Store.open(f"sqlite:///{gate.directory / 'gatepost.db'}", migrate=False)
    try:
        account = store.account(ANN)
        assert account is not None
        deposit = store.deposit(account.id, purpose)
        assert deposit is not None
        master = load_master(SecretSource("file", str(gate.directory / "master.key")).read())
        return unseal(deposit, master).reveal(), deposit.valid_until
    finally:
        store.close()


def refreshes(lab: Lab) -> int:
    return lab.idp.token_requests().refresh_by_user.get(ANN, 0)


def refreshed(gates: tuple[Gate, Gate]) -> int:
    """What the processes say of themselves."""
    return sum(gate.log().count("event=token_refreshed") for gate in gates)


async def connected(endpoint: Endpoint, context: ssl.SSLContext) -> Connection:
    reader, writer = await asyncio.open_connection("localhost", endpoint.port, ssl=context)
    assert (await reader.readline()).startswith(b"* OK")
    return reader, writer


async def log_in(connection: Connection, password: str) -> bytes:
    """The tagged answer."""
    reader, writer = connection
    writer.write(f"a LOGIN {ANN} {password}\r\n".encode())
    while not (line := await reader.readline()).startswith(b"a "):
        assert line, "closed instead of an answer"
    return line


async def crowd(gates: tuple[Gate, Gate], password: str, due: datetime) -> list[bytes]:
    """LOGINS clients of each process, connected already, send their LOGIN when `due` has come; all their answers."""
    context = tls(gates[0].lab)
    context.check_hostname = False
    async with asyncio.timeout(TIMEOUT_S * 3):
        connections = await asyncio.gather(*(connected(gate.imaps, context) for gate in gates for _ in range(LOGINS)))
        await asyncio.sleep(max(0.0, (due - datetime.now(UTC)).total_seconds()))
        try:
            return await asyncio.gather(*(log_in(connection, password) for connection in connections))
        finally:
            for _, writer in connections:
                writer.transport.abort()


def test_a_hundred_logins_at_two_processes_at_the_moment_of_expiry_are_one_refresh(
    lab: Lab, twins: tuple[Gate, Gate]
) -> None:
    password = twins[0].create(ANN, "crowd")["password"]
    lab.idp.set_ttl(MARGIN_S + 3)
    for gate in twins:  # each holds the token in memory, and has verified the app password
        asyncio.run(_once(gate, password))
    lab.idp.set_ttl(3600)
    _, ends = stored(twins[0], Purpose.ACCESS_TOKEN)
    assert ends is not None
    due = datetime.fromtimestamp(ends.timestamp() - MARGIN_S + 0.1, UTC)
    before, refreshed_before = refreshes(lab), refreshed(twins)
    answers = asyncio.run(crowd(twins, password, due))
    assert [answer for answer in answers if not answer.startswith(b"a OK")] == []
    assert refreshes(lab) == before + 1
    assert refreshed(twins) == refreshed_before + 1
    # The family lives: what the store keeps is the newest token, which the provider takes.
    token, _ = stored(twins[0], Purpose.REFRESH_TOKEN)
    assert present(lab, token) == 200


async def _once(gate: Gate, password: str) -> None:
    context = tls(gate.lab)
    connection = await connected(gate.imaps, context)
    assert (await log_in(connection, password)).startswith(b"a OK")
    connection[1].transport.abort()


def present(lab: Lab, refresh_token: str) -> int:
    """Use a refresh token at the provider, behind Gatepost's back; the status."""
    form = urllib.parse.urlencode({"grant_type": "refresh_token", "refresh_token": refresh_token}).encode()
    basic = b64encode(f"{lab.idp.client_id}:{lab.idp.client_secret}".encode()).decode()
    request = urllib.request.Request(lab.idp.token_url, form, {"authorization": f"Basic {basic}"})
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
        assert json.load(answer)["access_token"]
        return int(answer.status)
