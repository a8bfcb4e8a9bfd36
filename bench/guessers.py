"""Very many guessers: wrong logins at a fixed rate, from addresses all over 127.0.0.0/8, in a process of its own.

`python -m bench.guessers PORT RATE SECONDS KIND` prints one JSON line: tries begun, answers by their first words,
connections that failed. Each connection tries twice and goes. KIND: a file whose passwords are tried in turn, or
"unknown" for well-formed ones whose selector nobody has.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections import Counter
from pathlib import Path

from proxy.vault.apppassword import generate

ADDRESSES = 20_000
NAMES = ("ann@example.org", "bob@example.org", "nobody@example.org")  # the first has an account
TURN_S = 0.02
LATE_S = 40.0  # for the answers after the last try


class Guessers:
    def __init__(self, port: int, passwords: list[str]) -> None:
        self.port = port
        self.begun = 0
        self.answers: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self._passwords = passwords
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self, rate: int, seconds: float) -> float:
        """Begin `rate` tries a second; returns how long it took to begin them."""
        start = time.monotonic()
        while (elapsed_s := time.monotonic() - start) < seconds:
            # Two tries on each connection, the second half a second after the first.
            while self.begun < elapsed_s * rate:
                self.begun += 2
                task = asyncio.create_task(self._visit())
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            await asyncio.sleep(TURN_S)
        took_s = time.monotonic() - start
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=LATE_S)
        return took_s

    async def _visit(self) -> None:
        number = random.randrange(ADDRESSES)
        address = f"127.{1 + number % 200}.{number // 200}.7"
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port, local_addr=(address, 0))
        except OSError as error:
            self.failed[type(error).__name__] += 1
            return
        try:
            greeting = await reader.readline()
            if not greeting.startswith(b"* OK"):
                self.answers[" ".join(greeting.decode().split()[:2])] += 1
                return
            for _ in range(2):
                name, password = random.choice(NAMES), random.choice(self._passwords)
                writer.write(f"t LOGIN {name} {password}\r\n".encode())
                answer = (await reader.readline()).decode().split()
                self.answers[" ".join(answer[1:3]) or "closed"] += 1
                if not answer:
                    return
        except OSError as error:
            self.failed[type(error).__name__] += 1
        finally:
            writer.transport.abort()


def main() -> int:
    port, rate, seconds, kind = sys.argv[1:]
    passwords = [generate().shown() for _ in range(5_000)] if kind == "unknown" else Path(kind).read_text().split()
    guessers = Guessers(int(port), passwords)
    took_s = asyncio.run(guessers.run(int(rate), float(seconds)))
    sys.stdout.write(
        json.dumps({
            "begun": guessers.begun, "seconds": took_s, "answers": guessers.answers, "failed": guessers.failed,
        }) + "\n"
    )  # fmt: skip
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
