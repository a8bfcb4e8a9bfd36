"""Who is quiet for as long as the RFCs let him is not sent away (outcomes E51). Nobody waits for it: time leaps."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.edge.scripted import Certificates
from tests.whole.clock import Clock
from tests.whole.kit import House, Line, mail_server, write_config

MINUTE_S = 60
PATIENCE_S = 20.0
# RFC 9051 5.4 and IDLE's 29 minutes; RFC 5321 4.5.3.2.6. What is allowed, and what is too long, in minutes.
CASES = [("imap", 30, 32), ("smtp", 10, 12)]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Clock:
    return Clock(monkeypatch, tmp_path, is_monotonic_too=True)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("speaker", ["client", "upstream"])
def test_a_byte_of_either_side_gives_the_whole_time_again(
    house: House, certificates: Certificates, clock: Clock, case: tuple[str, int, int], speaker: str
) -> None:
    protocol, allowed, too_long = case
    upstreams: list[Line] = []

    def talk(line: Line) -> None:
        upstreams.append(line)
        line.sock.settimeout(None)
        while said := line.sock.recv(1000):
            line.send(said)

    with mail_server(certificates, "imap", talk) as imap, mail_server(certificates, "smtp", talk) as smtp:
        write_config(house, certificates, imap=imap.port, smtp=smtp.port)
        clock.start(house)
        session = house.imap_session() if protocol == "imap" else house.smtp_session()

        server = imap if protocol == "imap" else smtp
        for remote in (session.sock.getsockname()[1], server.port):
            end = time.monotonic() + PATIENCE_S
            while not keeps_alive(remote):  # as soon as all that was sent is acknowledged
                assert time.monotonic() < end, "both legs have a keepalive timer"

        def speak() -> None:
            if speaker == "client":
                assert session.ask(b"here") == b"here"
            else:
                upstreams[0].send(b"* 1 EXISTS\r\n")
                assert session.line() == b"* 1 EXISTS"

        now = 0
        for _ in range(3):  # much longer than the limit, all in all
            now += allowed * MINUTE_S
            leap(house, clock, now)
            speak()
        assert "reason=idle" not in house.log()
        clock.leap(now + too_long * MINUTE_S)
        house.await_log(f"event=session_end service={protocol} .*reason=idle")
        assert session.rest() == b""  # a clean end, and no word
        session.close()
        assert house.stop() == 0


def leap(house: House, clock: Clock, to_s: int) -> None:
    """Let the clock leap, and the server look at its sessions: it does when another login has been let in since."""
    clock.leap(to_s)
    house.imap_session().close()


def keeps_alive(remote: int) -> bool:
    """Whether every connection to this port of loopback has a keepalive timer (proc_net_tcp: "tr" is 2)."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    timers = [fields[5] for fields in lines if fields[2].endswith(f":{remote:04X}") and fields[3] == "01"]
    return bool(timers) and all(timer.startswith("02:") for timer in timers)
