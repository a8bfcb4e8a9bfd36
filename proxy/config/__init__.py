"""What the operator wrote: the frozen model and the reader that makes it from TOML."""

from proxy.config.model import (
    PROTOCOLS,
    Config,
    Endpoint,
    KeysConfig,
    LimitsConfig,
    ListenConfig,
    LogConfig,
    OAuth2Config,
    Protocol,
    StoreConfig,
    Tls,
    TlsConfig,
    UpstreamConfig,
    WorkersConfig,
)

__all__ = [
    "PROTOCOLS",
    "Config",
    "Endpoint",
    "KeysConfig",
    "LimitsConfig",
    "ListenConfig",
    "LogConfig",
    "OAuth2Config",
    "Protocol",
    "StoreConfig",
    "Tls",
    "TlsConfig",
    "UpstreamConfig",
    "WorkersConfig",
]
