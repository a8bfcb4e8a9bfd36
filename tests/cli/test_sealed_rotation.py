"""Rotation in sealed accounts on the command line: what opens the new text, and what becomes of the former's key."""

from __future__ import annotations

import pytest

import proxy.cli.life as shell
from proxy.admin.accounts import find
from proxy.admin.deposits import deposit_token
from proxy.admin.desk import opened
from proxy.config.reader import load
from proxy.secret import Secret
from proxy.store.rows import Purpose

SUE = "sue@example.com"
TOKEN = "token-of-sue-0123456789"


@pytest.fixture
def sue(gatepost):
    """A sealed account with one app password and a token; and that app password's record."""
    gatepost.done("account", "add", SUE, "--upstream", "main", "--sealed")
    phone = gatepost.done("create", SUE, "--name", "phone", "--json").json
    with opened(load(gatepost.config), "test") as desk:
        deposit_token(desk, find(desk, SUE), Secret(TOKEN))
    return gatepost, phone


def keys(gatepost) -> int:
    """To how many app passwords' texts the account's token is sealed."""
    with opened(load(gatepost.config), "test") as desk:
        account = find(desk, SUE)
        deposit = desk.store.deposit(account.id, Purpose.REFRESH_TOKEN)
        assert deposit is not None
        assert {wrap.key_id for wrap in deposit.wraps} == {one.key_id for one in desk.store.recipients(account.id)}
        return len(deposit.wraps)


def opens(gatepost, text: str) -> bool:
    """Whether this text opens what is stored: it makes another app password, which is revoked at once."""
    done = gatepost("create", SUE, "--name", "probe", "--unlock-stdin", "--json", stdin=text.encode())
    if done.status == 0:
        gatepost.done("revoke", done.json["id"])
    return done.status == 0


def rotate(gatepost, public_id: str, *words: str, unlock: str):
    return gatepost.done("rotate", public_id, "--unlock-stdin", "--json", *words, stdin=unlock.encode()).json


def test_both_texts_open_what_is_stored_during_the_overlap(sue):
    gatepost, phone = sue
    new = rotate(gatepost, phone["id"], unlock=phone["password"])
    assert list(new) == list(phone)
    assert keys(gatepost) == 2
    assert opens(gatepost, phone["password"])
    assert opens(gatepost, new["password"])


def test_without_overlap_the_former_text_opens_nothing_and_its_key_is_gone(sue):
    gatepost, phone = sue
    new = rotate(gatepost, phone["id"], "--overlap", "0h", unlock=phone["password"])
    assert keys(gatepost) == 1
    assert not opens(gatepost, phone["password"])
    assert opens(gatepost, new["password"])
    assert gatepost.done("account", "show", SUE, "--json").json["token"]["state"] == "fresh"


def test_former_text_whose_time_is_over_unlocks_nothing_even_while_its_key_is_there(sue, monkeypatch):
    gatepost, phone = sue
    monkeypatch.setattr(shell.life, "shown", lambda desk, rotated: None)  # nobody has cleaned up yet
    rotate(gatepost, phone["id"], "--overlap", "0h", unlock=phone["password"])
    assert keys(gatepost) == 2
    assert not opens(gatepost, phone["password"])


def mistyped(password: str) -> bytes:
    return (password[:-1] + ("y" if password.endswith("x") else "x")).encode()


def test_ways_in_are_asked_for_before_anything_is_drawn(sue, snapshot):
    gatepost, phone = sue
    before = snapshot()
    line = gatepost.refused("rotate", phone["id"])
    assert "is sealed" in line
    assert "--sign-in" in line
    assert "--unlock-stdin" in line
    assert "does not open" in gatepost.refused(
        "rotate", phone["id"], "--unlock-stdin", stdin=mistyped(phone["password"])
    ) or "is no app password" in gatepost.ran[-1].err  # fmt: skip
    assert gatepost("rotate", phone["id"], "--device").status == 2
    gatepost.add_ann()
    ordinary = gatepost.done("create", "ann@example.com", "--name", "x", "--json").json["id"]
    assert "is not sealed" in gatepost.refused("rotate", ordinary, "--sign-in")
    gatepost.done("account", "remove", "ann@example.com")
    assert snapshot() == before


def test_the_mailboxs_password_is_another_way_in(gatepost):
    gatepost.done("account", "add", SUE, "--upstream", "imaponly", "--sealed")
    words = ("--sign-in", "--json")
    phone = gatepost.done("create", SUE, "--name", "phone", *words, stdin=b"password of the mailbox\n").json
    new = gatepost.done("rotate", phone["id"], *words, stdin=b"password of the mailbox, changed\n").json
    assert opens(gatepost, phone["password"])
    assert opens(gatepost, new["password"])


def test_text_that_nobody_could_see_has_no_key_once_its_time_is_over_and_the_former_one_rotates_again(sue, monkeypatch):
    gatepost, phone = sue

    def broken(text):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(shell, "say", broken)
        line = gatepost.refused("rotate", phone["id"], "--unlock-stdin", stdin=phone["password"].encode())
    assert "the former one works until" in line
    with opened(load(gatepost.config), "test") as desk:
        assert desk.store.trail.drop_outlived_keys() == 1  # what a server does by itself
    assert keys(gatepost) == 1
    new = rotate(gatepost, phone["id"], unlock=phone["password"])
    assert opens(gatepost, new["password"])
