"""TCP keepalive, for both legs: dead peers of sessions that are quiet for long are noticed."""

from __future__ import annotations

import socket

KEEPALIVE_IDLE_S = 300  # below the usual NAT timeouts


def keep_alive(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_KEEPIDLE"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE_S)
