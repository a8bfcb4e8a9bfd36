"""A real `gatepost serve` process in front of a scripted mail server in this one."""

from __future__ import annotations

import base64
import json
import shutil
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.edge.scripted import PATIENCE_S, Certificates
from tests.gate import Gate
from tests.lab import Endpoint

USER = "ann@example.org"
UPSTREAM_PASSWORD = "the upstream's own password"
SMTP_OFFER = ("PIPELINING", "SIZE 10000000", "CHUNKING")
NOWHERE = 1  # a port where nobody listens

CONFIG = """\
[store]
url = "sqlite:///gatepost.db"
[keys]
master = "file:master.key"
[tls]
certificate = "cert.pem"
key = "key.pem"
{listeners}
[upstream.main]
imap = "imaps://localhost:{imap}"
smtp = "smtps://localhost:{smtp}"
tls_ca = "{ca}"
auth = "password"
[log]
level = "debug"
[workers]
count = {workers}
loop = "{loop}"
[limits]
argon2_memory_kib = 8
argon2_time = 1
{limits}
"""
LISTENER = '[[listen]]\nprotocol = "{}"\naddress = "127.0.0.1:{}"\ntls = "{}"\n'


class Line:
    """A connection over TLS, blocking; either end."""

    def __init__(self, sock: socket.socket) -> None:
        sock.settimeout(PATIENCE_S)
        self.sock = sock

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def line(self) -> bytes:
        line = b""
        while not line.endswith(b"\r\n"):
            byte = self.sock.recv(1)
            assert byte, f"the end after {line!r}"
            line += byte
        return line[:-2]

    def ask(self, command: bytes) -> bytes:
        self.send(command + b"\r\n")
        return self.line()

    def answer(self, command: bytes) -> list[bytes]:
        """All lines of an SMTP answer."""
        lines = [self.ask(command)]
        while lines[-1][3:4] == b"-":
            lines.append(self.line())
        return lines

    def rest(self) -> bytes:
        """All until a clean end; an SSLEOFError if there was no close_notify."""
        parts = []
        while data := self.sock.recv(65_536):
            parts.append(data)
        return b"".join(parts)

    def until_gone(self) -> bytes:
        parts = []
        try:
            while data := self.sock.recv(65_536):
                parts.append(data)
        except TimeoutError:
            raise
        except OSError:
            pass
        return b"".join(parts)

    def close(self) -> None:
        self.sock.close()


Talk = Callable[[Line], None]


class MailServer:
    """Lets everybody in who has the password; then `talk`, a thread for each session."""

    def __init__(self, certificates: Certificates, protocol: str, talk: Talk) -> None:
        self.talk = talk
        self.errors: list[BaseException] = []
        self._certificates = certificates
        self._login = self._imap if protocol == "imap" else self._smtp
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port = self._listener.getsockname()[1]
        self._threads: list[threading.Thread] = []
        self._lines: list[Line] = []
        self._accepting = threading.Thread(target=self._accept)
        self._accepting.start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(sock,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, sock: socket.socket) -> None:
        sock.settimeout(PATIENCE_S)
        try:
            with sock, self._certificates.good.wrap_socket(sock, server_side=True, suppress_ragged_eofs=False) as tls:
                line = Line(tls)
                self._lines.append(line)
                if self._login(line):
                    self.talk(line)
                    with suppress(OSError, ValueError):
                        tls.unwrap()
        except (ConnectionError, ssl.SSLError):
            pass
        except BaseException as error:
            self.errors.append(error)

    @staticmethod
    def _imap(line: Line) -> bool:
        offer = b"IMAP4rev1 SASL-IR AUTH=PLAIN IDLE LITERAL+"
        line.send(b"* OK [CAPABILITY %b] ready\r\n" % offer)
        tag, command = line.line().split(b" ", 1)
        if command == b"LOGOUT":
            line.send(b"* BYE\r\n%b OK\r\n" % tag)
            return False
        assert command == b"AUTHENTICATE PLAIN " + _plain(UPSTREAM_PASSWORD)
        line.send(b"%b OK [CAPABILITY %b] in\r\n" % (tag, offer))
        return True

    @staticmethod
    def _smtp(line: Line) -> bool:
        line.send(b"220 up.example ESMTP\r\n")
        line.line()
        lines = ["up.example", *SMTP_OFFER, "AUTH PLAIN"]
        line.send(("".join(f"250-{each}\r\n" for each in lines[:-1]) + f"250 {lines[-1]}\r\n").encode())
        if line.line() == b"QUIT":
            line.send(b"221 bye\r\n")
            return False
        line.send(b"334 \r\n")
        assert line.line() == _plain(UPSTREAM_PASSWORD)
        line.send(b"235 in\r\n")
        return True

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for line in self._lines:
            with suppress(OSError):
                line.sock.shutdown(socket.SHUT_RDWR)
        for thread in (self._accepting, *self._threads):
            thread.join(PATIENCE_S)
        if self.errors:
            raise self.errors[0]


def _plain(password: str) -> bytes:
    return base64.b64encode(f"\0{USER}\0{password}".encode())


@contextmanager
def mail_server(certificates: Certificates, protocol: str, talk: Talk) -> Iterator[MailServer]:
    server = MailServer(certificates, protocol, talk)
    try:
        yield server
    finally:
        server.close()


class House(Gate):
    """A Gate without a lab; `password` is an app password of USER."""

    def __init__(self, directory: Path) -> None:  # without a lab, so not Gate's own
        self.directory = directory
        self.config = directory / "gatepost.toml"
        self.log_file = directory / "gatepost.log"
        self.process = None
        self.secrets = [UPSTREAM_PASSWORD]
        self.password = ""
        self.imaps = self.imap = self.smtps = self.smtp = Endpoint("localhost", 0)

    def connect(self, endpoint: Endpoint) -> Line:
        """A client at a listener with implicit TLS, behind the handshake."""
        context = ssl.create_default_context(cafile=str(self.directory / "cert.pem"))
        sock = socket.create_connection(tuple(endpoint), timeout=PATIENCE_S)
        return Line(context.wrap_socket(sock, server_hostname="localhost", suppress_ragged_eofs=False))

    def imap_session(self) -> Line:
        client = self.connect(self.imaps)
        client.line()
        answer = client.ask(b'a1 LOGIN %b "%b"' % (USER.encode(), self.password.encode()))
        assert answer.startswith(b"a1 OK"), answer
        return client

    def smtp_session(self) -> Line:
        client = self.connect(self.smtps)
        client.line()
        client.answer(b"EHLO client.example")
        answer = client.ask(b"AUTH PLAIN " + _plain(self.password))
        assert answer.startswith(b"235 "), answer
        return client

    def pid(self) -> int:
        """The process of the one worker, who does all the work."""
        (pid,) = self.workers().values()
        return pid


def make_template(directory: Path, certificates: Certificates) -> Path:
    """Once for many tests: a set-up with USER and an app password for him, made by the commands."""
    house = House(directory)
    house.cli("init", str(directory), needs_config=False)
    write_config(house, certificates)
    house.cli("account", "add", USER, "--upstream", "main", "--password-stdin", stdin=UPSTREAM_PASSWORD + "\n")
    made = json.loads(house.cli("create", USER, "--name", "test", "--json"))
    (directory / "app.password").write_text(made["password"])
    return directory


def make_house(template: Path, directory: Path) -> House:
    """A copy of the template, not started."""
    shutil.copytree(template, directory)
    house = House(directory)
    house.password = (directory / "app.password").read_text()
    return house


def write_config(
    house: House,
    certificates: Certificates,
    *,
    imap: int = NOWHERE,
    smtp: int = NOWHERE,
    loop: str = "uvloop",
    workers: int = 1,
    limits: str = "",
    more: str = "",
    listeners: Sequence[tuple[str, int, str]] = (
        ("imap", 0, "implicit"), ("imap", 0, "starttls"), ("smtp", 0, "implicit"), ("smtp", 0, "starttls"),
    ),
) -> None:  # fmt: skip
    """`more` is whatever else the configuration is to hold: whole tables."""
    house.config.write_text(
        more
        + CONFIG.format(
            listeners="".join(LISTENER.format(*each) for each in listeners),
            imap=imap,
            smtp=smtp,
            ca=certificates.ca_file,
            loop=loop,
            workers=workers,
            limits=limits,
        )
    )
