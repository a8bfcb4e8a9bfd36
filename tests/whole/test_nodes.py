"""Two nodes behind HAProxy on one PostgreSQL: revoking one app password ends exactly its sessions on both."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.conftest import USERS
from tests.lab import Lab
from tests.nodes import PATIENCE_S, WORKERS, Client, Nodes, crowd, running_nodes
from tests.postgresql import Cluster

IMAP_SESSIONS, SMTP_SESSIONS = 200, 20


@pytest.fixture(scope="module")
def nodes(lab: Lab, cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    with running_nodes(lab, tmp_path_factory.mktemp("nodes"), cluster.database()) as nodes:
        for user in USERS:
            nodes.first.add_account(user)
        yield nodes
        for gate in nodes.both:
            assert gate.stop() == 0
            assert "Traceback" not in gate.log()
            assert gate.leaked() == []


async def until_listed(nodes: Nodes, count: int) -> list[dict]:
    """`gatepost sessions` of a node once it has so many."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            listed = json.loads(await asyncio.to_thread(nodes.second.cli, "sessions", "--json"))
            if len(listed) == count:
                return listed


async def test_revoking_on_one_node_ends_exactly_its_sessions_on_both_and_nobody_else_notices(nodes: Nodes) -> None:
    passwords = [(user, nodes.first.create(user, name)) for user in USERS for name in ("one", "two")]
    wanted = [("imap", *passwords[number % len(passwords)]) for number in range(IMAP_SESSIONS)]
    wanted += [("smtp", *passwords[number % len(passwords)]) for number in range(SMTP_SESSIONS)]
    # The balancer takes turns: in this order every session of an app password would come to the same node.
    random.Random(7).shuffle(wanted)
    clients = await crowd(nodes, wanted)
    try:
        listed = await until_listed(nodes, IMAP_SESSIONS + SMTP_SESSIONS)
        spread = Counter((one["node"], one["worker"]) for one in listed)
        assert set(spread) == {(f"mail{node}", worker) for node in (1, 2) for worker in range(WORKERS)}, spread
        assert Counter(one["protocol"] for one in listed) == {"imap": IMAP_SESSIONS, "smtp": SMTP_SESSIONS}
        assert {one["address"] for one in listed} == {"127.0.0.1"}
        _, doomed = passwords[0]
        doomed_at = {(one["node"], one["worker"]) for one in listed if one["app_password"] == doomed["id"]}
        assert {node for node, _ in doomed_at} == {"mail1", "mail2"}, "its sessions are on both nodes"
        await asyncio.to_thread(nodes.second.cli, "revoke", doomed["id"])
        await all_end(client for client in clients if client.public_id == doomed["id"])
        assert [client.said for client in clients] == [b""] * len(clients)  # not a word to anybody
        others = [client for client in clients if client.public_id != doomed["id"]]
        assert all(await asyncio.gather(*(client.still_works() for client in others)))
        await until_listed(nodes, len(others))
    finally:
        for client in clients:
            await client.close()
    ends = [line for gate in nodes.both for line in gate.log().splitlines() if "reason=revoked" in line]
    assert len(ends) == len(clients) - len(others)
    assert all(f"app_password={doomed['id']}" in line for line in ends)


async def all_end(clients: Iterator[Client]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        for client in clients:
            assert client.waiting is not None
            await client.waiting


async def test_a_session_is_kicked_from_the_other_node(nodes: Nodes) -> None:
    user, made = USERS[0], nodes.first.create(USERS[0], "kicked")
    clients = await crowd(nodes, [("imap", user, made)] * 2)
    try:
        listed = await until_listed(nodes, 2)
        other = nodes.second if listed[0]["node"] == "mail1" else nodes.first
        await asyncio.to_thread(other.cli, "sessions", "kick", listed[0]["id"])
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.wait([client.waiting for client in clients if client.waiting], return_when="FIRST_COMPLETED")
        assert len(await until_listed(nodes, 1)) == 1
        assert sum([client.ended_at is None for client in clients]) == 1
    finally:
        for client in clients:
            await client.close()
