"""How fast a revocation is felt: two nodes of two workers behind HAProxy on one PostgreSQL, over 220 live sessions.

Run it by `make bench-revocation`. For each of ROUNDS app passwords it opens sessions over both nodes, revokes on one
node, and takes the time from the command's commit (the time of its audit entry) to the end of the last session, as the
clients see it. Writes its section of bench/RESULTS.md.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from bench.results import conditions, put_section
from proxy.config.reader import load
from proxy.store.audit_rows import Event, Wanted
from proxy.store.store import Store
from tests.lab import Lab
from tests.nodes import PATIENCE_S, Nodes, crowd, running_nodes
from tests.postgresql import running_cluster

ROUNDS = 20
USERS = tuple(f"user{number}@example.test" for number in range(5))
HELD = [("imap", 200), ("smtp", 20)]  # live sessions of others, all the time
REVOKED = [("imap", 10), ("smtp", 1)]  # of the app password that is revoked


def main() -> int:
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gatepost-bench-")))
        lab = stack.enter_context(Lab.start(USERS))
        cluster = stack.enter_context(running_cluster())
        nodes = stack.enter_context(running_nodes(lab, directory, cluster.database()))
        for user in USERS:
            nodes.first.add_account(user)
        seconds, commands = asyncio.run(_measure(nodes))
    text = _report(seconds, commands)
    put_section("revocation", text)
    sys.stdout.write(text)
    return 0


async def _measure(nodes: Nodes) -> tuple[list[float], list[float]]:
    """Seconds from commit to the last end, and from the start of the command to it, by round."""
    held = [(user, nodes.first.create(user, "held")) for user in USERS]
    others = await crowd(nodes, [(protocol, *held[n % len(held)]) for protocol, count in HELD for n in range(count)])
    seconds, commands = [], []
    try:
        for number in range(ROUNDS):
            user = USERS[number % len(USERS)]
            made = nodes.first.create(user, f"round {number}")
            doomed = await crowd(nodes, [(protocol, user, made) for protocol, count in REVOKED for _ in range(count)])
            begin = time.time()
            await asyncio.to_thread(nodes.both[number % 2].cli, "revoke", made["id"])
            async with asyncio.timeout(PATIENCE_S):
                for client in doomed:
                    assert client.waiting is not None
                    await client.waiting
            last = max(client.ended_at or 0.0 for client in doomed)
            seconds.append(last - _committed_at(nodes, made["id"]))
            commands.append(last - begin)
            for client in doomed:
                await client.close()
        assert all(await asyncio.gather(*(client.still_works() for client in others))), "somebody else was ended"
    finally:
        for client in others:
            await client.close()
    return seconds, commands


def _committed_at(nodes: Nodes, public_id: str) -> float:
    store = Store.open(load(nodes.first.config).store.url, migrate=False)
    try:
        entries = store.trail.entries(Wanted(events=(Event.REVOKED,)), 0, 1000)
        return next(entry.at.timestamp() for entry in entries if entry.app_password == public_id)
    finally:
        store.close()


def _report(seconds: list[float], commands: list[float]) -> str:
    held = sum(count for _, count in HELD)
    return f"""\
## Revocation over two nodes

{conditions()}. By `make bench-revocation`.

Two nodes of two workers behind HAProxy on one PostgreSQL, all on one machine with the mail server and the clients.
{held} sessions (200 in IMAP IDLE, 20 SMTP) are held throughout; none of them ended. {len(seconds)} times an app
password with 10 IDLE and one SMTP session over both nodes was revoked by `gatepost revoke` on one node, in turn.

| from | to | median | worst of {len(seconds)} | best |
| --- | --- | --- | --- | --- |
| the beginning of the command's transaction | the end of its last session, as its client sees it | {_row(seconds)} |
| the start of the command | the same | {_row(commands)} |
"""


def _row(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} s | {max(values):.2f} s | {min(values):.2f} s"


if __name__ == "__main__":
    raise SystemExit(main())
