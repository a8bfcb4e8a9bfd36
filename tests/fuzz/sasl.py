"""SASL of both sides: what a client sends is read or malformed, and what an upstream is sent can't break out."""

from __future__ import annotations

import base64

from proxy.edge.smtp_auth import NotHeard, hear_credentials
from proxy.errors import ProtocolError
from proxy.secret import Secret
from proxy.wire.said import MAX_SAID, fault_in_words, printable, secret_forms
from proxy.wire.sasl import (
    Bearer,
    Challenge,
    ClientMechanism,
    Credentials,
    Password,
    client_response,
    decode_base64,
    server_exchange,
)
from tests.fuzz.kit import LOOP, SECRET, demand, has_secret, read_input

TOKENS = (
    b"PLAIN", b"LOGIN", b"plain ", b"=", b"*", b"\n", b"\0", b"ann", b"AGFubgBwYXNz", b"YW5u", b"\xff", b"\xc3\xa4",
    b"\xed\xa0\x80", b"\xfd", b"\x01", b"\x01auth=Bearer ", b"user=", b",", b"=2C", b"\xfe\xc1A", b"\xc2\x85", b"\r",
)  # fmt: skip
_MECHANISMS: tuple[ClientMechanism, ...] = ("XOAUTH2", "OAUTHBEARER", "PLAIN")


def one(data: bytes) -> None:
    given = read_input(data)
    lines = given.stream.split(b"\n")
    _dialogue(lines)
    _exchange(lines)
    _upstream(lines)
    _said(given.stream)


def _dialogue(lines: list[bytes]) -> None:
    """The SMTP AUTH dialogue: NotHeard with a constant, or credentials."""
    left = lines[1:]

    async def ask(prompt: str) -> bytes:
        demand(prompt.startswith("334 ") and prompt.isascii(), "not a prompt", prompt)
        return left.pop(0) + b"\r\n" if left else b"*\r\n"

    async def story() -> None:
        try:
            mechanism, credentials = await hear_credentials(lines[0].decode("utf-8", "surrogateescape"), ask)
        except NotHeard as refused:
            demand(not has_secret(refused.text), "a secret in an answer")
            return
        demand(mechanism in ("PLAIN", "LOGIN"), "an unknown mechanism", mechanism)
        _check(credentials)

    LOOP.run(story)


def _exchange(lines: list[bytes]) -> None:
    for name in (b"PLAIN", b"LOGIN", lines[0]):
        exchange = server_exchange(name)
        if exchange is None:
            continue
        step = exchange.start(lines[0] if len(lines) % 2 else None)
        answers = list(lines)
        while isinstance(step, Challenge) and answers:
            step = exchange.receive(answers.pop(0))
        if not isinstance(step, Challenge):
            _check(step.credentials)
    for line in lines:
        try:
            raw = decode_base64(line)
        except ProtocolError as error:
            demand(error.text == "invalid base64", "an error that is no constant", error.text)
        else:
            # The bits behind the last octet may be any (RFC 4648 3.5), so the last symbols are not compared.
            again = base64.b64encode(raw)
            demand(len(again) == len(line) and again[:-3] == line[:-3], "base64 that is read is not strict", line)


def _check(credentials: Credentials | None) -> None:
    if credentials is None:
        return
    texts = (credentials.login, credentials.password.reveal(), credentials.authzid)
    demand(all("\0" not in text for text in texts) and all(texts[:2]), "malformed credentials", texts)
    if not has_secret(credentials.login + credentials.authzid):
        demand(not has_secret(repr(credentials)), "credentials show their password")


def _upstream(lines: list[bytes]) -> None:
    """A name or a secret with the separators of its message in it is refused; all else is read back as it was."""
    user, secret, *_ = (line.decode("utf-8", "surrogateescape") for line in (*lines, b"", b""))
    for mechanism in _MECHANISMS:
        credential = Password(user, Secret(secret)) if mechanism == "PLAIN" else Bearer(user, Secret(secret))
        try:
            message = client_response(mechanism, credential, "mail.example.org", 993)
        except ProtocolError as error:
            demand(not has_secret(error.text), "a secret in an error")
            continue
        demand(_fields(mechanism, message) == (user, secret), "a message says another thing", mechanism, message)
        # As a server may say it back, in any of its forms, in the middle of anything.
        for form in secret_forms(message)[:2]:
            said = printable(b"-ERR " + form.encode("utf-8") + b" is wrong", secret_forms(message))
            demand(form not in said or len(secret) < 8, "a secret that was said back is shown", said)


def _fields(mechanism: str, message: bytes) -> tuple[str, str]:
    if mechanism == "PLAIN":
        empty, user, secret = message.split(b"\0")
        demand(empty == b"", "an authzid that nobody asked for")
    else:
        parts = message.split(b"\1")
        demand(parts[-2:] == [b"", b""], "no end", message)
        demand(len(parts) == (4 if mechanism == "XOAUTH2" else 6), "a number of fields", message)
        secret = parts[-3].removeprefix(b"auth=Bearer ")
        user = parts[0].removeprefix(b"user=")
        if mechanism == "OAUTHBEARER":
            head, name, tail = parts[0].split(b",")
            demand((head, tail) == (b"n", b""), "a GS2 header", parts[0])
            user = name.removeprefix(b"a=").replace(b"=2C", b",").replace(b"=3D", b"=")
    return user.decode(), secret.decode()


def _said(line: bytes) -> None:
    """What a server says is fit for a log: one line, bounded, without a secret in any of the forms it is known in."""
    message = b"user=ann\x01auth=Bearer " + SECRET.encode() + b"\x01\x01"
    text = printable(line, secret_forms(message))
    demand(len(text) <= MAX_SAID and text.isprintable(), "not fit for a log", text)
    demand(SECRET not in text, "a secret in what a server said", text)
    fault_in_words(text)
