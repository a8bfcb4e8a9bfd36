"""What may be said before login, and STARTTLS."""

from __future__ import annotations

import pytest

from proxy.errors import Answer
from proxy.wire.actions import Close
from proxy.wire.imap import ImapGate
from tests.wire.playbook import ImapPlaybook, Shown, b64

TLS_LIST = "IMAP4rev1 SASL-IR AUTH=PLAIN AUTH=LOGIN IDLE LITERAL+ ID"


def test_greeting_carries_the_capabilities(imap: ImapPlaybook) -> None:
    imap.start()
    imap.server(f"* OK [CAPABILITY {TLS_LIST}] Gatepost ready")


def test_capability_is_the_same_list(imap: ImapPlaybook) -> None:
    imap.client("a1 capability")
    imap.server(f"* CAPABILITY {TLS_LIST}", "a1 OK *")


def test_clear_starttls_listener_offers_tls_and_no_login(imap: ImapPlaybook) -> None:
    imap.start(secured=False, starttls=True)
    imap.server("* OK [CAPABILITY IMAP4rev1 STARTTLS LOGINDISABLED IDLE LITERAL+ ID] *")


def test_listener_without_tls_offers_login_in_clear(imap: ImapPlaybook) -> None:
    imap.start(secured=False, clear_ok=True)
    imap.server(f"* OK [CAPABILITY {TLS_LIST}] *")
    imap.client("a1 LOGIN ann pass")
    assert imap.attempt() == Shown("ann", "pass")


def test_extensions_never_bring_what_is_ours_to_say_nor_break_the_line(imap: ImapPlaybook) -> None:
    imap.start(
        extensions=(
            *("imap4rev1", "AUTH=XOAUTH2", "auth=plain", "STARTTLS", "LOGINDISABLED", "SASL-IR", "IDLE", "idle"),
            *("A] B", "X\r\n* BYE", "", "Ü", "Y" * 65, "APPENDLIMIT=35882577", "RIGHTS=texk"),
        )
    )
    imap.server(
        "* OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN AUTH=LOGIN IDLE APPENDLIMIT=35882577 RIGHTS=texk] Gatepost ready"
    )


def test_noop_and_logout(imap: ImapPlaybook) -> None:
    imap.client("a1 NOOP", "a2 LOGOUT", "a3 NOOP")
    imap.server("a1 OK *", "* BYE *", "a2 OK *")
    imap.closed()


@pytest.mark.parametrize("name", ["NOOP", "CAPABILITY", "LOGOUT"])
@pytest.mark.parametrize("argument", ["x", '"x"', "(", "{1+}\r\nx"])
def test_arguments_where_none_belong_are_bad(imap: ImapPlaybook, name: str, argument: str) -> None:
    imap.client(f"a1 {name} {argument}", "a2 NOOP")
    imap.server("a1 BAD *", "a2 OK *")


def test_bare_line_feeds_end_lines_too(imap: ImapPlaybook) -> None:
    imap.octets(b"a1 NOOP\na2 NOOP\r\n")
    imap.server("a1 OK *", "a2 OK *")


# ID


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ('("name" "iPhone Mail" "version" "12.4" "os" "iOS")', "iPhone Mail 12.4"),
        ('("VERSION" "1" "Name" "x\\"y\\\\")', 'x"y\\ 1'),
        ('("os" NIL "name" nil)', ""),
        ("NIL", ""),
        ("nil", ""),
        ("()", ""),
        ('("name" {7+}\r\nmutt\r\nx "version" {1+}\r\n2)', "muttx 2"),
        ('("name" "' + "n" * 200 + '")', "n" * 100),
        ('("name" "a\u202eb\u200b" "version" "\t7")', "ab 7"),
    ],
)
def test_id_is_answered_and_remembered(imap: ImapPlaybook, said: str, kept: str) -> None:
    imap.client(f"a1 ID {said}")
    imap.server('* ID ("name" "Gatepost")', "a1 OK *")
    assert imap.gate.client_id == kept


@pytest.mark.parametrize(
    "said",
    [
        *("", "x", '"name"', '("name")', '("name" ("x"))', "(", "((((", '(NIL "x")', '("name" "x"', "NIL NIL", ")"),
        '("name" "x") x',
        "(" + '"k" "v" ' * 31 + ")",
        '("name" "x\\n")',
    ],
)
def test_malformed_id_is_bad(imap: ImapPlaybook, said: str) -> None:
    imap.client(f"a1 ID {said}", "a2 NOOP")
    imap.server("a1 BAD *", "a2 OK *")
    assert imap.gate.client_id == ""


def test_id_of_thousands_of_brackets_is_bad(imap: ImapPlaybook) -> None:  # E50, CVE-2026-27857
    imap.client("a1 ID " + "(" * 8_000)
    imap.server("a1 BAD *")


def test_undecodable_id_is_remembered_as_far_as_it_prints(imap: ImapPlaybook) -> None:
    imap.octets(b'a1 ID ("name" "m\xffx")\r\n')
    imap.server("* ID *", "a1 OK *")
    assert imap.gate.client_id == "m\ufffdx"


# Order and state


@pytest.mark.parametrize("command", ["SELECT INBOX", 'LIST "" *', "UID FETCH 1 BODY[]", "XYZZY", "IDLE", "EXAMINE a b"])
def test_commands_of_later_states_are_bad(imap: ImapPlaybook, command: str) -> None:
    imap.client(f"a1 {command}", "a2 NOOP")
    imap.server("a1 BAD *", "a2 OK *")


@pytest.mark.parametrize(
    "line",
    [
        *("* NOOP", "+ NOOP", " NOOP", "", "a+b NOOP", "a{1} NOOP", '"a" NOOP', "a\\b NOOP", "(a NOOP", "a* NOOP"),
        *("a%b NOOP", "ä NOOP", "a\0b NOOP", "a\tNOOP", "t" * 65 + " NOOP", "t" * 8_000 + " NOOP", "lone-word"),
    ],
)
def test_invalid_tag_is_bad_and_not_echoed(imap: ImapPlaybook, line: str) -> None:  # E49
    imap.client(line, "a2 NOOP")
    imap.server("* BAD Invalid tag", "a2 OK *")


@pytest.mark.parametrize("tag", ["1", "A0001", "a.b-c_d", "]", "#&'", "t" * 64])
def test_every_valid_tag_works(imap: ImapPlaybook, tag: str) -> None:  # E49
    imap.client(f"{tag} NOOP")
    imap.server(f"{tag} OK *")


def test_literal_of_an_unknown_command_is_not_executed(imap: ImapPlaybook) -> None:  # E49
    imap.client("a1 APPEND INBOX {14+}", "a2 LOGIN a b", "", "* FOO {9+}", "a3 NOOP", "", "a4 NOOP")
    imap.server("a1 BAD *", "* BAD *", "a4 OK *")
    assert imap.attempts == []


def test_literal_that_an_unknown_command_waits_with_is_never_asked_for(imap: ImapPlaybook) -> None:
    imap.client("a1 APPEND INBOX {14}", "a2 NOOP")
    imap.server("a1 BAD *", "a2 OK *")


# STARTTLS


def test_starttls_resets_everything(imap: ImapPlaybook) -> None:
    imap.start(secured=False, starttls=True)
    imap.client('a0 ID ("name" "x")', "a1 STARTTLS")
    imap.server("* OK *", "* ID *", "a0 OK *", "a1 OK *")
    assert imap.is_busy()
    imap.handshake()
    assert not imap.is_busy()
    assert imap.gate.client_id == ""
    imap.client("a1 CAPABILITY", "a2 LOGIN ann pass")
    imap.server(f"* CAPABILITY {TLS_LIST}", "a1 OK *")
    assert imap.attempt() == Shown("ann", "pass")


def test_bytes_behind_starttls_are_thrown_away(imap: ImapPlaybook) -> None:  # E1
    imap.start(secured=False, starttls=True)
    imap.client("a1 STARTTLS", "a2 LOGIN ann pass", "a3 ID (", "a4 NO")
    imap.client("a5 LOGIN ann pass")
    imap.server("* OK *", "a1 OK *")
    imap.handshake()
    imap.client("a6 NOOP")
    imap.server("a6 OK *")
    assert imap.attempts == []


def test_half_a_command_before_starttls_is_no_part_of_the_next(imap: ImapPlaybook) -> None:  # E1
    imap.start(secured=False, starttls=True)
    imap.octets(b"a1 STARTTLS\r\na2 LOGIN ann {7+}\r\nabc")
    imap.server("* OK *", "a1 OK *")
    imap.handshake()
    imap.client("b1 NOOP")
    imap.server("b1 OK *")


def test_starttls_with_an_argument_is_bad(imap: ImapPlaybook) -> None:  # E6
    imap.start(secured=False, starttls=True)
    imap.client("a1 STARTTLS foo", "a2 NOOP")
    imap.server("* OK *", "a1 BAD *", "a2 OK *")


def test_second_starttls_is_bad(imap: ImapPlaybook) -> None:  # E7
    imap.start(secured=False, starttls=True)
    imap.client("a1 STARTTLS")
    imap.server("* OK *", "a1 OK *")
    imap.handshake()
    imap.client("a2 STARTTLS", "a3 CAPABILITY")
    imap.server("a2 BAD *", f"* CAPABILITY {TLS_LIST}", "a3 OK *")


def test_starttls_where_it_is_not_offered_is_bad(imap: ImapPlaybook) -> None:
    imap.start(secured=False, clear_ok=True)
    imap.client("a1 STARTTLS")
    imap.server("* OK *", "a1 BAD *")


@pytest.mark.parametrize(
    "command",
    [
        *("LOGIN ann pass", "LOGIN", "login {3+}\r\nann {4+}\r\npass", "AUTHENTICATE PLAIN", "AUTHENTICATE XOAUTH2 x"),
        f"authenticate plain {b64(chr(0) + 'ann' + chr(0) + 'pass')}",
    ],
)
def test_login_before_tls_is_refused_unread(imap: ImapPlaybook, command: str) -> None:  # E5
    imap.start(secured=False, starttls=True)
    imap.client(f"a1 {command}", "a2 NOOP")
    imap.server("* OK *", "[LoginInClear]", "a1 NO [PRIVACYREQUIRED] *", "a2 OK *")
    assert imap.attempts == []


def test_password_literal_is_not_asked_for_before_tls(imap: ImapPlaybook) -> None:  # E5
    imap.start(secured=False, starttls=True)
    imap.client("a1 LOGIN ann {4}")
    imap.server("* OK *", "[LoginInClear]", "a1 NO [PRIVACYREQUIRED] *")


# Ending


@pytest.mark.parametrize("answer", list(Answer))
def test_close_says_bye_once(imap: ImapPlaybook, answer: Answer) -> None:
    imap.take(imap.gate.close(answer))
    imap.server("* BYE *")
    imap.closed()
    assert imap.gate.close(answer) == []
    imap.client("a1 NOOP")


def test_close_before_the_greeting_is_the_greeting(imap: ImapPlaybook) -> None:  # E49b
    gate = ImapGate(extensions=(), secured=True, starttls=False, clear_ok=False)
    imap.take(gate.close(Answer.CLOSING))
    imap.server("* BYE Gatepost takes no connections at the moment, try again later", "[Close]")


def test_close_during_the_handshake_says_nothing(imap: ImapPlaybook) -> None:
    imap.start(secured=False, starttls=True)
    imap.client("a1 STARTTLS")
    imap.server("* OK *", "a1 OK *", "[StartTls]")
    assert imap.gate.close(Answer.UNAVAILABLE) == [Close()]
    assert imap.gate.secured() == []


def test_close_with_a_login_under_way_makes_its_result_void(imap: ImapPlaybook) -> None:
    imap.client("a1 LOGIN ann pass")
    imap.server("LOGIN?")
    imap.take(imap.gate.close(Answer.CLOSING))
    imap.server("* BYE *")
    imap.closed()
    assert imap.gate.refuse(Answer.CREDENTIALS) == []
    with pytest.raises(RuntimeError):
        imap.gate.accept()


def test_calls_out_of_turn_are_bugs_of_the_driver(imap: ImapPlaybook) -> None:
    for call in (imap.gate.accept, imap.gate.secured, lambda: imap.gate.refuse(Answer.CREDENTIALS)):
        with pytest.raises(RuntimeError):
            call()
