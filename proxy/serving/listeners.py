"""The listening sockets of a configuration: passed by systemd, kept from the configuration before, or bound now.

A passed socket belongs to the listener that has its address: the same port, and the same host, where 0.0.0.0 and ::
are the same. Failing that its FileDescriptorName says which: imaps, imap, submissions or submission.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence

from proxy.config import ListenConfig, MetricsConfig, Protocol, Tls
from proxy.edge import listen
from proxy.errors import ConfigError
from proxy.notify import Passed

NAMES: dict[str, tuple[Protocol, Tls]] = {
    "imaps": ("imap", Tls.IMPLICIT),
    "imap": ("imap", Tls.STARTTLS),
    "submissions": ("smtp", Tls.IMPLICIT),
    "submission": ("smtp", Tls.STARTTLS),
}
Former = Sequence[tuple[ListenConfig, socket.socket]]


def open_sockets(
    listeners: Sequence[ListenConfig], passed: Sequence[Passed] = (), former: Former = ()
) -> list[socket.socket]:
    """A socket for each listener, in their order.

    former      listeners and sockets in use: whoever has the same address keeps his socket, and its waiting clients
    raises      ConfigError: a passed socket is nobody's, or an address can't be bound; what was bound is closed again
    """
    found = _matched(listeners, passed)
    left = [(listener, sock) for listener, sock in former if all(sock is not one.sock for one in passed)]
    bound: list[socket.socket] = []
    try:
        for index, listener in enumerate(listeners):
            if index in found:
                continue
            kept = next((pair for pair in left if (pair[0].host, pair[0].port) == (listener.host, listener.port)), None)
            if kept is not None:
                left.remove(kept)
                found[index] = kept[1]
            else:
                found[index] = listen.bind(listener)
                bound.append(found[index])
    except ConfigError:
        for sock in bound:
            sock.close()
        raise
    return [found[index] for index in range(len(listeners))]


def open_monitor(
    metrics: MetricsConfig, before: MetricsConfig | None = None, former: socket.socket | None = None
) -> socket.socket | None:
    """The socket of [metrics], None without an address. One in use is kept if the address is the same as before.

    raises  ConfigError
    """
    if metrics.address is None:
        return None
    if former is not None and before is not None and before.address == metrics.address:
        return former
    return listen.bind_to(*metrics.address)


def _matched(listeners: Sequence[ListenConfig], passed: Sequence[Passed]) -> dict[int, socket.socket]:
    """Passed sockets by the index of their listener. Addresses first: a name must not take what another fits."""
    found: dict[int, socket.socket] = {}
    nameless = []
    for one in passed:
        _require_listening(one)
        host, port = one.sock.getsockname()[:2]
        index = next(
            (
                index
                for index, listener in enumerate(listeners)
                if index not in found and listener.port == port and _same_host(listener.host, host)
            ),
            None,
        )
        if index is None:
            nameless.append(one)
        else:
            found[index] = one.sock
    for one in nameless:
        kind = NAMES.get(one.name)
        fitting = [
            index
            for index, listener in enumerate(listeners)
            if index not in found and (listener.protocol, listener.tls) == kind
        ]
        if len(fitting) != 1:
            host, port = one.sock.getsockname()[:2]
            raise ConfigError(
                f"systemd passed a socket on port {port} of {host} that no [[listen]] names",
                f"systemctl disable --now its socket unit ({one.name or 'see systemctl list-sockets'}), "
                "or add a [[listen]] with this address",
            )
        found[fitting[0]] = one.sock
    return found


def _require_listening(one: Passed) -> None:
    is_tcp = one.sock.family in (socket.AF_INET, socket.AF_INET6) and one.sock.type == socket.SOCK_STREAM
    if not is_tcp or not one.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        raise ConfigError(
            f"systemd passed {one.name or 'a socket'}, which is no listening TCP socket",
            "use ListenStream= with a port, and Accept=no",
        )


def _same_host(configured: str, bound: str) -> bool:
    try:
        ours, theirs = ipaddress.ip_address(configured), ipaddress.ip_address(bound)
    except ValueError:  # a name
        return configured == bound
    return ours == theirs or (ours.is_unspecified and theirs.is_unspecified)
