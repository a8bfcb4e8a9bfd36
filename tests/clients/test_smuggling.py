"""SMTP smuggling, end to end: Postfix makes of what came through Gatepost exactly what it makes of the same sent to it.

Whether "LF . CR LF" ends a message is Postfix's to say (its 3.7 says yes unless told otherwise); what must never be is
that Gatepost's passage changes the answer. Outcomes E45, CVE-2023-51764 and its kin.
"""

from __future__ import annotations

import base64
import re
import smtplib
import ssl
from itertools import count

import pytest

from tests.clients.kit import TIMEOUT_S, Login
from tests.gate import Gate
from tests.lab import Lab
from tests.lab.talk import ANN, BOB, Bearer, open_smtp

ENDS = {
    "LF . LF": b"\n.\n",
    "LF . CRLF": b"\n.\r\n",
    "CRLF . LF": b"\r\n.\n",
    "CR . CR": b"\r.\r",
    "CR . CRLF": b"\r.\r\n",
    "CRLF . CR CRLF": b"\r\n.\r\r\n",
    "NUL": b"\r\n\0.\r\n",
    "NUL behind": b"\r\n.\0\r\n",
    "CR alone": b"one\rtwo\r\r\n",
    "LF alone": b"one\ntwo\n\r\n",
    "stuffed": b"\r\n..\r\n",
}
_numbers = count(1)


def handed_in(smtp: smtplib.SMTP, mark: str, end: bytes) -> list[bytes]:
    """Send the message and, behind what may be its end, a forged one; the codes of all answers until the goodbye."""
    assert smtp.mail(ANN)[0] == 250
    assert smtp.rcpt(BOB)[0] == 250
    assert smtp.docmd("DATA")[0] == 354
    known = f"Date: Fri, 27 Nov 2026 00:00:00 +0000\r\nMessage-Id: <{mark}@example.test>\r\n"  # or Postfix adds its own
    head = f"{known}From: {ANN}\r\nTo: {BOB}\r\nSubject: {mark}\r\n\r\n".encode()
    forged = f"MAIL FROM:<{ANN}>\r\nRCPT TO:<{BOB}>\r\nDATA\r\n".encode()
    assert smtp.sock is not None
    smtp.sock.sendall(head + b"first" + end + forged + head + b"forged\r\n.\r\nQUIT\r\n")
    said = b""
    while more := smtp.sock.recv(65_536):
        said += more
    return re.findall(rb"^(\d{3}) ", said, re.MULTILINE)


def delivered(lab: Lab, mark: str, number: int) -> list[bytes]:
    """The messages that bear the mark, without the headers that the way has added."""

    def read() -> list[bytes]:
        return [mail for mail in lab.inbox(BOB) if f"Subject: {mark}".encode() in mail]

    found = lab.await_mail(read, number) if number else read()
    return sorted(
        mail[mail.index(b"Date: Fri, 27 Nov 2026 00:00:00") :].replace(mark.encode(), b"MARK") for mail in found
    )


@pytest.mark.usefixtures("as_root")  # or the lab has no Postfix
@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_postfix_makes_of_it_what_it_makes_of_the_same_bytes_sent_to_it(
    gate: Gate, lab: Lab, login: Login, trust: ssl.SSLContext, end: bytes
) -> None:
    direct, through = (f"smuggling-{next(_numbers)}-" for _ in range(2))
    with open_smtp(lab, lab.submissions) as smtp:
        bearer = Bearer("XOAUTH2", ANN, lab.access_token(ANN))
        assert smtp.auth("XOAUTH2", bearer.for_smtp, initial_response_ok=False)[0] == 235
        wanted = handed_in(smtp, direct, end)
        smtp.close()
    with smtplib.SMTP_SSL(*gate.smtps, context=trust, timeout=TIMEOUT_S) as smtp:
        smtp.ehlo()
        plain = base64.b64encode(f"\0{login.user}\0{login.password}".encode()).decode()
        assert smtp.docmd("AUTH", f"PLAIN {plain}")[0] == 235
        assert handed_in(smtp, through, end) == wanted
        smtp.close()
    number = wanted[: wanted.index(b"221")].count(b"250")
    assert number > 0
    messages = number if number == 1 else number - 2  # MAIL and RCPT of a forged one are 250s too
    assert delivered(lab, through, messages) == delivered(lab, direct, messages)
