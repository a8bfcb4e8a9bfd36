"""What a sans-IO machine asks its driver to do, in the order in which it must be done."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Send:
    """Write these bytes to the peer. They are kept out of repr: a server echoes what a client took for its tag."""

    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class StartTls:
    """Do the TLS handshake now. Bytes that arrived before it must not reach the machine again."""


@dataclass(frozen=True, slots=True)
class Close:
    """Write out what was sent, then close the connection."""
