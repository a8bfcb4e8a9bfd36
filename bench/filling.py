"""Fills a store with accounts and app passwords by the hundred thousand, past the verbs that would take hours."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import islice

from sqlalchemy import Insert, create_engine, func, insert, select

from proxy.config.reader import load
from proxy.store import schema
from proxy.store.engine import parse_url
from proxy.store.rows import AccountState, CredentialState, TokenState
from tests.gate import Gate

BATCH = 20_000
# argon2id of nothing anybody knows; what counts is its length.
PHC = "$argon2id$v=19$m=19456,t=2,p=1$" + "A" * 22 + "$" + "B" * 43
SYMBOLS = "0123456789abcdefghjkmnpqrstvwxyz"


def fill(gate: Gate, accounts: int, passwords: int) -> None:
    """Add so many accounts, and so many app passwords, spread evenly over them."""
    if accounts <= 0:
        return
    engine = create_engine(parse_url(load(gate.config).store.url))
    now = datetime.now(UTC)
    with engine.begin() as connection:

        def first_id(table_name: str) -> int:
            column = schema.metadata.tables[table_name].c.id
            return int(connection.execute(select(func.coalesce(func.max(column), 0))).scalar_one()) + 1

        def put(statement: Insert, rows: Iterator[dict[str, object]]) -> None:
            while batch := list(islice(rows, BATCH)):
                connection.execute(statement, batch)

        base, key = first_id("account"), first_id("credential")
        names = [f"filled{number:06}@example.test" for number in range(accounts)]
        put(
            insert(schema.account),
            (
                {
                    "id": base + number,
                    "email": name,
                    "upstream": "lab",
                    "upstream_user": name,
                    "state": AccountState.ACTIVE,
                    "sealed": False,
                    "token_state": TokenState.NONE,
                    "token_since": now,
                    "token_detail": "",
                    "created": now,
                    "created_by": "bench",
                }
                for number, name in enumerate(names)
            ),
        )
        put(
            insert(schema.login_name),
            ({"name": name, "account_id": base + number} for number, name in enumerate(names)),
        )
        put(insert(schema.lease), ({"account_id": base + number, "fence": 0} for number in range(accounts)))
        put(
            insert(schema.credential),
            (
                {
                    "id": key + number,
                    "public_id": f"filled{number:010}",
                    "account_id": base + number % accounts,
                    "name": f"app {number}",
                    "protocols": ("imap", "smtp"),
                    "networks": (),
                    "state": CredentialState.ACTIVE,
                    "generation": 1,
                    "created": now,
                    "created_by": "bench",
                }
                for number in range(passwords)
            ),
        )
        put(
            insert(schema.secret),
            (
                {
                    "account_id": base + number % accounts,
                    "credential_id": key + number,
                    "selector": _selector(number // accounts),
                    "phc": PHC,
                    "created": now,
                }
                for number in range(passwords)
            ),
        )
    engine.dispose()


def _selector(number: int) -> str:
    text = ""
    for _ in range(4):
        number, digit = divmod(number, len(SYMBOLS))
        text = SYMBOLS[digit] + text
    return text
