from __future__ import annotations

import base64

import pytest

from proxy.errors import UpstreamFault
from proxy.wire.said import MAX_SAID, fault_in_words, plain_text, printable, secret_forms

TOKEN = "ya29.A0-secret_token~12345"
XOAUTH2 = f"user=ann@example.org\x01auth=Bearer {TOKEN}\x01\x01".encode()
OAUTHBEARER = f"n,a=ann@example.org,\x01host=mx\x01port=993\x01auth=Bearer {TOKEN}\x01\x01".encode()


def test_a_line_becomes_printable_and_short():
    assert printable(b"NO \x1b[31mred\x00\xff\r\n") == "NO  [31mred \ufffd"
    assert len(printable(b"x " * 500)) == MAX_SAID
    assert len(plain_text(b"x " * 500)) == 999


@pytest.mark.parametrize("message", [XOAUTH2, OAUTHBEARER], ids=["XOAUTH2", "OAUTHBEARER"])
def test_an_echo_of_the_token_is_hidden_in_any_form(message):
    encoded = base64.b64encode(message)
    forms = secret_forms(message)
    for echo in (encoded, encoded[:60] + b"...", TOKEN.encode(), b"<" + encoded[10:90] + b">", TOKEN[:12].encode()):
        said = printable(b"500 what is " + echo + b" ?", forms)
        assert "(hidden)" in said
        assert TOKEN[:12] not in said
        assert encoded[20:40].decode() not in said


def test_an_echo_of_the_password_is_hidden_in_any_form():
    forms = secret_forms(b'\0ann@example.org\0p "w\\d" 9')
    for echo in ('p "w\\d" 9', '"p \\"w\\\\d\\" 9"', base64.b64encode(b'p "w\\d" 9').decode()):
        said = printable(f"BAD LOGIN ann {echo}".encode(), forms)
        assert "(hidden)" in said
        assert "w\\d" not in said


def test_an_innocent_line_is_left_alone():
    line = "NO [AUTHENTICATIONFAILED] ann@example.org =================="
    assert printable(line.encode(), secret_forms(XOAUTH2)) == line


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("535 5.7.139 SmtpClientAuthentication is disabled for the Tenant.", UpstreamFault.PROTOCOL_OFF),
        ("535 5.7.139 Authentication unsuccessful, the user credentials were incorrect.", UpstreamFault.REFUSED),
        ("NO [ALERT] Your account is not enabled for IMAP use.", UpstreamFault.PROTOCOL_OFF),
        ("NO [ALERT] IMAP access is disabled for your domain.", UpstreamFault.PROTOCOL_OFF),
        ("NO [ALERT] Too many simultaneous connections. (Failure)", UpstreamFault.BUSY),
        ("NO [LIMIT] no more", UpstreamFault.BUSY),
        ("BAD Request is throttled. Suggested Backoff Time: 299961 milliseconds", UpstreamFault.BUSY),
        ("432 4.3.2 Concurrent connections limit exceeded", UpstreamFault.BUSY),
        ("NO [UNAVAILABLE] Temporary authentication failure.", UpstreamFault.UNAVAILABLE),
        ("NO Server Unavailable. 15", UpstreamFault.UNAVAILABLE),
        ("NO [AUTHENTICATIONFAILED] Invalid credentials (Failure)", None),
        ("NO AUTHENTICATE failed.", None),
    ],
)
def test_what_providers_say_is_understood(text, fault):
    assert fault_in_words(text) is fault


def test_a_password_with_the_separators_of_other_messages_is_hidden_whole():
    forms = secret_forms(b"\0ann@example.org\0first\x01auth=Bearer \x01last-of-it")
    said = printable(b"BAD LOGIN ann first\x01auth=Bearer \x01last-of-it", forms)
    assert said == "BAD LOGIN ann (hidden)"
    assert printable(b"OK nothing of it", secret_forms(b"\0ann\0pass\x01word\x01")) == "OK nothing of it"


def test_a_password_of_one_letter_does_not_hide_the_word_for_what_is_hidden():
    assert printable(b"NO he", secret_forms(b"\0ann\0h")) == "NO (hidden)e"
