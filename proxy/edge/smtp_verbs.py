"""Which SMTP commands there are and how long a line of each may be, in the forms that aiosmtpd's command loop reads.

It knows neither aiosmtpd nor answers.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from proxy.wire.sasl import MAX_SASL_BYTES

MAX_COMMAND_BYTES = 8_192  # a line without its end; RFC 5321 4.5.3.1.4 asks for 512, extensions for more

Verb = Callable[[str | None], Awaitable[None]]


class SizeLimits(dict[str, int]):
    """Longest command line by verb. aiosmtpd's own defaultdict remembers every verb that any client makes up."""

    def __missing__(self, verb: str) -> int:
        return MAX_SASL_BYTES if verb.startswith("AUTH") else MAX_COMMAND_BYTES


class Verbs(dict[str, Verb]):
    """The commands that exist. All others have one answer, so that aiosmtpd's own MAIL or DATA can never run."""

    def __init__(self, known: dict[str, Verb], otherwise: Verb) -> None:
        super().__init__(known)
        self._otherwise = otherwise

    def get(self, verb: str, _default: object = None) -> Verb:
        return super().get(verb, self._otherwise)
