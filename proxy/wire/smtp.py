"""The SMTP client that logs in upstream: greeting, EHLO, STARTTLS, AUTH. Bytes in, actions out.

It ends where the server says 235: mail is the client's business. Sources: RFC 5321, 3207 (STARTTLS), 4954 (AUTH),
7628 (OAUTHBEARER).
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Literal

from proxy.config import Mechanism as PreferredMechanism
from proxy.errors import ProtocolError, UpstreamError, UpstreamFault
from proxy.wire.actions import Send, StartTls
from proxy.wire.said import fault_in_words, plain_text, printable, secret_forms
from proxy.wire.sasl import Bearer, UpstreamCredential, client_response, error_reply, token_mechanism

MAX_LINE_BYTES = 2_048  # RFC 5321 4.5.3.1.5 says 512; challenges of OAuth2 and some EHLO lines are longer
MAX_REPLY_LINES = 128  # no server is known to have 50 extensions

_REPLY = re.compile(rb"([2-5]\d\d)(?:([ -])(.*))?", re.DOTALL)

Mechanism = Literal["XOAUTH2", "OAUTHBEARER", "PLAIN", "LOGIN"]


@dataclass(frozen=True, slots=True)
class Done:
    """The machine is finished.

    extensions  lines of the last EHLO reply, without code and without its first line
    leftover    bytes behind the last reply: they are the client's
    objection   what the server said to the EHLO after AUTH, "" if it was fine or not asked (`examine`)
    """

    extensions: tuple[str, ...]
    leftover: bytes
    objection: str = ""


Action = Send | StartTls | Done


class State(Enum):
    """What the server's next reply answers."""

    GREETING = auto()
    CLEAR_EHLO = auto()  # EHLO before STARTTLS; its list is forgotten
    STARTTLS = auto()
    HANDSHAKE = auto()  # nothing may come until secured()
    EHLO = auto()
    AUTH = auto()  # the command and every line of the exchange
    EXAMINE = auto()  # an EHLO after AUTH
    DONE = auto()


@dataclass(frozen=True, slots=True)
class Reply:
    """One whole reply: its code and its lines without code."""

    code: int
    lines: tuple[bytes, ...]

    @property
    def text(self) -> bytes:
        return b"%d %b" % (self.code, b" ".join(self.lines))


class SmtpLogin:
    """One login. Whatever the split of its input, the actions are the same."""

    def __init__(
        self,
        *,
        host: str,
        port: int,
        ehlo_name: str,
        starttls: bool,
        credential: UpstreamCredential | None,
        examine: bool = False,
        preferred: PreferredMechanism = "",
    ) -> None:
        """Begin at the server's greeting.

        host, port  as dialled; OAUTHBEARER names them
        starttls    the connection is clear and has to be secured; False: TLS is on already
        credential  None: finish after EHLO
        examine     after AUTH send EHLO once more, and finish with its answer
        preferred   for a token; see sasl.token_mechanism
        """
        self._host = host
        self._port = port
        self._ehlo = Send(b"EHLO %b\r\n" % ehlo_name.encode("ascii"))
        self._starttls = starttls
        self._credential = credential
        self._examine = examine
        self._preferred = preferred
        self._state = State.GREETING
        self._buffer = bytearray()
        self._lines: list[bytes] = []
        self._reply_code = 0
        self._extensions: tuple[str, ...] = ()
        self._responses: list[bytes] = []  # SASL messages still to be sent, one per 334
        self._failure_answer: bytes | None = None  # what a 334 gets after the last of them: once
        self._challenge = b""
        self._secrets: tuple[str, ...] = ()
        self._last = b""  # the server's last reply
        self._answers: dict[State, Callable[[Reply], list[Action]]] = {
            State.GREETING: self._on_greeting,
            State.CLEAR_EHLO: self._on_clear_ehlo,
            State.STARTTLS: self._on_starttls,
            State.EHLO: self._on_ehlo,
            State.AUTH: self._on_auth,
            State.EXAMINE: self._on_examine,
        }

    @property
    def said(self) -> str:
        """The server's last reply, printable, without secrets: for a deadline's log line."""
        return printable(self._last, self._secrets)

    def receive(self, data: bytes) -> list[Action]:
        """Take bytes of the server. Raises UpstreamError: the login failed, close the connection."""
        self._buffer += data
        actions: list[Action] = []
        while self._state in self._answers and (reply := self._next_reply()) is not None:
            self._last = reply.text
            actions += self._answers[self._state](reply)
        if self._state is State.HANDSHAKE and self._buffer:
            # RFC 3207 6 and CVE-2011-0411: a man in the middle would have us take these for what TLS protects.
            raise UpstreamError(UpstreamFault.UNTRUSTED, "bytes behind the answer to STARTTLS")
        return actions

    def secured(self) -> list[Action]:
        """The TLS handshake is done and the certificate verified."""
        self._state = State.EHLO  # RFC 3207 4.2: the list from before TLS is void
        return [self._ehlo]

    def _next_reply(self) -> Reply | None:
        while (end := self._buffer.find(b"\n")) >= 0:
            line = bytes(self._buffer[:end])
            del self._buffer[: end + 1]
            match = _REPLY.fullmatch(line[:-1])
            if not line.endswith(b"\r") or len(line) > MAX_LINE_BYTES or match is None:
                raise self._garbage(line)
            code = int(match[1])
            if self._lines and code != self._reply_code:
                raise self._garbage(line)
            self._reply_code = code
            self._lines.append(match[3] or b"")
            if match[2] != b"-":
                reply = Reply(code, tuple(self._lines))
                self._lines.clear()
                return reply
            if len(self._lines) >= MAX_REPLY_LINES:
                raise UpstreamError(UpstreamFault.GARBAGE, f"a reply of more than {MAX_REPLY_LINES} lines")
        if len(self._buffer) > MAX_LINE_BYTES:
            raise UpstreamError(UpstreamFault.GARBAGE, f"a line of more than {MAX_LINE_BYTES} bytes")
        return None

    def _on_greeting(self, reply: Reply) -> list[Action]:
        if reply.code != 220:
            raise self._refusal(reply, UpstreamFault.UNREACHABLE)
        self._state = State.CLEAR_EHLO if self._starttls else State.EHLO
        return [self._ehlo]

    def _on_clear_ehlo(self, reply: Reply) -> list[Action]:
        offered = self._read_ehlo(reply)
        if not any(line.upper() == "STARTTLS" for line in offered):
            raise UpstreamError(UpstreamFault.UNTRUSTED, "STARTTLS is not offered")
        self._state = State.STARTTLS
        return [Send(b"STARTTLS\r\n")]

    def _on_starttls(self, reply: Reply) -> list[Action]:
        if reply.code != 220:
            raise self._refusal(reply, UpstreamFault.UNTRUSTED, only_busy=True)
        self._state = State.HANDSHAKE
        return [StartTls()]

    def _on_ehlo(self, reply: Reply) -> list[Action]:
        self._extensions = self._read_ehlo(reply)
        if self._credential is None:
            return self._finish()
        self._state = State.AUTH
        return [self._begin_auth(self._credential)]

    def _read_ehlo(self, reply: Reply) -> tuple[str, ...]:
        if reply.code != 250:
            raise self._refusal(reply, UpstreamFault.UNAVAILABLE if reply.code < 500 else UpstreamFault.UNREACHABLE)
        # An empty line names nothing, but some send one.
        return tuple(text for line in reply.lines[1:] if (text := plain_text(line)))

    def _begin_auth(self, credential: UpstreamCredential) -> Send:
        mechanism = choose_mechanism(self._extensions, credential, self._preferred)
        try:
            # RFC 4616's message carries what LOGIN asks for one by one.
            sasl: Literal["XOAUTH2", "OAUTHBEARER", "PLAIN"] = "PLAIN" if mechanism == "LOGIN" else mechanism
            message = client_response(sasl, credential, self._host, self._port)
        except ProtocolError as error:
            raise UpstreamError(UpstreamFault.REFUSED, error.text) from None
        self._secrets = secret_forms(message)
        self._responses = message.split(b"\0")[1:] if mechanism == "LOGIN" else [message]
        self._failure_answer = error_reply(sasl) if isinstance(credential, Bearer) else None
        # Never an initial response: a token makes the line longer than RFC 4954 4 allows, and servers cut it.
        return Send(b"AUTH %b\r\n" % mechanism.encode())

    def _on_auth(self, reply: Reply) -> list[Action]:
        if reply.code == 334:
            return [Send(base64.b64encode(self._next_message(reply)) + b"\r\n")]
        if reply.code != 235:
            raise self._refusal(reply, UpstreamFault.UNAVAILABLE if reply.code < 500 else UpstreamFault.REFUSED)
        if self._responses:
            raise self._garbage(b"235 before the credential")
        if not self._examine:
            return self._finish()
        self._state = State.EXAMINE
        return [self._ehlo]

    def _next_message(self, reply: Reply) -> bytes:
        if self._responses:
            return self._responses.pop(0)
        answer, self._failure_answer = self._failure_answer, None
        if answer is None:
            raise self._garbage(b"334 where the exchange is over")
        # The server reports failure in JSON and wants an answer before its 535 (RFC 7628 3.2.3).
        self._challenge = decode_challenge(reply.lines[-1])
        return answer

    def _on_examine(self, reply: Reply) -> list[Action]:
        return self._finish(self.said if reply.code != 250 else "")

    def _finish(self, objection: str = "") -> list[Action]:
        self._state = State.DONE
        leftover = bytes(self._buffer)
        self._buffer.clear()
        return [Done(self._extensions, leftover, objection)]

    def _refusal(self, reply: Reply, fault: UpstreamFault, *, only_busy: bool = False) -> UpstreamError:
        """The error for a reply that is no success; `fault` unless code or words say more."""
        meant = fault_in_words(self.said)
        is_closing = reply.code == 421 and self._state is not State.GREETING
        if reply.code == 432 or (meant is None and is_closing):
            meant = UpstreamFault.BUSY  # Exchange's cap is 432 4.3.2; Gmail throttles with a bare 421
        if (only_busy or reply.code >= 500) and meant is UpstreamFault.UNAVAILABLE:
            meant = None  # a 5xx is final, whatever its prose says of trying again
        if only_busy and meant is not UpstreamFault.BUSY:
            meant = None
        said = self.said
        if self._challenge:
            said = printable(b"%b %b" % (reply.text, self._challenge), self._secrets)
        return UpstreamError(meant or fault, said)

    def _garbage(self, line: bytes) -> UpstreamError:
        return UpstreamError(UpstreamFault.GARBAGE, printable(line, self._secrets))


def choose_mechanism(
    extensions: Sequence[str], credential: UpstreamCredential, preferred: PreferredMechanism = ""
) -> Mechanism:
    """The mechanism for this credential among those of an EHLO list. Raises UpstreamError, PROTOCOL_OFF."""
    offered: set[str] = set()
    for line in extensions:
        words = line.upper().replace("AUTH=", "AUTH ", 1).split()  # "AUTH=" as servers of the 1990s have it
        if words and words[0] == "AUTH":
            offered.update(words[1:])
    if isinstance(credential, Bearer):
        if mechanism := token_mechanism(offered, preferred):
            return mechanism
        raise UpstreamError(UpstreamFault.PROTOCOL_OFF, "the server offers neither XOAUTH2 nor OAUTHBEARER")
    if "PLAIN" in offered:
        return "PLAIN"
    if "LOGIN" in offered:
        return "LOGIN"
    raise UpstreamError(UpstreamFault.PROTOCOL_OFF, "the server offers neither PLAIN nor LOGIN")


def decode_challenge(text: bytes) -> bytes:
    """The failure report of a 334 or "+" line, decoded; b"" if it is no base64. For the log only."""
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        return b""
