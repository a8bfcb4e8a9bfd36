"""The practice IMAP server: pymap with its mailboxes in memory, opened by the practice provider's tokens alone."""

from __future__ import annotations

import ssl
from argparse import Namespace
from collections.abc import Callable
from datetime import UTC, datetime

from proxyprotocol.reader import ProxyProtocolReader
from pymap.backend.dict import Config, Identity, Login
from pymap.exceptions import InvalidAuth
from pymap.imap import IMAPServer
from pymap.parsing.message import AppendMessage
from pymap.user import UserMetadata
from pysasl import SASLAuth
from pysasl.creds.external import ExternalVerificationRequired
from pysasl.creds.server import ServerCredentials
from pysasl.mechanism.oauth import OAuth2Mechanism

OwnerOf = Callable[[str], str | None]


class TokensOnly(Config):
    """No mechanism but XOAUTH2, so that pymap refuses LOGIN, too."""

    @property
    def initial_auth(self) -> SASLAuth:
        return self.tls_auth

    @property
    def tls_auth(self) -> SASLAuth:
        return SASLAuth([OAuth2Mechanism()])

    @property
    def greeting(self) -> bytes:
        return b"Practice server ready"  # pymap's own asks the DNS for our name


class TokenLogin(Login):
    """Who comes with a token that opens the mailbox he names."""

    def __init__(self, config: Config, owner_of: OwnerOf) -> None:
        super().__init__(config)
        self._owner_of = owner_of

    async def authenticate(self, credentials: ServerCredentials) -> Identity:
        try:
            credentials.verify(None)
        except ExternalVerificationRequired as pending:
            if self._owner_of(pending.token or "") == credentials.authzid:
                return self.of(credentials.authzid)
        raise InvalidAuth

    def of(self, user: str) -> Identity:
        return Identity(user, self, None, frozenset())


class Mailboxes:
    """INBOXes of a few people. `with_starttls` and `with_tls` are what asyncio.start_server wants."""

    def __init__(self, users: list[str], owner_of: OwnerOf, tls: ssl.SSLContext) -> None:
        arguments = Namespace(passlib_cfg=None, proxy_protocol=None)
        common = {"host": None, "port": 0, "demo_data": False, "demo_user": "", "demo_password": ""}
        self._config = TokensOnly(arguments, ssl_context=tls, tls_enabled=True, **common)
        self._implicit = TokensOnly(arguments, ssl_context=tls, tls_enabled=False, **common)
        self._implicit.set_cache = self._config.set_cache  # both listeners have the same mailboxes
        self._config.apply_context()
        self._logins = [TokenLogin(config, owner_of) for config in (self._config, self._implicit)]
        for login in self._logins:
            login.users_dict.update({user: UserMetadata(login.config, user) for user in users})
        reader = ProxyProtocolReader(self._config.proxy_protocol)
        self.with_starttls, self.with_tls = (
            reader.get_callback(IMAPServer(login, login.config)) for login in self._logins
        )

    def has(self, user: str) -> bool:
        return user in self._logins[0].users_dict

    async def deliver(self, user: str, message: bytes) -> None:
        """Into the INBOX; sessions that idle there hear of it."""
        async with self._logins[0].of(user).new_session() as session:
            await session.append_messages("INBOX", [AppendMessage(message, datetime.now(UTC))])
