"""What the IMAP front says: one table of refusals, one of farewells, and the capability list."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Final

from proxy.errors import Answer

MAX_EXTENSIONS = 100  # servers list under 50; the greeting stays a short line

_CREDENTIALS = b"[AUTHENTICATIONFAILED] Login name or app password is wrong"

# The text behind a tagged NO. Codes are of RFC 5530; the words are constant, so that causes of one answer look alike.
REFUSALS: Final[Mapping[Answer, bytes]] = {
    Answer.CREDENTIALS: _CREDENTIALS,
    Answer.AUTHORIZATION: b"[AUTHORIZATIONFAILED] This login may not act for another user",
    Answer.PRIVACY: b"[PRIVACYREQUIRED] Switch on TLS (SSL or STARTTLS) before logging in",
    Answer.UNAVAILABLE: b"[UNAVAILABLE] Logging in is not possible at the moment, try again later",
    Answer.LIMIT: b"[LIMIT] Too many attempts or connections, try again later",
    Answer.CONTACT_ADMIN: b"[CONTACTADMIN] The mail server does not let this mailbox in, ask your administrator",
    Answer.PROTOCOL_OFF: b"[CONTACTADMIN] IMAP is switched off for this mailbox, ask your administrator "
    b"(Microsoft 365: Set-CASMailbox -ImapEnabled)",
    Answer.TOO_MANY_FAILURES: _CREDENTIALS,
    Answer.CLOSING: b"[UNAVAILABLE] Gatepost is closing, try again later",
}

_TOO_LATE = b"Autologout, no login in time"

# The text behind "* BYE" when the driver ends the connection.
FAREWELLS: Final[Mapping[Answer, bytes]] = {
    **dict.fromkeys(Answer, _TOO_LATE),
    Answer.LIMIT: b"Too many connections, try again later",
    Answer.TOO_MANY_FAILURES: b"Too many failed logins",
    Answer.CLOSING: b"Gatepost takes no connections at the moment, try again later",
}

# Lists come from upstream servers: nothing in them may end the line or the brackets around it.
_EXTENSION = re.compile(r"[A-Za-z0-9=+_./:-]{1,64}")
# What depends on this side of Gatepost is never taken from an upstream.
_OURS = frozenset({"IMAP4REV1", "SASL-IR", "STARTTLS", "LOGINDISABLED"})


@lru_cache(maxsize=64)  # each client meets one of few lists
def known_extensions(extensions: tuple[str, ...]) -> tuple[str, ...]:
    """Those of an upstream's capabilities that may be passed on: well formed, not ours to say, each once."""
    found: dict[str, str] = {}
    for extension in extensions:
        key = extension.upper()
        if _EXTENSION.fullmatch(extension) and key not in _OURS and not key.startswith("AUTH="):
            found.setdefault(key, extension)
    return tuple(found.values())[:MAX_EXTENSIONS]


def capability(extensions: Iterable[str], *, may_login: bool, may_starttls: bool) -> bytes:
    """The capability list as it stands behind CAPABILITY, in a response or a code (RFC 3501 7.2.1)."""
    words = ["IMAP4rev1"]
    if may_starttls:
        words.append("STARTTLS")
    words += ("SASL-IR", "AUTH=PLAIN", "AUTH=LOGIN") if may_login else ("LOGINDISABLED",)
    return " ".join([*words, *extensions]).encode("ascii")
