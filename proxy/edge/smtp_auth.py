"""The dialogue of one SMTP AUTH command, up to the credentials: RFC 4954 4 over the mechanisms of wire/sasl.

It knows neither aiosmtpd nor what becomes of the credentials.
"""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable

from proxy.edge import smtp_answers as say
from proxy.errors import GatepostError, ProtocolError
from proxy.wire.sasl import MAX_SASL_BYTES, Challenge, Credentials, decode_base64, server_exchange


class NotHeard(GatepostError):
    """No credentials came of it. `text` is the answer, a constant."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


async def hear_credentials(
    argument: str | None, ask: Callable[[str], Awaitable[bytes]]
) -> tuple[str, Credentials | None]:
    """Hold the dialogue.

    argument    what follows the verb; octets that are not UTF-8 as surrogates
    ask         says a 334 line and returns the client's next line; one over MAX_SASL_BYTES may come cut behind that
    returns     the mechanism and the credentials, None for malformed ones
    raises      NotHeard
    """
    words = (argument or "").encode("utf-8", "surrogateescape").split()
    if len(words) not in (1, 2):
        raise NotHeard(say.AUTH_SYNTAX)
    exchange = server_exchange(words[0])
    if exchange is None:
        raise NotHeard(say.UNKNOWN_MECHANISM)
    try:
        step = exchange.start(_initial_response(words[1:]))
        while isinstance(step, Challenge):
            step = exchange.receive(_decoded(await ask(f"334 {base64.b64encode(step.data).decode('ascii')}")))
    except ProtocolError:
        raise NotHeard(say.BAD_BASE64) from None
    return words[0].decode("ascii").upper(), step.credentials


def _initial_response(words: list[bytes]) -> bytes | None:
    # RFC 4954 4: "=" is an initial response that is there and empty.
    if not words:
        return None
    return b"" if words[0] == b"=" else decode_base64(words[0])


def _decoded(line: bytes) -> bytes:
    response = line.strip(b" \t\r\n")
    if len(line.rstrip(b"\r\n")) > MAX_SASL_BYTES:
        raise NotHeard(say.AUTH_TOO_LONG)
    if response == b"*":
        raise NotHeard(say.AUTH_CANCELLED)
    return decode_base64(response)
