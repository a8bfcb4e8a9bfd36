"""The DNS records that let mail programs find Gatepost by an address's domain.

Source: RFC 6186 (IMAP and submission), RFC 8314 5.1 (_submissions), and Microsoft's _autodiscover for the page.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from urllib.parse import urlsplit

from proxy.config import Config, Protocol, Tls

TTL_S = 3_600
# RFC 8314 3.3: TLS from the first byte comes before STARTTLS, so it gets the lower priority number.
_SERVICES: tuple[tuple[str, Protocol, Tls, int], ...] = (
    ("_imaps", "imap", Tls.IMPLICIT, 0),
    ("_imap", "imap", Tls.STARTTLS, 10),
    ("_submissions", "smtp", Tls.IMPLICIT, 0),
    ("_submission", "smtp", Tls.STARTTLS, 10),
)


@dataclass(frozen=True, slots=True)
class Srv:
    """One SRV record (RFC 2782). `str()` is its line in a zone file."""

    name: str
    priority: int
    port: int
    target: str

    def __str__(self) -> str:
        return f"{self.name}. {TTL_S} IN SRV {self.priority} 1 {self.port} {self.target}."


def records(config: Config, domains: list[str]) -> list[Srv]:
    """What to publish for each of these domains; nothing for what has no fixed port or no TLS."""
    host = config.web.mail_host if config.web else socket.gethostname()
    found = []
    for domain in domains:
        for service, protocol, tls, priority in _SERVICES:
            ports = [one.port for one in config.listeners if (one.protocol, one.tls) == (protocol, tls) and one.port]
            if ports:
                found.append(Srv(f"{service}._tcp.{domain}", priority, min(ports), host))
        if config.web and config.web.public_url.startswith("https://"):
            page = urlsplit(config.web.public_url)
            found.append(Srv(f"_autodiscover._tcp.{domain}", 0, page.port or 443, page.hostname or host))
    return found


def domains_of(config: Config) -> list[str]:
    """The domains of all accounts and of [web] domains. Raises StoreError, StoreUnavailable."""
    from proxy.store.store import Store  # noqa: PLC0415 - SQLAlchemy

    store = Store.open(config.store.url, migrate=False)
    try:
        names = {account.email.rpartition("@")[2] for account in store.accounts()}
    finally:
        store.close()
    return sorted(names | set(config.web.domains if config.web else ()))
