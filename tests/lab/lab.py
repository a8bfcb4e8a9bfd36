"""A whole upstream on loopback: IMAP, submission, identity provider, and the rest of the world as a sink.

Owns the directory, the order of starting and stopping, and the wiring; what each server is told stands in its module.
"""

import atexit
import os
import shutil
import smtplib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from tests.lab.certs import issue
from tests.lab.dovecot import Dovecot, DovecotSettings
from tests.lab.idp import Idp, User, totp_code
from tests.lab.ports import Endpoint, PortReservation
from tests.lab.postfix import Postfix, PostfixSettings
from tests.lab.process import POLL_S, Account, LabError, Part, Server, greets
from tests.lab.programs import find_node, require_programs

Submission = Literal["postfix", "dovecot"]

HOST = "localhost"
LOCAL_DOMAIN = "example.test"  # delivered into Maildirs whether a user has an address there or not
# A Unix socket's path may have 107 characters; Dovecot's longest below our directory takes some 50.
MAX_TEMP_PATH = 50
DELIVERY_DEADLINE_S = 10.0
LMTP_TIMEOUT_S = 10.0
ENVELOPE_FROM = "sender@elsewhere.test"


class Sink(Part):
    """The server behind which everything lies that is not ours; see sink.py."""

    def __init__(self, server: Server, port: int, mailbox: Path, account: Account, local: list[str]) -> None:
        self.server = server
        self.mailbox = mailbox
        self._port = port
        self._account = account
        self._local = local

    def launch(self) -> None:
        """Start the sink with our own Python."""
        self.mailbox.mkdir(exist_ok=True)
        self._account.own(self.mailbox)
        program = Path(__file__).with_name("sink.py")
        self.server.launch(
            [sys.executable, "-P", "-W", "ignore", program, str(self._port), self.mailbox, *self._local],
            cwd=self.mailbox,
        )

    def await_ready(self) -> None:
        """Wait for the greeting."""
        self.server.wait_until(lambda: greets(self._port, b"220 "))


class Drain(Sink):
    """A sink that throws everything away: Postfix's smtp-sink, which a benchmark does not wait for."""

    def launch(self) -> None:
        self.mailbox.mkdir(exist_ok=True)
        self._account.own(self.mailbox)
        self.server.launch(["smtp-sink", f"127.0.0.1:{self._port}", "1000"], cwd=self.mailbox)


class Lab:
    """A running upstream; use it as a context manager, or call stop().

    directory            everything the lab writes; gone after stop()
    ca_file              the CA of the servers' certificates; certificates holds the others
    imap, submission     STARTTLS ports; imaps, submissions: implicit TLS; lmtp: plain
    dovecot, postfix, idp, sink     the parts, each with stop() and start(). Dovecot also checks passwords for Postfix
    """

    def __init__(
        self,
        users: Iterable[str],
        *,
        auth_penalty: bool,
        access_token_ttl_s: int,
        max_user_connections: int,
        submission: Submission,
        trusting: bool,
    ) -> None:
        require_programs(with_postfix=submission == "postfix")
        base = tempfile.gettempdir()
        self.directory = Path(tempfile.mkdtemp(prefix="gp-lab-", dir=base if len(base) <= MAX_TEMP_PATH else "/tmp"))
        self.directory.chmod(0o711)  # other accounts pass through to what is theirs
        self._owner = os.getpid()
        atexit.register(self.stop)
        self._ports = PortReservation()
        self._parts: list[Part] = []
        self._servers: list[Server] = []
        self._warden = subprocess.Popen(
            [sys.executable, "-P", Path(__file__).with_name("warden.py"), self.directory],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            self._users = {email: User.make(email) for email in users}
            self._build(auth_penalty, access_token_ttl_s, max_user_connections, submission, trusting)
            # All at once: each start is mostly waiting. Readiness is asked in the order in which they need each other.
            for part in self._parts:
                part.launch()
            for part in self._parts:
                part.await_ready()
        except BaseException:
            self.stop()
            raise

    @classmethod
    def start(
        cls,
        users: Iterable[str] = ("ann@example.test", "bob@example.test"),
        *,
        auth_penalty: bool = False,
        access_token_ttl_s: int = 3600,
        max_user_connections: int = 2000,
        submission: Submission | None = None,
        trusting: bool = False,
    ) -> "Lab":
        """Start a lab and return when every server answers.

        users                 addresses, lower case, each with mailbox, password, TOTP
        auth_penalty          leave Dovecot's delay for addresses with failed logins on
        access_token_ttl_s    life of access tokens, settable later by idp.set_ttl()
        max_user_connections  IMAP sessions per user before "[LIMIT]" (Dovecot's own default is 10)
        submission            "postfix" (needs root; the default for root) or "dovecot"
        trusting              for benchmarks: Dovecot takes any password and token, and mail sent out is thrown away
        raises                LabUnavailable if programs are missing, LabError if a server does not start
        """
        return cls(
            users,
            auth_penalty=auth_penalty,
            access_token_ttl_s=access_token_ttl_s,
            max_user_connections=max_user_connections,
            submission=submission or ("postfix" if os.geteuid() == 0 else "dovecot"),
            trusting=trusting,
        )

    def stop(self) -> None:
        """End all servers, wait for them, and remove the directory. May be called again."""
        if os.getpid() != self._owner:
            return  # a fork of the owner ends here too, and the lab is not its own
        atexit.unregister(self.stop)
        for part in self._parts:
            part.server.kill()
        shutil.rmtree(self.directory, ignore_errors=True)
        if self._warden.stdin:
            self._warden.stdin.close()
        self._warden.wait()
        self._ports.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def password(self, user: str) -> str:
        """Return the user's password at the identity provider; no mail server takes it."""
        return self._users[user].password

    def totp_secret(self, user: str) -> str:
        """Return the user's TOTP secret, base32."""
        return self._users[user].totp_secret

    def totp_code(self, user: str) -> str:
        """Return the user's TOTP code of this moment."""
        return totp_code(self.totp_secret(user))

    def refresh_token(self, user: str) -> str:
        """Return a new refresh token, as after a sign-in."""
        return self.idp.refresh_token(user)

    def access_token(self, user: str) -> str:
        """Return a new access token; not counted as a token request."""
        return self.idp.access_token(user)

    def deliver(self, user: str, message: bytes) -> None:
        """Put a message into the user's INBOX by LMTP, so that sessions in IDLE hear of it."""
        with smtplib.LMTP("127.0.0.1", self.lmtp.port, timeout=LMTP_TIMEOUT_S) as lmtp:
            lmtp.sendmail(ENVELOPE_FROM, [user], message)

    def inbox(self, user: str) -> list[bytes]:
        """Return the messages in the user's INBOX, oldest first, as they lie in the Maildir."""
        files = [file for folder in ("new", "cur") for file in (self._mail / user / folder).glob("*")]
        return [file.read_bytes() for file in sorted(files, key=_maildir_age)]

    def sent(self) -> list[bytes]:
        """Return the messages that reached the sink, oldest first."""
        return [file.read_bytes() for file in sorted(self.sink.mailbox.glob("*.eml"))]

    def await_mail(self, read: Callable[[], list[bytes]], count: int = 1) -> list[bytes]:
        """Wait until `read` (lab.sent, or a lambda with lab.inbox) returns `count` messages or more, and return them.

        raises  LabError after 10 s
        """
        deadline = time.monotonic() + DELIVERY_DEADLINE_S
        while len(messages := read()) < count:
            if time.monotonic() > deadline:
                raise LabError(f"lab: {len(messages)} of {count} messages arrived within {DELIVERY_DEADLINE_S:.0f} s")
            time.sleep(POLL_S)
        return messages

    def logs(self) -> dict[str, str]:
        """Return what each server has logged, by its name."""
        return {server.name: server.log() for server in self._servers}

    def _build(
        self, auth_penalty: bool, ttl_s: int, max_user_connections: int, submission: Submission, trusting: bool
    ) -> None:
        account = Account.for_servers()
        for name in ("logs", "pids", "mail"):
            (self.directory / name).mkdir()
        account.own(self.directory / "logs")  # Dovecot opens its log again by itself
        self._mail = self.directory / "mail"
        account.own(self._mail)
        self.certificates = issue(self.directory, account)
        self.ca_file = self.certificates.ca_file

        take = self._ports.take
        imap, imaps, smtp, smtps, lmtp, sasl, sink, idp = (take() for _ in range(8))
        self.imap, self.imaps = Endpoint(HOST, imap), Endpoint(HOST, imaps)
        self.submission, self.submissions = Endpoint(HOST, smtp), Endpoint(HOST, smtps)
        self.lmtp = Endpoint(HOST, lmtp)
        domains = frozenset({LOCAL_DOMAIN, *(email.rpartition("@")[2] for email in self._users)})

        # Node and Python may lie where the servers' account cannot read (a checkout or venv below /root).
        node, here = find_node(), Path(__file__).parent
        is_open = node is not None and account.reaches(
            node, Path(sys.executable), here / "idp" / "package.json", here / "sink.py", Path(smtplib.__file__)
        )
        reader = account if is_open else Account.current()
        self.idp = Idp(
            self._server("idp", reader), idp, self._users, directory=self.directory / "idp", account=reader, ttl_s=ttl_s
        )

        def make_dovecot(name: str, **ports: int | str) -> Dovecot:
            settings = DovecotSettings(
                idp=idp,
                introspection_client_id=self.idp.introspection_client_id,
                introspection_client_secret=self.idp.introspection_client_secret,
                has_auth_penalty=auth_penalty,
                max_user_connections=max_user_connections,
                is_trusting=trusting,
                **ports,  # type: ignore[arg-type]  # the two callers are below
            )
            return Dovecot(
                self._server(name, account, lingerer="/log"),  # a second for nothing, at each stop
                settings,
                directory=self.directory / name,
                mail=self._mail,
                account=account,
                certificate=self.certificates.server,
            )

        self.dovecot = make_dovecot("dovecot", protocols="imap lmtp", imap=imap, imaps=imaps, lmtp=lmtp, sasl=sasl)
        self.postfix: Postfix | Dovecot
        local: list[str] = []
        if submission == "postfix":
            self.postfix = Postfix(
                self._server("postfix", Account.current()),
                PostfixSettings(submission=smtp, submissions=smtps, sasl=sasl, lmtp=lmtp, sink=sink, domains=domains),
                directory=self.directory / "postfix",
                log_prefix=self.directory,
                certificate=self.certificates.server,
            )
        else:
            # Dovecot's submission relays everything to one place, so the sink passes local mail on.
            local = [str(lmtp), *sorted(domains)]
            self.postfix = make_dovecot(
                "submission", protocols="submission", submission=smtp, submissions=smtps, relay=sink
            )
        if trusting:  # smtp-sink refuses to run as root
            self.sink = Drain(self._server("sink", account), sink, self.directory / "sent", account, local)
        else:
            self.sink = Sink(self._server("sink", reader), sink, self.directory / "sent", reader, local)
        # The slowest to start first; Postfix needs Dovecot's SASL port to be open when it is first asked.
        self._parts = [self.idp, self.dovecot, self.sink, self.postfix]

    def _server(self, name: str, account: Account, lingerer: str = "") -> Server:
        server = Server(
            name,
            log_file=self.directory / "logs" / f"{name}.log",
            pid_directory=self.directory / "pids",
            account=account,
            lingerer=lingerer,
        )
        self._servers.append(server)
        return server


def _maildir_age(file: Path) -> tuple[int, int]:
    """Sort key by delivery time: Dovecot names a file "1732.M5043P77.host..." (seconds, microseconds, pid)."""
    seconds, _, rest = file.name.partition(".")
    micros = rest.partition("P")[0].removeprefix("M")
    return int(seconds), int(micros) if micros.isdigit() else 0
