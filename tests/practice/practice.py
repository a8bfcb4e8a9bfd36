"""The practice upstream as a demo sees it: the same names as the lab's, and all of it in a thread of this process."""

from __future__ import annotations

import asyncio
import contextlib
import imaplib
import logging
import shutil
import socket
import ssl
import tempfile
import threading
import time
from collections.abc import Callable, Coroutine, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import uvicorn

from tests.lab.certs import issue
from tests.lab.idp import User, totp_code
from tests.lab.lab import DELIVERY_DEADLINE_S, HOST
from tests.lab.ports import Endpoint
from tests.lab.process import POLL_S, Account, LabError
from tests.practice.mailboxes import Mailboxes
from tests.practice.provider import Provider
from tests.practice.submission import Submission

START_S = 20.0
TIMEOUT_S = 10.0


class Practice:
    """A running practice upstream; use it as a context manager. What it has besides is in tests.lab.Lab."""

    parts = "pymap, aiosmtpd and a provider on Starlette"

    def __init__(self, users: Iterable[str]) -> None:
        self._users = {email: User.make(email) for email in users}
        self.directory = Path(tempfile.mkdtemp(prefix="gp-practice-"))
        self.certificates = issue(self.directory, Account.current())
        self.ca_file = self.certificates.ca_file
        self._sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(5)]
        ports = [sock.getsockname()[1] for sock in self._sockets]
        self.imap, self.imaps, self.submission, self.submissions = (Endpoint(HOST, port) for port in ports[:4])
        self.idp = Provider(f"http://127.0.0.1:{ports[4]}", self._users)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="practice", daemon=True)
        self._thread.start()
        self._mailboxes, self._web = self._call(self._open())

    @classmethod
    def start(cls, users: Iterable[str]) -> Self:
        """Start it and return when every part listens. Raises LabError."""
        return cls(users)

    def stop(self) -> None:
        """End all of it, and remove the directory."""
        self._call(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(START_S)
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def password(self, user: str) -> str:
        return self._users[user].password

    def totp_secret(self, user: str) -> str:
        return self._users[user].totp_secret

    def totp_code(self, user: str) -> str:
        return totp_code(self.totp_secret(user))

    def refresh_token(self, user: str) -> str:
        return self.idp.refresh_token(user)

    def deliver(self, user: str, message: bytes) -> None:
        self._call(self._mailboxes.deliver(user, message))

    def inbox(self, user: str) -> list[bytes]:
        """The messages in the user's INBOX, oldest first, read by IMAP as their owner would."""
        trust = ssl.create_default_context(cafile=self.ca_file)
        answer = f"user={user}\x01auth=Bearer {self.idp.access_token(user)}\x01\x01".encode()
        with imaplib.IMAP4_SSL(HOST, self.imaps.port, ssl_context=trust, timeout=TIMEOUT_S) as imap:
            imap.authenticate("XOAUTH2", lambda _: answer)
            imap.select("INBOX", readonly=True)
            _, found = imap.fetch("1:*", "(BODY.PEEK[])")
        return [part[1] for part in found if isinstance(part, tuple)]

    def await_mail(self, read: Callable[[], list[bytes]], count: int = 1) -> list[bytes]:
        """Wait until `read` returns `count` messages or more, and return them. Raises LabError after 10 s."""
        deadline = time.monotonic() + DELIVERY_DEADLINE_S
        while len(messages := read()) < count:
            if time.monotonic() > deadline:
                raise LabError(f"practice: {len(messages)} of {count} messages arrived")
            time.sleep(POLL_S)
        return messages

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            self._loop.close()

    def _call(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(START_S)

    async def _open(self) -> tuple[Mailboxes, uvicorn.Server]:
        logging.getLogger("mail.log").setLevel(logging.ERROR)  # aiosmtpd 1.4.6 warns of what it does itself
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(self.certificates.server.chain_file, self.certificates.server.key_file)
        mailboxes = Mailboxes(list(self._users), self.idp.owner_of, tls)
        submission = Submission(mailboxes, self.idp.owner_of)
        imap, imaps, smtp, smtps, http = self._sockets
        self._servers = [
            await asyncio.start_server(mailboxes.with_starttls, sock=imap),
            await asyncio.start_server(mailboxes.with_tls, sock=imaps, ssl=tls),
            await self._loop.create_server(submission.protocol(tls), sock=smtp),
            await self._loop.create_server(submission.protocol(None), sock=smtps, ssl=tls),
        ]
        config = uvicorn.Config(self.idp.app(), log_level="warning", lifespan="off", loop="none")
        web = uvicorn.Server(config)
        # Not serve(): that takes the signals, which are the demo's.
        self._serving = asyncio.create_task(web._serve([http]))
        while not web.started:  # noqa: ASYNC110 - uvicorn tells it by this flag alone
            await asyncio.sleep(POLL_S)
        return mailboxes, web

    async def _close(self) -> None:
        self._web.should_exit = True
        for server in self._servers:
            server.close()
        await asyncio.wait([self._serving], timeout=TIMEOUT_S)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*left, return_exceptions=True)
