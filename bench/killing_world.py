"""The world around a Gatepost that is killed: a mail server that keeps what it accepted, and a strict token endpoint.

Fast and in threads of this process. Both remember what the invariants need: which mail was accepted, which access token
opened a mailbox, and whether a refresh token was shown that had been outlived by one in use.
"""

from __future__ import annotations

import base64
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar
from urllib.parse import parse_qs

from tests.edge.scripted import Certificates
from tests.whole.kit import Line

# Gatepost renews what has less than 60 s left before its use, and in the background what has less than 90 s.
LIFETIME_S = 62
IMAP_OFFER = b"IMAP4rev1 SASL-IR AUTH=XOAUTH2 AUTH=PLAIN IDLE"


@dataclass
class Grants:
    """Rotating refresh tokens: "refresh.FAMILY.NUMBER" brings "access.FAMILY.NUMBER+1"; a spent one ends its family.

    newest      family -> the number of its one valid refresh token
    used        family -> the highest number of an access token that opened a mailbox
    lost        families that ended because a spent token was shown; allowed if its successor was never used
    broken      spent tokens that were shown though their successor was in use: these were lost after their commit
    """

    newest: dict[str, int] = field(default_factory=dict)
    used: dict[str, int] = field(default_factory=dict)
    lost: set[str] = field(default_factory=set)
    broken: list[str] = field(default_factory=list)
    refreshes: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def new_family(self, family: str) -> str:
        with self._lock:
            self.newest[family] = 0
        return f"refresh.{family}.0"

    def refresh(self, token: str) -> dict[str, object] | None:
        """The answer, or None if the token is spent or unknown."""
        _, family, number = token.split(".")
        with self._lock:
            self.refreshes += 1
            newest = self.newest.get(family)
            if newest != int(number):
                self.newest.pop(family, None)
                self.lost.add(family)
                if int(number) < self.used.get(family, 0):
                    self.broken.append(token)
                return None
            self.newest[family] = newest + 1
        return {
            "access_token": f"access.{family}.{newest + 1}",
            "refresh_token": f"refresh.{family}.{newest + 1}",
            "token_type": "Bearer",
            "expires_in": LIFETIME_S,
        }

    def opens(self, token: str) -> bool:
        """Whether a mail server lets it in; an access token outlives its family, as a real one does."""
        kind, _, rest = token.partition(".")
        family, _, number = rest.partition(".")
        with self._lock:
            if kind != "access" or not number.isdigit():
                return False
            self.used[family] = max(self.used.get(family, 0), int(number))
        return True


class TokenServer(ThreadingHTTPServer):
    """The token endpoint. `before` and `after` run around the answer of each request, with the peer's address."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, grants: Grants) -> None:
        super().__init__(("127.0.0.1", 0), _TokenHandler)
        self.grants = grants
        self.before: Callable[[tuple[str, int]], None] = lambda _: None
        self.after: Callable[[tuple[str, int]], None] = lambda _: None
        self.url = f"http://127.0.0.1:{self.server_port}/token"

    def handle_error(self, request: object, client_address: object) -> None:
        """Whoever asked was killed."""


class _TokenHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: TokenServer
    quiet: ClassVar[bool] = True

    def do_POST(self) -> None:
        form = parse_qs(self.rfile.read(int(self.headers["content-length"])).decode())
        self.server.before(self.client_address)
        answer = self.server.grants.refresh(form["refresh_token"][0])
        body = json.dumps(answer or {"error": "invalid_grant", "error_description": "spent"}).encode()
        self.send_response(HTTPStatus.OK if answer else HTTPStatus.BAD_REQUEST)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.server.after(self.client_address)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class calls it so
        """Nothing."""


@dataclass
class Mailboxes:
    """What the mail server accepted: the text of each message that it said 250 to."""

    accepted: list[bytes] = field(default_factory=list)


class Mail:
    """Both protocols over TLS, a thread for each session."""

    def __init__(self, certificates: Certificates, grants: Grants, password: str) -> None:
        self.box = Mailboxes()
        self.errors: list[BaseException] = []
        self._context = certificates.good
        self._grants = grants
        self._password = password
        self._listeners: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self.imap = self._listen(self._imap)
        self.smtp = self._listen(self._smtp)

    def _listen(self, talk: Callable[[Line], None]) -> int:
        listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self._listeners.append(listener)
        thread = threading.Thread(target=self._accept, args=(listener, talk))
        self._threads.append(thread)
        thread.start()
        return int(listener.getsockname()[1])

    def _accept(self, listener: socket.socket, talk: Callable[[Line], None]) -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(sock, talk), daemon=True).start()

    def _serve(self, sock: socket.socket, talk: Callable[[Line], None]) -> None:
        sock.settimeout(60)
        try:
            with sock, self._context.wrap_socket(sock, server_side=True) as tls:
                talk(Line(tls))
        except (OSError, AssertionError):
            pass  # who was at the other end was killed
        except Exception as error:  # noqa: BLE001 - a fault of this world; told at the end
            self.errors.append(error)

    def _is_good(self, response: bytes) -> bool:
        data = base64.b64decode(response).decode()
        if data.startswith("user="):
            return self._grants.opens(data.partition("auth=Bearer ")[2].rstrip("\1"))
        return data.rpartition("\0")[2] == self._password

    def _imap(self, line: Line) -> None:
        line.send(b"* OK [CAPABILITY %b] ready\r\n" % IMAP_OFFER)
        is_in = False
        while True:
            tag, command, *rest = line.line().split(b" ")
            if command == b"AUTHENTICATE":
                is_in = self._is_good(rest[1])
                words = b"OK [CAPABILITY %b] in" % IMAP_OFFER if is_in else b"NO [AUTHENTICATIONFAILED] no"
                line.send(b"%b %b\r\n" % (tag, words))
            elif command == b"LOGOUT":
                line.send(b"* BYE\r\n%b OK\r\n" % tag)
                return
            elif command == b"CAPABILITY":
                line.send(b"* CAPABILITY %b\r\n%b OK\r\n" % (IMAP_OFFER, tag))
            else:
                line.send(b"%b %b\r\n" % (tag, b"OK done" if is_in else b"BAD no"))

    def _smtp(self, line: Line) -> None:
        line.send(b"220 up.example ESMTP\r\n")
        while True:
            command = line.line()
            verb = command[:4].upper()
            if verb == b"EHLO":
                line.send(b"250-up.example\r\n250-SIZE 1000000\r\n250 AUTH XOAUTH2 PLAIN\r\n")
            elif verb == b"AUTH":
                line.send(b"334 \r\n")
                line.send(b"235 in\r\n" if self._is_good(line.line()) else b"535 no\r\n")
            elif verb == b"DATA":
                line.send(b"354 go on\r\n")
                text = []
                while (one := line.line()) != b".":
                    text.append(one)
                self.box.accepted.append(b"\r\n".join(text))
                line.send(b"250 kept\r\n")
            elif verb == b"QUIT":
                line.send(b"221 bye\r\n")
                return
            else:
                line.send(b"250 ok\r\n")

    def close(self) -> None:
        for listener in self._listeners:
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        for thread in self._threads:
            thread.join(10)


@dataclass(frozen=True)
class World:
    grants: Grants
    tokens: TokenServer
    mail: Mail


@contextmanager
def world(certificates: Certificates, password: str) -> Iterator[World]:
    """A running one. `password` opens mailboxes as well, for those without OAuth2."""
    grants = Grants()
    tokens = TokenServer(grants)
    serving = threading.Thread(target=tokens.serve_forever, kwargs={"poll_interval": 0.05})
    serving.start()
    mail = Mail(certificates, grants, password)
    try:
        yield World(grants, tokens, mail)
    finally:
        tokens.shutdown()
        tokens.server_close()
        serving.join()
        mail.close()
