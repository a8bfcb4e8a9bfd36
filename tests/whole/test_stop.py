"""SIGTERM to a real process: who is asked to go, who is let finish, and how it ends."""

from __future__ import annotations

import signal
import threading

import pytest

from tests.edge.scripted import Certificates
from tests.whole.kit import House, Line, mail_server, write_config


def test_sigterm_lets_the_busy_finish_and_sends_the_rest_home(house: House, certificates: Certificates) -> None:
    """Outcomes E53. One transfer under way, one idle session, and clients of every listener that are not logged in."""
    go_on, last = threading.Event(), threading.Event()

    def talk(line: Line) -> None:
        if (command := line.line()) == b"a2 IDLE":
            line.send(b"+ idling\r\n")
            assert line.rest() == b""
            return
        assert command == b"a2 FETCH 1 BODY[]"
        line.send(b"* 1 FETCH (BODY[] {100000}\r\n")
        for number in range(100):
            line.send(b"x" * 1000)
            if number == 1:
                go_on.set()
            last.wait(0.03)  # 3 s in all: longer than the quiet that ends a session
        line.send(b")\r\na2 OK\r\n")
        line.rest()

    with mail_server(certificates, "imap", talk) as imap, mail_server(certificates, "smtp", lambda _: None) as smtp:
        write_config(house, certificates, imap=imap.port, smtp=smtp.port)
        house.start()
        busy, idle = house.imap_session(), house.imap_session()
        waiting = [house.connect(endpoint) for endpoint in (house.imaps, house.smtps)]
        for client in waiting:
            client.line()
        assert idle.ask(b"a2 IDLE") == b"+ idling"
        busy.send(b"a2 FETCH 1 BODY[]\r\n")
        assert go_on.wait(10)

        assert house.process is not None
        house.process.send_signal(signal.SIGTERM)
        assert waiting[0].rest().startswith(b"* BYE ")
        assert waiting[1].rest().startswith(b"421 4.3.2 ")
        for client in waiting:
            client.close()
        with pytest.raises(OSError):
            house.connect(house.imaps)
        house.process.send_signal(signal.SIGTERM)  # an impatient operator: harmless
        assert idle.rest() == b""  # a clean close, and no word
        assert busy.rest() == b"* 1 FETCH (BODY[] {100000}\r\n" + b"x" * 100_000 + b")\r\na2 OK\r\n"
        idle.close()
        busy.close()
        assert house.process.wait(20) == 0
    log = house.log()
    assert log.count("reason=drained") == 2
    assert "event=stopped" in log
    assert "Traceback" not in log
    assert "ResourceWarning" not in log


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_process_ends_at_the_deadline_whoever_does_not_go(house: House, certificates: Certificates, loop: str) -> None:
    """A session that is never quiet, and clients that read nothing and never close."""

    def talk(line: Line) -> None:
        while True:
            line.send(b"* OK still here\r\n")
            over.wait(0.05)

    over = threading.Event()
    with mail_server(certificates, "imap", talk) as imap:
        write_config(house, certificates, imap=imap.port, loop=loop, limits="drain_s = 1")
        house.start()
        session = house.imap_session()
        deaf = [house.connect(endpoint) for endpoint in (house.imaps, house.smtps)]
        for client in deaf:
            client.line()
        assert house.stop() == 0
        assert b"BYE" not in session.until_gone()
        for client in (session, *deaf):
            client.close()
    log = house.log()
    assert "reason=drain_deadline" in log
    assert "Traceback" not in log
