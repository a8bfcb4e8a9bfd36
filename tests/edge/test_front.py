"""proxy/edge/front.py in a whole Gatepost: what becomes of both connections when their relay cannot begin."""

from __future__ import annotations

import base64

import pytest

from proxy.config import Tls
from proxy.edge.guests import Guests
from proxy.edge.relay import Relay
from tests.edge.house_kit import (
    USER,
    Gatepost,
    Mailbox,
    mail_server,
    open_house,
)
from tests.edge.relay_kit import End, until

pytest_plugins = ("tests.edge.house_plugin",)


async def logged_in(gate: Gatepost, protocol: str) -> End:
    client = await gate.connect(Tls.IMPLICIT)
    await client.line()
    if protocol == "imap":
        assert (await client.ask(b"a1 LOGIN %b %b" % (USER.encode(), gate.password.encode()))).startswith(b"a1 OK")
    else:
        await client.send(b"EHLO x\r\n")
        while not (await client.line()).startswith(b"250 "):
            pass
        plain = base64.b64encode(f"\0{USER}\0{gate.password}".encode())
        assert (await client.ask(b"AUTH PLAIN " + plain)).startswith(b"235 ")
    return client


@pytest.mark.parametrize("step", [(Guests, "let_in"), (Relay, "start")], ids=["before", "behind"])
@pytest.mark.parametrize("protocol", ["imap", "smtp"])
async def test_a_relay_that_fails_to_begin_leaves_nothing_open(made, monkeypatch, protocol, step):
    """Before either connection has changed hands, and behind that."""
    ended = []

    async def talk(mailbox: Mailbox) -> None:
        ended.append(await mailbox.rest())

    def break_off(*_: object) -> None:
        raise RuntimeError

    async with mail_server(made.certificates, protocol, talk) as upstream, open_house(made, upstream, protocol) as gate:
        monkeypatch.setattr(*step, break_off)
        client = await logged_in(gate, protocol)
        assert await client.until_gone() == b""
        client.drop()
        await gate.emptied()
        await until(lambda: ended == [b""])
        [line] = [line for line in gate.lines if line.startswith("ERROR") or "TRACEBACK" in line]
        assert "event=relay_crashed" in line
        assert line.endswith("TRACEBACK")
        gate.lines.remove(line)  # all others are the house's own failure
