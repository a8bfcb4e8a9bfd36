from __future__ import annotations

import pickle

import pytest
from hypothesis import given, settings, strategies as st

from proxy.errors import ProtocolError
from proxy.secret import Secret
from proxy.wire.sasl import (
    SERVER_MECHANISMS,
    Bearer,
    Challenge,
    ClientMechanism,
    Credentials,
    Done,
    Password,
    ServerExchange,
    Step,
    UpstreamCredential,
    client_response,
    decode_base64,
    error_reply,
    server_exchange,
)
from tests.wire.playbook import Shown, shown

ANN = Shown("ann", "pass")


def exchange(mechanism: str) -> ServerExchange:
    found = server_exchange(mechanism.encode())
    assert found is not None
    return found


def result(step: Step) -> Shown | None:
    assert isinstance(step, Done)
    return shown(step.credentials)


# Server side


@pytest.mark.parametrize("mechanism", [*SERVER_MECHANISMS, "plain", "Login"])
def test_mechanism_is_found_in_any_case(mechanism: str) -> None:
    assert server_exchange(mechanism.encode()) is not None


@pytest.mark.parametrize("mechanism", [b"", b"XOAUTH2", b"PLAIN ", b"CRAM-MD5", b"\xff"])
def test_other_mechanisms_are_none(mechanism: bytes) -> None:
    assert server_exchange(mechanism) is None


def test_plain_asks_with_an_empty_challenge() -> None:
    plain = exchange("PLAIN")
    assert plain.start(None) == Challenge(b"")
    assert result(plain.receive(b"\0ann\0pass")) == ANN


def test_plain_takes_an_initial_response() -> None:
    assert result(exchange("PLAIN").start(b"bob\0ann\0pass")) == Shown("ann", "pass", "bob")


@pytest.mark.parametrize(
    "message",
    [
        *(b"", b"annpass", b"ann\0pass", b"\0\0", b"\0\0pass", b"\0ann\0", b"\0ann\0pa\0ss", b"\0\0ann\0pass"),
        *(b"\0ann\0\xff", b"\0\xc0\x80\0pass", b"\xff\0ann\0pass", b"\0\xed\xa0\x80\0pass"),
    ],
)
def test_malformed_plain_has_no_credentials(message: bytes) -> None:  # E17
    assert result(exchange("PLAIN").start(message)) is None


@pytest.mark.parametrize("initial", [None, b"ann"])
def test_login_prompts_for_what_it_lacks(initial: bytes | None) -> None:  # E19
    login = exchange("LOGIN")
    step = login.start(initial)
    if initial is None:
        assert step == Challenge(b"Username:")
        step = login.receive(b"ann")
    assert step == Challenge(b"Password:")
    assert result(login.receive(b"pass")) == ANN


@pytest.mark.parametrize(
    ("name", "password"), [(b"", b"p"), (b"a", b""), (b"\xff", b"p"), (b"a", b"\xff"), (b"a\0", b"p"), (b"a", b"\0p")]
)
def test_malformed_login_is_found_out_at_the_end_only(name: bytes, password: bytes) -> None:  # E17
    login = exchange("LOGIN")
    assert login.start(name) == Challenge(b"Password:")
    assert result(login.receive(password)) is None


def test_exchanges_share_nothing() -> None:  # E16, CVE-2025-59028
    first, second = exchange("LOGIN"), exchange("LOGIN")
    first.start(b"bob")
    assert second.start(None) == Challenge(b"Username:")


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(SERVER_MECHANISMS), st.none() | st.binary(), st.lists(st.binary(), min_size=2, max_size=2))
def test_random_messages_end_in_a_result(mechanism: str, initial: bytes | None, messages: list[bytes]) -> None:
    attempt = exchange(mechanism)
    step = attempt.start(initial)
    for message in messages:
        if isinstance(step, Done):
            break
        step = attempt.receive(message)
    assert isinstance(step, Done)


def test_credentials_show_no_password() -> None:
    credentials = Credentials("ann", Secret("hunter2"))
    assert "hunter2" not in repr(Done(credentials))
    with pytest.raises(TypeError):
        pickle.dumps(credentials)


# Base64


def test_base64_is_decoded() -> None:
    assert decode_base64(b"") == b""
    assert decode_base64(b"AP8=") == b"\x00\xff"


@pytest.mark.parametrize(
    "line",
    [
        *(b"=", b"A", b"AA", b"AP8", b"AP8==", b"AP=8", b"AP8=AP8=", b"AP8=\r", b" AP8=", b"A_-=", b"*", b"\xff\xff"),
        *(b"user=", b"user==", b"user===="),  # CPython 3.12 and older take padding where none is due
    ],
)
def test_base64_is_strict(line: bytes) -> None:  # E16
    with pytest.raises(ProtocolError, match=r"^invalid base64$") as caught:
        decode_base64(line)
    assert caught.value.__cause__ is None


# Client side

TOKEN = Bearer("ann@example.org", Secret("ya29.to-ken"))
HOST = ("imap.example.org", 993)


def test_xoauth2_has_its_form() -> None:
    assert client_response("XOAUTH2", TOKEN, *HOST) == b"user=ann@example.org\x01auth=Bearer ya29.to-ken\x01\x01"


def test_oauthbearer_has_its_form() -> None:
    assert client_response("OAUTHBEARER", TOKEN, *HOST) == (
        b"n,a=ann@example.org,\x01host=imap.example.org\x01port=993\x01auth=Bearer ya29.to-ken\x01\x01"
    )


def test_oauthbearer_escapes_the_user() -> None:
    message = client_response("OAUTHBEARER", Bearer("a,n=n", Secret("t")), *HOST)
    assert message.startswith(b"n,a=a=2Cn=3Dn,\x01host=")


def test_plain_has_its_form_in_utf8() -> None:
    assert client_response("PLAIN", Password("änn", Secret("pä ss")), *HOST) == "\0änn\0pä ss".encode()


def test_user_beyond_ascii_is_sent_as_utf8() -> None:
    assert client_response("XOAUTH2", Bearer("änn", Secret("t")), *HOST).startswith("user=änn\x01".encode())


@pytest.mark.parametrize("user", ["a\x01auth=Bearer x", "a\0b", "a\r\nb", "a\x7f", "a\x85", "a\ud800"])
@pytest.mark.parametrize("mechanism", ["XOAUTH2", "OAUTHBEARER", "PLAIN"])
def test_control_character_in_the_user_is_an_error(mechanism: ClientMechanism, user: str) -> None:
    secret = Secret("hunter2")
    credential: UpstreamCredential = Password(user, secret) if mechanism == "PLAIN" else Bearer(user, secret)
    with pytest.raises(ProtocolError):
        client_response(mechanism, credential, *HOST)


@pytest.mark.parametrize("token", ["", "hunter2\x01host=x", "hunter2\r\n", "hunter2 ", "hünter2", "hunter2\ud800"])
@pytest.mark.parametrize("mechanism", ["XOAUTH2", "OAUTHBEARER"])
def test_token_that_cannot_be_one_is_an_error_without_it(mechanism: ClientMechanism, token: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        client_response(mechanism, Bearer("ann", Secret(token)), *HOST)
    assert "nter2" not in repr(caught.value)
    assert caught.value.__context__ is None


@pytest.mark.parametrize("password", ["", "hunter2\0", "hunter2\ud800"])
def test_password_that_cannot_be_sent_is_an_error_without_it(password: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        client_response("PLAIN", Password("ann", Secret(password)), *HOST)
    assert "hunter2" not in repr(caught.value)
    assert caught.value.__context__ is None


@pytest.mark.parametrize(
    ("mechanism", "credential"),
    [("PLAIN", TOKEN), ("XOAUTH2", Password("ann", Secret("x"))), ("OAUTHBEARER", Password("ann", Secret("x")))],
)
def test_credential_of_the_wrong_kind_is_our_bug(mechanism: ClientMechanism, credential: UpstreamCredential) -> None:
    with pytest.raises(TypeError):
        client_response(mechanism, credential, *HOST)


def test_failure_challenge_has_its_answer() -> None:  # E39
    assert error_reply("XOAUTH2") == b""
    assert error_reply("OAUTHBEARER") == b"\x01"


def test_repr_of_an_upstream_credential_shows_no_secret() -> None:
    assert "ya29" not in repr(TOKEN)
    assert "hunter2" not in repr(Password("ann", Secret("hunter2")))
