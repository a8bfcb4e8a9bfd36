"""kill -9 of anything at any time under load: what was acknowledged stays.

Run it by `make kill9`, `CYCLES=1000`. Each cycle kills one of the supervisor, a worker, a worker that has a request for
a token under way, the page, a command in the middle of its work, at a random moment, while clients log in and send.
Whoever was told that an app password was made, revoked or rotated, that a mailbox is connected, or 250, is held to it;
see killing_model. Writes its section of bench/RESULTS.md.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from bench.killing_house import MAILBOXES, Killed
from bench.killing_model import Crowd, Known, Model, State
from bench.killing_world import World, world
from bench.results import conditions, put_section
from proxy.store.store import Store
from tests.edge.scripted import make_certificates
from tests.lab.ports import PortReservation
from tests.whole.kit import UPSTREAM_PASSWORD, USER

VICTIMS = {"worker": 36, "refresh": 24, "command": 24, "supervisor": 10, "page": 6}  # of a hundred cycles
AT_MOST_S = 0.5  # a kill comes within this time
COMMAND_S = (0.2, 1.1)  # a command works for a second, most of it before its first look at the database
REFRESH_S = 4.0  # so long a request for a token is waited for
BACK_S = 60.0  # by then a login must be answered again, whatever was killed
KEPT = 30  # live app passwords of USER: an account may have a hundred
# Lines that a death leaves. Anything at these levels that is none of them is a finding.
ALLOWED = (
    r"event=worker_died .*status=-9",
    r"event=web_died .*status=-9",
    r"event=supervisor_gone",
    r"event=token_state .*state=needs_consent",
    r"event=alert ",
)


@dataclass(frozen=True)
class Result:
    cycles: int
    seconds: float
    kills: Counter[str]
    model: Model
    refreshes: int
    lost: int
    mails: int
    odd_lines: list[str]


class Killer:
    """One cycle after the other."""

    def __init__(self, killed: Killed, there: World, crowd: Crowd, chance: random.Random) -> None:
        self._killed = killed
        self._world = there
        self._crowd = crowd
        self._chance = chance
        self._model = killed.model
        self.kills: Counter[str] = Counter()
        self._acts: dict[str, Callable[[], None]] = {
            "worker": self._worker, "refresh": self._refresh, "command": self._command,
            "supervisor": self._supervisor, "page": self._page,
        }  # fmt: skip

    def cycle(self, victim: str) -> None:
        time.sleep(self._chance.uniform(0.0, AT_MOST_S))
        self._acts[victim]()
        newest = self._killed.create(USER)
        live = [one for one in self._model.of(State.LIVE) if one.login.user == USER]
        for one in live[: max(1, len(live) - KEPT)]:
            if one is not newest:
                self._killed.revoke(one)
        self._sign_in_again()
        self._is_back(newest)

    def _sign_in_again(self) -> None:
        """What a person does when the mailbox needs consent."""
        for email in sorted(self._model.needs_consent):
            if self._killed.command_connect(email, None):
                self.kills["mailboxes that needed consent, signed in again"] += 1
            else:
                self._model.wrong(f"{email}: signing in again was refused")

    def _is_back(self, newest: Known) -> None:
        """The app password that was made a moment ago logs in."""
        end = time.monotonic() + BACK_S
        while self._crowd.ports is None or not self._crowd.log_in(self._crowd.ports, newest):
            if time.monotonic() > end:
                self._model.wrong(f"no login was answered for {BACK_S:g} s")
                return
            time.sleep(0.05)

    def _worker(self) -> None:
        """Mostly the eldest: one that dies young again and again is replaced later and later."""
        pids = [pid for pid, is_page in self._killed.children() if not is_page]
        if pids:
            self._kill(pids[0] if self._chance.random() < 0.8 else self._chance.choice(pids), "worker")

    def _page(self) -> None:
        for pid, is_page in self._killed.children():
            if is_page:
                self._kill(pid, "page")

    def _refresh(self) -> None:
        """The worker that asks for a token, before the provider has heard it or after it has answered."""
        is_after, done, pause_s = self._chance.random() < 0.6, threading.Event(), self._chance.uniform(0.0, 0.012)

        def hook(address: tuple[str, int]) -> None:
            if done.is_set() or (pid := self._killed.asker(address)) is None:
                return
            done.set()
            if is_after:
                time.sleep(pause_s)
            self._kill(pid, f"worker {'behind' if is_after else 'before'} a token's answer")

        name = "after" if is_after else "before"
        setattr(self._world.tokens, name, hook)
        done.wait(REFRESH_S)
        setattr(self._world.tokens, name, lambda _: None)

    def _command(self) -> None:
        after_s = self._chance.uniform(*COMMAND_S)
        mine = [one for one in self._model.of(State.LIVE) if one.login.user == USER]
        act = self._chance.choice(["create", "revoke", "rotate", "connect"])
        self.kills[f"command: {act}"] += 1
        if act == "create":
            self._killed.command_create(USER, after_s)
        elif act == "connect":
            self._killed.command_connect(self._chance.choice(MAILBOXES), after_s + 0.3)
        else:
            verb = self._killed.command_revoke if act == "revoke" else self._killed.command_rotate
            verb(self._chance.choice(mine), after_s)

    def _supervisor(self) -> None:
        self._killed.kill_supervisor()
        self.kills["supervisor"] += 1
        self._crowd.ports = self._killed.start()

    def _kill(self, pid: int, what: str) -> None:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            self.kills[what] += 1


def run(directory: Path, victims: Sequence[str], seed: int) -> Result:
    """Kill these, one per cycle. `seed` is for the choice of moments."""
    with ExitStack() as stack:
        ports = PortReservation()
        stack.callback(ports.release)
        certificates = make_certificates(directory)
        there = stack.enter_context(world(certificates, UPSTREAM_PASSWORD))
        killed = Killed(there, certificates, directory, ports)
        stack.callback(killed.end)
        crowd = Crowd(killed.model, seed)
        killer = Killer(killed, there, crowd, random.Random(seed))
        crowd.ports = killed.start()
        crowd.start()
        begin = time.monotonic()
        cycles = 0
        try:
            for victim in victims:
                killer.cycle(victim)
                cycles += 1
                if killed.model.violations:
                    break
        finally:
            crowd.stop()
        seconds = time.monotonic() - begin
        _last_look(killed, crowd, there)
        return Result(
            cycles, seconds, killer.kills, killed.model, there.grants.refreshes, len(there.grants.lost),
            len(there.mail.box.accepted), _odd(killed.logs()),
        )  # fmt: skip


def _last_look(killed: Killed, crowd: Crowd, there: World) -> None:
    """With a server that was started anew: every app password, every mail, the database, and that nobody is left."""
    model = killed.model
    killed.kill_supervisor()
    ports = killed.start()

    def ask(mine: list[Known]) -> None:
        for one in mine:
            if one.login.user not in model.needs_consent and not crowd.log_in(ports, one):
                model.wrong(f"{one.public_id}: no answer with nothing killed")

    threads = [threading.Thread(target=ask, args=(model.known[number::8],)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    _count_mails(model, there)
    for token in there.grants.broken:
        model.wrong(f"{token} was shown though its successor had been used: a token was lost behind its commit")
    for group in killed.leftovers():
        model.wrong(f"processes of the server {group} outlived it")
    if killed.house.stop() != 0:
        model.wrong("the last server did not end well")
    store = Store.open(killed.config.store.url, migrate=False)
    try:
        store.check(deep=True)
    finally:
        store.close()
    if leaked := killed.leaked():
        model.wrong(f"secrets in the log: {leaked}")


def _count_mails(model: Model, there: World) -> None:
    kept = Counter(re.findall(r"X-Number: (\S+)", b"\n".join(there.mail.box.accepted).decode()))
    for number in model.sent - set(kept):
        model.wrong(f"mail {number} got 250, and the mail server has it not")
    for number in [number for number, count in kept.items() if count > 1]:
        model.wrong(f"mail {number} was sent once, and the mail server has it more often")
    for error in there.mail.errors:
        model.wrong(f"the mail server of this test: {error!r}")


def _odd(log: str) -> list[str]:
    loud = re.compile(r" (warning|error|critical) |Traceback|event=\w*(crashed|bug)")
    return [line for line in log.splitlines() if loud.search(line) and not any(re.search(one, line) for one in ALLOWED)]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.killing", description=__doc__.partition("\n")[0])
    parser.add_argument("--cycles", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    chance = random.Random(arguments.seed)
    victims = chance.choices(list(VICTIMS), list(VICTIMS.values()), k=arguments.cycles)
    with tempfile.TemporaryDirectory(prefix="gatepost-kill-") as directory:
        result = run(Path(directory), victims, arguments.seed)
    text = _report(result)
    put_section("kill9", text)
    sys.stdout.write(text)
    return 1 if result.model.violations or result.odd_lines else 0


def _report(result: Result) -> str:
    model = result.model
    kills = "\n".join(f"| {what} | {count:,} |" for what, count in sorted(result.kills.items()))
    states = Counter(one.state for one in model.known)
    wrong = "".join(f"\n- {one}" for one in [*model.violations[:20], *result.odd_lines[:20]])
    return f"""\
## kill -9 under load

{conditions()}. By `make kill9`.

{result.cycles:,} cycles in {result.seconds / 60:.0f} minutes, {result.seconds / result.cycles:.1f} s each: four workers
and the page on SQLite before a scripted mail server, with a token endpoint that rotates strictly and whose tokens are
renewed every two seconds. **Broken promises: {len(model.violations)}. Lines in the log that no death explains: \
{len(result.odd_lines)}.**{wrong}

| killed | times |
| --- | --- |
{kills}

Held to:

- {states[State.LIVE]:,} app passwords that work and {states[State.REVOKED]:,} that were revoked or rotated away, in
  {model.counts["logins"]:,} logins and {model.counts["refusals"]:,} refusals; {model.counts["unavailable"]:,} of these
  were *unavailable*, as a killed worker's lease still held the account;
- {len(model.sent):,} mails that got 250, of {result.mails:,} that the mail server accepted, none twice;
- {result.refreshes:,} refreshes: no token was lost that had been used. {result.lost:,} grants ended, each as a worker
  was killed between the provider's answer and the commit, which strict rotation does not forgive: the account was told
  as *needs consent*, and no other was.
"""


if __name__ == "__main__":
    os.nice(10)
    raise SystemExit(main())
