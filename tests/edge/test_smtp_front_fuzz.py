"""Whatever a client sends, the front answers or closes: no exception in the log, no hang, no login unasked for."""

from __future__ import annotations

import asyncio
import logging
import re

from hypothesis import given, settings, strategies as st

from proxy.config import Tls
from proxy.errors import Refusal
from tests.edge.smtp_front_kit import PLAIN, Client, Visit, b64, soon

LINES = [
    b"EHLO x", b"HELO x", b"EHLO", b"NOOP", b"RSET", b"STARTTLS", b"STARTTLS x", b"AUTH", b"AUTH PLAIN", b"AUTH LOGIN",
    b"auth=plain", b"AUTH LOGIN =", b"AUTH PLAIN =", b"AUTH PLAIN " + PLAIN.encode(), b"*", b"=", b"",
    b"MAIL FROM:<a@b>",
    b"RCPT TO:<a@b>", b"DATA", b".", b"BDAT 5 LAST", b64("ann").encode(), b"HELP", b"VRFY \xff", b"x" * 8_193, b"\0",
    b"AUTH PLAIN " + b"A" * 12_289, b"A" * 12_300, b"QUIT", b"AUTH \xc3\xa4 \xff", b"NOOP \r\r",
]  # fmt: skip
PIECES = st.one_of(
    st.sampled_from(LINES).map(lambda line: line + b"\r\n"),
    st.sampled_from(LINES).map(lambda line: line + b"\n"),
    st.binary(max_size=60),
    st.text(max_size=20).map(lambda text: text.encode("utf-8", "surrogatepass") + b"\r\n"),
)


class Keeper(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


async def survive(pieces: list[bytes], tls: Tls, script: tuple[Refusal, ...], *, ends_by_quit: bool) -> bytes:
    """Send it all; then the client ends the connection, and it must end. Returns all that was answered."""
    problems: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: problems.append(context))
    visit = Visit(tls, script=script)
    client = Client(visit, secured=tls is Tls.IMPLICIT)
    for piece in pieces:
        await client.send(piece)
    if ends_by_quit:
        # A dialogue that is open takes the first line, a line that is open takes the line end.
        await client.send(b"\r\n*\r\nQUIT\r\n")
    else:
        for _ in range(3):
            await asyncio.sleep(0)
        if not visit.relayed:
            client.wire.hang_up()
    await soon(visit.over.wait())
    await soon(asyncio.wait([client.front._handler_coroutine]))
    assert problems == []
    assert len(visit.relayed) + len(visit.reasons) == 1
    return bytes(client.wire.said)


@settings(max_examples=250, deadline=None)
@given(
    st.lists(PIECES, max_size=25),
    st.sampled_from(Tls),
    st.lists(st.sampled_from(Refusal), max_size=4).map(tuple),
    st.booleans(),
)
def test_any_input_is_answered_or_the_connection_closed(pieces, tls, script, ends_by_quit):
    keeper = Keeper()
    logging.getLogger().addHandler(keeper)
    try:
        said = asyncio.run(survive(pieces, tls, script, ends_by_quit=ends_by_quit))
    finally:
        logging.getLogger().removeHandler(keeper)
    assert keeper.lines == []
    assert re.fullmatch(rb"([2-5]\d\d[ -][ -~]*\r\n)+", said)
    if tls is Tls.STARTTLS:
        assert b"235 " not in said
        assert b"535 " not in said
