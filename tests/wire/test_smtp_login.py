"""The SMTP client machine: every story whole and byte by byte."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from contextlib import suppress

import pytest
from hypothesis import given, strategies as st

from proxy.errors import UpstreamError, UpstreamFault
from proxy.secret import Secret
from proxy.wire.actions import Send, StartTls
from proxy.wire.sasl import Bearer, Password, UpstreamCredential
from proxy.wire.smtp import MAX_LINE_BYTES, MAX_REPLY_LINES, Done, SmtpLogin, choose_mechanism

TOKEN = "secret-token.0123456789"
BEARER = Bearer("ann@example.org", Secret(TOKEN))
PASSWORD = Password("ann@example.org", Secret("pass word"))
XOAUTH2 = base64.b64encode(f"user=ann@example.org\x01auth=Bearer {TOKEN}\x01\x01".encode()).decode()
FAILURE = base64.b64encode(b'{"status":"401"}').decode()


class Story:
    """The server's half of a transcript against what the machine answers."""

    def __init__(self, split: Callable[[bytes], Sequence[bytes]], machine: SmtpLogin) -> None:
        self._split = split
        self.machine = machine

    def server(self, *lines: str, raw: bytes = b"") -> list[object]:
        data = raw or "".join(f"{line}\r\n" for line in lines).encode()
        actions: list[object] = []
        for piece in self._split(data):
            actions += self.machine.receive(piece)
        return [action.data.decode() if isinstance(action, Send) else action for action in actions]

    def fails(self, *lines: str, raw: bytes = b"") -> UpstreamError:
        with pytest.raises(UpstreamError) as caught:
            self.server(*lines, raw=raw)
        assert TOKEN not in str(caught.value)
        assert XOAUTH2[:30] not in str(caught.value)
        return caught.value


def whole(data: bytes) -> list[bytes]:
    return [data]


def bytewise(data: bytes) -> list[bytes]:
    return [data[i : i + 1] for i in range(len(data))]


@pytest.fixture(params=[whole, bytewise], ids=["whole", "bytewise"])
def begin(request):
    def make(credential: UpstreamCredential | None = BEARER, *, starttls: bool = False, examine: bool = False) -> Story:
        machine = SmtpLogin(
            host="mx.example.org",
            port=465,
            ehlo_name="gate.example",
            starttls=starttls,
            credential=credential,
            examine=examine,
        )
        return Story(request.param, machine)

    return make


@pytest.fixture
def at_auth(begin):
    """A machine that has sent AUTH XOAUTH2."""

    def make(credential: UpstreamCredential = BEARER, mechanisms: str = "LOGIN XOAUTH2", **options: bool) -> Story:
        story = begin(credential, **options)
        assert story.server("220 mx ready") == ["EHLO gate.example\r\n"]
        story.auth = story.server("250-mx", f"250-AUTH {mechanisms}", "250 SIZE 1000")
        return story

    return make


def test_xoauth2_waits_for_334_before_it_sends_the_token(at_auth):
    story = at_auth()
    assert story.auth == ["AUTH XOAUTH2\r\n"]
    assert story.server("334 ") == [f"{XOAUTH2}\r\n"]
    assert story.server("235 2.7.0 in") == [Done(("AUTH LOGIN XOAUTH2", "SIZE 1000"), b"")]


def test_an_empty_line_among_the_extensions_is_none(at_auth):
    story = at_auth(mechanisms="XOAUTH2\r\n250-\r\n250- ")
    story.server("334 ")
    assert story.server("235 in") == [Done(("AUTH XOAUTH2", "SIZE 1000"), b"")]


def test_a_334_without_a_space_is_a_334(at_auth):
    assert at_auth().server("334") == [f"{XOAUTH2}\r\n"]


def test_oauthbearer_is_used_where_it_is_all_there_is(at_auth):
    story = at_auth(mechanisms="PLAIN OAUTHBEARER")
    assert story.auth == ["AUTH OAUTHBEARER\r\n"]
    (line,) = story.server("334 ")
    message = f"n,a=ann@example.org,\x01host=mx.example.org\x01port=465\x01auth=Bearer {TOKEN}\x01\x01"
    assert base64.b64decode(line) == message.encode()
    assert isinstance(story.server("235 in")[0], Done)


@pytest.mark.parametrize(("mechanism", "answer"), [("XOAUTH2", "\r\n"), ("OAUTHBEARER", "AQ==\r\n")])
def test_a_failure_challenge_is_answered_before_the_refusal(at_auth, mechanism, answer):
    story = at_auth(mechanisms=mechanism)
    story.server("334 ")
    assert story.server(f"334 {FAILURE}") == [answer]
    error = story.fails("535 5.7.8 no")
    assert error.fault is UpstreamFault.REFUSED
    assert error.said == '535 5.7.8 no {"status":"401"}'


def test_a_second_failure_challenge_is_garbage(at_auth):
    story = at_auth()
    story.server("334 ", f"334 {FAILURE}")
    assert story.fails(f"334 {FAILURE}").fault is UpstreamFault.GARBAGE


def test_a_failure_challenge_and_its_refusal_may_come_at_once(at_auth):
    story = at_auth()
    story.server("334 ")
    assert story.fails(f"334 {FAILURE}", "535 no").fault is UpstreamFault.REFUSED


def test_a_challenge_that_is_no_base64_is_answered_too(at_auth):
    story = at_auth()
    story.server("334 ")
    assert story.server("334 ???") == ["\r\n"]
    assert story.fails("535 no").said == "535 no"


def test_plain_is_taken_before_login(at_auth):
    story = at_auth(PASSWORD, "LOGIN PLAIN")
    assert story.auth == ["AUTH PLAIN\r\n"]
    (line,) = story.server("334 ")
    assert base64.b64decode(line) == b"\0ann@example.org\0pass word"
    assert story.fails("334 more").fault is UpstreamFault.GARBAGE


def test_login_sends_name_and_password_one_by_one(at_auth):
    story = at_auth(PASSWORD, "LOGIN")
    assert story.auth == ["AUTH LOGIN\r\n"]
    assert base64.b64decode(story.server("334 VXNlcm5hbWU6")[0]) == b"ann@example.org"
    assert base64.b64decode(story.server("334 UGFzc3dvcmQ6")[0]) == b"pass word"
    assert isinstance(story.server("235 in")[0], Done)


def test_bytes_behind_235_are_left_over(begin):
    story = begin()
    story.server("220 mx", "250-mx", "250 AUTH XOAUTH2", "334 ")
    done = [story.machine.receive(b"235 in\r\n421 going")][0]
    assert done == [Done(("AUTH XOAUTH2",), b"421 going")]


def test_a_probe_ends_with_the_ehlo_list(begin):
    story = begin(None)
    assert story.server("220-mx", "220 ready") == ["EHLO gate.example\r\n"]
    assert story.server("250-mx hello", "250-SIZE 1000", "250 PIPELINING") == [Done(("SIZE 1000", "PIPELINING"), b"")]


def test_an_examination_says_ehlo_once_more(at_auth):
    story = at_auth(examine=True)
    story.server("334 ")
    assert story.server("235 in") == ["EHLO gate.example\r\n"]
    assert story.server("250 mx") == [Done(("AUTH LOGIN XOAUTH2", "SIZE 1000"), b"", "")]


def test_an_examination_gives_the_servers_sentence(at_auth):
    story = at_auth(examine=True)
    story.server("334 ", "235 in")
    (done,) = story.server("550 5.7.1 mailbox is gone")
    assert isinstance(done, Done)
    assert done.objection == "550 5.7.1 mailbox is gone"


def test_starttls_forgets_what_was_said_in_the_clear(begin):
    story = begin(starttls=True)
    assert story.server("220 mx") == ["EHLO gate.example\r\n"]
    assert story.server("250-mx", "250-AUTH PLAIN", "250 starttls") == ["STARTTLS\r\n"]
    assert story.server("220 go") == [StartTls()]
    assert [action.data for action in story.machine.secured()] == [b"EHLO gate.example\r\n"]
    assert story.server("250-mx", "250 AUTH XOAUTH2") == ["AUTH XOAUTH2\r\n"]


def test_bytes_behind_the_answer_to_starttls_are_an_attack(begin):
    story = begin(starttls=True)
    story.server("220 mx", "250-mx", "250 STARTTLS")
    assert story.fails("220 go", "250-fake").fault is UpstreamFault.UNTRUSTED


@pytest.mark.parametrize("reply", ["454 4.7.0 not now", "502 5.5.1 what", "250 ok"])
def test_a_refused_starttls_never_falls_back(begin, reply):
    story = begin(starttls=True)
    story.server("220 mx", "250-mx", "250 STARTTLS")
    assert story.fails(reply).fault is UpstreamFault.UNTRUSTED


def test_starttls_not_offered_never_falls_back(begin):
    story = begin(starttls=True)
    story.server("220 mx")
    assert story.fails("250-mx", "250 AUTH XOAUTH2").fault is UpstreamFault.UNTRUSTED


GREETINGS = [
    ("421 4.3.2 not here", UpstreamFault.UNREACHABLE),
    ("554 5.7.1 no", UpstreamFault.UNREACHABLE),
    ("421 4.7.0 Too many connections from your address", UpstreamFault.BUSY),
    ("421 Service not available, closing", UpstreamFault.UNAVAILABLE),
    ("250 what", UpstreamFault.UNREACHABLE),
    ("* OK IMAP4rev1", UpstreamFault.GARBAGE),
    ("HTTP/1.1 400 Bad Request", UpstreamFault.GARBAGE),
    ("", UpstreamFault.GARBAGE),
    ("220ready", UpstreamFault.GARBAGE),
    ("120 early", UpstreamFault.GARBAGE),
]


@pytest.mark.parametrize(("line", "fault"), GREETINGS)
def test_a_bad_greeting_has_its_fault(begin, line, fault):
    error = begin().fails(line)
    assert error.fault is fault
    assert error.said == line


REFUSALS = [
    ("535 5.7.3 Authentication unsuccessful", UpstreamFault.REFUSED),
    ("535 5.7.139 SmtpClientAuthentication is disabled for the Tenant.", UpstreamFault.PROTOCOL_OFF),
    ("535 5.7.139 Authentication unsuccessful, the user credentials were incorrect.", UpstreamFault.REFUSED),
    ("534-5.7.9 Please log in with your web browser and then try again", UpstreamFault.REFUSED),
    ("501 5.5.2 Cannot Decode response", UpstreamFault.REFUSED),
    ("504 5.5.4 no such mechanism", UpstreamFault.REFUSED),
    ("454 4.7.0 Temporary authentication failure", UpstreamFault.UNAVAILABLE),
    ("451 4.7.0 Temporary server error", UpstreamFault.UNAVAILABLE),
    ("435 4.0.0 hm", UpstreamFault.UNAVAILABLE),
    ("432 4.3.2 STOREDRV.ClientSubmit; sender thread limit", UpstreamFault.BUSY),
    ("421 4.7.28 hm", UpstreamFault.BUSY),
    ("454 4.7.0 Too many login attempts, please try again later", UpstreamFault.BUSY),
    ("421 4.3.2 Service shutting down", UpstreamFault.UNAVAILABLE),
]


@pytest.mark.parametrize(("line", "fault"), REFUSALS)
def test_a_refusal_has_its_fault(at_auth, line, fault):
    story = at_auth()
    story.server("334 ")
    assert story.fails(line.replace("534-", "534 ")).fault is fault


@pytest.mark.parametrize(("line", "fault"), REFUSALS)
def test_auth_refused_before_the_token_has_the_same_fault(at_auth, line, fault):
    assert at_auth().fails(line.replace("534-", "534 ")).fault is fault


def test_every_line_of_a_refusal_is_kept(at_auth):
    story = at_auth()
    story.server("334 ")
    assert story.fails("535-5.7.8 Not accepted. See", "535 5.7.8 https://x.example").said == (
        "535 5.7.8 Not accepted. See 5.7.8 https://x.example"
    )


def test_an_echoed_token_is_hidden(at_auth):
    story = at_auth()
    story.server("334 ")
    assert "(hidden)" in story.fails(f"500 unknown command {XOAUTH2}").said


def test_success_before_the_credential_is_garbage(at_auth):
    assert at_auth().fails("235 welcome, whoever you are").fault is UpstreamFault.GARBAGE


@pytest.mark.parametrize(("line", "fault"), [("451 4.3.0 no", "UNAVAILABLE"), ("502 5.5.1 no", "UNREACHABLE")])
def test_a_refused_ehlo_has_its_fault(begin, line, fault):
    story = begin()
    story.server("220 mx")
    assert story.fails(line).fault is UpstreamFault[fault]


@pytest.mark.parametrize(
    ("credential", "mechanisms"), [(BEARER, "PLAIN LOGIN"), (PASSWORD, "XOAUTH2"), (BEARER, ""), (PASSWORD, "PLAINX")]
)
def test_no_common_mechanism_is_said_plainly(credential, mechanisms):
    with pytest.raises(UpstreamError, match="offers neither") as caught:
        choose_mechanism((f"AUTH {mechanisms}", "AUTHX XOAUTH2 PLAIN"), credential)
    assert caught.value.fault is UpstreamFault.PROTOCOL_OFF


def test_the_old_form_of_the_auth_list_is_read():
    assert choose_mechanism(("AUTH=login plain",), PASSWORD) == "PLAIN"
    assert choose_mechanism(("auth xoauth2",), BEARER) == "XOAUTH2"


def test_a_user_that_cannot_be_sent_is_refused(begin):
    story = begin(Bearer("ann\r\nRSET", Secret(TOKEN)))
    story.server("220 mx")
    assert (
        story.fails("250 AUTH XOAUTH2", "250 x").fault is UpstreamFault.PROTOCOL_OFF
    )  # its first line is no extension
    story = begin(Bearer("ann\r\nRSET", Secret(TOKEN)))
    story.server("220 mx")
    assert story.fails("250-mx", "250 AUTH XOAUTH2").fault is UpstreamFault.REFUSED


def test_codes_that_differ_within_a_reply_are_garbage(begin):
    story = begin()
    story.server("220 mx")
    assert story.fails("250-mx", "251 x").fault is UpstreamFault.GARBAGE


def test_a_bare_line_feed_is_garbage(begin):
    assert begin().fails(raw=b"220 mx\n").fault is UpstreamFault.GARBAGE


def test_a_line_has_a_bound(begin):
    longest = b"220 " + b"x" * (MAX_LINE_BYTES - 5) + b"\r\n"
    assert begin().server(raw=longest) == ["EHLO gate.example\r\n"]
    assert begin().fails(raw=b"220 " + b"x" * (MAX_LINE_BYTES - 3)).fault is UpstreamFault.GARBAGE


def test_a_reply_has_a_bound(begin):
    story = begin()
    story.server("220 mx")
    lines = ["250-X"] * (MAX_REPLY_LINES - 1)
    assert story.server(*lines, "250 AUTH XOAUTH2") == ["AUTH XOAUTH2\r\n"]
    story = begin()
    story.server("220 mx")
    assert story.fails(*lines, "250-X").fault is UpstreamFault.GARBAGE


def test_the_machine_shows_no_secret(at_auth):
    story = at_auth()
    actions = story.machine.receive(b"334 \r\n")
    assert XOAUTH2 not in repr(actions)
    assert XOAUTH2 not in repr(story.machine)


@given(st.binary(max_size=300), st.booleans())
def test_any_bytes_end_in_actions_or_an_upstream_error(data, starttls):
    machine = SmtpLogin(host="mx", port=1, ehlo_name="gate", starttls=starttls, credential=BEARER)
    with suppress(UpstreamError):  # nothing else, whatever comes
        machine.receive(b"220 x\r\n" + data)
    assert len(machine.said) <= 200
