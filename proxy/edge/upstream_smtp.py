"""Logging in to an SMTP server upstream: drives wire/smtp over a Leg."""

from __future__ import annotations

import re
import socket

from proxy.config import Endpoint, Mechanism, Tls
from proxy.edge.upstream_leg import Connection, Leg
from proxy.wire.actions import Send, StartTls
from proxy.wire.sasl import UpstreamCredential
from proxy.wire.smtp import Done, SmtpLogin

FAREWELL = b"QUIT\r\n"

_DOMAIN = re.compile(r"(?=.{4,253}$)[A-Za-z0-9-]{1,63}(\.[A-Za-z0-9-]{1,63})+")


async def login(leg: Leg, endpoint: Endpoint, credential: UpstreamCredential, preferred: Mechanism) -> Connection:
    """Log in on an open leg. Raises UpstreamError."""
    done = await _talk(leg, endpoint, credential, preferred)
    return Connection(b"", b"", done.extensions, leg)


async def offers(leg: Leg, endpoint: Endpoint) -> tuple[str, ...]:
    """The EHLO list behind TLS, before AUTH. Raises UpstreamError."""
    return (await _talk(leg, endpoint, None)).extensions


async def objection(leg: Leg, endpoint: Endpoint, credential: UpstreamCredential, preferred: Mechanism) -> str:
    """Log in, then EHLO: "" if the server is content, else what it said. Raises UpstreamError if the login fails."""
    return (await _talk(leg, endpoint, credential, preferred, examine=True)).objection


async def _talk(
    leg: Leg,
    endpoint: Endpoint,
    credential: UpstreamCredential | None,
    preferred: Mechanism = "",
    *,
    examine: bool = False,
) -> Done:
    is_clear = endpoint.tls is Tls.STARTTLS
    if not is_clear:
        await leg.secure(endpoint.host)
    machine = SmtpLogin(
        host=endpoint.host,
        port=endpoint.port,
        ehlo_name=_own_name(leg),
        starttls=is_clear,
        credential=credential,
        examine=examine,
        preferred=preferred,
    )
    leg.describe = lambda: machine.said
    while True:
        actions = machine.receive(await leg.receive())
        while actions:
            action = actions.pop(0)
            match action:
                case Send(data):
                    leg.send(data)
                case StartTls():
                    await leg.secure(endpoint.host)
                    actions += machine.secured()
                case Done():
                    leg.put_back(action.leftover)
                    return action


def _own_name(leg: Leg) -> str:
    """What EHLO says: this machine's name, or its address if it has no full one (RFC 5321 4.1.1.1, 4.1.3)."""
    name = socket.gethostname()  # never getfqdn(), which asks DNS and blocks
    if _DOMAIN.fullmatch(name):
        return name
    address = leg.local_address.partition("%")[0]
    return f"[IPv6:{address}]" if ":" in address else f"[{address or '127.0.0.1'}]"
