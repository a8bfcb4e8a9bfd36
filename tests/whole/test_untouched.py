"""Outcomes E45, E47: what an SMTP client sends reaches the upstream as it is, or not at all."""

from __future__ import annotations

import base64

import pytest

from tests.edge.scripted import Certificates
from tests.whole.kit import USER, House, Line, mail_server, write_config

ENDS = {
    "bare line feeds": b"\n.\n",
    "line feed first": b"\n.\r\n",
    "line feed last": b"\r\n.\n",
    "bare carriage returns": b"\r.\r",
    "both": b"\r\n.\r\r\n",
    "NUL": b"\r\n\0.\r\n",
}
BEHIND = b"MAIL FROM:<forged@example.org>\r\nRCPT TO:<victim@example.org>\r\nDATA\r\nforged\r\n"
END = b"\r\n.\r\n"


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_what_is_no_end_of_a_message_goes_through_octet_for_octet(
    house: House, certificates: Certificates, end: bytes
) -> None:
    message = b"Subject: one\r\n\r\nfirst" + end + BEHIND
    arrived: list[bytes] = []

    def talk(line: Line) -> None:
        assert line.line() == b"DATA"
        line.send(b"354 go on\r\n")
        heard = b""
        while not heard.endswith(END):
            heard += line.sock.recv(65_536)
        arrived.append(heard)
        line.send(b"250 one message\r\n")

    with mail_server(certificates, "smtp", talk) as upstream:
        write_config(house, certificates, smtp=upstream.port)
        house.start()
        client = house.smtp_session()
        assert client.ask(b"DATA").startswith(b"354")
        client.send(message + END)
        assert client.line() == b"250 one message"  # and it is one answer
        assert client.rest() == b""
        client.close()
    assert arrived == [message + END]


def test_what_is_pipelined_behind_a_refused_login_is_answered_here_in_order(
    house: House, certificates: Certificates
) -> None:
    visits: list[Line] = []
    with mail_server(certificates, "smtp", visits.append) as upstream:
        write_config(house, certificates, smtp=upstream.port)
        house.start()
        client = house.connect(house.smtps)
        client.line()
        wrong = base64.b64encode(f"\0{USER}\0wrong".encode())
        client.send(
            b"EHLO x\r\nAUTH PLAIN %b\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<a@b.example>\r\nDATA\r\nQUIT\r\n" % wrong
        )
        heard = client.rest().split(b"\r\n")
        codes = [line[:3] for line in heard if line[3:4] == b" "]
        assert codes == [b"250", b"535", b"530", b"530", b"530", b"221"]
        client.close()
    assert visits == []
