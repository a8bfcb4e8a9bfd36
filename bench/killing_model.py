"""What must hold while things are killed, of what was acknowledged; and clients that hold Gatepost to it.

The clients run all the time, through every kill. A connection that breaks proves nothing and is forgotten; an answer
does: who has a live app password is never called wrong, who was told "revoked" opens nothing, what got 250 is kept.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from enum import Enum

from bench.clients import Imap, Login, Smtp, Unexpected
from bench.killing_world import Grants

LEASE_LEFT_S = 45.0  # a killed process's lease runs for 20 s, and a login then waits for its token at most 10
PAUSE_S = (0.05, 0.25)  # of each client between two logins
MAIL = "X-Number: {}\r\nSubject: one of many\r\n\r\ntext\r\n.\r\n"


class State(Enum):
    """`UNSURE` is what a command that was killed leaves: the next answer decides."""

    LIVE = "live"
    ENDING = "ending"  # the command runs
    UNSURE = "unsure"
    REVOKED = "revoked"


@dataclass(eq=False)
class Known:
    """An app password that was shown."""

    public_id: str
    login: Login
    state: State = State.LIVE


@dataclass
class Model:
    """Shared by the killer and its clients. `violations` are what must never be; `counts` what was done."""

    grants: Grants
    known: list[Known] = field(default_factory=list)
    families: dict[str, set[str]] = field(default_factory=dict)  # account -> the grants it may have
    sent: set[str] = field(default_factory=set)  # numbers of the mails that got 250
    violations: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    needs_consent: set[str] = field(default_factory=set)
    away_since: dict[str, float] = field(default_factory=dict)  # account -> since when it gets no token
    lock: threading.Lock = field(default_factory=threading.Lock)

    def of(self, state: State) -> list[Known]:
        with self.lock:
            return [one for one in self.known if one.state is state]

    def put(self, one: Known, state: State) -> None:
        with self.lock:
            one.state = state

    def wrong(self, what: str) -> None:
        with self.lock:
            self.violations.append(what)

    def judge(self, one: Known, before: State, answer: str) -> None:
        """An answer to a login that began when the app password was in the state `before`; "" for a login."""
        with self.lock:
            self.counts["logins" if not answer else "refusals"] += 1
            if one.state is not before:
                return  # a command came between
            if not answer:
                self._opened(one)
            elif "AUTHENTICATIONFAILED" in answer or "535" in answer:
                self._called_wrong(one, answer)
            elif "CONTACTADMIN" in answer:
                self._must_sign_in(one.login.user)
            elif "UNAVAILABLE" in answer:
                self._away(one.login.user)
            else:
                self.violations.append(f"{one.public_id}: an answer that has no place here: {answer}")

    def _opened(self, one: Known) -> None:
        self.away_since.pop(one.login.user, None)
        if one.state is State.REVOKED:
            self.violations.append(f"{one.public_id}: acknowledged as revoked, and it opens the mailbox")
        elif one.state is State.UNSURE:
            one.state = State.LIVE

    def _called_wrong(self, one: Known, answer: str) -> None:
        if one.state is State.LIVE:
            self.violations.append(f"{one.public_id}: acknowledged as made, and it is called wrong: {answer}")
        elif one.state is State.UNSURE:
            one.state = State.REVOKED

    def _must_sign_in(self, user: str) -> None:
        self.needs_consent.add(user)
        self.counts["needs consent"] += 1
        if not self.families.get(user, set()) & self.grants.lost:
            self.violations.append(f"{user}: needs consent, and its provider has ended nothing")

    def _away(self, user: str) -> None:
        self.counts["unavailable"] += 1
        since = self.away_since.setdefault(user, time.monotonic())
        if time.monotonic() - since > LEASE_LEFT_S:
            self.violations.append(f"{user}: unavailable for {LEASE_LEFT_S:g} s")
            del self.away_since[user]


class Crowd:
    """Clients in threads. `ports` are where Gatepost listens now: IMAP and SMTP, or None while it is being started."""

    def __init__(self, model: Model, seed: int, clients: int = 6) -> None:
        self._model = model
        self.ports: tuple[int, int] | None = None
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(number, random.Random(seed + number))) for number in range(clients)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self, number: int, chance: random.Random) -> None:
        sent = 0
        while not self._stop.wait(chance.uniform(*PAUSE_S)):
            ports, chosen = self.ports, self._choose(chance)
            if ports is None or chosen is None:
                continue
            if chosen.state is State.LIVE and number % 2:
                sent += 1
                self.send(ports, chosen, f"{number}.{sent}")
            else:
                self.log_in(ports, chosen)

    def _choose(self, chance: random.Random) -> Known | None:
        with self._model.lock:
            known = [one for one in self._model.known if one.login.user not in self._model.needs_consent]
            tokens = [one for one in known if one.login.user in self._model.families and one.state is State.LIVE]
            # The newest, whose rows lay in the database's log when something was killed; who needs tokens; anybody.
            chosen = chance.choice([known[-8:], tokens, known])
        return chance.choice(chosen) if chosen else None

    def log_in(self, ports: tuple[int, int], one: Known) -> bool:
        """Once, by IMAP. Returns whether there was an answer at all."""
        before = one.state
        try:
            with Imap(ports[0], one.login) as client:
                client.run_logout()
        except Unexpected as error:
            return self._answered(one, before, str(error))
        except OSError:
            return False
        self._model.judge(one, before, "")
        return True

    def send(self, ports: tuple[int, int], one: Known, number: str) -> None:
        """A mail; if 250 was heard, it counts."""
        before, is_in = one.state, False
        try:
            with Smtp(ports[1], one.login) as client:
                is_in = True
                self._model.judge(one, before, "")
                client.mail(MAIL.format(number).encode())
                with self._model.lock:
                    self._model.sent.add(number)
                client.quit()
        except Unexpected as error:
            if not is_in and "535" in str(error):
                self._answered(one, before, str(error))
        except OSError:
            pass

    def _answered(self, one: Known, before: State, words: str) -> bool:
        if "the end after" in words or "BYE" in words:
            return False
        self._model.judge(one, before, words)
        return True
