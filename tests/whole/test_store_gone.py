"""Outcomes E27 with a real process: without its store Gatepost never says that a password is wrong, and lives on."""

from __future__ import annotations

import base64

from tests.edge.scripted import Certificates
from tests.whole.kit import USER, House, Line, mail_server, write_config


def echo(line: Line) -> None:
    line.send(line.line() + b" heard\r\n")


def test_without_its_store_no_password_is_called_wrong_and_sessions_go_on(
    house: House, certificates: Certificates
) -> None:
    """The file is overwritten: no fault that passes, and the hardest of them to outlive."""
    with mail_server(certificates, "imap", echo) as upstream:
        write_config(house, certificates, imap=upstream.port)
        plain = base64.b64encode(f"\0{USER}\0{house.password}".encode())
        house.start()
        session = house.imap_session()
        for file in house.directory.glob("gatepost.db*"):
            file.write_bytes(b"\0" * file.stat().st_size)
        house.await_log("event=store_down .*restore a backup")
        client = house.connect(house.imaps)
        client.line()
        assert client.ask(b"a AUTHENTICATE PLAIN " + plain).startswith(b"a NO [UNAVAILABLE] ")
        client.close()
        client = house.connect(house.smtps)
        client.line()
        client.answer(b"EHLO client.example")
        assert client.ask(b"AUTH PLAIN " + plain).startswith(b"454 4.7.0 ")
        client.close()
        assert session.ask(b"still here") == b"still here heard"
        session.close()
        assert house.stop() == 0
    log = house.log()
    assert log.count("cause=store_down") == 2
    assert "Traceback" not in log
