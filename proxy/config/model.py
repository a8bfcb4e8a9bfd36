"""The configuration as frozen data: what every other module may ask for.

Every default stands here once; config/gatepost.example.toml shows each and a test compares the two.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Literal

from proxy.secret import SecretSource

Protocol = Literal["imap", "smtp"]
PROTOCOLS: tuple[Protocol, ...] = ("imap", "smtp")

# Who signs in: the mailbox's owner once (a stored refresh token), Gatepost itself for all mailboxes (RFC 6749 4.4), or
# Gatepost in the name of each mailbox with a Google service account's key (RFC 7523 2.1).
Grant = Literal["user", "client_credentials", "service_account"]
GRANTS: tuple[Grant, ...] = ("user", "client_credentials", "service_account")

Network = IPv4Network | IPv6Network  # canonical: without bits behind the prefix, IPv4-mapped IPv6 as IPv4

# What a single listener may take. "1.0" and "1.1" are for devices that know nothing newer (RFC 8996 retires both).
TlsVersion = Literal["1.0", "1.1", "1.2", "1.3"]
TLS_VERSIONS: tuple[TlsVersion, ...] = ("1.0", "1.1", "1.2", "1.3")

ANY_LOOPBACK_PORT = "http://127.0.0.1:0/"

# SASL mechanism for tokens where the upstream offers both, or never says; "" is XOAUTH2 first.
Mechanism = Literal["", "XOAUTH2", "OAUTHBEARER"]


class Tls(Enum):
    """How a connection gets its TLS: from its first byte, by STARTTLS, or never."""

    IMPLICIT = "implicit"
    STARTTLS = "starttls"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class StoreConfig:
    url: str = "sqlite:////var/lib/gatepost/gatepost.db"
    migrate: bool = True


@dataclass(frozen=True, slots=True)
class KeysConfig:
    master: SecretSource = field(default_factory=lambda: SecretSource("file", "/etc/gatepost/master.key"))


@dataclass(frozen=True, slots=True)
class TlsConfig:
    """Certificate chain and key, PEM; None only when every listener has tls = "none"."""

    certificate: Path | None = None
    key: Path | None = None
    minimum: Literal["1.2", "1.3"] = "1.2"


@dataclass(frozen=True, slots=True)
class ListenConfig:
    """One listening socket. `upstreams` is never empty: the default is filled in.

    proxy_protocol_from     load balancers that must send a PROXY header, and may say by it who the client is; empty:
                            nobody may
    minimum_tls             None: that of [tls]
    """

    protocol: Protocol
    host: str
    port: int
    tls: Tls
    upstreams: tuple[str, ...]
    insecure: bool = False
    proxy_protocol_from: tuple[Network, ...] = ()
    minimum_tls: TlsVersion | None = None

    @property
    def name(self) -> str:
        """As logs show it, for example imap://0.0.0.0:993."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.protocol}://{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A server upstream. `tls` is IMPLICIT or STARTTLS."""

    host: str
    port: int
    tls: Tls


@dataclass(frozen=True, slots=True)
class OAuth2Config:
    """How tokens for an upstream are got (RFC 6749). A preset is filled in already, and {tenant} too.

    http:// endpoints are on loopback. An endpoint that is absent is discovered if there is an issuer, else unknown.
    """

    client_id: str  # "" only for the grant service_account, whose key file names its client
    token_url: str  # "" only with an issuer
    client_secret: SecretSource | None = None
    scopes: tuple[str, ...] = ()
    grant: Grant = "user"
    tenant: str = ""
    authorize_url: str | None = None
    device_url: str | None = None
    issuer: str | None = None  # OpenID Connect: its configuration is at <issuer>/.well-known/openid-configuration
    redirect_url: str = ANY_LOOPBACK_PORT  # http:// on loopback, where port 0 is any free one; or https://
    client_certificate: Path | None = None  # with client_key, in place of a client_secret (RFC 7523 2.2)
    client_key: SecretSource | None = None
    service_account: SecretSource | None = None  # for the grant of that name only, and always there for it
    authorize_parameters: tuple[tuple[str, str], ...] = ()  # beyond those of RFC 6749, 7636 and OpenID Connect


@dataclass(frozen=True, slots=True)
class MailboxLimits:
    """Sessions that an upstream bears at one time for one mailbox; 0 is no limit."""

    imap: int = 0
    smtp: int = 0

    def of(self, protocol: Protocol) -> int:
        return self.imap if protocol == "imap" else self.smtp


@dataclass(frozen=True, slots=True)
class UpstreamConfig:
    """A real mail server, by its name in the configuration. What its preset says is filled in already."""

    name: str
    imap: Endpoint | None = None
    smtp: Endpoint | None = None
    tls_ca: Path | None = None
    auth: Literal["oauth2", "password"] = "oauth2"
    oauth2: OAuth2Config | None = None
    preset: str = ""  # "" without one
    limits: MailboxLimits = field(default_factory=MailboxLimits)
    mechanism: Mechanism = ""
    imap_extensions: tuple[str, ...] = ()  # what it is taken to offer until it was asked for the first time
    smtp_extensions: tuple[str, ...] = ()

    @property
    def is_app_only(self) -> bool:
        """Whether its mailboxes need nothing deposited and nobody signs in: Gatepost gets tokens in its own name."""
        return self.oauth2 is not None and self.oauth2.grant != "user"

    def endpoint(self, protocol: Protocol) -> Endpoint | None:
        return self.imap if protocol == "imap" else self.smtp

    def extensions(self, protocol: Protocol) -> tuple[str, ...]:
        return self.imap_extensions if protocol == "imap" else self.smtp_extensions


@dataclass(frozen=True, slots=True)
class AlertsConfig:
    """Who is told when an account's tokens need somebody. Both may be set, or neither."""

    command: tuple[str, ...] = ()  # program and arguments; the alert comes as JSON on its standard input
    webhook: str | None = field(default=None, repr=False)  # gets it by POST; such addresses often hold a secret
    new_network: bool = False  # also of the first use of an app password from a network (IPv4 /24, IPv6 /48)


@dataclass(frozen=True, slots=True)
class AuditConfig:
    """How long the audit is kept, and how much of last used and of refusals a crash may lose."""

    keep_days: int = 400
    keep_refusals_days: int = 30
    flush_s: int = 2


@dataclass(frozen=True, slots=True)
class MetricsConfig:
    """Where /metrics, /healthz and /readyz are answered, by HTTP, to whoever asks."""

    address: tuple[str, int] | None = None  # nowhere; beyond loopback only with `insecure`
    insecure: bool = False
    certificate_days: int = 0  # with fewer whole days left /readyz says no; 0: only once the certificate has ended


@dataclass(frozen=True, slots=True)
class LogConfig:
    level: Literal["debug", "info", "warning"] = "info"
    format: Literal["text", "json"] = "text"


@dataclass(frozen=True, slots=True)
class WorkersConfig:
    count: int = 0  # processes that share the listeners; 0 is as many as usable cores
    loop: Literal["uvloop", "asyncio"] = "uvloop"
    node: str = ""  # this machine among those that share a database; "" is its host name


@dataclass(frozen=True, slots=True)
class LimitsConfig:
    """Bounds that an administrator may move. Times in seconds, sizes as named."""

    connections: int = 10_000  # open client connections of all workers; above it BYE / 421
    waiting_per_address: int = 256  # connections of one address that are not logged in yet, at each worker
    app_passwords: int = 100  # that an account may have: neither revoked nor expired
    argon2_memory_kib: int = 19_456  # OWASP's argon2id minimum: 19 MiB, t=2, p=1
    argon2_time: int = 2
    argon2_lanes: int = 1
    hash_queue: int = 64  # logins that may wait for argon2, per lane and worker
    verify_cache_s: int = 300  # how long a verified password spares argon2, or bridges a store that is down
    throttle_wrong: int = 10  # distinct wrong secrets in throttle_window_s from one network for one login name
    throttle_wrong_network: int = 100  # the same, from one network for all login names together
    throttle_window_s: int = 600
    imap_idle_s: int = 1_860  # RFC 9051 5.4: at least 30 minutes
    smtp_idle_s: int = 660  # RFC 5321 4.5.3.2.6: 10 minutes for the final reply, and some
    drain_s: int = 25  # from SIGTERM to the end of the last session


@dataclass(frozen=True, slots=True)
class WebConfig:
    """The web page. Without certificate it speaks HTTP: to the trusted proxies, or on loopback."""

    host: str
    port: int
    public_url: str  # https://HOST[:PORT], or http:// on loopback; no slash at its end
    upstream: str  # whose OAuth2 client signs people in, and whose accounts they have
    certificate: Path | None = None
    key: Path | None = None
    trusted_proxies: tuple[Network, ...] = ()  # when there are any, nobody else is answered
    mail_host: str = ""  # what mail programs are told to connect to
    require_mfa: bool = True
    amr: tuple[str, ...] = ("mfa",)  # RFC 8176; any of these shows MFA
    acr: tuple[str, ...] = ()  # any of these does, too; they are also asked for
    mfa_enforced_by_provider: bool = False
    fresh_s: int = 900  # how old a sign-in may be that makes an app password
    session_s: int = 28_800
    domains: tuple[str, ...] = ()  # lower case
    group: str = ""
    group_claim: str = "groups"
    tenants: tuple[str, ...] = ()  # Entra's ids; never empty where is_entra
    mailbox_claim: str = ""  # that the provider vouches for; "": email if verified, Entra's preferred_username
    is_entra: bool = False
    create_accounts: bool = False
    admin_group: str = ""

    @property
    def redirect_url(self) -> str:
        return f"{self.public_url}/signed-in"


@dataclass(frozen=True, slots=True)
class Config:
    path: Path
    listeners: tuple[ListenConfig, ...]
    upstreams: Mapping[str, UpstreamConfig]
    store: StoreConfig = field(default_factory=StoreConfig)
    keys: KeysConfig = field(default_factory=KeysConfig)
    tls: TlsConfig = field(default_factory=TlsConfig)
    log: LogConfig = field(default_factory=LogConfig)
    workers: WorkersConfig = field(default_factory=WorkersConfig)
    alerts: AlertsConfig = field(default_factory=AlertsConfig)
    audit: AuditConfig = field(default_factory=AuditConfig)
    metrics: MetricsConfig = field(default_factory=MetricsConfig)
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    web: WebConfig | None = None
    text: bytes = field(default=b"", repr=False, compare=False)  # of the file, for a process that is to have the same
