"""Logging in to an IMAP server upstream, with aioimaplib's client protocol in a cage.

aioimaplib 2.0.3 makes the commands, writes them and reads their answers. The cage exists because it loses bytes behind
the tagged answer, never answers a failure challenge, logs tokens at DEBUG, turns a BYE into silence and has no
STARTTLS: so it is given one whole line at a time, never the transport, and what it must not see is dealt with here.
tests/edge/test_aioimaplib_contract.py pins the names used.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import re
from functools import partial

from aioimaplib.aioimaplib import AUTH, NONAUTH, AioImapException, Command, IMAP4ClientProtocol

from proxy.config import Endpoint, Mechanism, Tls
from proxy.edge.upstream_leg import Connection, Leg
from proxy.errors import ProtocolError, UpstreamError, UpstreamFault
from proxy.wire.said import fault_in_words, plain_text, printable, secret_forms
from proxy.wire.sasl import Bearer, ClientMechanism, UpstreamCredential, client_response, error_reply, token_mechanism
from proxy.wire.smtp import decode_challenge

FAREWELL = b"ZZ9 LOGOUT\r\n"  # aioimaplib's tags hold A to P only

MAX_LINE_BYTES = 65_536  # the longest lines before login are capability lists, of 2 kB at most
MAX_TALK_BYTES = 262_144  # all lines of one login together

_CAPABILITY_CODE = re.compile(rb"[^ ]+ OK \[CAPABILITY ([^\]]*)\]", re.IGNORECASE)
_CAPABILITY_LINE = re.compile(rb"\* CAPABILITY (.*)", re.IGNORECASE | re.DOTALL)
_LITERAL = re.compile(rb"\{\d+\+?\}$")

# aioimaplib logs the base64 of tokens and escaped passwords. A filter holds at every log level.
logging.getLogger("aioimaplib.aioimaplib").addFilter(lambda _record: False)


async def login(leg: Leg, endpoint: Endpoint, credential: UpstreamCredential, preferred: Mechanism) -> Connection:
    """Log in on an open leg. Raises UpstreamError."""
    session = ImapSession(leg, endpoint)
    await session.begin()
    ok_rest = await session.log_in(credential, preferred)
    untagged = b"".join(line + b"\r\n" for line in session.untagged)
    return Connection(untagged, ok_rest, session.told_capabilities(), leg)


async def offers(leg: Leg, endpoint: Endpoint) -> tuple[str, ...]:
    """The capabilities behind TLS, before login. Raises UpstreamError."""
    session = ImapSession(leg, endpoint)
    await session.begin()
    return session.told


async def objection(leg: Leg, endpoint: Endpoint, credential: UpstreamCredential, preferred: Mechanism) -> str:
    """Log in and open INBOX: "" if it opens, else what the server said. Raises UpstreamError if the login fails."""
    session = ImapSession(leg, endpoint)
    await session.begin()
    await session.log_in(credential, preferred)
    # EXAMINE asks what SELECT asks and leaves the mailbox's \Recent flags alone (RFC 9051 6.3.3).
    status, line = await session.run("EXAMINE", "INBOX")
    return "" if status == "OK" else printable(line.partition(b" ")[2])


class ImapSession(IMAP4ClientProtocol):  # type: ignore[misc]  # aioimaplib has no types
    """One login. Lines are pulled from the leg only while a command or the greeting is awaited."""

    def __init__(self, leg: Leg, endpoint: Endpoint) -> None:
        super().__init__(asyncio.get_running_loop())
        self.told: tuple[str, ...] = ()  # capabilities before login, as sent
        self.offered: frozenset[str] = frozenset()  # the same in capitals
        self.untagged: list[bytes] = []  # since the last command, without CRLF
        self._leg = leg
        self._endpoint = endpoint
        self._buffer = bytearray()
        self._talked_bytes = 0
        self._last_line = b""
        self._secrets: tuple[str, ...] = ()
        self._responses: list[bytes] = []  # SASL messages still to be sent, one per "+"
        self._failure_answer: bytes | None = None  # what a "+" gets after the last of them: once
        self._challenge = b""

    async def begin(self) -> None:
        """Greeting, TLS, capabilities. Raises UpstreamError."""
        is_clear = self._endpoint.tls is Tls.STARTTLS
        if not is_clear:
            await self._leg.secure(self._endpoint.host)
        self._greet(await self._line())
        if is_clear:
            await self._learn()
            await self._start_tls()
        await self._learn()

    async def log_in(self, credential: UpstreamCredential, preferred: Mechanism) -> bytes:
        """Authenticate. What follows the tagged OK goes back to the leg, unread.

        preferred   for a token; see sasl.token_mechanism
        returns the tagged OK from behind its tag to CRLF, raw
        raises  UpstreamError
        """
        mechanism = self._choose(credential, preferred)
        try:
            message = client_response(mechanism or "PLAIN", credential, self._endpoint.host, self._endpoint.port)
        except ProtocolError as error:
            raise UpstreamError(UpstreamFault.REFUSED, error.text) from None
        self._secrets = secret_forms(message)
        if mechanism is None:
            _, user, password = message.decode().split("\0")
            status, line = await self.run("LOGIN", _quoted(user), _quoted(password))
        else:
            # RFC 7628 3.2.3: after the report of a failure the server wants an answer before its NO.
            self._failure_answer = error_reply(mechanism) if isinstance(credential, Bearer) else None
            initial: tuple[str, ...] = ()
            if "SASL-IR" in self.offered:
                initial = (base64.b64encode(message).decode(),)
            else:
                self._responses = [message]
            status, line = await self.run("AUTHENTICATE", mechanism, *initial)
        if status != "OK":
            raise self._refusal(UpstreamFault.REFUSED)
        if self._responses:
            raise UpstreamError(UpstreamFault.GARBAGE, "OK before the credential")
        self.state = AUTH
        self._leg.put_back(bytes(self._buffer))
        self._buffer.clear()
        return line[line.index(b" ") :] + b"\r\n"

    def told_capabilities(self) -> tuple[str, ...] | None:
        """The capabilities that the last answer told, by its code or an untagged line; None if it did not."""
        for line in (self._last_line, *reversed(self.untagged)):
            if match := _CAPABILITY_CODE.match(line) or _CAPABILITY_LINE.fullmatch(line):
                return tuple(plain_text(match[1]).split())
        return None

    async def run(self, name: str, *args: str) -> tuple[str, bytes]:
        """One command of aioimaplib's, to its tagged answer: (OK, NO or BAD; the line). Raises UpstreamError."""
        self.untagged.clear()
        tag = self.new_tag()
        try:
            command = Command(name, tag, *args, loop=self.loop)
        except ValueError:  # its text is constant, but the arguments are near
            raise UpstreamError(UpstreamFault.REFUSED, "the credential does not fit a command line") from None
        execution = asyncio.create_task(self.execute(command))
        try:
            await asyncio.sleep(0)  # the command is written before an answer to it is looked for
            while command.response.result not in ("OK", "NO", "BAD"):
                self._take(await self._line(), tag.encode())
            await execution
        finally:
            execution.cancel()
        return str(command.response.result), self._last_line

    def send(self, line: str, scrub: str | None = None) -> None:  # noqa: ARG002  # aioimaplib's signature
        """The way out that aioimaplib uses, without its DEBUG record of what is sent."""
        self._leg.send(f"{line}\r\n".encode())

    async def _line(self) -> bytes:
        """The next line, without CRLF."""
        searched = 0
        while (end := self._buffer.find(b"\n", searched)) < 0:
            searched = len(self._buffer)
            if searched > MAX_LINE_BYTES:
                raise UpstreamError(UpstreamFault.GARBAGE, f"a line of more than {MAX_LINE_BYTES} bytes")
            self._buffer += await self._leg.receive()
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        self._talked_bytes += len(line)
        if not line.endswith(b"\r") or len(line) > MAX_LINE_BYTES or self._talked_bytes > MAX_TALK_BYTES:
            raise UpstreamError(UpstreamFault.GARBAGE, printable(line, self._secrets))
        self._last_line = line[:-1]
        self._leg.describe = partial(printable, self._last_line, self._secrets)
        return self._last_line

    def _take(self, line: bytes, tag: bytes) -> None:
        """Give aioimaplib a line that it can take; deal here with what it would lose, log or choke on."""
        if _LITERAL.search(line):  # none has a place before login, and aioimaplib's have no bound
            raise UpstreamError(UpstreamFault.GARBAGE, self._leg.said)
        if line.startswith(b"+"):
            self._leg.send(base64.b64encode(self._next_message(line)) + b"\r\n")
        elif line.startswith(b"* "):
            if line[2:5].upper() == b"BYE":
                raise self._refusal(UpstreamFault.UNREACHABLE)
            self.untagged.append(line)
            self._feed(line)
        else:
            got, _, rest = line.partition(b" ")
            status = rest.split(b" ", 1)[0].upper()
            if got != tag or status not in (b"OK", b"NO", b"BAD"):
                raise UpstreamError(UpstreamFault.GARBAGE, self._leg.said)
            self._feed(b"%b %b " % (tag, status))  # aioimaplib wants capitals

    def _feed(self, line: bytes) -> None:
        try:
            self.data_received(line + b"\r\n")
        except (AioImapException, ValueError):  # its text repeats the command, and so the token
            raise UpstreamError(UpstreamFault.GARBAGE, self._leg.said) from None

    def _next_message(self, line: bytes) -> bytes:
        if self._responses:
            return self._responses.pop(0)
        answer, self._failure_answer = self._failure_answer, None
        if answer is None:
            raise UpstreamError(UpstreamFault.GARBAGE, self._leg.said)
        self._challenge = decode_challenge(line[1:].strip())
        return answer

    def _greet(self, line: bytes) -> None:
        kind = line.upper()
        if kind.startswith(b"* BYE"):
            raise self._refusal(UpstreamFault.UNREACHABLE)
        if kind.startswith(b"* PREAUTH"):
            # Somebody's session, not our user's; before STARTTLS it is how a man in the middle avoids TLS
            # (RFC 9051 7.1.4).
            raise UpstreamError(UpstreamFault.UNTRUSTED, self._leg.said)
        if not kind.startswith(b"* OK"):
            raise UpstreamError(UpstreamFault.GARBAGE, self._leg.said)
        self.state = NONAUTH  # not by aioimaplib's welcome(): that asks for capabilities in a task of its own

    async def _learn(self) -> None:
        """Capabilities: as the last line told them, else by asking."""
        told = self.told_capabilities()
        if told is None:
            status, _ = await self.run("CAPABILITY")
            told = self.told_capabilities()
            if status != "OK" or told is None:
                raise self._refusal(UpstreamFault.GARBAGE if status == "OK" else UpstreamFault.UNAVAILABLE)
        self.told = told
        self.offered = frozenset(word.upper() for word in told)

    async def _start_tls(self) -> None:
        if "STARTTLS" not in self.offered:
            raise UpstreamError(UpstreamFault.UNTRUSTED, "STARTTLS is not offered")
        status, _ = await self.run("STARTTLS")
        if status != "OK":
            raise UpstreamError(UpstreamFault.UNTRUSTED, self._leg.said)
        if self._buffer:  # RFC 9051 6.2.1, CVE-2011-0411: a man in the middle's answers to what we have not asked yet
            raise UpstreamError(UpstreamFault.UNTRUSTED, "bytes behind the answer to STARTTLS")
        await self._leg.secure(self._endpoint.host)
        # RFC 9051 6.2.1: what was learned in the clear is void, so begin() asks again.
        self.untagged.clear()
        self._last_line = b""

    def _choose(self, credential: UpstreamCredential, preferred: Mechanism) -> ClientMechanism | None:
        """The mechanism to use; None is the LOGIN command."""
        if isinstance(credential, Bearer):
            offered = {word.removeprefix("AUTH=") for word in self.offered if word.startswith("AUTH=")}
            if mechanism := token_mechanism(offered, preferred):
                return mechanism
            raise UpstreamError(UpstreamFault.PROTOCOL_OFF, "the server offers neither XOAUTH2 nor OAUTHBEARER")
        if "AUTH=PLAIN" in self.offered:
            return "PLAIN"
        if "LOGINDISABLED" in self.offered:
            raise UpstreamError(UpstreamFault.PROTOCOL_OFF, "the server offers neither PLAIN nor LOGIN")
        return None

    def _refusal(self, fault: UpstreamFault) -> UpstreamError:
        """The error for the last line; `fault` unless its words say more."""
        said = self._leg.said
        fault = fault_in_words(said) or fault
        if self._challenge:
            said = printable(b"%b %b" % (self._last_line, self._challenge), self._secrets)
        return UpstreamError(fault, said)


def _quoted(text: str) -> str:
    """An IMAP quoted string (RFC 9051 4.3); aioimaplib quotes passwords but not names."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
