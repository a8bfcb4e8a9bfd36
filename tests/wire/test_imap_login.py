"""LOGIN and AUTHENTICATE, and what becomes of them."""

from __future__ import annotations

import pytest

from proxy.errors import Answer
from proxy.wire.imap_words import FAREWELLS, REFUSALS
from tests.wire.playbook import ImapPlaybook, Shown, b64

PLAIN = b64("\0ann\0pass")
ANN = Shown("ann", "pass")


# LOGIN


@pytest.mark.parametrize(
    ("arguments", "credentials"),
    [
        ("ann pass", ANN),
        ('"ann" "pass"', ANN),
        ("ann  pass ", ANN),
        ('"us\\"er" "p\\\\a s"', Shown('us"er', "p\\a s")),  # E9
        ('"" "pass"', None),
        ('ann ""', None),
        ("ann@example.org k7mp2-x9qdw-aaaaa-bbbbb", Shown("ann@example.org", "k7mp2-x9qdw-aaaaa-bbbbb")),
        (r"DOMAIN\ann pa%ss*word]", Shown(r"DOMAIN\ann", "pa%ss*word]")),
        ("ann p(a)s{s}", Shown("ann", "p(a)s{s}")),
        ("ann pa{5}", Shown("ann", "pa{5}")),  # no literal: it does not start an argument
        ('ann "pass {5}"', Shown("ann", "pass {5}")),
        ('ann "pass {5+}"', Shown("ann", "pass {5+}")),
        ('"änn" "pässwörd"', Shown("änn", "pässwörd")),
        ("änn pass", Shown("änn", "pass")),
        ('"ann" nil', Shown("ann", "nil")),
        ("{3+}\r\nann {4+}\r\npass", ANN),  # E11
        ('"ann" {4+}\r\npass', ANN),
        ("{3+}\r\nann pass", ANN),
        ("{0003+}\r\nann {4+}\r\npass ", ANN),
        ("{3+}\r\nann {6+}\r\npa\r\nss", Shown("ann", "pa\r\nss")),  # E10: no desync
        ("{7+}\r\na1 OK\r\n {1+}\r\nx", Shown("a1 OK\r\n", "x")),  # E49
        ("ann {0+}\r\n", None),
    ],
)
def test_login_arguments_are_read(imap: ImapPlaybook, arguments: str, credentials: Shown | None) -> None:
    imap.client(f"a1 LOGIN {arguments}")
    assert imap.attempt() == credentials
    assert (imap.attempts[0].tag, imap.attempts[0].mechanism) == (b"a1", "LOGIN")
    imap.refuse()
    imap.server("a1 NO [AUTHENTICATIONFAILED] *")
    imap.client("a2 NOOP")
    imap.server("a2 OK *")


@pytest.mark.parametrize(
    "arguments",
    [
        *("", "ann", "ann pass more", '"ann"', '"ann" "pass', '"ann""pass"', 'ann"pass"', '"ann"x pass', '"ann" p"s'),
        *(r'"a\nn" pass', r'"ann" "pas\s"', '"ann" "pass\\"', "(ann) pass", "ann (pass", "ann {4", "ann {4+", "ann {}"),
        *(
            "ann {-1}",
            "ann {4++}",
            "ann { 4}",
            '"ann {1}',
            '"ann {1+}',
            "ann pa\0ss",
            '"ann" "pa\0ss"',
            '"ann" "pa\rss"',
            "ann pa\tss",
            '"x" "',
        ),
        *(
            "{3+}\r\nannpass",
            "ann pass {1+}\r\nx",
            "ann ~{4+}\r\npass",
            "{3+}\r\nann {4+}\r\npa\0s",
            "ann ({4+}\r\npass",
        ),
        *("~{3+}\r\nann", "ann {" + "9" * 5_000),
    ],
)
def test_malformed_login_is_bad_and_never_tried(imap: ImapPlaybook, arguments: str) -> None:
    imap.client(f"a1 LOGIN {arguments}", "a2 NOOP")
    imap.server("a1 BAD *", "a2 OK *")
    assert imap.attempts == []


def test_undecodable_name_or_password_is_refused_like_a_wrong_one(imap: ImapPlaybook) -> None:
    imap.octets(b'a1 LOGIN "ann" "p\xe4ss"\r\n')
    assert imap.attempt() is None
    imap.refuse()
    imap.octets(b"a2 LOGIN {2+}\r\n\xff\xfe pass\r\n")
    imap.server("a1 NO [AUTHENTICATIONFAILED] *")
    assert imap.attempt() is None


@pytest.mark.parametrize("login", ["LOGIN", "login", "Login"])
def test_commands_come_in_any_case(imap: ImapPlaybook, login: str) -> None:  # E19
    imap.client(f"a1 {login} ann pass")
    assert imap.attempt() == ANN


def test_synchronising_literals_are_asked_for_one_by_one(imap: ImapPlaybook) -> None:  # E10
    imap.client("a1 LOGIN {5}")
    imap.server("+ *")
    imap.octets(b"al\r\ne {8}\r\n")
    imap.server("+ *")
    imap.octets(b"pa")
    imap.silent()
    imap.octets(b"ss\r\nwo\r\n")
    assert imap.attempt() == Shown("al\r\ne", "pass\r\nwo")


def test_empty_synchronising_literal_is_asked_for_too(imap: ImapPlaybook) -> None:
    imap.client("a1 LOGIN ann {0}")
    imap.server("+ *")
    imap.client("")
    assert imap.attempt() is None


@pytest.mark.parametrize("size", ["4097", "999999999", "9" * 5_000])
def test_synchronising_literal_over_the_bound_is_refused_unread(imap: ImapPlaybook, size: str) -> None:  # E12
    imap.client(f"a1 LOGIN {{{size}}}", "a2 NOOP")
    imap.server("a1 NO [TOOBIG] *", "a2 OK *")


@pytest.mark.parametrize("command", ["LOGIN ", "LOGIN ann ", "APPEND INBOX ", "* NOOP "])
@pytest.mark.parametrize("size", ["4097", "999999999", "9" * 5_000])
def test_unasked_literal_over_the_bound_ends_the_connection(  # E12
    imap: ImapPlaybook, command: str, size: str
) -> None:
    imap.client(f"a1 {command}{{{size}+}}", "a2 NOOP")
    imap.server("* BYE *")
    imap.closed()


def test_longest_literal_is_asked_for(imap: ImapPlaybook) -> None:  # E12
    imap.client("a1 LOGIN {4096}")
    imap.server("+ *")
    imap.client("x" * 4_096 + " pass")
    assert imap.attempt() == Shown("x" * 4_096, "pass")


def test_longest_unasked_literal_is_read(imap: ImapPlaybook) -> None:  # E12
    imap.client("a1 LOGIN ann {4096+}", "x" * 4_096)
    assert imap.attempt() == Shown("ann", "x" * 4_096)


# AUTHENTICATE


def test_authenticate_plain_without_initial_response(imap: ImapPlaybook) -> None:  # E13
    imap.client("a1 AUTHENTICATE PLAIN")
    imap.server("+ ")
    imap.client(PLAIN)
    assert imap.attempt() == ANN
    assert imap.attempts[0].mechanism == "PLAIN"


@pytest.mark.parametrize("mechanism", ["PLAIN", "plain", '"Plain"'])
def test_authenticate_plain_with_initial_response(imap: ImapPlaybook, mechanism: str) -> None:
    imap.client(f"a1 authenticate {mechanism} {PLAIN}")
    assert imap.attempt() == ANN
    assert imap.attempts[0].mechanism == "PLAIN"


def test_authenticate_plain_carries_the_authzid(imap: ImapPlaybook) -> None:  # E18
    imap.client(f"a1 AUTHENTICATE PLAIN {b64(chr(0).join(('bob', 'ann', 'pass')))}")
    assert imap.attempt() == Shown("ann", "pass", "bob")
    imap.refuse(Answer.AUTHORIZATION)
    imap.server("a1 NO [AUTHORIZATIONFAILED] *")


@pytest.mark.parametrize("initial", [[], ["="]])
def test_empty_plain_response_is_refused_like_a_wrong_password(imap: ImapPlaybook, initial: list[str]) -> None:  # E14
    imap.client(" ".join(["a1 AUTHENTICATE PLAIN", *initial]))
    if not initial:
        imap.server("+ ")
        imap.client("")
    assert imap.attempt() is None
    imap.refuse()
    imap.server("a1 NO [AUTHENTICATIONFAILED] *")


@pytest.mark.parametrize("message", ["annpass", "ann\0pass", "a\0b\0c\0d", "\0\0pass", "\0ann\0", "\0\0"])
def test_malformed_plain_is_refused_like_a_wrong_password(imap: ImapPlaybook, message: str) -> None:  # E17
    imap.client(f"a1 AUTHENTICATE PLAIN {b64(message)}")
    assert imap.attempt() is None


def test_plain_that_is_not_utf8_is_refused_like_a_wrong_password(imap: ImapPlaybook) -> None:  # E17
    imap.client(f"a1 AUTHENTICATE PLAIN {b64(bytes(1) + b'ann' + bytes(1) + bytes([0xFF]))}")
    assert imap.attempt() is None


@pytest.mark.parametrize("mechanism", ["LOGIN", "login"])
def test_authenticate_login_prompts_twice(imap: ImapPlaybook, mechanism: str) -> None:  # E19
    imap.client(f"a1 AUTHENTICATE {mechanism}")
    imap.server("+ VXNlcm5hbWU6")
    imap.client(b64("ann"))
    imap.server("+ UGFzc3dvcmQ6")
    imap.client(b64("pass"))
    assert imap.attempt() == ANN
    assert imap.attempts[0].mechanism == "LOGIN"


def test_authenticate_login_takes_the_name_as_initial_response(imap: ImapPlaybook) -> None:  # E19
    imap.client(f"a1 AUTHENTICATE LOGIN {b64('ann')}")
    imap.server("+ UGFzc3dvcmQ6")
    imap.client(b64("pass"))
    assert imap.attempt() == ANN


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
def test_cancelled_exchange_is_bad_and_the_connection_goes_on(imap: ImapPlaybook, mechanism: str) -> None:  # E15
    imap.client(f"a1 AUTHENTICATE {mechanism}")
    imap.server("+ " if mechanism == "PLAIN" else "+ VXNlcm5hbWU6")
    imap.client("*", f"a2 AUTHENTICATE PLAIN {PLAIN}")
    imap.server("a1 BAD *")
    assert imap.attempt() == ANN


@pytest.mark.parametrize("line", ["!", "AGFubg", "AGFubg=", "A===", "=", " ", "AGFu bg==", PLAIN + " ", "* ", "ÄÖ"])
def test_invalid_base64_is_bad_and_the_connection_goes_on(imap: ImapPlaybook, line: str) -> None:  # E16
    imap.client("a1 AUTHENTICATE PLAIN")
    imap.server("+ ")
    imap.client(line, f"a2 AUTHENTICATE PLAIN {PLAIN}")
    imap.server("a1 BAD *")
    assert imap.attempt() == ANN


def test_invalid_base64_in_the_initial_response_is_bad(imap: ImapPlaybook) -> None:  # E16
    imap.client("a1 AUTHENTICATE PLAIN AGFubg", "a2 AUTHENTICATE LOGIN ==", "a3 NOOP")
    imap.server("a1 BAD *", "a2 BAD *", "a3 OK *")


@pytest.mark.parametrize("mechanism", ["XOAUTH2", "CRAM-MD5 abcd", "GSSAPI", "PLAINX", '""', "="])
def test_unknown_mechanism_is_no(imap: ImapPlaybook, mechanism: str) -> None:  # E21
    imap.client(f"a1 AUTHENTICATE {mechanism}", "a2 NOOP")
    imap.server("a1 NO *", "a2 OK *")


@pytest.mark.parametrize("arguments", ["", "PLAIN = =", "{5+}\r\nPLAIN", "PLAIN {4+}\r\nAAAA", "PLAIN {4}", "(PLAIN)"])
def test_malformed_authenticate_is_bad(imap: ImapPlaybook, arguments: str) -> None:
    imap.client(f"a1 AUTHENTICATE {arguments}", "a2 NOOP")
    imap.server("a1 BAD *", "a2 OK *")


# What becomes of a login


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (Answer.CREDENTIALS, "AUTHENTICATIONFAILED"),
        (Answer.AUTHORIZATION, "AUTHORIZATIONFAILED"),
        (Answer.PRIVACY, "PRIVACYREQUIRED"),
        (Answer.UNAVAILABLE, "UNAVAILABLE"),
        (Answer.LIMIT, "LIMIT"),
        (Answer.CONTACT_ADMIN, "CONTACTADMIN"),
        (Answer.PROTOCOL_OFF, "CONTACTADMIN"),
    ],
)
def test_each_answer_has_its_code_and_the_connection_goes_on(imap: ImapPlaybook, answer: Answer, code: str) -> None:
    imap.client("a1 LOGIN ann pass")
    imap.server("LOGIN?")
    imap.refuse(answer)
    imap.server(f"a1 NO [{code}] *")
    imap.client("a2 NOOP")
    imap.server("a2 OK *")


def test_every_answer_has_words() -> None:
    assert set(REFUSALS) == set(FAREWELLS) == set(Answer)


def test_answer_to_a_protocol_that_is_off_names_the_switch() -> None:
    assert b"ImapEnabled" in REFUSALS[Answer.PROTOCOL_OFF]


@pytest.mark.parametrize(
    ("answer", "code"), [(Answer.CLOSING, "UNAVAILABLE"), (Answer.TOO_MANY_FAILURES, "AUTHENTICATIONFAILED")]
)
def test_final_answers_end_the_connection(imap: ImapPlaybook, answer: Answer, code: str) -> None:
    imap.client("a1 LOGIN ann pass", "a2 NOOP")
    imap.server("LOGIN?")
    imap.refuse(answer)
    imap.server(f"a1 NO [{code}] *", "* BYE *")
    imap.closed()


@pytest.mark.parametrize("last", [Answer.CREDENTIALS, Answer.AUTHORIZATION])
def test_third_refused_login_ends_the_connection(imap: ImapPlaybook, last: Answer) -> None:
    for tag in ("a1", "a2"):
        imap.client(f"{tag} LOGIN ann pass")
        imap.server("LOGIN?")
        imap.refuse()
        imap.server(f"{tag} NO [AUTHENTICATIONFAILED] *")
    imap.client("a3 LOGIN ann pass")
    imap.server("LOGIN?")
    imap.refuse(last)
    imap.server("a3 NO *", "* BYE *")
    imap.closed()


def test_failures_of_ours_are_not_counted_against_the_client(imap: ImapPlaybook) -> None:
    for number in range(10):
        imap.client(f"a{number} LOGIN ann pass")
        imap.server("LOGIN?")
        imap.refuse(Answer.UNAVAILABLE)
        imap.server(f"a{number} NO [UNAVAILABLE] *")
    imap.client("b NOOP")
    imap.server("b OK *")


# Pipelining


def test_commands_before_a_login_are_answered_in_order(imap: ImapPlaybook) -> None:  # E47
    imap.client("a1 CAPABILITY", "a2 NOOP", 'a3 ID ("name" "x")', "a4 LOGIN ann pass", "a5 SELECT INBOX")
    imap.server("* CAPABILITY *", "a1 OK *", "a2 OK *", "* ID *", "a3 OK *")
    assert imap.attempt() == ANN


def test_commands_behind_an_accepted_login_go_upstream_untouched(imap: ImapPlaybook) -> None:  # E48
    imap.client("a1 LOGIN ann pass", "a2 SELECT INBOX", "a3 APPEND INBOX {5+}")
    imap.octets(b"\x00\xff\r\n")
    assert imap.attempt() == ANN
    assert imap.is_busy()
    assert imap.gate.accept() == (b"a1", b"a2 SELECT INBOX\r\na3 APPEND INBOX {5+}\r\n\x00\xff\r\n")
    assert not imap.is_busy()
    assert imap.gate.close(Answer.CLOSING) == []  # after login Gatepost never speaks
    with pytest.raises(RuntimeError):
        imap.gate.receive(b"a4 NOOP\r\n")


def test_commands_behind_an_accepted_authenticate_go_upstream_untouched(imap: ImapPlaybook) -> None:  # E48
    imap.client("a1 AUTHENTICATE PLAIN")
    imap.client(PLAIN, "a2 SELECT INBOX")
    imap.server("+ ", "LOGIN?")
    assert imap.gate.accept() == (b"a1", b"a2 SELECT INBOX\r\n")


def test_commands_behind_a_refused_login_are_bad_and_never_executed(imap: ImapPlaybook) -> None:  # E48
    imap.client("a1 LOGIN ann wrong", "a2 SELECT INBOX", "a3 APPEND INBOX {14+}", "x3 LOGIN a b", "", "a4 NOOP")
    imap.server("LOGIN?")
    imap.silent()
    imap.refuse()
    imap.server("a1 NO [AUTHENTICATIONFAILED] *", "a2 BAD *", "a3 BAD *", "a4 OK *")
    assert len(imap.attempts) == 1


def test_login_behind_a_refused_login_is_tried_next(imap: ImapPlaybook) -> None:  # E48
    imap.client("a1 LOGIN ann wrong", "a2 NOOP", "a3 LOGIN ann pass", "a4 SELECT INBOX")
    assert imap.attempt() == Shown("ann", "wrong")
    imap.refuse()
    imap.server("a1 NO [AUTHENTICATIONFAILED] *", "a2 OK *")
    assert imap.attempt() == ANN
    assert imap.gate.accept() == (b"a3", b"a4 SELECT INBOX\r\n")


# Secrets


def test_no_repr_of_an_action_shows_a_secret(imap: ImapPlaybook) -> None:
    imap.client("a1 LOGIN ann hunter2", "hunter2", "hunter2 NOOP")
    assert "hunter2" not in repr(imap.attempts[0])
    actions = imap.gate.refuse(Answer.CREDENTIALS)
    assert "hunter2" not in repr(actions)
    assert "hunter2" not in repr(vars(imap.gate))
    imap.server("LOGIN?")


def test_password_sent_as_a_command_is_not_echoed(imap: ImapPlaybook) -> None:
    imap.client("a1 AUTHENTICATE CRAM-MD5", PLAIN)
    imap.server("a1 NO *", "* BAD Invalid tag")
