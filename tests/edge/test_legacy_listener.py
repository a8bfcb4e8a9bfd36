"""A listener for old devices: it alone takes TLS 1.0, in a whole Gatepost, on both loops."""

from __future__ import annotations

import ssl
import warnings

import pytest

from proxy.config import ListenConfig, Tls
from tests.edge.house_kit import USER, Gatepost, Set_up, mail_server, open_house
from tests.edge.relay_kit import End
from tests.edge.scripted import on_both_loops

pytest_plugins = ("tests.edge.house_plugin",)


def old_device(made: Set_up) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(made.config.path.parent / "cert.pem"))
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1
    return context


async def arrive(gate: Gatepost, tls: Tls, number: int, context: ssl.SSLContext) -> End:
    """Behind the handshake, and the greeting if there is one before it."""
    sock = await gate.connect_socket(tls, number=number)
    if tls is Tls.IMPLICIT:
        client = await End.over(sock, context, is_server=False)
        await client.line()
        return client
    client = End(sock, None)
    await client.line()
    await client.ask(b"a0 STARTTLS")
    await client.start_tls(context)
    return client


@pytest.mark.parametrize("tls", [Tls.IMPLICIT, Tls.STARTTLS])
@on_both_loops
async def test_old_device_gets_in_at_the_legacy_listener_and_nowhere_else(made, tls):
    usual = ListenConfig("imap", "127.0.0.1", 0, tls, ("main",))
    legacy = ListenConfig("imap", "127.0.0.1", 0, tls, ("main",), minimum_tls="1.0")
    async with (
        mail_server(made.certificates, "imap") as upstream,
        open_house(made, upstream, listeners=[usual, legacy]) as gate,
    ):
        with pytest.raises(ssl.SSLError):
            await arrive(gate, tls, 0, old_device(made))
        client = await arrive(gate, tls, 1, old_device(made))
        answer = await client.ask(b'a1 LOGIN %b "%b"' % (USER.encode(), gate.password.encode()))
        assert answer.startswith(b"a1 OK ")
        for number in (0, 1):  # and others get in everywhere
            client = await arrive(gate, tls, number, gate.trust)
            assert (await client.ask(b"a1 NOOP")).startswith(b"a1 OK ")
