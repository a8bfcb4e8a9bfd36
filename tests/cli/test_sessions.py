"""proxy/cli/sessions.py with proxy/admin/sessions.py: gatepost sessions, sessions kick."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from proxy.store.rows import LiveSession, Seat
from proxy.store.store import Store

SINCE = datetime(2026, 11, 23, 7, 8, 9, 123456, tzinfo=UTC)
HERE, THERE = Seat("w-here", "mail1", 0), Seat("w-there", "mail2", 3)


@pytest.fixture
def store(gatepost):
    opened = Store.open(f"sqlite:///{gatepost.directory}/gatepost.db", migrate=False)
    yield opened
    opened.close()


@pytest.fixture
def live(gatepost, store):
    """Ann has a session at one node and Bob at another; the id of Ann's app password."""
    gatepost.add_ann("--alias", "ann")
    gatepost.done("account", "add", "bob@example.com", "--upstream", "main")
    made = gatepost.done("create", "ann", "--name", "Scanner", "--json").json["id"]
    ann, bob = store.account("ann"), store.account("bob@example.com")

    def session(id_, account, public_id, name):
        upstream = (account.upstream, account.upstream_user)
        return LiveSession(
            id_, account.id, account.email, public_id, name, "imap", *upstream, "192.0.2.7", "mutt", SINCE
        )

    store.roster.publish(HERE, [session("1f2e3d4c", ann, made, "Scanner")], [])
    store.roster.publish(THERE, [session("aabbccdd", bob, "0011223344", "\x1b[2J")], [])
    return made


def test_json_has_exactly_the_fixed_shape(gatepost, live):
    assert gatepost.done("sessions", "--account", "ann", "--json").json == [
        {
            "id": "1f2e3d4c",
            "account": "ann@example.com",
            "app_password": live,
            "name": "Scanner",
            "protocol": "imap",
            "address": "192.0.2.7",
            "since": "2026-11-23T07:08:09Z",
            "node": "mail1",
            "worker": 0,
        }
    ]
    keys = ["id", "account", "app_password", "name", "protocol", "address", "since", "node", "worker"]
    both = gatepost.done("sessions", "--json").json
    assert [list(one) for one in both] == [keys, keys]
    assert [one["node"] for one in both] == ["mail1", "mail2"]


def test_table_shows_every_node_and_moves_no_cursor(gatepost, live):
    heading, *lines = gatepost.done("sessions").out.splitlines()
    assert heading.split() == ["ID", "ACCOUNT", "APP", "PASSWORD", "PROTOCOL", "FROM", "SINCE", "NODE", "WORKER"]
    assert lines[0].split() == [
        "1f2e3d4c", "ann@example.com", "Scanner", "imap", "192.0.2.7", "2026-11-23", "07:08Z", "mail1", "0",
    ]  # fmt: skip
    assert "\x1b" not in lines[1]


def test_nobody_logged_in(gatepost):
    gatepost.add_ann()
    assert gatepost.done("sessions").out == "No live sessions.\n"
    assert gatepost.done("sessions", "--account", "ann@example.com", "--json").json == []
    assert 'no account "bob@example.com"' in gatepost.refused("sessions", "--account", "bob@example.com")


def test_kick_asks_the_sessions_worker_and_says_how_to_keep_its_client_out(gatepost, live, store):
    revision = store.revision()
    out = gatepost.done("sessions", "kick", " 1F2E3D4c").out
    assert 'Kicked 1f2e3d4c: imap from 192.0.2.7 by "Scanner" of ann@example.com, on mail1.' in out
    assert f"gatepost suspend {live}" in out
    assert store.roster.kicked(HERE) == {"1f2e3d4c"}
    assert store.roster.kicked(THERE) == set()
    assert store.revision() == revision + 1
    assert gatepost.done("sessions", "kick", "aabbccdd", "--json").json["account"] == "bob@example.com"
    assert gatepost.done("sessions", "--json", "kick", "aabbccdd").json["node"] == "mail2"


def test_session_that_is_not_there_is_refused_with_the_nearest(gatepost, live, store):
    assert "did you mean 1f2e3d4c?" in gatepost.refused("sessions", "kick", "1f2e3d4d")
    assert "gatepost sessions shows" in gatepost.refused("sessions", "kick", "zzzzzzzz")
    assert store.roster.kicked(HERE) == set()
