"""Every bound of the gate is reached once, and random input stays within all of them."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings, strategies as st

from proxy.errors import Answer
from proxy.wire.imap import (
    MAX_BAD_COMMANDS,
    MAX_COMMANDS,
    MAX_HELD_BYTES,
    Action,
    Close,
    ImapGate,
    Login,
    Send,
    StartTls,
)
from proxy.wire.imap_command import MAX_LINE_BYTES, MAX_LITERAL_BYTES, MAX_LITERALS
from proxy.wire.imap_words import MAX_EXTENSIONS
from proxy.wire.sasl import MAX_SASL_BYTES
from tests.wire.playbook import ImapPlaybook, Shown, b64, bytewise, shown

# What a gate may hold while no login is under way: one line, and one command's lines and literals.
MAX_STATE_BYTES = MAX_SASL_BYTES + 2 + MAX_LINE_BYTES + MAX_LITERALS * MAX_LITERAL_BYTES


# Lines


def test_longest_command_line_is_read(imap: ImapPlaybook) -> None:
    line = "a1 LOGIN ann ".ljust(MAX_LINE_BYTES, "x")
    imap.client(line)
    assert imap.attempt() == Shown("ann", line[13:])


@pytest.mark.parametrize("end", ["\r\n", "\n", "", "\r", "\rx"])
def test_longer_command_line_ends_the_connection(imap: ImapPlaybook, end: str) -> None:  # E20, E50
    imap.octets(("a1 LOGIN ann ".ljust(MAX_LINE_BYTES + 1, "x") + (end or "xx")).encode())
    imap.server("* BYE Line too long")
    imap.closed()


def test_megabyte_without_a_line_end_ends_the_connection(imap: ImapPlaybook) -> None:  # E50
    imap.octets(b"x" * 1_000_000)
    imap.server("* BYE Line too long")
    imap.closed()
    assert len(imap.gate._input) == 0


def test_closed_gate_keeps_no_secret(imap: ImapPlaybook) -> None:
    imap.client("a1 LOGIN ann {7+}", "hunter2 {5000+}", "more")
    imap.server("* BYE *")
    imap.closed()
    assert imap.gate._reader._literals == []


def test_lines_of_one_command_are_bounded_together(imap: ImapPlaybook) -> None:
    line = "a1 ID (" + '"k" "v" ' * 500 + "{1+}"
    imap.client(line, "x" + " " * (MAX_LINE_BYTES - len(line) + 1), "a2 NOOP")
    imap.server("* BYE Line too long")
    imap.closed()


def test_line_behind_a_literal_may_fill_the_rest(imap: ImapPlaybook) -> None:
    line = "a1 LOGIN ann {1+}"
    imap.client(line, "x" + " " * (MAX_LINE_BYTES - len(line)))
    assert imap.attempt() == Shown("ann", "x")


@pytest.mark.parametrize("name", ["AUTHENTICATE", "authenticate"])
def test_longest_initial_response_is_read(imap: ImapPlaybook, name: str) -> None:  # E20
    head = f"{'t' * 63} {name} PLAIN "
    password = "x" * ((MAX_SASL_BYTES - len(head)) // 4 * 3 - 5)
    line = head + b64(f"\0ann\0{password}")
    assert MAX_SASL_BYTES - 4 <= len(line) <= MAX_SASL_BYTES
    imap.client(line)
    assert imap.attempt() == Shown("ann", password)


def test_longer_initial_response_ends_the_connection(imap: ImapPlaybook) -> None:  # E20
    imap.client("a1 AUTHENTICATE PLAIN " + "A" * MAX_SASL_BYTES)
    imap.server("* BYE Line too long")
    imap.closed()


def test_longest_response_is_read(imap: ImapPlaybook) -> None:  # E20
    password = "x" * (MAX_SASL_BYTES // 4 * 3 - 5)
    line = b64(f"\0ann\0{password}")
    assert len(line) == MAX_SASL_BYTES
    imap.client("a1 AUTHENTICATE PLAIN")
    imap.server("+ ")
    imap.client(line)
    assert imap.attempt() == Shown("ann", password)


def test_longer_response_is_bad_and_ends_the_connection(imap: ImapPlaybook) -> None:  # E20
    imap.client("a1 AUTHENTICATE PLAIN", "A" * (MAX_SASL_BYTES + 4))
    imap.server("+ ", "a1 BAD *", "* BYE *")
    imap.closed()


# Literals


def test_many_unasked_literals_end_the_connection(imap: ImapPlaybook) -> None:
    imap.client("a1 ID (" + '"k" {1+}\r\nx ' * MAX_LITERALS + '"k" {1+}')
    imap.server("* BYE Too many literals")
    imap.closed()


def test_one_literal_too_many_is_not_asked_for(imap: ImapPlaybook) -> None:
    imap.client("a1 ID (" + '"k" {1+}\r\nx ' * MAX_LITERALS + '"k" {1}', "a2 NOOP")
    imap.server("a1 BAD *", "a2 OK *")


def test_literal_behind_a_complete_id_is_bad(imap: ImapPlaybook) -> None:
    imap.client("a1 ID (" + "{1+}\r\nx " * MAX_LITERALS + ") {1}", "a2 NOOP")
    imap.server("a1 BAD *", "a2 OK *")


@pytest.mark.parametrize("value", ['"v"', "{1+}\r\nv"])
def test_id_takes_thirty_pairs(imap: ImapPlaybook, value: str) -> None:
    pairs = '"k" "v" ' * 28
    imap.client(f"a1 ID ({pairs}{' '.join([value] * 4)})", f"a2 ID ({pairs}{' '.join([value] * 6)})")
    imap.server("* ID *", "a1 OK *", "a2 BAD *")


def test_third_literal_of_a_login_is_bad(imap: ImapPlaybook) -> None:
    imap.client("a1 LOGIN {1+}", "a {1+}", "b {1+}", "c", "a2 NOOP")
    imap.server("a1 BAD *", "a2 OK *")


def test_literals_that_nobody_wants_are_not_kept() -> None:
    gate = ImapGate(extensions=(), secured=False, starttls=True, clear_ok=False)
    gate.receive(b"a1 LOGIN {7+}\r\nhunter2 {7+}\r\nhunter2")
    assert gate._reader._literals == [b"", b""]


# Numbers of things


def test_twentieth_bad_command_ends_the_connection(imap: ImapPlaybook) -> None:
    assert MAX_BAD_COMMANDS == 20
    imap.client(*("GET / HTTP/1.1" for _ in range(21)))
    imap.server(*(["GET BAD *"] * 20), "* BYE *")
    imap.closed()


@pytest.mark.parametrize(
    ("command", "answer"),
    [
        ("a1 AUTHENTICATE X", "a1 NO *"),
        ("a1 LOGIN", "a1 BAD *"),
        ("lone", "* BAD *"),
        ("a1 LOGIN {9999}", "a1 NO *"),
        ("a1 AUTHENTICATE LOGIN =\r\n*", "+ UGFzc3dvcmQ6|a1 BAD *"),
    ],
)
def test_every_kind_of_bad_command_counts(imap: ImapPlaybook, command: str, answer: str) -> None:
    imap.client(*([command] * MAX_BAD_COMMANDS))
    imap.server(*(answer.split("|") * MAX_BAD_COMMANDS), "* BYE *")
    imap.closed()


def test_bad_commands_count_across_starttls(imap: ImapPlaybook) -> None:
    imap.start(secured=False, starttls=True)
    imap.client(*["x"] * 19, "a1 STARTTLS")
    imap.server("* OK *", *["* BAD *"] * 19, "a1 OK *")
    imap.handshake()
    imap.client("x")
    imap.server("* BAD *", "* BYE *")
    imap.closed()


def test_commands_before_login_are_numbered(imap: ImapPlaybook) -> None:
    imap.client(*["a1 NOOP"] * 200)
    imap.server(*["a1 OK *"] * MAX_COMMANDS, "* BYE *")
    imap.closed()


def test_input_held_during_a_login_fits_up_to_the_bound(imap: ImapPlaybook) -> None:
    imap.client("a1 LOGIN ann pass")
    imap.octets(b"x" * MAX_HELD_BYTES)
    imap.server("LOGIN?")
    assert imap.gate.accept() == (b"a1", b"x" * MAX_HELD_BYTES)


def test_more_input_during_a_login_ends_the_connection(imap: ImapPlaybook) -> None:
    imap.octets(b"a1 LOGIN ann pass\r\n" + b"x" * (MAX_HELD_BYTES + 1))
    imap.server("LOGIN?", "* BYE *")
    imap.closed()
    assert len(imap.gate._input) == 0


def test_extensions_are_bounded(imap: ImapPlaybook) -> None:
    imap.start(extensions=tuple(f"X{number}" for number in range(1_000)))
    imap.client("a1 CAPABILITY")
    imap.server("* OK *")
    line = imap._heard.popleft()
    assert line.count(" X") == MAX_EXTENSIONS
    imap.server("a1 OK *")


# Random input


def readable(actions: list[Action]) -> list[object]:
    """Actions in a form that compares; the secrets are the test's own."""
    return [
        action.data
        if isinstance(action, Send)
        else (action.tag, shown(action.credentials), action.mechanism)
        if isinstance(action, Login)
        else type(action)
        for action in actions
    ]


def play(pieces: list[bytes], *, secured: bool) -> list[object]:
    """Feed all pieces, refusing every login and doing every handshake at once."""
    gate = ImapGate(extensions=("IDLE",), secured=secured, starttls=True, clear_ok=False)
    heard: list[object] = []
    for piece in pieces:
        actions = gate.receive(piece)
        heard += readable(actions)
        while actions and isinstance(actions[-1], Login):
            assert gate.is_busy
            assert len(gate._input) <= MAX_HELD_BYTES
            actions = gate.refuse(Answer.UNAVAILABLE)
            heard += readable(actions)
        reader = gate._reader
        kept = sum(map(len, reader._texts)) + sum(map(len, reader._literals))
        assert len(gate._input) + kept <= MAX_STATE_BYTES
        assert Close not in heard[:-1]
        assert (gate._state.value == "closed") == (Close in heard)
        assert gate.is_busy == (StartTls in heard and Close not in heard)
    return heard


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    marks = [0, *sorted(mark % (len(data) + 1) for mark in cuts), len(data)]
    return [data[start:end] for start, end in pairwise(marks)]


WORDS = st.sampled_from(
    [
        *(
            b"a1 ",
            b"LOGIN ",
            b"AUTHENTICATE ",
            b"PLAIN",
            b"LOGIN",
            b"NOOP",
            b"ID ",
            b"STARTTLS",
            b"\r\n",
            b"\r\n",
            b"\n",
        ),
        *(
            b"ann",
            b'"',
            b"\\",
            b" ",
            b"{3+}\r\n",
            b"{3}\r\n",
            b"{0+}\r\n",
            b"{4097}\r\n",
            b"{9",
            b"(",
            b")",
            b"NIL",
            b"=",
        ),
        *(b"*", b"AGFubgBwYXNz", b"\0", b"\xff", b"\r", b"CAPABILITY", b"~", b'"name" "x"', b"x" * 300, b"A" * 9_000),
    ]
)
STREAMS = st.one_of(
    st.binary(max_size=200),
    st.lists(WORDS, max_size=40).map(b"".join),
    st.lists(st.lists(WORDS, max_size=5).map(lambda words: b"a1 " + b"".join(words) + b"\r\n"), max_size=15).map(
        b"".join
    ),
)


@settings(max_examples=150, deadline=None)
@given(STREAMS, st.lists(st.integers(0, 100_000), max_size=8), st.booleans())
def test_any_split_gives_the_same_actions_within_the_bounds(data: bytes, cuts: list[int], secured: bool) -> None:
    expected = play([data], secured=secured)
    assert play(cut(data, cuts), secured=secured) == expected
    assert play(bytewise(data), secured=secured) == expected


@settings(max_examples=100, deadline=None)
@given(st.text(min_size=1), st.text(min_size=1))
def test_any_login_survives_each_of_its_forms(login: str, password: str) -> None:
    wanted = None if "\0" in login + password else Shown(login, password)
    raw = [text.encode(errors="replace") for text in (login, password)]
    gate = ImapGate(extensions=(), secured=True, starttls=False, clear_ok=False)
    forms = [b"a1 AUTHENTICATE PLAIN " + b64(b"\0" + b"\0".join(raw)).encode()]
    if wanted is not None:
        wanted = Shown(raw[0].decode(), raw[1].decode())
        forms.append(b"a1 LOGIN {%d+}\r\n%b {%d+}\r\n%b" % (len(raw[0]), raw[0], len(raw[1]), raw[1]))
        if not set("\r\n") & set(login + password):
            quoted = [word.replace(b"\\", b"\\\\").replace(b'"', b'\\"') for word in raw]
            forms.append(b'a1 LOGIN "%b" "%b"' % (quoted[0], quoted[1]))
    for form in forms:
        (action,) = gate.receive(form + b"\r\n")
        assert isinstance(action, Login)
        assert shown(action.credentials) == wanted
        gate.refuse(Answer.UNAVAILABLE)
