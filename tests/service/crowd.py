"""One process of a crowd that creates, revokes and logs in at random on one store; run as a program by test_crowd.

Each line that it prints is one deed: what, on which app password, from when to when (CLOCK_MONOTONIC, the same for all
processes of a machine), and what came of it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from proxy.admin import passwords
from proxy.admin.desk import Desk
from proxy.admin.passwords import PasswordRequest
from proxy.config import Config, LimitsConfig
from proxy.errors import Refused
from proxy.secret import Secret
from tests.service.house import CHEAP, House, joined_house

ACCOUNTS = [f"u{number}@x.test" for number in range(5)]
CHEAP_LIMITS = LimitsConfig(argon2_memory_kib=CHEAP["memory_kib"], argon2_time=CHEAP["time"])


@dataclass(frozen=True)
class Known:
    """An app password that somebody of the crowd has made."""

    id: str
    account: str
    password: str


class Member:
    """Works at random at what all have made so far; `board` is where each tells the others."""

    def __init__(self, house: House, board: Path, seed: int, accounts: list[str]) -> None:
        self.house = house
        self.board = board
        self.dice = random.Random(seed)
        self.seed = seed
        self.accounts = accounts
        self.known: list[Known] = []
        self.read = 0

    async def work(self, count: int) -> None:
        for number in range(count):
            self.look()
            deed = self.dice.choices((self.create, self.revoke, self.log_in), weights=(3, 3, 5))[0]
            if deed == self.create or not self.known:
                self.create(number)
            elif deed == self.revoke:
                self.revoke(self.dice.choice(self.known[-40:]))
            else:
                await self.log_in(self.dice.choice(self.known[-40:]))
        await self.house.journal.flush()
        await self.house.refusals.close()

    def look(self) -> None:
        with self.board.open() as board:
            board.seek(self.read)
            for line in board:
                self.known.append(Known(**json.loads(line)))
                self.read += len(line)

    def desk(self) -> Desk:
        config = Config(Path("gatepost.toml"), (), self.house.upstreams, limits=CHEAP_LIMITS)
        return Desk(config, self.house.store, f"cli:member{self.seed}", datetime.now(UTC))

    def create(self, number: int) -> None:
        desk, account = self.desk(), self.dice.choice(self.accounts)
        begin = time.monotonic()
        made = passwords.create(desk, passwords.prepare(desk, PasswordRequest(account, f"m{self.seed}-{number}")))
        public_id = made.credential.public_id
        say("create", public_id, begin, "ok")
        line = json.dumps({"id": public_id, "account": account, "password": made.password}) + "\n"
        with self.board.open("a") as board:
            board.write(line)  # shorter than a buffer: one write, and whole for every reader

    def revoke(self, one: Known) -> None:
        begin = time.monotonic()
        passwords.revoke(self.desk(), [one.id])
        say("revoke", one.id, begin, "ok")

    async def log_in(self, one: Known) -> None:
        attempt = self.house.attempt(one.account, one.password, upstreams=("plain",), peer=f"192.0.2.{self.seed}")
        begin = time.monotonic()
        try:
            passage = await self.house.login.enter(attempt, self.house.upstream.dial)
        except Refused as refused:
            say("login", one.id, begin, refused.refusal.value)
            return
        say("login", one.id, begin, "ok")
        self.house.registry.remove(passage.session)


def say(deed: str, public_id: str, begin: float, outcome: str) -> None:
    end = time.monotonic()
    line = json.dumps({"deed": deed, "id": public_id, "begin": begin, "end": end, "outcome": outcome})
    sys.stdout.write(line + "\n")


async def main(url: str, board: Path, key: Secret, seed: int, count: int) -> None:
    async with joined_house(url, key, board.parent) as house:
        house.throttle._wrong = house.throttle._wrong_network = 10**6  # revoked ones are many here
        await Member(house, board, seed, ACCOUNTS).work(count)


if __name__ == "__main__":
    logging.disable()
    os.nice(5)
    _, given_url, given_board, given_seed, given_count = sys.argv
    where = Path(given_board)
    master = Secret((where.parent / "master.key").read_text())
    asyncio.run(main(given_url, where, master, int(given_seed), int(given_count)))
