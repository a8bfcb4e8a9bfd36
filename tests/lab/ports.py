"""Which loopback ports a lab uses; owns the promise that no two labs of this machine choose the same one."""

import random
import socket
from typing import NamedTuple

# Below Linux's ephemeral range (32768 and up), so that no outgoing connection takes a port while its server is away.
FIRST_PORT, LAST_PORT = 20000, 31999
MAX_TRIES = 2000  # a sixth of the range: past that something is wrong with the machine, not with our luck


class Endpoint(NamedTuple):
    """Where a server listens: a host name that its certificate bears, and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


class PortReservation:
    """Free TCP ports on 127.0.0.1, ours until release(), also while the server behind one is stopped.

    A claim is an abstract Unix socket named after the port: the kernel drops it when we end, however we end.
    """

    def __init__(self) -> None:
        self._claims: list[socket.socket] = []

    def take(self) -> int:
        """Return one more free port; raises OSError if none is found."""
        for _ in range(MAX_TRIES):
            port = random.randint(FIRST_PORT, LAST_PORT)  # a port is no secret
            claim = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                claim.bind(f"\0gatepost-lab-port-{port}")
                with socket.socket() as probe:
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    probe.bind(("127.0.0.1", port))
            except OSError:
                claim.close()
                continue
            self._claims.append(claim)
            return port
        raise OSError(f"no free port found between {FIRST_PORT} and {LAST_PORT}")

    def release(self) -> None:
        """Give all ports back."""
        while self._claims:
            self._claims.pop().close()
