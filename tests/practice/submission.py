"""The practice submission server: aiosmtpd behind AUTH XOAUTH2, which delivers to the practice mailboxes."""

from __future__ import annotations

import asyncio
import base64
import re
import ssl
from collections.abc import Callable

from aiosmtpd.smtp import MISSING, SMTP, AuthResult, Envelope, Session

from tests.practice.mailboxes import Mailboxes, OwnerOf

# Google's "XOAUTH2 mechanism": user and token, set apart by control-A.
_XOAUTH2 = re.compile(rb"user=([^\x01]+)\x01auth=Bearer ([^\x01]+)\x01\x01")


class Submission:
    """aiosmtpd's handler: whoever has a token may send to anybody; who is not here is told so."""

    def __init__(self, mailboxes: Mailboxes, owner_of: OwnerOf) -> None:
        self._mailboxes = mailboxes
        self._owner_of = owner_of

    async def auth_XOAUTH2(self, server: SMTP, arguments: list[str]) -> AuthResult:  # noqa: N802 - aiosmtpd's name
        """Take an initial response, or the answer to an empty challenge."""
        if len(arguments) > 1:
            answer: object = base64.b64decode(arguments[1])
        else:
            answer = await server.challenge_auth("")
        if answer is MISSING or not isinstance(answer, bytes):
            return AuthResult(success=False)
        said = _XOAUTH2.fullmatch(answer)
        user, token = (part.decode() for part in said.groups()) if said else ("", "")
        if user and self._owner_of(token) == user:
            return AuthResult(success=True, auth_data=user)
        return AuthResult(success=False, handled=False)

    async def handle_MAIL(  # noqa: N802
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if not session.authenticated:  # aiosmtpd's own auth_required warns on a listener of implicit TLS
            return "530 5.7.0 Authentication required"
        envelope.mail_from = address
        envelope.mail_options.extend(options)
        return "250 2.1.0 OK"

    async def handle_RCPT(  # noqa: N802
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if not self._mailboxes.has(address.lower()):
            return "550 5.1.1 nobody of this name practises here"
        envelope.rcpt_tos.append(address.lower())
        return "250 2.1.5 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        for address in envelope.rcpt_tos:
            await self._mailboxes.deliver(address, envelope.original_content or b"")
        return "250 2.0.0 delivered"

    def protocol(self, starttls: ssl.SSLContext | None) -> Callable[[], SMTP]:
        """For loop.create_server. Without a context the connection is TLS already, which aiosmtpd can't see."""

        def made() -> SMTP:
            return SMTP(
                self,
                hostname="localhost",
                tls_context=starttls,
                require_starttls=starttls is not None,
                auth_require_tls=starttls is not None,
                auth_exclude_mechanism=["LOGIN", "PLAIN"],
                loop=asyncio.get_running_loop(),
            )

        return made
