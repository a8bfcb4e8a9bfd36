"""The service floor as build() wires it, on a store of its own; provider and upstream do what they are told."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import ssl
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from proxy.config import Endpoint, OAuth2Config, Protocol, Tls, UpstreamConfig
from proxy.errors import StoreUnavailable, UpstreamError
from proxy.live.publishing import Publisher
from proxy.live.sessions import Registry
from proxy.login.attempt import Attempt
from proxy.login.caps import Caps
from proxy.login.service import LoginService, Passage
from proxy.login.throttle import Throttle
from proxy.logs import JsonFormat, TextFormat
from proxy.oauth import TokenBroker, TokenClient
from proxy.oauth.ahead import Ahead
from proxy.record.alerts import Alerts
from proxy.record.journal import Journal
from proxy.record.refusals import RefusalLedger
from proxy.secret import Secret, SecretSource
from proxy.store.engine import Database
from proxy.store.pool import StorePool
from proxy.store.rows import Account, Credential, Deposit, LoginRow, NewAccount, NewCredential, Purpose, Seat
from proxy.store.store import Store
from proxy.vault.apppassword import ALPHABET, LENGTH, AppPassword, generate, parse
from proxy.vault.cache import VerifyCache
from proxy.vault.hashing import Hasher, HashPool, Stretch
from proxy.vault.sealing import MasterPrivate, Recipient, generate_master, load_master, seal, unseal
from proxy.wire.sasl import Bearer, Credentials, Password, UpstreamCredential
from tests.service.token_endpoint import CLIENT_SECRET, TokenEndpoint, listening

CHEAP = {"memory_kib": 8, "time": 1, "lanes": 1}
# An attempt that began so long ago has 50 ms to the next point of the answer grid.
HEAD_START_S = 0.45
HOME = "192.0.2.10"
_numbers = count(1)


class Clock:
    """Monotonic seconds that pass when told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def pass_s(self, seconds: float) -> None:
        self.now += seconds

    def utc_now(self) -> datetime:
        """The wall clock, as far ahead as this one was put."""
        return datetime.now(UTC) + timedelta(seconds=self.now - 1000.0)


class Post:
    """What alerts are delivered to."""

    def __init__(self) -> None:
        self.alerts: list[dict[str, str]] = []
        self.is_down = False

    async def deliver(self, alert: bytes) -> bool:
        if not self.is_down:
            self.alerts.append(json.loads(alert))
        return not self.is_down

    @property
    def told(self) -> list[tuple[str, str]]:
        """Whom it was about, and the state."""
        return [(alert.get("account") or alert["upstream"], alert["state"]) for alert in self.alerts]


class FragileStore(Store):
    """The real store; it can be told to be down, and to wait before it looks for a login."""

    is_down = False
    lookups = 0
    gate: threading.Event | None = None  # what find_login waits for

    def __init__(self, database: Database, *args: Any, **more: Any) -> None:
        read, write = database.read, database.write
        database.read = lambda: self._unless_down(read)  # type: ignore[method-assign]
        database.write = lambda: self._unless_down(write)  # type: ignore[method-assign]
        super().__init__(database, *args, **more)
        self.is_waiting = threading.Event()

    @contextmanager
    def _unless_down(self, begin: Callable[[], AbstractContextManager[Connection]]) -> Iterator[Connection]:
        if self.is_down:
            raise StoreUnavailable("told to be down")
        with begin() as connection:
            yield connection

    def find_login(self, name: str, selector: str, protocol: str = "", worker_id: str = "") -> LoginRow | None:
        self.lookups += 1
        row = super().find_login(name, selector, protocol, worker_id)
        if self.gate is not None:
            self.is_waiting.set()
            assert self.gate.wait(5)
        return row


class CountingHasher(Hasher):
    """The real argon2id; counts, and can be told to wait."""

    def __init__(self, **parameters: int) -> None:
        super().__init__(**parameters)
        self.verifies = 0
        self.hashes = 0
        self.stretches = 0
        self.gate: threading.Event | None = None
        self.is_waiting = threading.Event()

    def hash(self, password: AppPassword) -> str:
        self.hashes += 1
        return super().hash(password)

    def stretched(self, stretch: Stretch, password: AppPassword) -> bytes:
        self.stretches += 1
        return super().stretched(stretch, password)

    def verify(self, phc: str, password: AppPassword) -> bool:
        self.verifies += 1
        if self.gate is not None:
            self.is_waiting.set()
            assert self.gate.wait(5)
        return super().verify(phc, password)


@dataclass(eq=False)
class Line:
    """A connection upstream, as dial() gives it."""

    credential: UpstreamCredential
    is_aborted: bool = False

    def abort(self) -> None:
        self.is_aborted = True


@dataclass
class Upstream:
    """The mail server behind `dial`: an UpstreamError in `script` is raised, anything else lets in."""

    script: deque[Exception | None] = field(default_factory=deque)
    lines: list[Line] = field(default_factory=list)
    dialled: list[UpstreamCredential] = field(default_factory=list)
    on_dial: Callable[[UpstreamCredential], None] = lambda _: None
    refuses: Callable[[str], UpstreamError | None] = lambda _: None  # by the token
    release: asyncio.Event | None = None
    has_rung: asyncio.Event = field(default_factory=asyncio.Event)

    async def dial(self, upstream: UpstreamConfig, protocol: Protocol, credential: UpstreamCredential) -> Line:
        self.dialled.append(credential)
        self.on_dial(credential)
        self.has_rung.set()
        await asyncio.sleep(0)
        if self.release is not None:
            await self.release.wait()
        error = self.script.popleft() if self.script else self.refuses(opened(credential))
        if error is not None:
            raise error
        line = Line(credential)
        self.lines.append(line)
        return line

    @property
    def tokens(self) -> list[str]:
        return [opened(credential) for credential in self.dialled]


def opened(credential: UpstreamCredential) -> str:
    match credential:
        case Bearer(_, token):
            return token.reveal()
        case Password(_, password):
            return password.reveal()


@dataclass
class House:
    """One process's service floor. `others()` makes a second one on the same store."""

    url: str
    master: MasterPrivate
    endpoint: TokenEndpoint
    store: FragileStore
    pool: StorePool
    hasher: CountingHasher
    hashes: HashPool
    cache: VerifyCache
    throttle: Throttle
    broker: TokenBroker
    registry: Registry
    journal: Journal
    login: LoginService
    upstreams: dict[str, UpstreamConfig]
    upstream: Upstream
    clock: Clock
    secrets: set[str]
    caps: Caps
    ahead: Ahead
    alerts: Alerts
    post: Post
    publisher: Publisher
    refusals: RefusalLedger

    def account(
        self, email: str = "ann@x.test", *aliases: str, upstream: str = "mail", token: str | None = None
    ) -> Account:
        """An account with a refresh token (or, on the upstream "plain", a password) deposited."""
        new = NewAccount(email, upstream, f"box-{email}", aliases, "test")
        text = token or (self.endpoint.new_family(email) if upstream == "mail" else f"mailbox-password-{email}")
        self.secrets.add(text)
        purpose = Purpose.REFRESH_TOKEN if upstream == "mail" else Purpose.PASSWORD
        return self.store.add_account(new, lambda account_id: [self.sealed(purpose, account_id, text)])

    def sealed(self, purpose: Purpose, account_id: int, text: str, *, valid_s: float | None = None) -> Deposit:
        newest = self.store.masters()[0]
        until = None if valid_s is None else datetime.now(UTC) + timedelta(seconds=valid_s)
        return seal(purpose, account_id, Secret(text), [Recipient(newest.key_id, newest.public)], valid_until=until)

    def kept(self, account: Account, purpose: Purpose = Purpose.REFRESH_TOKEN) -> str | None:
        """What the store holds right now."""
        deposit = self.store.deposit(account.id, purpose)
        return None if deposit is None else unseal(deposit, self.master).reveal()

    def app_password(self, account: Account, **changes: Any) -> tuple[str, Credential]:
        """A new app password as typed, and its row."""
        password = generate()
        text = password.whole.reveal()
        self.secrets |= {text, password.shown()}
        number = next(_numbers)
        values: dict[str, Any] = {
            "public_id": f"id{number}",
            "account_id": account.id,
            "name": f"scanner {number}",
            "protocols": frozenset({"imap", "smtp"}),
            "networks": (),
            "expires": None,
            "created_by": "test",
            "selector": password.selector,
            "phc": Hasher(**CHEAP).hash(password),
        }
        return text, self.store.add_credential(NewCredential(**{**values, **changes}))

    def attempt(self, login: str, password: str, **changes: Any) -> Attempt:
        self.secrets.add(password)
        values: dict[str, Any] = {
            "id": f"visit{next(_numbers)}",
            "protocol": "imap",
            "upstreams": ("mail", "plain"),
            "peer": HOME,
            "credentials": Credentials(login, Secret(password), changes.pop("authzid", "")),
            "mechanism": "PLAIN",
            "client": "",
            "started": asyncio.get_running_loop().time() - HEAD_START_S,
        }
        return Attempt(**{**values, **changes})

    async def enter(self, login: str, password: str, **changes: Any) -> Passage[Line]:
        return await self.login.enter(self.attempt(login, password, **changes), self.upstream.dial)

    def token_state(self, account: Account) -> str:
        now = self.store.account(account.email)
        assert now is not None
        return now.token_state.value

    @property
    def tickets(self) -> int:
        return sum(self.hashes._held.values())

    @asynccontextmanager
    async def another(self) -> AsyncIterator[House]:
        """A second process on the same store, in front of the same provider."""
        async with _wired(self.url, self.master, self.endpoint, self.upstreams, self.secrets) as house:
            yield house


@asynccontextmanager
async def opened_house(url: str, directory: Path) -> AsyncIterator[House]:
    """A house on a store without a master key."""
    text, key = generate_master()
    with_master = Store.open(url, migrate=False)
    with_master.add_master(key)
    with_master.close()
    async with joined_house(url, text, directory) as house:
        yield house


@asynccontextmanager
async def joined_house(url: str, master: Secret, directory: Path) -> AsyncIterator[House]:
    """A house on a store that others use, too."""
    async with listening() as endpoint:
        (directory / "client.secret").write_text(CLIENT_SECRET)
        oauth2 = OAuth2Config(
            "client:id", endpoint.url, SecretSource("file", str(directory / "client.secret")), ("mail.read",)
        )
        ends = {"imap": Endpoint("mail.test", 993, Tls.IMPLICIT), "smtp": Endpoint("mail.test", 465, Tls.IMPLICIT)}
        upstreams = {
            "mail": UpstreamConfig("mail", **ends, oauth2=oauth2),
            "plain": UpstreamConfig("plain", **ends, auth="password"),
        }
        secrets = {CLIENT_SECRET, master.reveal()}
        async with _wired(url, load_master(master), endpoint, upstreams, secrets) as house:
            yield house


@asynccontextmanager
async def _wired(
    url: str, master: MasterPrivate, endpoint: TokenEndpoint, upstreams: dict[str, UpstreamConfig], secrets: set[str]
) -> AsyncIterator[House]:
    async with AsyncExitStack() as stack:
        store = FragileStore.open(url, migrate=False)
        stack.callback(store.close)
        pool = StorePool(store)
        stack.callback(pool.close)
        hasher = CountingHasher(**CHEAP)
        hashes = HashPool(hasher, threads=2, queue=4)
        stack.callback(hashes.close)
        clock = Clock()
        client = TokenClient(lambda _: ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
        post = Post()
        alerts = Alerts(store=store, pool=pool, deliver=post.deliver, node="node1", now=clock.utc_now)
        broker = TokenBroker(store=store, pool=pool, master=master, client=client, clock=clock, ear=alerts)
        stack.push_async_callback(broker.close)
        seat = Seat(f"worker{next(_numbers)}", "node1", 0)
        cache = VerifyCache(ttl_s=300, clock=clock)
        registry = Registry(
            read_revision=lambda: pool.run(store.revision),
            read_standings=lambda secret_ids: pool.run(store.standings, secret_ids),
            read_kicked=lambda: pool.run(store.roster.kicked, seat),
            memory=cache,
        )
        publisher = Publisher(seat=seat, registry=registry, store=store, pool=pool, clock=clock)
        journal = Journal(lambda uses: pool.run(store.record_uses, uses))
        refusals = RefusalLedger(lambda rows: pool.run(store.trail.record_refusals, rows), interval_s=2, clock=clock)
        throttle = Throttle(wrong=10, wrong_network=100, window_s=600, clock=clock)
        caps = Caps(
            count_elsewhere=lambda *mailbox: pool.run(store.roster.sessions_elsewhere, seat, *mailbox), look_s=0.01
        )
        stack.callback(caps.close)
        ahead = Ahead(broker=broker, store=store, pool=pool, upstreams=upstreams.get, clock=clock)
        login = LoginService(
            upstreams=upstreams.get,
            store=store,
            pool=pool,
            hashes=hashes,
            cache=cache,
            throttle=throttle,
            broker=broker,
            registry=registry,
            journal=journal,
            refusals=refusals,
            caps=caps,
            worker_id=seat.id,
        )
        stack.push_async_callback(login.close)
        yield House(
            url, master, endpoint, store, pool, hasher, hashes, cache, throttle, broker, registry, journal, login,
            upstreams, Upstream(), clock, secrets, caps, ahead, alerts, post,
            publisher, refusals,
        )  # fmt: skip


class LogBook(logging.Handler):
    """Everything that is logged, at every level, in both of our forms."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self._forms = (TextFormat(is_journal=False), JsonFormat())
        self.texts: list[str] = []
        self.levels: list[int] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.levels.append(record.levelno)
        self.texts.append("\n".join(form.format(record) for form in self._forms))

    def of(self, level: int, *words: str) -> list[str]:
        """The records of this level that have all the words."""
        return [
            text
            for text, one in zip(self.texts, self.levels, strict=True)
            if one == level and all(word in text for word in words)
        ]


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that another task or thread brings about."""
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event to set
            await asyncio.sleep(0.0005)


def disguises(secret: str) -> list[str]:
    """The forms in which a secret could slip into a log."""
    raw = secret.encode()
    return [
        secret,
        repr(secret)[1:-1],
        base64.b64encode(raw).decode().rstrip("="),
        base64.urlsafe_b64encode(raw).decode().rstrip("="),
        base64.b64encode(b"\0" + raw).decode()[2:].rstrip("=")[:-1],
        raw.hex(),
    ]


def wrong_password(like: str = "") -> str:
    """Another well-formed app password; `like` one, it has its selector."""
    while True:
        text = (like[:4] or generate().selector) + generate().whole.reveal()[4:]
        for symbol in ALPHABET:
            candidate = text[: LENGTH - 1] + symbol
            if parse(Secret(candidate)) is not None and candidate != like:
                return candidate
