"""Scripts that IMAP tests share: how far a server goes before a test's own story begins."""

from __future__ import annotations

import pytest

from proxy.config import Tls
from proxy.edge.upstream import dial
from proxy.errors import UpstreamError
from tests.edge.scripted import BEARER, FAILURE, TOKEN, XOAUTH2, Certificates, Peer, Script, serving

CAPABILITIES = b"IMAP4rev1 SASL-IR AUTH=PLAIN AUTH=XOAUTH2"
BOTH = pytest.mark.parametrize("tls", [Tls.IMPLICIT, Tls.STARTTLS])
BYTEWISE = pytest.mark.parametrize("bytewise", [False, True], ids=["whole", "bytewise"])


def greet(peer: Peer, tls: Tls = Tls.IMPLICIT, capabilities: bytes = CAPABILITIES, *, bytewise: bool = False) -> None:
    """Up to where the client authenticates."""
    if tls is Tls.IMPLICIT:
        peer.send(b"* OK [CAPABILITY %b] ready\r\n" % capabilities, bytewise=bytewise)
        return
    peer.send(b"* OK [CAPABILITY IMAP4rev1 STARTTLS LOGINDISABLED] ready\r\n", bytewise=bytewise)
    peer.send(peer.tag(b"STARTTLS") + b" OK go\r\n", bytewise=bytewise)
    peer.start_tls()
    tell(peer, capabilities, bytewise=bytewise)


def tell(peer: Peer, capabilities: bytes, *, bytewise: bool = False) -> None:
    """Answer a CAPABILITY command."""
    tag = peer.tag(b"CAPABILITY")
    peer.send(b"* CAPABILITY %b\r\n%b OK done\r\n" % (capabilities, tag), bytewise=bytewise)


def let_in(peer: Peer, behind: bytes = b"") -> None:
    greet(peer)
    peer.send(peer.tag(b"AUTHENTICATE XOAUTH2 " + XOAUTH2) + b" OK in\r\n" + behind)


async def fault_of(
    script: Script, certificates: Certificates, tls: Tls = Tls.IMPLICIT, *, credential=BEARER, deadline_s=5.0
) -> UpstreamError:
    """The error that dialling a server with this script gives; the client must be gone afterwards."""

    def until_gone(peer: Peer) -> None:
        script(peer)
        peer.ends()

    async with serving(until_gone, certificates, "imap", tls) as server:
        with pytest.raises(UpstreamError) as caught:
            await dial(server.upstream, "imap", credential, deadline_s=deadline_s)
        assert TOKEN not in str(caught.value)
        assert server.connections == 1
    return caught.value


def silent_at(step: int) -> Script:
    """A server that stops talking after so many steps."""

    def script(peer):
        if step > 0:
            peer.send(b"* OK hi\r\n"[: 4 if step == 1 else None])
        if step > 1:
            tag = peer.tag(b"CAPABILITY")
            if step > 2:
                peer.send(b"* CAPABILITY %b\r\n%b OK done\r\n" % (CAPABILITIES, tag))
                peer.tag(b"AUTHENTICATE XOAUTH2 " + XOAUTH2)
            if step > 3:
                peer.send(b"+ " + FAILURE + b"\r\n")
                peer.expect(b"")

    return script
