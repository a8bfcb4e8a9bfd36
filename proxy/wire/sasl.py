"""SASL exchanges of both sides, as step functions: a client's PLAIN and LOGIN, and what an upstream is told.

It knows neither IMAP nor SMTP: base64 framing, prompts and refusals belong to the machine that drives an exchange.
"""

from __future__ import annotations

import binascii
import re
import unicodedata
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from proxy.config import Mechanism
from proxy.errors import ProtocolError
from proxy.secret import Secret

MAX_SASL_BYTES = 12_288  # RFC 4954 4 asks for lines of this length; a Kerberos ticket is the longest that is met
SERVER_MECHANISMS = ("PLAIN", "LOGIN")

ClientMechanism = Literal["XOAUTH2", "OAUTHBEARER", "PLAIN"]
TokenMechanism = Literal["XOAUTH2", "OAUTHBEARER"]

_BASE64 = re.compile(rb"[A-Za-z0-9+/]*={0,2}")
_VISIBLE = re.compile(r"[!-~]+")
_TOKEN_MECHANISMS: tuple[TokenMechanism, ...] = ("XOAUTH2", "OAUTHBEARER")


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a client presented: its login name as sent, its password, and whom it wants to act for ("" for itself)."""

    login: str
    password: Secret
    authzid: str = ""


@dataclass(frozen=True, slots=True)
class Challenge:
    """Send this (raw, not base64) and give the answer to receive()."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Done:
    """The exchange is over. None: the credentials are malformed, to be refused like a wrong password."""

    credentials: Credentials | None


Step = Challenge | Done


class ServerExchange(Protocol):
    """One authentication attempt of a client: start() once, then receive() until Done."""

    def start(self, initial: bytes | None) -> Step:
        """Begin. `initial` is the decoded initial response: None if there is none, b"" for "=" (RFC 4954 4)."""

    def receive(self, response: bytes) -> Step:
        """Go on with the client's decoded answer to the last challenge."""


@dataclass(frozen=True, slots=True)
class Bearer:
    """An OAuth2 access token for an upstream's mailbox `user`."""

    user: str
    token: Secret


@dataclass(frozen=True, slots=True)
class Password:
    """A password for an upstream's mailbox `user`."""

    user: str
    password: Secret


UpstreamCredential = Bearer | Password


class PlainExchange:
    """PLAIN: authzid NUL authcid NUL password, all UTF-8. Source: RFC 4616 2."""

    __slots__ = ()

    def start(self, initial: bytes | None) -> Step:
        return Challenge(b"") if initial is None else self.receive(initial)

    def receive(self, response: bytes) -> Step:
        parts = response.split(b"\0")
        if len(parts) != 3:
            return Done(None)
        authzid, login, password = parts
        return Done(read_credentials(login, password, authzid))


class LoginExchange:
    """LOGIN: the name, then the password. Source: draft-murchison-sasl-login-00; clients match on its prompts."""

    __slots__ = ("_login",)

    def __init__(self) -> None:
        self._login: bytes | None = None

    def start(self, initial: bytes | None) -> Step:
        return Challenge(b"Username:") if initial is None else self.receive(initial)

    def receive(self, response: bytes) -> Step:
        if self._login is None:
            self._login = response
            return Challenge(b"Password:")
        return Done(read_credentials(self._login, response))


_SERVER_EXCHANGES: Mapping[bytes, Callable[[], ServerExchange]] = {b"PLAIN": PlainExchange, b"LOGIN": LoginExchange}


def server_exchange(mechanism: bytes) -> ServerExchange | None:
    """A new exchange of one of SERVER_MECHANISMS, named in any case; None for another mechanism."""
    make = _SERVER_EXCHANGES.get(mechanism.upper())
    return make() if make else None


def read_credentials(login: bytes, password: bytes, authzid: bytes = b"") -> Credentials | None:
    """Credentials from their octets, or None: not UTF-8, a NUL, or an empty name or password (RFC 4616 2)."""
    if not login or not password or b"\0" in login + password + authzid:
        return None
    try:
        return Credentials(login.decode(), Secret(password.decode()), authzid.decode())
    except UnicodeDecodeError:  # holds the octets; it goes no further
        return None


def decode_base64(line: bytes) -> bytes:
    """Decode one line of base64, strictly: only the alphabet, and padded (RFC 4648 3.3).

    raises  ProtocolError("invalid base64")
    """
    # CPython takes padding behind complete groups until 3.12, and refuses it from 3.13 on.
    if len(line) % 4 or not _BASE64.fullmatch(line):
        raise ProtocolError("invalid base64")
    return binascii.a2b_base64(line)


def token_mechanism(offered: Container[str], preferred: Mechanism) -> TokenMechanism | None:
    """How to send a token: XOAUTH2 before OAUTHBEARER, as more servers have it well tested.

    offered     names of mechanisms in capitals
    preferred   comes first, and is used even where neither is offered; "" is no preference
    returns     None: neither is offered
    """
    order: tuple[TokenMechanism, ...] = (preferred,) if preferred else ()
    for mechanism in (*order, *_TOKEN_MECHANISMS):
        if mechanism in offered:
            return mechanism
    return preferred or None


def client_response(mechanism: ClientMechanism, credential: UpstreamCredential, host: str, port: int) -> bytes:
    """The client's first message to an upstream, raw (not base64).

    mechanism   XOAUTH2 and OAUTHBEARER take a Bearer, PLAIN takes a Password; anything else is a TypeError
    host, port  of the upstream, as dialled; OAUTHBEARER names them
    raises      ProtocolError for a control character in the user, or a secret that the form cannot carry

    Source: RFC 7628 3.1 (OAUTHBEARER), RFC 4616 2 (PLAIN), Google's and Microsoft's pages on XOAUTH2.
    """
    user = _checked_user(credential.user)
    if isinstance(credential, Bearer) and mechanism != "PLAIN":
        token = _checked_token(credential.token)
        if mechanism == "XOAUTH2":
            return b"user=%b\x01auth=Bearer %b\x01\x01" % (user, token)
        # RFC 5801 4: saslname writes "=" as =3D and "," as =2C, for the GS2 header ends at a comma.
        name = user.replace(b"=", b"=3D").replace(b",", b"=2C")
        return b"n,a=%b,\x01host=%b\x01port=%d\x01auth=Bearer %b\x01\x01" % (name, host.encode(), port, token)
    if isinstance(credential, Password) and mechanism == "PLAIN":
        return b"\0%b\0%b" % (user, _checked_password(credential.password))
    raise TypeError(f"{mechanism} does not take a {type(credential).__name__}")


def error_reply(mechanism: ClientMechanism) -> bytes:
    """The decoded answer to a challenge that reports failure, after which the server says no.

    Source: RFC 7628 3.2.3 (a lone %x01); XOAUTH2 takes an empty line.
    """
    return b"\x01" if mechanism == "OAUTHBEARER" else b""


def _checked_user(user: str) -> bytes:
    # %x01 and NUL part the fields of these messages; surrogates have no UTF-8 form.
    is_plain = user.isascii() and user.isprintable()
    if not is_plain and any(unicodedata.category(char) in ("Cc", "Cs") for char in user):
        raise ProtocolError("control character in the upstream user")
    return user.encode()


def _checked_token(token: Secret) -> bytes:
    text = token.reveal()
    if not _VISIBLE.fullmatch(text):  # RFC 6750 2.1: b64token is within these
        raise ProtocolError("malformed access token")
    return text.encode("ascii")


def _checked_password(password: Secret) -> bytes:
    text = password.reveal()
    if not text or "\0" in text or any(unicodedata.category(char) == "Cs" for char in text):
        raise ProtocolError("malformed upstream password")
    return text.encode()
