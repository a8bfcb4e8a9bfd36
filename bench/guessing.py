"""Whether a guesser learns anything from when he is refused, and what a flood of guesses does to others.

Run it by `make bench-guessing`. First every cause of a refusal, many times each in random order: the octets of the
answers must be one, and their times are compared. Then a flood of wrong logins from many addresses (bench/guessers.py)
beside live sessions and the owner's own logins. Writes its section of bench/RESULTS.md.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import random
import ssl
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

from bench.flooding import flooded, report_of_flood
from bench.results import conditions, put_section
from bench.stats import Compared, compare, detectable
from proxy.store.rows import CredentialState, NewCredential
from proxy.store.store import Store
from proxy.vault.apppassword import generate
from proxy.vault.hashing import Hasher
from tests.edge.scripted import Certificates, make_certificates
from tests.service.house import wrong_password
from tests.whole.kit import UPSTREAM_PASSWORD, USER, House, mail_server, make_house, make_template, write_config

TRIES = 400  # of each cause and protocol
AT_ONCE = 8  # connections: enough to be quick, few enough for hashing not to queue
PER_CONNECTION = 2  # the third refusal ends it
GRID_S = 0.5
ANSWERS = {"imap": b"t NO [AUTHENTICATIONFAILED] ", "smtp": b"535 5.7.8 "}
REAL_LIMITS = "throttle_wrong = 1000000\nthrottle_wrong_network = 1000000"

Try = Callable[[], tuple[str, str]]  # a login name and a password


def main() -> int:
    options = argparse.ArgumentParser(prog="python -m bench.guessing")
    options.add_argument("--tries", type=int, default=TRIES)
    options.add_argument("--seconds", type=int, default=20, help="of each flood")
    options.add_argument("--only", choices=("times", "flood"))
    given = options.parse_args()
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gatepost-bench-")))
        certificates = make_certificates(directory)
        template = make_template(directory / "template", certificates)
        if given.only != "flood":
            times = timed(make_house(template, directory / "timed"), certificates, given.tries)
            _put("guessing", _report(times))
        if given.only != "times":
            floods = flooded(make_house(template, directory / "flooded"), certificates, given.seconds)
            _put("guessing flood", report_of_flood(floods))
    return 0


def _put(name: str, text: str) -> None:
    put_section(name, text)
    sys.stdout.write(text)


# -- when the answer comes ---------------------------------------------------------------------------------------------


def timed(house: House, certificates: Certificates, tries: int) -> dict[str, dict[str, list[float]]]:
    """Milliseconds from the credentials to the answer, by protocol and cause. Fails if the octets differ."""
    with mail_server(certificates, "imap", lambda _: None) as imap:
        write_config(house, certificates, imap=imap.port, limits=REAL_LIMITS)
        _as_delivered(house)
        causes = _causes(house)
        house.start()
        try:
            return {
                protocol: asyncio.run(_time(house, protocol, {**causes, **_of_protocol(house, protocol)}, tries))
                for protocol in ANSWERS
            }
        finally:
            house.kill()


def _as_delivered(house: House) -> None:
    """argon2 and the log as they are by default, in place of the kit's quick ones."""
    text = house.config.read_text().replace('level = "debug"', 'level = "info"')
    house.config.write_text(text.replace("argon2_memory_kib = 8\nargon2_time = 1\n", ""))


def _causes(house: House) -> dict[str, Try]:
    right = _created(house, "right")
    revoked, suspended = (house.create(USER, name) for name in ("revoked", "suspended"))
    house.cli("revoke", revoked["id"])
    house.cli("account", "add", "off@example.org", "--upstream", "main", "--password-stdin", stdin=UPSTREAM_PASSWORD)
    off = str(house.create("off@example.org", "off")["password"])
    house.cli("account", "disable", "off@example.org")
    store = Store.open(f"sqlite:///{house.directory / 'gatepost.db'}", migrate=False)
    try:
        store.set_credential_states([suspended["id"]], CredentialState.SUSPENDED)
        expired = _expired(store)
    finally:
        store.close()
    network = _created(house, "network", "--from", "10.0.0.0/8")
    return {
        "unknown user": lambda: (f"user{random.randrange(10**6)}@example.org", generate().shown()),
        "wrong password, its selector unknown": lambda: (USER, generate().shown()),
        "wrong password, its selector right (hashed)": lambda: (USER, wrong_password(like=right)),
        "not an app password (a typo)": lambda: (USER, f"{random.randrange(10**12)}"),
        "revoked (hashed)": lambda: (USER, revoked["password"]),
        "suspended (hashed)": lambda: (USER, suspended["password"]),
        "expired (hashed)": lambda: (USER, expired),
        "wrong network (hashed)": lambda: (USER, network),
        "account disabled (hashed)": lambda: ("off@example.org", off),
    }


def _of_protocol(house: House, protocol: str) -> dict[str, Try]:
    other = _created(house, f"not for {protocol}", "--protocol", "smtp" if protocol == "imap" else "imap")
    return {"wrong protocol (hashed)": lambda: (USER, other)}


def _created(house: House, name: str, *words: str) -> str:
    return str(house.create(USER, name, *words)["password"])


def _expired(store: Store) -> str:
    account, password = store.account(USER), generate()
    assert account is not None
    past = datetime.now(UTC) - timedelta(seconds=1)
    both = frozenset({"imap", "smtp"})
    phc = Hasher(memory_kib=19_456, time=2, lanes=1).hash(password)
    store.add_credential(
        NewCredential("expired0", account.id, "expired", both, (), past, "bench", password.selector, phc)
    )
    return password.shown()


async def _time(house: House, protocol: str, causes: Mapping[str, Try], tries: int) -> dict[str, list[float]]:
    plan = [cause for cause in causes for _ in range(tries)]
    random.shuffle(plan)
    found: dict[str, list[float]] = {cause: [] for cause in causes}
    answers: set[bytes] = set()

    async def visit() -> None:
        while plan:
            client = await _connect(house, protocol)
            for _ in range(PER_CONNECTION):
                if not plan:
                    break
                cause = plan.pop()
                login, password = causes[cause]()
                answer, elapsed_ms = await _ask(client, protocol, login, password)
                answers.add(answer)
                found[cause].append(elapsed_ms)
            client[1].close()

    await asyncio.gather(*(visit() for _ in range(AT_ONCE)))
    assert len(answers) == 1, answers
    assert answers.pop().startswith(ANSWERS[protocol])
    return found


Client = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def _connect(house: House, protocol: str) -> Client:
    context = ssl.create_default_context(cafile=str(house.directory / "cert.pem"))
    host, port = house.imaps if protocol == "imap" else house.smtps
    reader, writer = await asyncio.open_connection(host, port, ssl=context)
    await reader.readline()
    if protocol == "smtp":
        writer.write(b"EHLO client.example\r\n")
        while (await reader.readline())[3:4] == b"-":
            pass
    return reader, writer


async def _ask(client: Client, protocol: str, login: str, password: str) -> tuple[bytes, float]:
    reader, writer = client
    plain = base64.b64encode(f"\0{login}\0{password}".encode())
    begin = time.perf_counter()
    writer.write((b"t AUTHENTICATE PLAIN %b\r\n" if protocol == "imap" else b"AUTH PLAIN %b\r\n") % plain)
    answer = await reader.readline()
    return answer, (time.perf_counter() - begin) * 1000


# -- what it comes to --------------------------------------------------------------------------------------------------


def _report(times: Mapping[str, Mapping[str, list[float]]]) -> str:
    parts = [
        "## Guessing by the clock\n",
        f"{conditions()}. By `make bench-guessing`.\n",
        "Times from sending the credentials to the answer's line, as a client on the same machine sees them, in",
        f"milliseconds; {AT_ONCE} connections at once, causes in random order, default argon2, one worker on uvloop.",
        "The octets of all answers of a protocol were the same (asserted). Delta is Cliff's, of a cause against all",
        "others together: 0 cannot be told apart, 1 always later; p is Mann-Whitney's. The line below each table is",
        "one permutation test of the largest |delta| of all causes.\n",
    ]
    for protocol, groups in times.items():
        parts.append(_table(protocol.upper(), groups, compare(groups)))
    return "\n".join(parts)


def _table(title: str, groups: Mapping[str, list[float]], compared: Compared) -> str:
    lines = [
        f"| {title}: cause | tries | median | 5 % .. 95 % | past the first point of the grid | delta | p |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for cause, values in groups.items():
        cuts = statistics.quantiles(values, n=20)
        late = sum(value > 1.5 * GRID_S * 1000 for value in values)
        lines.append(
            f"| {cause} | {len(values)} | {statistics.median(values):.2f} | {cuts[0]:.2f} .. {cuts[-1]:.2f} | {late} "
            f"| {compared.delta[cause]:+.3f} | {compared.p_values[cause]:.3f} |"
        )
    first = next(iter(groups))
    offset_us = detectable(groups, first, compared.expected) * 1000
    lines += [
        "",
        f"Largest |delta| {compared.largest:.3f}; chance alone makes one as large with p = {compared.p_largest:.3f},",
        f"and exceeds {compared.expected:.3f} in one of twenty shuffles. A cause that came {offset_us:.0f} us later",
        "would reach that.",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
