"""The IMAP server's side until login: bytes in, actions out (RFC 3501, RFC 9051).

It holds the rules of the wire and nothing else: whether a login is right, and what the time is, its driver knows.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

from proxy.errors import Answer, ProtocolError
from proxy.wire.actions import Close, Send, StartTls
from proxy.wire.framing import InputBuffer
from proxy.wire.imap_command import CommandReader, Continue, TooBig
from proxy.wire.imap_grammar import Command, client_id, read_id, read_strings
from proxy.wire.imap_words import FAREWELLS, REFUSALS, capability, known_extensions
from proxy.wire.sasl import (
    MAX_SASL_BYTES,
    Challenge,
    Credentials,
    ServerExchange,
    Step,
    decode_base64,
    read_credentials,
    server_exchange,
)

__all__ = ["Action", "Close", "ImapGate", "Login", "LoginInClear", "Send", "StartTls"]

MAX_HELD_BYTES = 1_048_576  # pipelined behind a login: several reads; then its driver pauses
MAX_FAILED = 3  # refused logins of one connection; people retype, programs that go on are guessing
MAX_BAD_COMMANDS = 20  # a client that understands none of twenty answers never will
MAX_COMMANDS = 100  # a client logs in within ten; bounds what one read of commands makes us answer


@dataclass(frozen=True, slots=True)
class Login:
    """Check these credentials, then call accept() or refuse(). None: malformed, to be refused like a wrong password.

    mechanism   "PLAIN" or "LOGIN"; the LOGIN command counts as LOGIN
    """

    tag: bytes
    credentials: Credentials | None
    mechanism: str


@dataclass(frozen=True, slots=True)
class LoginInClear:
    """A login was tried where TLS is due. Nothing is left to do but to tell of it: it was refused unread."""


Action = Send | StartTls | Login | LoginInClear | Close


@dataclass(frozen=True, slots=True)
class _Attempt:
    """An AUTHENTICATE that is not over."""

    tag: bytes
    mechanism: str
    exchange: ServerExchange


class _State(Enum):
    COMMAND = "command"
    SASL = "sasl"  # the next line answers a challenge
    LOGIN = "login"  # Login is with the driver; input is held
    TLS = "tls"  # StartTls is with the driver; input is thrown away
    PASSED = "passed"  # logged in: the relay has the connection
    CLOSED = "closed"


class ImapGate:
    """One client connection before login.

    Every method returns the actions to carry out in order; any split of the same input gives the same actions. A call
    that does not fit the state (accept() without a Login under way) is a RuntimeError: a bug of the driver.
    """

    def __init__(self, *, extensions: Sequence[str], secured: bool, starttls: bool, clear_ok: bool) -> None:
        """Begin in clear or secured.

        extensions  what the upstreams of the listener have in common, as capability words
        secured     TLS is on
        starttls    offer STARTTLS while it is not
        clear_ok    allow logins without TLS
        """
        self.client_id = ""
        self._extensions = known_extensions(tuple(extensions))
        self._is_secured = secured
        self._has_starttls = starttls
        self._is_clear_ok = clear_ok
        self._state = _State.COMMAND
        self._input = InputBuffer()
        self._reader = CommandReader(self._input)
        self._attempt: _Attempt | None = None  # in state SASL
        self._tag = b""  # of the Login that is with the driver
        self._failed = 0
        self._bad_commands = 0
        self._commands = 0

    @property
    def is_busy(self) -> bool:
        """A Login or StartTls is with the driver; it should not read from the client meanwhile."""
        return self._state in (_State.LOGIN, _State.TLS)

    def greet(self) -> list[Action]:
        return [Send(b"* OK [CAPABILITY %b] Gatepost ready\r\n" % self._capability())]

    def receive(self, data: bytes) -> list[Action]:
        if self._state is _State.PASSED:
            raise RuntimeError("input of a connection that is logged in belongs to the relay")
        if self._state in (_State.TLS, _State.CLOSED):
            return []  # RFC 9051 6.2.1: what came in clear is never executed
        self._input.feed(data)
        return self._advance()

    def refuse(self, answer: Answer) -> list[Action]:
        """Answer the Login under way with NO, then go on with what the client sent meanwhile.

        The third refused name or password ends the connection, and so do Answer.CLOSING and TOO_MANY_FAILURES.
        """
        if self._state is _State.CLOSED:
            return []
        self._answered(_State.LOGIN, _State.COMMAND)
        actions: list[Action] = [self._tagged(self._tag, b"NO " + REFUSALS[answer])]
        if answer in (Answer.CREDENTIALS, Answer.AUTHORIZATION):
            self._failed += 1
        if answer is Answer.TOO_MANY_FAILURES or self._failed >= MAX_FAILED:
            return actions + self._bye(FAREWELLS[Answer.TOO_MANY_FAILURES])
        if answer is Answer.CLOSING:
            return actions + self._bye(FAREWELLS[Answer.CLOSING])
        return actions + self._advance()

    def accept(self) -> tuple[bytes, bytes]:
        """End here: the client's tag, for the upstream's OK, and its input so far, for the upstream untouched."""
        self._answered(_State.LOGIN, _State.PASSED)
        return self._tag, self._input.take_all()

    def secured(self) -> list[Action]:
        """The TLS handshake asked for is done. What the client said before is forgotten (RFC 9051 6.2.1)."""
        if self._state is _State.CLOSED:
            return []
        self._answered(_State.TLS, _State.COMMAND)
        self._is_secured = True
        self.client_id = ""
        return []

    def close(self, answer: Answer) -> list[Action]:
        """Say goodbye: Answer.CLOSING (connection cap, shutdown), LIMIT, TOO_MANY_FAILURES; any other: the deadline."""
        if self._state in (_State.CLOSED, _State.PASSED):
            return []
        if self._state is _State.TLS:  # between clear text and TLS there is no way to say anything
            return self._closed()
        return self._bye(FAREWELLS[answer])

    def _advance(self) -> list[Action]:
        actions: list[Action] = []
        while self._state in (_State.COMMAND, _State.SASL):
            more = self._next_command() if self._state is _State.COMMAND else self._next_response()
            if more is None:
                break
            actions += more
        if self._state is _State.LOGIN and len(self._input) > MAX_HELD_BYTES:
            actions += self._bye(b"Too much input before login")
        return actions

    def _next_command(self) -> list[Action] | None:
        try:
            event = self._reader.read(self._wants_literals_of)
        except ProtocolError as error:
            return self._bye(error.text.encode())
        match event:
            case None:
                return None
            case Continue():
                return [Send(b"+ Ready for the literal\r\n")]
            case TooBig(tag):
                return self._bad(tag, b"NO [TOOBIG] Literal too long")
            case Command():
                self._commands += 1
                if self._commands > MAX_COMMANDS:
                    return self._bye(b"Too many commands before login")
                return self._answer(event)

    def _answer(self, command: Command) -> list[Action]:
        tag = command.tag
        if tag is None:
            return self._bad(b"*", b"BAD Invalid tag")
        if command.name in (b"LOGIN", b"AUTHENTICATE") and not self._may_login:
            return [LoginInClear(), *self._bad(tag, b"NO " + REFUSALS[Answer.PRIVACY])]
        handle = self._HANDLERS.get(command.name)
        if handle is None:
            # RFC 3501 3: a command in the wrong state is BAD or NO. BAD, as if unknown: it is never executed.
            return self._bad(tag, b"BAD Command unknown, or not possible before login")
        try:
            return handle(self, tag, command)
        except ProtocolError as error:
            return self._bad(tag, b"BAD " + error.text.encode())

    def _answer_capability(self, tag: bytes, command: Command) -> list[Action]:
        command.expect_no_arguments()
        return [
            Send(b"* CAPABILITY %b\r\n" % self._capability()),
            self._tagged(tag, b"OK CAPABILITY completed"),
        ]

    def _answer_noop(self, tag: bytes, command: Command) -> list[Action]:
        command.expect_no_arguments()
        return [self._tagged(tag, b"OK NOOP completed")]

    def _answer_logout(self, tag: bytes, command: Command) -> list[Action]:
        command.expect_no_arguments()
        farewell = Send(b"* BYE Gatepost says goodbye\r\n")
        return [farewell, self._tagged(tag, b"OK LOGOUT completed"), *self._closed()]

    def _answer_id(self, tag: bytes, command: Command) -> list[Action]:
        self.client_id = client_id(read_id(command))
        return [Send(b'* ID ("name" "Gatepost")\r\n'), self._tagged(tag, b"OK ID completed")]

    def _answer_starttls(self, tag: bytes, command: Command) -> list[Action]:
        command.expect_no_arguments()
        if not self._has_starttls or self._is_secured:
            raise ProtocolError("STARTTLS is not possible here")
        self._state = _State.TLS
        self._input.clear()  # commands behind STARTTLS may be another's, put in on the way (CVE-2011-0411)
        return [self._tagged(tag, b"OK Begin TLS now"), StartTls()]

    def _answer_login(self, tag: bytes, command: Command) -> list[Action]:
        arguments = read_strings(command, 2)
        if len(arguments) != 2:
            raise ProtocolError("Invalid arguments")
        return self._login(tag, read_credentials(*arguments), "LOGIN")

    def _answer_authenticate(self, tag: bytes, command: Command) -> list[Action]:
        arguments = read_strings(command, 2)
        if not arguments or command.literals:  # RFC 4959 7: atoms only
            raise ProtocolError("Invalid arguments")
        exchange = server_exchange(arguments[0])
        if exchange is None:
            return self._bad(tag, b"NO Mechanism not supported")
        initial = None
        if len(arguments) == 2:
            # RFC 4959 3: "=" is an initial response that is empty.
            initial = b"" if arguments[1] == b"=" else decode_base64(arguments[1])
        attempt = _Attempt(tag, arguments[0].upper().decode("ascii"), exchange)
        return self._follow(attempt, exchange.start(initial))

    def _next_response(self) -> list[Action] | None:
        attempt = self._attempt
        assert attempt is not None
        try:
            line = self._input.take_line(MAX_SASL_BYTES)
        except ProtocolError as error:
            text = error.text.encode()
            return [self._tagged(attempt.tag, b"BAD " + text), *self._bye(text)]
        if line is None:
            return None
        if line == b"*":  # RFC 3501 6.2.2: the client cancels
            return self._bad(attempt.tag, b"BAD Cancelled")
        try:
            response = decode_base64(line)
        except ProtocolError as error:
            return self._bad(attempt.tag, b"BAD " + error.text.encode())
        return self._follow(attempt, attempt.exchange.receive(response))

    def _follow(self, attempt: _Attempt, step: Step) -> list[Action]:
        if isinstance(step, Challenge):
            self._state, self._attempt = _State.SASL, attempt
            return [Send(b"+ %b\r\n" % base64.b64encode(step.data))]
        return self._login(attempt.tag, step.credentials, attempt.mechanism)

    def _login(self, tag: bytes, credentials: Credentials | None, mechanism: str) -> list[Action]:
        self._state, self._attempt, self._tag = _State.LOGIN, None, tag
        return [Login(tag, credentials, mechanism)]

    @property
    def _may_login(self) -> bool:
        return self._is_secured or self._is_clear_ok

    @property
    def _may_starttls(self) -> bool:
        return self._has_starttls and not self._is_secured

    def _wants_literals_of(self, name: bytes) -> bool:
        # Before TLS a client is not asked for a password that would be refused unread.
        return name == b"ID" or (name == b"LOGIN" and self._may_login)

    def _capability(self) -> bytes:
        return capability(self._extensions, may_login=self._may_login, may_starttls=self._may_starttls)

    def _tagged(self, tag: bytes, text: bytes) -> Send:
        return Send(b"%b %b\r\n" % (tag, text))

    def _bad(self, tag: bytes, text: bytes) -> list[Action]:
        self._state, self._attempt = _State.COMMAND, None
        self._bad_commands += 1
        farewell = self._bye(b"Too many bad commands") if self._bad_commands >= MAX_BAD_COMMANDS else []
        return [self._tagged(tag, text), *farewell]

    def _bye(self, text: bytes) -> list[Action]:
        return [Send(b"* BYE %b\r\n" % text), *self._closed()]

    def _closed(self) -> list[Action]:
        self._state, self._attempt = _State.CLOSED, None
        self._input.clear()
        self._reader.reset()
        return [Close()]

    def _answered(self, was: _State, now: _State) -> None:
        if self._state is not was:
            raise RuntimeError(f"the IMAP gate is in state {self._state.value}, not {was.value}")
        self._state = now

    _HANDLERS: ClassVar[Mapping[bytes, Callable[[ImapGate, bytes, Command], list[Action]]]] = {
        b"AUTHENTICATE": _answer_authenticate,
        b"CAPABILITY": _answer_capability,
        b"ID": _answer_id,
        b"LOGIN": _answer_login,
        b"LOGOUT": _answer_logout,
        b"NOOP": _answer_noop,
        b"STARTTLS": _answer_starttls,
    }
