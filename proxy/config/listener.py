"""The rules for [[listen]] tables: what a listening socket may be told."""

from __future__ import annotations

from collections.abc import Mapping

from proxy.config.address import is_loopback, listen_address
from proxy.config.model import (
    PROTOCOLS,
    TLS_VERSIONS,
    ListenConfig,
    Protocol,
    Tls,
    TlsConfig,
    TlsVersion,
    UpstreamConfig,
)
from proxy.config.table import Table, shown

_KEYS = ("protocol", "address", "tls", "upstreams", "insecure", "proxy_protocol_from", "minimum_tls")


def listeners_of(top: Table, upstreams: Mapping[str, UpstreamConfig], tls: TlsConfig) -> tuple[ListenConfig, ...]:
    """The listeners of the file, one at least. Raises ConfigError naming file and key."""
    tables = top.tables("listen", _KEYS)
    if not tables:
        raise top.error("listen", "is missing", "add a [[listen]] table with protocol, address and tls")
    listeners: list[ListenConfig] = []
    for table in tables:
        listener = _listener(table, upstreams)
        if listener.tls is not Tls.NONE and tls.certificate is None:
            raise table.error(
                "tls", "needs a certificate", "set certificate and key in [tls]; gatepost init makes a pair"
            )
        if listener.port and any((listener.host, listener.port) == (other.host, other.port) for other in listeners):
            raise table.error("address", "is used by another [[listen]] already", "give each an address of its own")
        listeners.append(listener)
    return tuple(listeners)


def _listener(table: Table, upstreams: Mapping[str, UpstreamConfig]) -> ListenConfig:
    protocol = table.choice("protocol", PROTOCOLS, None)
    address = table.parsed("address", listen_address)
    if address is None:
        raise table.missing("address", '"0.0.0.0:993"')
    host, port = address
    tls = Tls(table.choice("tls", [how.value for how in Tls], None))
    insecure = table.flag("insecure", default=False)
    if tls is Tls.NONE and not insecure and not is_loopback(host):
        raise table.error(
            "tls",
            f'"none" on {host} would let passwords be overheard',
            'use "implicit" or "starttls", listen on 127.0.0.1, or say insecure = true',
        )
    return ListenConfig(
        protocol,
        host,
        port,
        tls,
        _upstreams(table, upstreams, protocol),
        insecure,
        table.networks("proxy_protocol_from"),
        _minimum_tls(table, tls),
    )


def _upstreams(table: Table, upstreams: Mapping[str, UpstreamConfig], protocol: Protocol) -> tuple[str, ...]:
    names = table.texts("upstreams")
    if names is None:
        names = tuple(name for name, upstream in upstreams.items() if upstream.endpoint(protocol))
    for name in names:
        upstream = upstreams.get(name)
        if upstream is None:
            known = ", ".join(upstreams)
            raise table.error("upstreams", f"there is no [upstream.{shown(name)}]", f"add it, or use one of: {known}")
        if upstream.endpoint(protocol) is None:
            raise table.error(
                "upstreams", f"[upstream.{name}] has no {protocol}", f"set its {protocol}, or leave it out here"
            )
    if not names:
        raise table.error("upstreams", f"no upstream here has {protocol}", f"set {protocol} in an [upstream.NAME]")
    return names


def _minimum_tls(table: Table, tls: Tls) -> TlsVersion | None:
    if "minimum_tls" not in table:
        return None
    minimum = table.choice("minimum_tls", TLS_VERSIONS, None)
    if tls is Tls.NONE:
        raise table.error("minimum_tls", 'is not used with tls = "none"', "remove it, or use TLS")
    return minimum
