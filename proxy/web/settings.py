"""What a mail program is to be told: servers, ports, how they are secured; and where a program wants it typed."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from proxy.config import PROTOCOLS, Config, Protocol, Tls, WebConfig
from proxy.web.problems import N_


@dataclass(frozen=True, slots=True)
class Server:
    """One server as a program's form asks for it. `security` is to be translated."""

    protocol: Protocol
    host: str
    port: int
    tls: Tls

    @property
    def title(self) -> str:
        return N_("Incoming mail (IMAP)") if self.protocol == "imap" else N_("Outgoing mail (SMTP)")

    @property
    def security(self) -> str:
        return {Tls.IMPLICIT: N_("SSL/TLS"), Tls.STARTTLS: N_("STARTTLS"), Tls.NONE: N_("none")}[self.tls]


def servers(config: Config, web: WebConfig, upstream: str, protocols: Collection[str]) -> list[Server]:
    """The best server for each protocol: TLS from the first byte (RFC 8314 3), else STARTTLS, else none."""
    order = (Tls.IMPLICIT, Tls.STARTTLS, Tls.NONE)
    found = []
    for protocol in PROTOCOLS:
        fitting = [
            listener
            for listener in config.listeners
            if listener.protocol == protocol and upstream in listener.upstreams and listener.port
        ]
        if protocol in protocols and fitting:
            # The usual port before others: a second listener may be one for old devices.
            best = min(fitting, key=lambda one: (order.index(one.tls), one.port not in _USUAL, one.port))
            found.append(Server(protocol, web.mail_host, best.port, best.tls))
    return found


_USUAL = (993, 465, 587, 143)


@dataclass(frozen=True, slots=True)
class Program:
    """A kind of mail program, and how it is set up; texts to be translated."""

    key: str
    name: str
    steps: tuple[str, ...]


PROGRAMS = (
    Program(
        "outlook",
        N_("Outlook for Windows"),
        (
            N_("Choose File, Add Account, then Advanced options and “Let me set up my account manually”."),
            N_("Choose IMAP and type the servers below; both with the encryption that stands beside them."),
            N_("Type the app password when Outlook asks for the password, and let it be remembered."),
        ),
    ),
    Program(
        "thunderbird",
        N_("Thunderbird"),
        (
            N_("Choose New account, Email, and type your name, your address and the app password."),
            N_("Choose “Configure manually”, type the servers below, and “Normal password” as authentication."),
        ),
    ),
    Program(
        "apple",
        N_("iPhone, iPad or Mac"),
        (
            N_("Open Settings, Apps, Mail, Accounts (on a Mac: Mail, Add Account), and choose “Other”."),
            N_("Choose IMAP, type the servers below, and the app password for both of them."),
        ),
    ),
    Program(
        "android",
        N_("Android"),
        (
            N_("In your mail app choose Add account, “Other” or “Manual”, then IMAP."),
            N_("Type the servers below and the app password; scan the code if typing is a nuisance."),
        ),
    ),
    Program(
        "device",
        N_("Scanner, printer or other device"),
        (
            N_("Open the device's own web page, and there its e-mail or SMTP settings."),
            N_("Switch authentication on, and type the outgoing server, the user name and the app password."),
        ),
    ),
    Program(
        "other",
        N_("Something else"),
        (N_("Type the servers below, your user name, and the app password where a password is asked for."),),
    ),
)
KEYS = tuple(program.key for program in PROGRAMS)


def program(key: str) -> Program:
    return next((one for one in PROGRAMS if one.key == key), PROGRAMS[-1])
