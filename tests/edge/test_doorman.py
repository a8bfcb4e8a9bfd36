"""Who is turned away is counted, and told without a flood: by the clock of the loop, and in a whole Gatepost."""

from __future__ import annotations

import base64
import logging
from dataclasses import replace

import pytest

from proxy.config import Tls
from proxy.edge.doorman import Doorman, Reason
from proxy.errors import Answer, Refusal
from proxy.meters import LOGINS, TURNED_AWAY, Meters
from tests.edge.house_kit import QUICK, USER, Gatepost, mail_server, open_house
from tests.edge.relay_kit import End, until
from tests.edge.scripted import on_both_loops

pytest_plugins = ("tests.edge.house_plugin",)

LONG_S = 3600.0
CAP = Reason("imap", Refusal.CONNECTION_CAP, "waiting_per_address")
STOP = Reason("smtp", Refusal.SHUTTING_DOWN)
SAID = "event=turned_away service=imap cause=connection_cap limit=waiting_per_address"


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, logger="gatepost.edge")
    return caplog


# -- lines and counts ------------------------------------------------------------------------------------------------


async def test_an_address_has_one_line_for_a_reason_and_the_others_are_counted(log):
    meters = Meters()
    doorman = Doorman(meters, window_s=LONG_S)
    for number in range(1000):
        doorman.tell(CAP, "192.0.2.1", f"v{number}")
    doorman.tell(STOP, "192.0.2.1", "last")
    doorman.close()
    assert log.messages == [
        f"{SAID} peer=192.0.2.1 id=v0",
        "event=turned_away service=smtp cause=shutting_down peer=192.0.2.1 id=last",
        f"{SAID} left_out=999",
    ]
    assert meters.read(TURNED_AWAY, "imap", "connection_cap", "waiting_per_address") == 1000
    assert meters.read(TURNED_AWAY, "smtp", "shutting_down", "") == 1


async def test_a_crowd_of_addresses_has_a_few_lines_and_its_number(log):
    doorman = Doorman(window_s=LONG_S, max_lines=3)
    for number in range(200):
        doorman.tell(CAP, f"192.0.2.{number}", "v")
    doorman.close()
    assert len(log.messages) == 4
    assert log.messages[-1] == f"{SAID} left_out=197"


async def test_a_window_ends_by_itself_and_the_next_has_its_own_lines(log):
    doorman = Doorman(window_s=0.01)
    for _ in range(2):
        log.clear()
        doorman.tell(CAP, "192.0.2.1", "a")
        doorman.tell(CAP, "192.0.2.1", "b")
        await until(lambda: len(log.messages) == 2)
        assert log.messages == [f"{SAID} peer=192.0.2.1 id=a", f"{SAID} left_out=1"]


async def test_a_window_without_more_ends_without_a_word(log):
    doorman = Doorman(window_s=LONG_S)
    doorman.tell(CAP, "192.0.2.1", "a")
    doorman.close()
    doorman.close()
    assert len(log.messages) == 1


# -- in a whole Gatepost ---------------------------------------------------------------------------------------------


def told(gate: Gatepost) -> list[str]:
    return [line for line in gate.lines if "event=turned_away" in line]


@pytest.mark.parametrize("limit", ["connections", "waiting_per_address"])
@pytest.mark.parametrize(("protocol", "farewell"), [("imap", b"* BYE "), ("smtp", b"421 4.3.2 ")])
@on_both_loops
async def test_a_crowd_at_a_cap_leaves_two_lines_and_its_number(made, protocol, farewell, limit):
    limits = replace(QUICK, **{limit: 2})
    async with (
        mail_server(made.certificates, protocol) as upstream,
        open_house(made, upstream, protocol, tls=[Tls.NONE], limits=limits) as gate,
    ):
        meters = gate.server.house.meters
        kept = [await gate.connect(Tls.NONE) for _ in range(2)]
        for client in kept:
            assert (await client.line())[:3] in (b"* O", b"220")
        for number in range(1, 6):
            client = await gate.connect(Tls.NONE)
            assert (await client.rest()).startswith(farewell)
            client.drop()
            await until(lambda: len(gate.server.house.guests) == 2)
            assert meters.read(TURNED_AWAY, protocol, "connection_cap", limit) == number
        words = f"INFO event=turned_away service={protocol} cause=connection_cap limit={limit}"
        [line] = told(gate)
        assert line.startswith(f"{words} peer=127.0.0.1 id=")
        for client in kept:
            client.drop()
        await gate.emptied()
    assert told(gate) == [line, f"{words} left_out=4"]  # at the end of the house, which comes before the window's


@pytest.mark.parametrize("protocol", ["imap", "smtp"])
@on_both_loops
async def test_who_waits_when_the_house_closes_is_told_as_turned_away(made, protocol):
    async with (
        mail_server(made.certificates, protocol) as upstream,
        open_house(made, upstream, protocol, tls=[Tls.NONE]) as gate,
    ):
        left = await gate.connect(Tls.NONE)
        await left.line()
        left.drop()
        await gate.emptied()
        client = await gate.connect(Tls.NONE)
        await client.line()
        gate.server.house.guests.close_waiting(Answer.CLOSING)
        assert (await client.rest()).startswith((b"* BYE ", b"421 4.3.2 "))
        client.drop()
        await gate.emptied()
        [line] = told(gate)
        assert line.startswith(f"INFO event=turned_away service={protocol} cause=shutting_down peer=127.0.0.1 id=")
        assert gate.server.house.meters.read(TURNED_AWAY, protocol, "shutting_down", "") == 1


# -- logins in clear -------------------------------------------------------------------------------------------------


async def try_in_clear(client: End, protocol: str, password: str) -> None:
    """Twice, with the right password."""
    plain = base64.b64encode(f"\0{USER}\0{password}".encode())
    if protocol == "imap":
        assert (await client.ask(b"a1 LOGIN %b %b" % (USER.encode(), password.encode()))).startswith(b"a1 NO [PRIV")
        assert (await client.ask(b"a2 AUTHENTICATE PLAIN " + plain)).startswith(b"a2 NO [PRIV")
    else:
        await client.send(b"EHLO scanner.example\r\n")
        while not (await client.line()).startswith(b"250 "):
            pass
        for _ in range(2):
            assert (await client.ask(b"AUTH PLAIN " + plain)).startswith(b"530 5.7.0 ")


@pytest.mark.parametrize("protocol", ["imap", "smtp"])
@on_both_loops
async def test_a_login_in_clear_is_told_once_for_a_connection_and_counts_against_nobody(made, protocol):
    limits = replace(QUICK, throttle_wrong=1)
    async with (
        mail_server(made.certificates, protocol) as upstream,
        open_house(made, upstream, protocol, tls=[Tls.STARTTLS], limits=limits) as gate,
    ):
        for _ in range(3):
            client = await gate.connect(Tls.STARTTLS)
            await client.line()
            await try_in_clear(client, protocol, gate.password)
            client.drop()
        lines = [line for line in gate.lines if "event=login" in line]
        assert len(lines) == 3
        for line in lines:
            assert line.startswith(
                f"INFO event=login service={protocol} peer=127.0.0.1 result=refused cause=clear_text "
            )
            assert USER not in line
        assert not [line for line in gate.lines if gate.password in line]
        house = gate.server.house
        assert house.meters.read(LOGINS, protocol, "refused", "clear_text") == 3
        assert not house.login._throttle.is_blocked("127.0.0.1", USER)
        await gate.emptied()
        assert upstream.sessions == 0
