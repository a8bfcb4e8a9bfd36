"""[upstream.NAME] mechanism on the wire: which of the two ways to send a token is taken, over IMAP and SMTP."""

from __future__ import annotations

from dataclasses import replace

import pytest

from proxy.config import Tls
from proxy.edge.upstream import dial, examine
from proxy.wire.sasl import token_mechanism
from tests.edge.imap_scripts import greet
from tests.edge.scripted import BEARER, Certificates, make_certificates, on_both_loops, serving


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


# What is offered, what is preferred, what is used.
CHOICES = [
    ("XOAUTH2 OAUTHBEARER", "", "XOAUTH2"),
    ("XOAUTH2 OAUTHBEARER", "XOAUTH2", "XOAUTH2"),
    ("XOAUTH2 OAUTHBEARER", "OAUTHBEARER", "OAUTHBEARER"),
    ("XOAUTH2 PLAIN", "OAUTHBEARER", "XOAUTH2"),
    ("OAUTHBEARER PLAIN", "XOAUTH2", "OAUTHBEARER"),
    ("PLAIN", "OAUTHBEARER", "OAUTHBEARER"),
    ("PLAIN", "XOAUTH2", "XOAUTH2"),
    ("PLAIN", "", None),
]


@pytest.mark.parametrize(("offered", "preferred", "used"), CHOICES)
def test_what_is_offered_counts_before_what_is_preferred(offered, preferred, used):
    assert token_mechanism(set(offered.split()), preferred) == used


REACHED = [choice for choice in CHOICES if choice[2]]


@pytest.mark.parametrize(("offered", "preferred", "used"), REACHED)
@on_both_loops
async def test_imap(certificates, offered, preferred, used):
    def script(peer):
        capabilities = " ".join(f"AUTH={name}" for name in offered.split())
        greet(peer, capabilities=f"IMAP4rev1 SASL-IR {capabilities}".encode())
        tag, *command = peer.line().split()
        assert command[:2] == [b"AUTHENTICATE", used.encode()]
        peer.send(tag + b" OK in\r\n")
        peer.ends()

    async with serving(script, certificates, "imap", Tls.IMPLICIT) as server:
        (await dial(replace(server.upstream, mechanism=preferred), "imap", BEARER)).abort()


@pytest.mark.parametrize(("offered", "preferred", "used"), REACHED)
@on_both_loops
async def test_smtp_and_the_doctor(certificates, offered, preferred, used):
    def script(peer):
        peer.send(b"220 ready\r\n")
        peer.line()
        peer.send(f"250-mx\r\n250 AUTH {offered}\r\n".encode())
        peer.expect(f"AUTH {used}".encode())
        peer.send(b"334 \r\n")
        peer.line()
        peer.send(b"235 in\r\n")
        if peer.line().startswith(b"EHLO"):
            peer.send(b"250 mx\r\n")
        peer.ends()

    async with serving(script, certificates, "smtp", Tls.IMPLICIT) as server:
        assert await examine(replace(server.upstream, mechanism=preferred), "smtp", BEARER) == ""
