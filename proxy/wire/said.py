"""What a mail server said: fit for a log line, and what its words mean where its codes say too little.

It knows no protocol. The word lists come from what Exchange, Gmail, Dovecot and Postfix are seen to send.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence

from proxy.errors import UpstreamFault

MAX_SAID = 200  # characters of a server's line that an exception or a log may carry

# Servers echo what they did not understand, sometimes cut: words of this length are compared with what was sent.
_LONG_WORD = re.compile(r"[A-Za-z0-9+/=_.~-]{8,}")

# Stands for what is hidden until all of it is: the word itself could have a short password in it. No text holds it.
_HIDDEN = "\0"

# Order matters: a tenant's switch is named by a code that Microsoft also uses for plain refusals.
_MEANINGS = (
    (re.compile(r"user credentials were incorrect", re.IGNORECASE), UpstreamFault.REFUSED),
    (
        re.compile(
            r"\b5\.7\.139\b|SmtpClientAuthentication is disabled"
            r"|not enabled for IMAP|IMAP (?:access )?is (?:disabled|not enabled)",
            re.IGNORECASE,
        ),
        UpstreamFault.PROTOCOL_OFF,
    ),
    (
        re.compile(
            r"\[(?:LIMIT|INUSE)\]|\btoo many\b|throttl|back-?off|concurrent|rate.?limit"
            r"|limit (?:is |was )?(?:exceeded|reached)",
            re.IGNORECASE,
        ),
        UpstreamFault.BUSY,
    ),
    (
        re.compile(
            r"\[(?:UNAVAILABLE|SERVERBUG)\]|temporar|unavailable|not available|try again|shutting down"
            r"|internal (?:server )?error",
            re.IGNORECASE,
        ),
        UpstreamFault.UNAVAILABLE,
    ),
)


def fault_in_words(text: str) -> UpstreamFault | None:
    """What a refusal's text says: REFUSED, PROTOCOL_OFF, BUSY or UNAVAILABLE; None if it says none of them."""
    for pattern, fault in _MEANINGS:
        if pattern.search(text):
            return fault
    return None


def secret_forms(message: bytes) -> tuple[str, ...]:
    """Every form in which a server may repeat the secret of this raw SASL message (XOAUTH2, OAUTHBEARER, PLAIN)."""
    if message.startswith(b"\0"):  # PLAIN, whose password may hold what parts the fields of the others
        secret = message[1:].partition(b"\0")[2]
    else:
        secret = re.split(rb"\x01+", message.rstrip(b"\x01"))[-1].removeprefix(b"auth=Bearer ")
    text = plain_text(secret)  # as printable() sees it
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')  # as in an IMAP quoted string
    encoded = (base64.b64encode(part).decode() for part in (message, secret))
    return tuple(form for form in (*encoded, escaped, text) if form)


def printable(line: bytes, secrets: Sequence[str] = ()) -> str:
    """One line of a server, printable, without what repeats a secret, cut to MAX_SAID characters.

    secrets     from secret_forms()
    """
    text = plain_text(line)
    if secrets:
        for secret in secrets:
            text = text.replace(secret, _HIDDEN)
        text = _LONG_WORD.sub(lambda word: _hide(word[0], secrets), text).replace(_HIDDEN, "(hidden)")
    return text[:MAX_SAID]


def plain_text(line: bytes) -> str:
    """The whole line as text, every unprintable character a space, without white space around it."""
    text = line.decode("utf-8", "replace")
    if not text.isprintable():
        text = "".join(char if char.isprintable() else " " for char in text)
    return text.strip()


def _hide(word: str, secrets: Sequence[str]) -> str:
    bare = word.rstrip(".=")
    return _HIDDEN if bare and any(bare in secret for secret in secrets) else word
