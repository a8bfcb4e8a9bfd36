"""Python's smtplib: each way to log in, several messages in one session, one of 10 MB."""

from __future__ import annotations

import imaplib
import smtplib
import ssl
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

from tests.clients.kit import LETTERBOX, TIMEOUT_S, Login, big_text, fetch, marked, message, until
from tests.gate import Gate

FORMS = pytest.mark.parametrize("form", ["implicit", "starttls"])


@pytest.fixture
def calling(gate: Gate, trust: ssl.SSLContext) -> Callable[..., AbstractContextManager[smtplib.SMTP]]:
    """Connect, within TLS, up to the answer to EHLO."""

    @contextmanager
    def call(form: str = "starttls") -> Iterator[smtplib.SMTP]:
        if form == "implicit":
            with smtplib.SMTP_SSL(*gate.smtps, context=trust, timeout=TIMEOUT_S) as smtp:
                smtp.ehlo()
                yield smtp
            return
        with smtplib.SMTP(*gate.smtp, timeout=TIMEOUT_S) as smtp:
            smtp.starttls(context=trust)
            smtp.ehlo()
            yield smtp

    return call


@pytest.mark.parametrize("has_initial_response", [True, False], ids=["initial", "asked"])
@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
@FORMS
def test_smtplib_logs_in(calling, login: Login, form: str, mechanism: str, has_initial_response: bool) -> None:
    with calling(form) as smtp:
        smtp.user, smtp.password = login.user, login.password
        say = smtp.auth_plain if mechanism == "PLAIN" else smtp.auth_login
        assert smtp.auth(mechanism, say, initial_response_ok=has_initial_response)[0] == 235
        assert smtp.mail(login.user)[0] == 250


@FORMS
def test_smtplib_sends(calling, gate: Gate, login: Login, mark: str, form: str) -> None:
    with calling(form) as smtp:
        smtp.login(login.user, login.password)
        assert smtp.sendmail(login.user, [LETTERBOX], message(mark, ".\r\nlast\r\n")) == {}
    assert marked(gate.lab, mark).endswith("\n\n.\nlast\n")


def test_several_messages_in_one_session(calling, gate: Gate, login: Login, mark: str) -> None:
    with calling() as smtp:
        smtp.login(login.user, login.password)
        for number in range(3):
            smtp.sendmail(login.user, [LETTERBOX], message(f"{mark}-{number}", "Müll\r\n").encode(), ["BODY=8BITMIME"])
        with pytest.raises(smtplib.SMTPRecipientsRefused):
            smtp.sendmail(login.user, ["no address@"], message(mark))
        smtp.sendmail(login.user, [LETTERBOX], message(f"{mark}-last"))
    for number in (0, 1, 2):
        assert marked(gate.lab, f"{mark}-{number}").endswith("\n\nMüll\n")
    marked(gate.lab, f"{mark}-last")


def test_ten_megabytes_sent_arrive_octet_for_octet(
    calling, gate: Gate, trust: ssl.SSLContext, login: Login, mark: str
) -> None:
    text = big_text()
    with calling() as smtp:
        smtp.login(login.user, login.password)
        smtp.sendmail(login.user, [login.user], message(mark, text))
    with imaplib.IMAP4_SSL(*gate.imaps, ssl_context=trust, timeout=TIMEOUT_S) as imap:
        imap.login(login.user, login.password)
        imap.select("INBOX")
        until(lambda: imap.search(None, "SUBJECT", mark)[1] != [b""], "the message arrives")
        _, (number,) = imap.search(None, "SUBJECT", mark)
        # Not compared in the assertion: pytest would take minutes to explain the difference.
        is_same = fetch(imap, int(number), "BODY.PEEK[TEXT]") == text.encode()
        assert is_same
        imap.store(number.decode(), "+FLAGS", r"(\Deleted)")
        imap.expunge()


def test_a_message_over_the_offered_size_is_refused_by_the_upstream(calling, login: Login) -> None:
    with calling() as smtp:
        size = int(smtp.esmtp_features["size"])
        smtp.login(login.user, login.password)
        assert smtp.mail(login.user, [f"SIZE={size}"])[0] == 250
        smtp.rset()
        assert smtp.mail(login.user, [f"SIZE={size + 1}"])[0] == 552


def test_smtplib_hears_that_the_password_is_wrong(calling, wrong: Login) -> None:
    with calling() as smtp, pytest.raises(smtplib.SMTPAuthenticationError) as refused:
        smtp.login(wrong.user, wrong.password)
    assert refused.value.smtp_code == 535
    assert refused.value.smtp_error == b"5.7.8 User name or app password is wrong"
