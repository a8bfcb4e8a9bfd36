"""The IMAP login upstream, with aioimaplib in its cage, against a hostile server."""

from __future__ import annotations

from proxy.edge.upstream_imap import MAX_TALK_BYTES, login
from tests.fuzz import upstream

TOKENS = (
    b"* OK ready\r\n", b"* OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=XOAUTH2 AUTH=PLAIN] hi\r\n", b"* PREAUTH in\r\n",
    b"* BYE ", b"* CAPABILITY IMAP4rev1 AUTH=XOAUTH2 STARTTLS\r\n", b"* CAPABILITY IMAP4rev1 LOGINDISABLED\r\n",
    b"* CAPABILITY IMAP4rev1 AUTH=OAUTHBEARER\r\n", b"%TAG% OK ", b"%TAG% NO ", b"%TAG% BAD ", b"\r\n", b"\n",
    b"+ \r\n", b"+ eyJzdGF0dXMiOiI0MDEifQ==\r\n", b"+", b"* ", b"*", b"{5}\r\n", b"[LIMIT]", b"[UNAVAILABLE]",
    b"[AUTHENTICATIONFAILED]", b"\xfd", b"%ECHO%", b"\xfe\xffA", b"\0", b"\xff", upstream.TLS_MARK, b"* 1 EXISTS\r\n",
    b'* LIST () "/" x\r\n', b"done", b" ", b"* FLAGS ()\r\n", b"* STATUS x (MESSAGES 1)\r\n", b"* ENABLED ",
    b"* 1 FETCH (FLAGS ()",
)  # fmt: skip


def one(data: bytes) -> None:
    upstream.one(data, login, MAX_TALK_BYTES + 65_536)
