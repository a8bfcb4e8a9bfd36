"""The load generator, a process of its own: `python -m bench.load`, a job as JSON on its standard input.

It prepares (opens sessions, warms up), says "ready", waits for a line, works, says what it did as JSON, waits for a
line, and ends. So CPU is sampled around the work alone.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

from bench.clients import Imap, Login, Smtp, Unexpected

OPENERS = 32  # threads that open the sessions of a measure
STACK_BYTES = 512 * 1024
WARM_UPS = 6  # of each login, so that every worker of a proxy has most likely seen it


@dataclass(frozen=True, slots=True)
class Job:
    """What to do.

    kind        a name in KINDS
    at_once     sessions, or clients, at one time
    each        items of each of them
    size        bytes of a mail
    message     number of the message to fetch
    is_cold     nobody is to have logged in before the work
    warm_ups    how often each login is used before it
    """

    kind: str
    imaps: int
    smtps: int
    logins: list[Login]
    at_once: int = 1
    each: int = 1
    size: int = 0
    message: int = 1
    is_cold: bool = False
    warm_ups: int = WARM_UPS

    def login(self, number: int) -> Login:
        return self.logins[number % len(self.logins)]


@dataclass(slots=True)
class Did:
    """What was done; `first_error` is empty if all went well."""

    seconds: float = 0.0
    items: int = 0
    bytes: int = 0
    cpu_s: float = 0.0
    failed: int = 0
    first_error: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def count(self, items: int, size: int) -> None:
        with self.lock:
            self.items += items
            self.bytes += size

    def told(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("seconds", "items", "bytes", "cpu_s", "failed", "first_error")}

    def fail(self, error: Exception) -> None:
        with self.lock:
            self.failed += 1
            self.first_error = self.first_error or f"{type(error).__name__}: {error}"


Work = Callable[[int], int]  # the worker's number; returns bytes


def main() -> None:
    """Do one job."""
    words = json.loads(sys.stdin.readline())
    job = Job(**{**words, "logins": [Login(**each) for each in words["logins"]]})
    threading.stack_size(STACK_BYTES)
    did = Did()
    work, items = KINDS[job.kind](job)
    _tell({"ready": True})
    sys.stdin.readline()
    start, cpu = time.perf_counter(), time.process_time()
    _at_once(job.at_once, work, items, did)
    did.seconds, did.cpu_s = time.perf_counter() - start, time.process_time() - cpu
    _tell(did.told())
    sys.stdin.readline()


def _tell(what: dict[str, Any]) -> None:
    print(json.dumps(what), flush=True)


def _at_once(count: int, work: Work, items: int, did: Did) -> None:
    def one(number: int) -> None:
        try:
            did.count(items, work(number))
        except (OSError, Unexpected) as error:
            did.fail(error)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _logins(job: Job) -> tuple[Work, int]:
    if not job.is_cold:
        _warm_up(lambda number: Imap(job.imaps, job.login(number), number).logout(), job)

    def work(number: int) -> int:
        for turn in range(job.each):
            Imap(job.imaps, job.login(number + turn * job.at_once), number).logout()
        return 0

    return work, job.each


def _warm_up(visit: Callable[[int], None], job: Job) -> None:
    with ThreadPoolExecutor(len(job.logins)) as pool:
        for _ in range(job.warm_ups):
            list(pool.map(visit, range(len(job.logins))))


def _fetches(job: Job) -> tuple[Work, int]:
    sessions = _open_imap(job)

    def work(number: int) -> int:
        return sum(sessions[number].fetch(job.message) for _ in range(job.each))

    return work, job.each


def _noops(job: Job) -> tuple[Work, int]:
    sessions = _open_imap(job)

    def work(number: int) -> int:
        for _ in range(job.each):
            sessions[number].run("NOOP")
        return 0

    return work, job.each


def _mails(job: Job) -> tuple[Work, int]:
    sessions = _open(job, Smtp, job.smtps)
    message = mail_of(job.size)
    for session in sessions:
        session.mail(mail_of(1000))

    def work(number: int) -> int:
        for _ in range(job.each):
            sessions[number].mail(message)
        return job.each * len(message)

    return work, job.each


def _connected_mails(job: Job) -> tuple[Work, int]:
    message = mail_of(job.size)

    def work(number: int) -> int:
        for turn in range(job.each):
            session = Smtp(job.smtps, job.login(number + turn * job.at_once), number)
            session.mail(message)
            session.quit()
        return 0

    _warm_up(lambda number: Smtp(job.smtps, job.login(number), number).quit(), job)
    return work, job.each


def _idle(job: Job) -> tuple[Work, int]:
    """Sessions that each fetched a message; the work is to wait for the word, and to ask each whether it lives."""
    sessions = _open_imap(job)
    with ThreadPoolExecutor(OPENERS) as pool:
        list(pool.map(lambda session: session.fetch(job.message), sessions))

    def work(_number: int) -> int:
        with ThreadPoolExecutor(OPENERS) as pool:
            list(pool.map(lambda session: session.run("NOOP"), sessions))
        return 0

    object.__setattr__(job, "at_once", 1)
    return work, len(sessions)


def _open_imap(job: Job) -> list[Imap]:
    sessions = _open(job, Imap, job.imaps)
    with ThreadPoolExecutor(OPENERS) as pool:
        list(pool.map(lambda session: session.run("SELECT INBOX"), sessions))
    return sessions


def _open(job: Job, client: Callable[[int, Login, int], Any], port: int) -> list[Any]:
    with ThreadPoolExecutor(OPENERS) as pool:
        return list(pool.map(lambda number: client(port, job.login(number), number), range(job.at_once)))


def mail_of(size: int) -> bytes:
    """A mail of so many bytes in lines of 76, with the final dot."""
    line = b"x" * 74 + b"\r\n"
    head = b"From: ann@example.test\r\nTo: bob@elsewhere.test\r\nSubject: load\r\n\r\n"
    return head + line * ((size - len(head)) // len(line)) + b".\r\n"


KINDS: dict[str, Callable[[Job], tuple[Work, int]]] = {
    "logins": _logins,
    "fetches": _fetches,
    "noops": _noops,
    "mails": _mails,
    "connected_mails": _connected_mails,
    "idle": _idle,
}


def job_text(job: Job) -> str:
    return json.dumps(asdict(job))


if __name__ == "__main__":
    main()
