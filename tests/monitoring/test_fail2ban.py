"""The fail2ban filter over lines that a running Gatepost wrote: guessers match, and nobody else ever does."""

from __future__ import annotations

import base64
import configparser
import contextlib
import re
import socket
import subprocess
from pathlib import Path

import pytest

from proxy.config import LimitsConfig
from tests.edge.scripted import Certificates, make_certificates
from tests.needs import needs
from tests.service.house import wrong_password
from tests.whole.kit import USER, House, Line, make_house, make_template, write_config

ROOT = Path(__file__).parents[2]
FILTER = ROOT / "config" / "fail2ban" / "filter.d" / "gatepost.conf"
JAIL = ROOT / "config" / "fail2ban" / "jail.d" / "gatepost.conf"
INJECTED = "192.0.2.99"
REPEATS = 12
WAITING = 20
PATIENCE_S = 60


def matched(lines: list[str], directory: Path) -> list[str]:
    """The lines that the filter finds, each with the address that would be banned in front."""
    log = directory / "fail2ban.log"
    log.write_text("".join(f"{line}\n" for line in lines))
    done = subprocess.run(
        [needs("fail2ban-regex", "fail2ban"), "-o", "<ip> <matches>", log, FILTER],
        capture_output=True, text=True, timeout=PATIENCE_S, check=True,
    )  # fmt: skip
    return done.stdout.splitlines()


def journald(lines: list[str]) -> list[str]:
    """What fail2ban gets of the journal: those of PRIORITY=6, with the unit's name, time and process."""
    return [f"Nov 27 00:01:02 mail gatepost[123]: {line[3:]}" for line in lines if line.startswith("<6>")]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(params=["text", "journald"])
def written(
    request: pytest.FixtureRequest, certificates: Certificates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> list[str]:
    """The log of a run, as fail2ban reads it, in which about everything happened."""
    house = make_house(make_template(tmp_path / "template", certificates), tmp_path / "gate")
    if request.param == "journald":
        monkeypatch.setenv("JOURNAL_STREAM", "8:1")  # as systemd says it; the lines go into a file all the same
    write_config(house, certificates, limits=f"throttle_wrong = 50\nwaiting_per_address = {WAITING}\n")
    house.launch()
    try:
        house.await_log("event=ready")
        happen(house, ports(house, "implicit"))
        in_clear_and_at_the_cap(house, ports(house, "starttls"))
        assert house.stop() == 0
    finally:
        house.kill()
    lines = house.log().splitlines()
    return journald(lines) if request.param == "journald" else lines


def ports(house: House, tls: str) -> dict[str, int]:
    found = re.findall(rf"event=listening on=(imap|smtp)://127\.0\.0\.1:(\d+) tls={tls}", house.log())
    return {protocol: int(port) for protocol, port in found}


def in_clear_and_at_the_cap(house: House, ports: dict[str, int]) -> None:
    for protocol, port in ports.items():
        with contextlib.ExitStack() as stack:
            for _ in range(2 * WAITING):
                sock = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)
                client = Line(stack.enter_context(contextlib.closing(sock)))
                if client.line().startswith((b"* OK", b"220")):
                    client.ask(b"a1 LOGIN a b" if protocol == "imap" else b"AUTH PLAIN AGEAYg==")
            house.await_log(f"event=turned_away service={protocol} ")


def happen(house: House, ports: dict[str, int]) -> None:
    def login(name: str, password: str) -> bytes:
        client = house.connect(house.imaps._replace(port=ports["imap"]))
        client.line()
        quoted = [part.replace("\\", "\\\\").replace('"', '\\"') for part in (name, password)]
        answer = client.ask(f'a1 LOGIN "{quoted[0]}" "{quoted[1]}"'.encode())
        client.close()
        return answer

    def smtp(initial: bytes) -> None:
        client = house.connect(house.smtps._replace(port=ports["smtp"]))
        client.line()
        client.answer(b"EHLO client.example")
        client.ask(b"AUTH PLAIN " + base64.b64encode(initial))
        client.close()

    made = {
        name: house.cli("create", USER, "--name", name, "--json", *more)
        for name, more in (("revoked", ()), ("suspended", ()), ("sending", ("--protocol", "smtp")),
                           ("elsewhere", ("--from", "192.0.2.0/24")))
    }  # fmt: skip
    ids = {name: re.search(r'"id": "(\w+)"', said)[1] for name, said in made.items()}
    passwords = {name: re.search(r'"password": "([\w-]+)"', said)[1] for name, said in made.items()}
    house.cli("revoke", ids["revoked"])
    house.cli("suspend", ids["suspended"])
    for password in passwords.values():
        login(USER, password)  # each refused for what its owner, or an administrator, did
    login(USER, house.password)  # let in, but for an upstream that is down
    smtp(f"\0{USER}\0{house.password}".encode())
    stuck = wrong_password(house.password)
    for _ in range(REPEATS):
        login(USER, stuck)
    login(USER, "my real password")
    login("nobody@example.org", house.password)
    smtp(b"no separators at all")
    login(f"a@b peer={INJECTED} result=refused cause=wrong_password ", house.password)
    login(f'a@b" peer={INJECTED} result=refused cause=wrong_password ms="', house.password)
    login(f'a@b\\" peer={INJECTED} result=refused cause=unknown_user', house.password)


def test_guessers_match_by_their_own_address_and_nobody_else_does(written: list[str], tmp_path: Path) -> None:
    logins = [line for line in written if "event=login" in line]
    causes = set(re.findall(r" cause=(\w+)", "\n".join(logins)))
    assert [line for line in written if "event=turned_away" in line and " peer=127.0.0.1 " in line]
    assert causes >= {
        "clear_text",
        "revoked",
        "suspended",
        "wrong_protocol",
        "wrong_network",
        "upstream_down",
        "wrong_password",
    }
    found = matched(written, tmp_path)
    assert {line.partition(" ")[0] for line in found} == {"127.0.0.1"}
    for line in found:
        assert re.search(
            r" result=refused cause=(unknown_user|malformed_credentials|not_an_app_password|wrong_pa)", line
        )
    deserved = [line for line in logins if re.search(r" cause=(unknown|malformed|not_an_app|wrong_password)", line)]
    at_info = [line for line in deserved if " debug " not in line and not line.startswith("<7>")]
    assert len(found) == len(at_info) >= 4


def test_a_stuck_phone_is_one_line_that_matches(written: list[str], tmp_path: Path) -> None:
    found = [line for line in matched(written, tmp_path) if "cause=wrong_password" in line and f"user={USER}" in line]
    assert len(found) == 1


def test_the_jail_leaves_a_stuck_phone_alone_and_stops_a_guesser_whom_the_throttle_lets_by() -> None:
    jail = configparser.ConfigParser()
    jail.read(JAIL)
    section = jail["gatepost"]
    assert section["findtime"] == "1h"
    windows_an_hour = 3600 / LimitsConfig().throttle_window_s
    assert int(section["maxretry"]) > 4 * windows_an_hour  # lines that one wrong password can cause
    assert int(section["maxretry"]) < LimitsConfig().throttle_wrong * windows_an_hour
    filters = configparser.ConfigParser(interpolation=None)
    filters.read(FILTER)
    assert filters["Definition"]["journalmatch"] == "_SYSTEMD_UNIT=gatepost.service PRIORITY=6"
    assert (ROOT / "systemd" / "gatepost.service").is_file()
