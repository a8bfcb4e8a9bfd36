"""How a test speaks to a lab: OAuth2 logins by imaplib and smtplib, a refresh, a message."""

import imaplib
import smtplib
import ssl
from email.message import EmailMessage

import httpx2

from tests.lab import Endpoint, Lab

TIMEOUT_S = 10
ANN, BOB = "ann@example.test", "bob@example.test"
MECHANISMS = ("XOAUTH2", "OAUTHBEARER")


def sasl(mechanism: str, user: str, token: str) -> bytes:
    if mechanism == "XOAUTH2":
        return f"user={user}\1auth=Bearer {token}\1\1".encode()
    return f"n,a={user},\1auth=Bearer {token}\1\1".encode()


class Bearer:
    """A SASL client: the token first, then the answer that gets an error challenge out of the way."""

    def __init__(self, mechanism: str, user: str, token: str) -> None:
        self.response = sasl(mechanism, user, token)
        self.challenge = b""
        self._has_spoken = False

    def answer(self, challenge: bytes) -> bytes:
        if not self._has_spoken:
            self._has_spoken = True
            return self.response
        self.challenge = challenge
        return b""

    def for_smtp(self, challenge: bytes | None = None) -> str:
        return self.answer(challenge or b"").decode()


def tls(lab: Lab) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(lab.ca_file))


def open_imap(lab: Lab, endpoint: Endpoint) -> imaplib.IMAP4:
    if endpoint == lab.imaps:
        return imaplib.IMAP4_SSL(*endpoint, ssl_context=tls(lab), timeout=TIMEOUT_S)
    imap = imaplib.IMAP4(*endpoint, timeout=TIMEOUT_S)
    imap.starttls(tls(lab))
    return imap


def open_smtp(lab: Lab, endpoint: Endpoint) -> smtplib.SMTP:
    if endpoint == lab.submissions:
        smtp: smtplib.SMTP = smtplib.SMTP_SSL(*endpoint, context=tls(lab), timeout=TIMEOUT_S)
    else:
        smtp = smtplib.SMTP(*endpoint, timeout=TIMEOUT_S)
        smtp.starttls(context=tls(lab))
    smtp.ehlo()
    return smtp


def message(subject: str) -> bytes:
    mail = EmailMessage()
    mail["From"], mail["To"], mail["Subject"] = ANN, BOB, subject
    mail.set_content("hello\n")
    return mail.as_bytes()


def refresh(http: httpx2.Client, lab: Lab, token: str) -> httpx2.Response:
    form = {"grant_type": "refresh_token", "refresh_token": token}
    return http.post(lab.idp.token_url, data=form, auth=(lab.idp.client_id, lab.idp.client_secret))
