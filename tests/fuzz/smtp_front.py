"""The SMTP front over a transport in memory: aiosmtpd's loop with our overrides, up to the relay."""

from __future__ import annotations

import asyncio
import re

from proxy.edge.smtp import SmtpFront
from tests.fuzz.fronts import call
from tests.fuzz.kit import LOOP, alike, demand, has_secret, read_input, watched_logs

TOKENS = (
    b"EHLO x\r\n", b"EHLO \xfd\r\n", b"HELO x\r\n", b"EHLO", b"NOOP", b"RSET", b"STARTTLS", b"AUTH ", b"AUTH PLAIN",
    b"AUTH LOGIN", b"AUTH=PLAIN ", b"=", b"*", b"\r\n", b"\n", b"\r", b" ", b"\0", b"AGFubgBwYXNz", b"YW5u",
    b"MAIL FROM:<a@b>", b"RCPT TO:<a@b>", b"DATA", b".", b"BDAT 5 LAST", b"HELP", b"VRFY ", b"\xff", b"QUIT\r\n",
    b"\xfe\xc0A", b"\xfe\x81x", b"\xfd", b"XCLIENT ADDR=1.2.3.4", b"PROXY TCP4 1.2.3.4 1.2.3.4 1 1\r\n",
)  # fmt: skip
_SAID = re.compile(rb"([2-5]\d\d[ -][ -~]*\r\n)+")


def one(data: bytes) -> None:
    given = read_input(data)
    with watched_logs():
        outcomes = [LOOP.run(lambda pieces=pieces: call(_make, pieces, given.flags)) for pieces in given.splits]
    alike(outcomes, "a split changes what is done")
    said = outcomes[0].said
    demand(_SAID.fullmatch(said) is not None, "not the words of an SMTP server", said)
    demand(not has_secret(said), "a secret is said back", said)


def _make(visit) -> SmtpFront:
    return SmtpFront(visit, asyncio.get_running_loop())
