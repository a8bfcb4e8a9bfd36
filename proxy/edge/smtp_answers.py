"""Every sentence that the SMTP front says; which of them a refusal gets, and which end the connection.

All are constant: none repeats what a client sent. Codes: RFC 5321 4.2, RFC 4954 4 and 6, RFC 3463.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from proxy.errors import Answer
from proxy.wire.sasl import SERVER_MECHANISMS

AUTHENTICATED = "235 2.7.0 Authentication succeeded"
READY_FOR_TLS = "220 2.0.0 Ready to start TLS"
GOODBYE = "221 2.0.0 Goodbye"

TLS_FIRST = "530 5.7.0 Must issue a STARTTLS command first"
AUTH_FIRST = "530 5.7.0 Authentication required"
EHLO_FIRST = "503 5.5.1 Send EHLO first"
TLS_ALREADY = "503 5.5.1 TLS is already on"
NO_TLS = "502 5.5.1 STARTTLS is not offered here"
NAME_MISSING = "501 5.5.4 Name your host: EHLO host.name"
NO_ARGUMENT = "501 5.5.4 This command takes no argument"
AUTH_SYNTAX = "501 5.5.4 Syntax: AUTH mechanism [initial-response]"
BAD_SYNTAX = "500 5.5.2 Syntax error"
LINE_TOO_LONG = "500 5.5.2 Command line too long"
AUTH_TOO_LONG = "500 5.5.6 Authentication exchange line is too long"
UNKNOWN_MECHANISM = "504 5.5.4 This authentication mechanism is not supported"
AUTH_CANCELLED = "501 5.7.0 Authentication cancelled"
BAD_BASE64 = "501 5.5.2 Cannot decode this as base64"

DEADLINE = "421 4.4.2 No login within the time allowed, closing the connection"
TOO_MANY_ERRORS = "421 4.7.0 Too many errors, closing the connection"
INTERNAL_ERROR = "421 4.3.0 Internal error, closing the connection"

ANSWERS: Mapping[Answer, str] = {
    Answer.CREDENTIALS: "535 5.7.8 User name or app password is wrong",
    Answer.AUTHORIZATION: "535 5.7.8 User name or app password is wrong",
    Answer.PRIVACY: TLS_FIRST,
    Answer.UNAVAILABLE: "454 4.7.0 Cannot check the login right now, try again later",
    Answer.LIMIT: "454 4.7.0 Too many logins or sessions right now, try again later",
    Answer.CONTACT_ADMIN: "454 4.7.0 The mail server does not let this mailbox in, ask your administrator",
    Answer.PROTOCOL_OFF: (
        "454 4.7.0 The mail server has SMTP AUTH switched off for this mailbox (SmtpClientAuthentication), "
        "ask your administrator"
    ),
    Answer.TOO_MANY_FAILURES: "421 4.7.0 Too many failed logins, closing the connection",
    Answer.CLOSING: "421 4.3.2 Not accepting connections right now, try again later",
}

ENDINGS: Mapping[str, str] = {  # what is said before we close, and the reason that the log gets
    GOODBYE: "quit",
    DEADLINE: "deadline",
    TOO_MANY_ERRORS: "too_many_errors",
    INTERNAL_ERROR: "internal",
    ANSWERS[Answer.TOO_MANY_FAILURES]: Answer.TOO_MANY_FAILURES.value,
    ANSWERS[Answer.CLOSING]: Answer.CLOSING.value,
}

# aiosmtpd 1.4.6 says these itself. RFC 2034 4 wants an enhanced code in each once ENHANCEDSTATUSCODES is offered.
# Its sentence on long lines is not here: the answer depends on the command.
REWORDED: Mapping[str, str] = {
    "221 Bye": GOODBYE,
    "250 OK": "250 2.0.0 OK",
    "500 Error: bad syntax": BAD_SYNTAX,
    "501 Syntax: HELO hostname": NAME_MISSING,
    "501 Syntax: RSET": NO_ARGUMENT,
    "501 Syntax: QUIT": NO_ARGUMENT,
}
AIOSMTPD_TOO_LONG = "500 Command line too long"

_OURS = {"AUTH", "STARTTLS", "ENHANCEDSTATUSCODES"}  # answered by us: what the upstream says of them does not count
_EXTENSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]*( [!-~]+)*")  # RFC 5321 4.1.1.1, ehlo-line


def ehlo(hostname: str, extensions: Iterable[str], *, offers_auth: bool, offers_starttls: bool) -> str:
    """The answer to EHLO, lines parted by CRLF.

    extensions      EHLO keywords with their parameters that every upstream here has, such as "SIZE 1000000";
                    ours, repetitions and what does not fit the grammar are left out

    The list holds after login too, for clients do not ask again: so nothing stands in it that an upstream may lack,
    but for the codes in our own answers.
    """
    lines = [hostname, "ENHANCEDSTATUSCODES"]
    if offers_starttls:
        lines.append("STARTTLS")
    if offers_auth:
        mechanisms = " ".join(SERVER_MECHANISMS)
        lines += [f"AUTH {mechanisms}", f"AUTH={mechanisms}"]  # with "=" for Outlook Express and scanners of its age
    seen = set(_OURS)
    for extension in extensions:
        keyword = extension.partition(" ")[0].partition("=")[0].upper()
        if keyword not in seen and _EXTENSION.fullmatch(extension):
            seen.add(keyword)
            lines.append(extension)
    return "\r\n".join([f"250-{line}" for line in lines[:-1]] + [f"250 {lines[-1]}"])
