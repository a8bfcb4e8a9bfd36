"""fetchmail: LOGIN, everything unread handed to a local program, and IDLE until more comes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.clients.kit import Desk, Login, beyond, folder, message, until
from tests.needs import needs

AUTHENTICATION_FAILED = 3  # PS_AUTHFAIL

# sslproto without "ssl" is fetchmail's word for STARTTLS; sslcertck makes it refuse to go on without.
CONFIG = """\
set no bouncemail
poll localhost protocol imap service {port}
    auth password user "{user}" password "{password}"
    {tls} sslproto "TLS1.2+" sslcertck sslcertfile "{ca_file}"
    {what} keep mda "cat >> {spool}"
"""


class Fetchmail:
    def __init__(self, desk: Desk, login: Login, form: str, what: str = "") -> None:
        program = needs("fetchmail")
        self.spool = desk.home / "spool"
        config = desk.write(
            "fetchmailrc",
            CONFIG.format(
                port=desk.gate.imaps.port if form == "implicit" else desk.gate.imap.port,
                user=login.user,
                password=login.password,
                tls="ssl" if form == "implicit" else "",
                ca_file=desk.lab.ca_file,
                what=what,
                spool=self.spool,
            ),
        )
        self.words: list[str | Path] = [program, "--fetchmailrc", config, "--nosyslog", "--verbose"]
        self.words += ["--pidfile", desk.home / "pid", "--idfile", desk.home / "ids"]

    def has(self, mark: str) -> bool:
        return self.spool.exists() and f"Subject: {mark}\n" in self.spool.read_text()


@pytest.mark.parametrize("form", ["implicit", "starttls"])
def test_fetchmail_hands_over_what_is_unread(desk: Desk, login: Login, mark: str, form: str) -> None:
    desk.lab.deliver(login.user, message(mark, "first\r\n.\r\nlast\r\n").encode())
    fetchmail = Fetchmail(desk, login, form)

    ran = desk.run(fetchmail.words, login)

    assert ran.status == 0, ran.text
    assert fetchmail.has(mark)
    assert "first\n.\nlast\n" in fetchmail.spool.read_text()
    with beyond(desk.lab, login.user) as imap:
        assert folder(imap, "INBOX")[mark] == {"\\Seen"}


def test_fetchmail_hears_of_new_mail_while_it_idles(desk: Desk, login: Login, mark: str) -> None:
    fetchmail = Fetchmail(desk, login, "implicit", "idle")

    with desk.running(fetchmail.words) as process:
        until(lambda: "IMAP< + idling" in (desk.home / "said").read_text(), "fetchmail idles")
        desk.lab.deliver(login.user, message(mark).encode())
        until(lambda: fetchmail.has(mark), "the new message was fetched")
        assert process.poll() is None


def test_fetchmail_hears_that_the_password_is_wrong(desk: Desk, wrong: Login) -> None:
    ran = desk.run(Fetchmail(desk, wrong, "implicit").words, wrong)

    assert ran.status == AUTHENTICATION_FAILED
    assert f"Authorization failure on {wrong.user}@localhost" in ran.text
