"""curl: each IMAP command as a URL of its own, and mail by SMTP, with both forms of TLS and both mechanisms."""

from __future__ import annotations

import pytest

from tests.clients.kit import LETTERBOX, Desk, Login, Ran, beyond, folder, marked, message, url
from tests.needs import needs

DENIED = 67  # CURLE_LOGIN_DENIED


class Curl:
    def __init__(self, desk: Desk, login: Login, mechanism: str = "PLAIN") -> None:
        self._desk, self._login = desk, login
        self._words = [needs("curl"), "-sS", "--ssl-reqd", "--cacert", desk.lab.ca_file]
        self._words += ["--login-options", f"AUTH={mechanism}", "--config", "-"]

    def run(self, *words: str) -> Ran:
        # curl takes a user from its standard input too, where no list of processes shows it.
        user = f'user = "{self._login.user}:{self._login.password}"'
        return self._desk.run([*self._words, *words], self._login, user)

    def done(self, *words: str) -> str:
        ran = self.run(*words)
        assert ran.status == 0, ran.text
        return ran.text


@pytest.mark.parametrize(("scheme", "mechanism"), [("imaps", "PLAIN"), ("imap", "LOGIN")])
def test_curl_appends_lists_searches_fetches_and_flags(
    desk: Desk, login: Login, mark: str, scheme: str, mechanism: str
) -> None:
    begin = len(desk.gate.log())
    curl = Curl(desk, login, mechanism)
    server = url(scheme, getattr(desk.gate, scheme))
    mail = desk.write("mail", message(mark))

    curl.done(f"{server}/", "--request", f"CREATE {mark}")
    curl.done(f"{server}/{mark}", "--upload-file", str(mail))

    assert f' "." {mark}\n' in curl.done(f"{server}/").replace("\r\n", "\n")
    assert curl.done(f"{server}/{mark}?SUBJECT%20{mark}").strip() == "* SEARCH 1"
    assert curl.done(f"{server}/{mark};UID=1") == message(mark)
    assert curl.done(f"{server}/{mark};MAILINDEX=1;SECTION=TEXT") == "Twelve, at the harbour.\r\n"
    assert "\\Flagged" in curl.done(f"{server}/{mark}", "--request", "STORE 1 +FLAGS (\\Flagged)")
    with beyond(desk.lab, login.user) as imap:
        assert folder(imap, mark) == {mark: {"\\Flagged", "\\Seen"}}
    desk.gate.await_log(rf"event=login .*user={login.user} .*result=ok .*mechanism={mechanism} ", after=begin)


@pytest.mark.parametrize(("scheme", "mechanism"), [("smtps", "LOGIN"), ("smtp", "PLAIN")])
def test_curl_sends(desk: Desk, login: Login, mark: str, scheme: str, mechanism: str) -> None:
    begin = len(desk.gate.log())
    curl = Curl(desk, login, mechanism)
    mail = desk.write("mail", message(mark, ".\r\n..\r\nfine\r\n"))
    addresses = ["--mail-from", login.user, "--mail-rcpt", LETTERBOX]

    assert curl.done(url(scheme, getattr(desk.gate, scheme)), *addresses, "--upload-file", str(mail)) == ""

    assert marked(desk.lab, mark).endswith("\n\n.\n..\nfine\n")
    desk.gate.await_log(rf"event=login .*user={login.user} .*result=ok .*mechanism={mechanism} ", after=begin)


@pytest.mark.parametrize("scheme", ["imaps", "smtp"])
def test_curl_hears_that_the_password_is_wrong(desk: Desk, wrong: Login, scheme: str) -> None:
    words = ["--mail-from", wrong.user, "--mail-rcpt", LETTERBOX, "--upload-file", "/dev/null"]

    ran = Curl(desk, wrong).run(url(scheme, getattr(desk.gate, scheme)), *(words if scheme == "smtp" else ()))

    assert ran == Ran(DENIED, "curl: (67) Login denied\n")
