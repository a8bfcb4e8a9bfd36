"""Outcomes E27 with a real process: without its store Gatepost never says that a password is wrong."""

from __future__ import annotations

import base64

from tests.edge.scripted import Certificates
from tests.whole.kit import USER, House, mail_server, write_config


def test_without_its_store_nobody_s_password_is_called_wrong_and_one_verified_lately_gets_in(
    house: House, certificates: Certificates
) -> None:
    with (
        mail_server(certificates, "imap", lambda _: None) as imap,
        mail_server(certificates, "smtp", lambda _: None) as smtp,
    ):
        write_config(house, certificates, imap=imap.port, smtp=smtp.port)
        other = house.create(USER, "never used yet")["password"]
        house.start()
        house.imap_session().close()
        for file in house.directory.glob("gatepost.db*"):
            file.write_bytes(b"\0" * file.stat().st_size)
        plain = base64.b64encode(f"\0{USER}\0{other}".encode())
        client = house.connect(house.imaps)
        client.line()
        assert client.ask(b"a AUTHENTICATE PLAIN " + plain).startswith(b"a NO [UNAVAILABLE] ")
        client.close()
        client = house.connect(house.smtps)
        client.line()
        client.answer(b"EHLO client.example")
        assert client.ask(b"AUTH PLAIN " + plain).startswith(b"454 4.7.0 ")
        client.close()
        house.imap_session().close()  # the password that was verified a moment ago
        house.smtp_session().close()
        assert "cause=store_down" in house.log()
