"""The SMTP login upstream, with its machine, against a hostile server."""

from __future__ import annotations

from proxy.edge.upstream_smtp import login
from tests.fuzz import upstream

TOKENS = (
    b"220 ready\r\n", b"250 mail.example.org\r\n", b"250-mail.example.org\r\n", b"250-", b"250 ",
    b"AUTH XOAUTH2 PLAIN", b"AUTH=LOGIN OAUTHBEARER", b"STARTTLS\r\n", b"\r\n", b"\n", b"334 \r\n",
    b"334 eyJzdGF0dXMiOiI0MDEifQ==\r\n", b"334 VXNlcm5hbWU6\r\n", b"235 2.7.0 in\r\n", b"535 5.7.8 ", b"454 4.7.0 ",
    b"432 4.3.2 ", b"421 ", b"5.7.139 ", b"SIZE 100", b"220-", b"\xfd", b"%ECHO%", b"\xfe\x20A", b"\xfe\x21A\r\n",
    b"\0", b"\xff", upstream.TLS_MARK, b"temporarily ", b"too many", b"-", b" ", b"MAIL FROM",
)  # fmt: skip
MAX_LINES_BYTES = 0  # nothing of it goes to the client


def one(data: bytes) -> None:
    upstream.one(data, login, MAX_LINES_BYTES)
