"""The SMTP front: what aiosmtpd serves until the login, and how the connection then leaves it for the relay.

The only importer of aiosmtpd. It must not know stores, tokens or upstreams: `Visit.enter` does the login.

SmtpFront holds all that Gatepost changes in aiosmtpd 1.4.6, each override with its reason. What stays aiosmtpd's is the
command loop, the session, and HELO, NOOP and RSET. tests/edge/test_aiosmtpd_contract.py holds the private names
that are used and each fault that is worked around: a release that mends one fails a test there, and the override goes.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import traceback
from enum import Enum, auto
from functools import partial
from typing import cast

from aiosmtpd.smtp import SMTP

from proxy.config import Tls
from proxy.edge import smtp_answers as say
from proxy.edge.front import MAX_FAILED, PRE_LOGIN_S, Visit
from proxy.edge.smtp_auth import NotHeard, hear_credentials
from proxy.edge.smtp_lines import Lines
from proxy.edge.smtp_verbs import MAX_COMMAND_BYTES, SizeLimits, Verb, Verbs
from proxy.edge.transport import Transport
from proxy.edge.upstream import Connection
from proxy.errors import Answer, Refused
from proxy.login.service import Passage
from proxy.logs import Line
from proxy.wire.sasl import SERVER_MECHANISMS, Credentials

logger = logging.getLogger("gatepost.smtp")

MAX_ERRORS = 20  # 5xx answers on one connection; a confused client needs two or three
MAX_CLIENT_NAME = 100
CLOSE_S = 5.0  # for a peer that does not take our last words, or does not answer the end of TLS

# aiosmtpd 1.4.6 logs command lines at INFO, unknown verbs (a password typed at the wrong prompt) at WARNING, SASL
# responses at DEBUG. No logging set-up takes a filter away again. Needed until it logs nothing that a client sent.
logging.getLogger("mail.log").addFilter(lambda _record: False)


class _Phase(Enum):
    TALKING = auto()
    HANDSHAKE = auto()  # STARTTLS was answered, TLS is not there yet
    CLOSING = auto()  # the last words are said
    GONE = auto()  # lost, or the relay's


class SmtpFront(SMTP):
    """One client connection from its greeting to its login.

    It is the protocol of an edge.transport, begun behind the handshake if TLS is implicit. It ends in exactly one of
    `visit.relay` (the transport is handed over paused) and `visit.ended`.

    It has no properties: aiosmtpd's constructor looks at members, before ours has set anything.
    """

    command_size_limit = MAX_COMMAND_BYTES  # until EHLO; then SizeLimits counts, as AUTH is an extension

    def __init__(self, visit: Visit, loop: asyncio.AbstractEventLoop) -> None:
        # 1.4.6 clears this while it builds; were it not the instance's own, that of every SMTP in the process (PR #58).
        self.command_size_limits = SizeLimits()
        # hostname: else getfqdn() asks the DNS for each connection. SMTPUTF8: else bytes over 127 are refused unread.
        super().__init__(None, hostname=visit.hostname, ident="ESMTP Gatepost", enable_SMTPUTF8=True, loop=loop)
        self._smtp_methods = Verbs(self._verbs(), self._refuse)
        self._auth_methods = {}  # its own PLAIN and LOGIN: synchronous, and case-sensitive in the name (issue #305)
        self._visit = visit
        self._client: Transport
        self._phase = _Phase.TALKING
        self._is_welcome = visit.refusing is None
        self._reason = "closed_by_client"
        self._writable = asyncio.Event()
        self._writable.set()
        self._errors = 0
        self._failures = 0

    def __dir__(self) -> list[str]:
        """Nothing: aiosmtpd 1.4.6 walks all members twice for each connection, for tables that __init__ replaces."""
        return []

    def close(self, answer: Answer) -> None:
        """End the connection before its login, from outside: the answer is said if the client can hear it now.

        One still in the handshake of implicit TLS is greeted with it. Without effect after the login, or a second time.
        """
        if self._handler_coroutine is None:
            self._is_welcome = False
        else:
            self._end(say.ANSWERS[answer], answer.value)

    def abort(self) -> None:
        """Cut the connection off, without a word. Without effect before it is made, or after the login."""
        if self.transport is not None:
            self._client.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start to talk. As aiosmtpd's, less the streams.

        StreamWriter closes its transport when it is collected (CPython 3.11.5 and later, gh-107650), which would end a
        relayed session; StreamReader has no bound below twice its limit and cannot be emptied by a public name.
        """
        client = cast("Transport", transport)
        self._read_as(Lines(client))
        self._use(client)
        self._reset_timeout()
        self._handler_coroutine = self.loop.create_task(self._handle_client())

    def data_received(self, data: bytes) -> None:
        self._lines.feed(data)

    def eof_received(self) -> bool:
        """End at the client's EOF, and with it a login under way: an SMTP client has no use for half a connection.

        aiosmtpd's answers True on a connection that is not TLS, and leaves it half open.
        """
        assert self._handler_coroutine is not None
        self._handler_coroutine.cancel()
        return False

    def connection_lost(self, error: Exception | None) -> None:
        if self._phase is not _Phase.GONE:
            super().connection_lost(error)
            self._gone()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def _read_as(self, lines: Lines) -> None:
        self._lines = lines
        self._reader = lines  # type: ignore[assignment]  # aiosmtpd's loop calls readuntil() only

    def _use(self, transport: Transport) -> None:
        # What is used anew starts from nothing: RFC 3207 4.2, everything learned before the handshake is discarded.
        self.transport = self._client = transport
        self._writer = transport  # type: ignore[assignment]  # aiosmtpd's loop only closes it
        self._set_rset_state()  # type: ignore[no-untyped-call]
        self.session = self._create_session()

    def _reset_timeout(self, duration: float | None = None) -> None:  # noqa: ARG002
        # aiosmtpd's timer starts anew with each command, so NOOP holds a connection for ever. Ours starts once.
        if self._timeout_handle is None:
            self._timeout_handle = self.loop.call_at(self._visit.started + PRE_LOGIN_S, self._timeout_cb)

    def _timeout_cb(self) -> None:
        self._end(say.DEADLINE, say.ENDINGS[say.DEADLINE])

    def _end(self, text: str, reason: str) -> None:
        if self.transport is None or self._phase in (_Phase.CLOSING, _Phase.GONE):
            return
        assert self._handler_coroutine is not None
        self._handler_coroutine.cancel()
        if self._phase is _Phase.HANDSHAKE or self._client.is_closing():
            self._reason = reason
            self._client.abort()  # in a handshake words in clear would make no sense to the client
            return
        self._write(text)
        self._finish(reason)

    def _finish(self, reason: str) -> None:
        self._reason = reason
        self._phase = _Phase.CLOSING
        self._lines.close()  # pipelined commands too: aiosmtpd would go on with them
        self._client.close()
        self._stop_timer()
        self._timeout_handle = self.loop.call_later(CLOSE_S, self._client.abort)

    def _gone(self) -> None:
        self._leave()
        self._visit.ended(self._reason)

    def _leave(self) -> None:
        self._phase = _Phase.GONE
        self._stop_timer()
        self._lines.close()
        self.transport = None  # ends aiosmtpd's loop
        # Bound methods, so cycles: without them a session does not keep its front until the next collection.
        self._smtp_methods = {}
        self._client_connected_cb = None

    def _stop_timer(self) -> None:
        if self._timeout_handle is not None:
            self._timeout_handle.cancel()

    async def _handle_client(self) -> None:
        if not self._is_welcome:
            await self.push(say.ANSWERS[Answer.CLOSING])
            return
        try:
            await super()._handle_client()
        except ConnectionResetError as error:  # aiosmtpd takes it for the client's and lets it out of the task
            await self.handle_exception(error)

    async def push(self, status: str | bytes) -> None:
        """Say one answer and wait until the client takes it. aiosmtpd's own sentences are said in our words.

        aiosmtpd drains its StreamWriter, logs every answer and lacks enhanced status codes (RFC 2034).
        """
        text = status if isinstance(status, str) else status.decode("ascii")
        if text == say.AIOSMTPD_TOO_LONG:
            text = say.AUTH_TOO_LONG if self._lines.head == b"AUTH" else say.LINE_TOO_LONG
        text = say.REWORDED.get(text, text)
        if text.startswith("5"):
            self._errors += 1
            if self._errors > MAX_ERRORS:
                text = say.TOO_MANY_ERRORS
        if self._phase is _Phase.TALKING:
            self._write(text)
            if text in say.ENDINGS:
                self._finish(say.ENDINGS[text])
        await self._writable.wait()
        await asyncio.sleep(0)  # else the loop serves nobody else while one client's pipeline lasts

    def _write(self, text: str) -> None:
        logger.debug("%s", Line("smtp_answer", id=self._visit.id, answer=text))
        self._client.write(text.encode("ascii") + b"\r\n")

    async def handle_exception(self, error: Exception) -> str:
        """Log a bug of ours and close. aiosmtpd tells the client the exception's text, and goes on."""
        # Frames and type only: the text of an exception may quote what the client sent.
        frames = "".join(traceback.format_tb(error.__traceback__))
        logger.error("%s\n%s", Line("bug", id=self._visit.id, error=type(error).__qualname__), frames)
        return say.INTERNAL_ERROR

    def _verbs(self) -> dict[str, Verb]:
        known: dict[str, Verb] = {
            "HELO": self.smtp_HELO,
            "EHLO": self.smtp_EHLO,
            "NOOP": self.smtp_NOOP,
            "RSET": self.smtp_RSET,
            "QUIT": self.smtp_QUIT,
            "STARTTLS": self.smtp_STARTTLS,
            "AUTH": self.smtp_AUTH,
        }
        for mechanism in SERVER_MECHANISMS:  # "AUTH=PLAIN" as a verb: said by those who read it so in our EHLO list
            known[f"AUTH={mechanism}"] = partial(self._auth_old_form, mechanism)
        return known

    async def _refuse(self, arg: str | None) -> None:  # noqa: ARG002
        await self.push(self._missing() or say.AUTH_FIRST)

    def _missing(self) -> str | None:
        """What must come before AUTH and has not, first things first."""
        assert self.session is not None
        if not self._is_private():
            return say.TLS_FIRST
        return None if self.session.host_name else say.EHLO_FIRST

    def _is_secured(self) -> bool:
        # aiosmtpd knows TLS by STARTTLS only, and refuses AUTH under implicit TLS (issue #281).
        return self._client.get_extra_info("ssl_object") is not None

    def _is_private(self) -> bool:
        return self._is_secured() or self._visit.listener.tls is Tls.NONE

    def _offered_tls(self) -> ssl.SSLContext | None:
        return self._visit.tls_context if self._visit.listener.tls is Tls.STARTTLS else None

    async def smtp_EHLO(self, hostname: str | None) -> None:  # noqa: N802
        """List what is true before and after the login; aiosmtpd lists what it can do itself."""
        if not hostname:
            await self.push(say.NAME_MISSING)
            return
        assert self.session is not None
        self._set_rset_state()  # type: ignore[no-untyped-call]
        self.session.extended_smtp = True
        self.session.host_name = hostname
        offers_starttls = self._offered_tls() is not None and not self._is_secured()
        await self.push(
            say.ehlo(
                self.hostname,
                self._visit.extensions,
                offers_auth=self._is_private(),
                offers_starttls=offers_starttls,
            )
        )

    async def smtp_QUIT(self, arg: str | None) -> None:  # noqa: N802
        """Say goodbye; push() closes. aiosmtpd closes a second time behind that, which does nothing."""
        await self.push(say.NO_ARGUMENT if arg else say.GOODBYE)

    async def smtp_STARTTLS(self, arg: str | None) -> None:  # noqa: N802
        """Go over to TLS, or close. RFC 3207.

        aiosmtpd builds asyncio's SSLProtocol by hand, under uvloop too, with 60 s for the handshake (issue #269), and
        answers 220 a second time inside TLS.
        """
        context = self._offered_tls()
        if arg:
            await self.push(say.NO_ARGUMENT)
        elif self._is_secured():
            await self.push(say.TLS_ALREADY)
        elif context is None:
            await self.push(say.NO_TLS)
        else:
            # A quick client's ClientHello comes before push() returns: it has to wait unread for start_tls(), which
            # resumes, or it would be thrown away with what came in clear.
            self._client.pause_reading()
            await self.push(say.READY_FOR_TLS)
            await self._shake_hands(context)

    async def _shake_hands(self, context: ssl.SSLContext) -> None:
        self._phase = _Phase.HANDSHAKE
        # RFC 3207 4.2, CVE-2024-34083: what came in clear behind the command is never executed.
        self._lines.close()
        self._read_as(Lines(None))
        try:
            await self._client.start_tls(context, server_side=True, timeout_s=PRE_LOGIN_S)  # our timer is earlier
        except asyncio.CancelledError:
            self._drop(self._reason)
            raise
        except OSError:  # TLS, a lost connection and the time-out are all of this family
            self._drop("tls_failed")
            return
        self._phase = _Phase.TALKING
        self._lines.attach(self._client)
        self._use(self._client)

    def _drop(self, reason: str) -> None:
        if self._phase is not _Phase.GONE:
            self._reason = reason
            self._gone()

    async def _auth_old_form(self, mechanism: str, arg: str | None) -> None:
        await self.smtp_AUTH(f"{mechanism} {arg}" if arg else mechanism)

    async def smtp_AUTH(self, arg: str | None) -> None:  # noqa: N802
        """Hear the credentials and try the login. RFC 4954 4.

        aiosmtpd's is case-sensitive, knows neither implicit TLS nor "=", prompts by other words, and its callbacks are
        synchronous.
        """
        assert self.session is not None
        missing = self._missing() or (None if self.session.extended_smtp else say.EHLO_FIRST)
        if missing:
            if missing == say.TLS_FIRST:
                self._visit.refuse_in_clear(self._client_name())
            await self.push(missing)
            return
        try:
            mechanism, credentials = await hear_credentials(arg, self._ask)
        except NotHeard as error:
            await self.push(error.text)
            return
        await self._enter(credentials, mechanism)

    async def _ask(self, challenge: str) -> bytes:
        await self.push(challenge)
        return await self._lines.readuntil()

    async def _enter(self, credentials: Credentials | None, mechanism: str) -> None:
        try:
            passage = await self._visit.enter(credentials, mechanism, self._client_name())
        except Refused as refused:
            answer = refused.refusal.answer
            if answer in (Answer.CREDENTIALS, Answer.AUTHORIZATION):
                self._failures += 1
                if self._failures >= MAX_FAILED:
                    answer = Answer.TOO_MANY_FAILURES
            await self.push(say.ANSWERS[answer])
            return
        # From here to the relay nothing waits: a connection that is lost in between would leave the passage open.
        if self._phase is not _Phase.TALKING or self._client.is_closing():
            self._visit.abandon(passage)
            return
        self._hand_over(passage)

    def _hand_over(self, passage: Passage[Connection]) -> None:
        client = self._client
        self._write(say.AUTHENTICATED)
        client.pause_reading()
        leftover = self._lines.take()
        self._leave()
        self._visit.relay(client, passage, leftover)

    def _client_name(self) -> str:
        assert self.session is not None
        name = self.session.host_name or ""
        return "".join(char for char in name if char.isprintable())[:MAX_CLIENT_NAME]
