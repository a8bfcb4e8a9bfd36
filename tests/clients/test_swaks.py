"""swaks, the tester's client: each mechanism, both forms of TLS, and MAIL, RCPT and DATA in one packet."""

from __future__ import annotations

import pytest

from tests.clients.kit import LETTERBOX, Desk, Login, Ran, marked
from tests.needs import needs

AUTHENTICATION_FAILED = 28

CONFIG = """\
--server localhost
--port {port}
--{tls}
--tls-verify
--tls-ca-path {ca_file}
--auth {mechanism}
--auth-user {user}
--auth-password {password}
--auth-hide-password
--from {user}
--to {letterbox}
"""

FORMS = pytest.mark.parametrize("form", ["implicit", "starttls"])


def swaks(desk: Desk, login: Login, form: str, mechanism: str, *words: str) -> Ran:
    program = needs("swaks")
    config = desk.write(
        "swaksrc",
        CONFIG.format(
            port=desk.gate.smtps.port if form == "implicit" else desk.gate.smtp.port,
            tls="tls-on-connect" if form == "implicit" else "tls",
            ca_file=desk.lab.ca_file,
            mechanism=mechanism,
            user=login.user,
            password=login.password,
            letterbox=LETTERBOX,
        ),
    )
    return desk.run([program, "--config", config, *words], login)


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
@FORMS
def test_swaks_sends_in_lockstep(desk: Desk, login: Login, mark: str, form: str, mechanism: str) -> None:
    ran = swaks(desk, login, form, mechanism, "--header", f"Subject: {mark}")

    assert ran.status == 0, ran.text
    assert f"~> AUTH {mechanism}" in ran.text
    assert "This is a test mailing" in marked(desk.lab, mark)


@FORMS
def test_swaks_pipelines_what_follows_the_login(desk: Desk, login: Login, mark: str, form: str) -> None:
    ran = swaks(desk, login, form, "PLAIN", "--header", f"Subject: {mark}", "--pipeline")

    assert ran.status == 0, ran.text
    sent = [line[4:8] for line in ran.text.splitlines() if line.startswith((" ~> ", "<~  "))]
    begin = sent.index("MAIL")
    # All three were sent before the first answer, which swaks does only if the offer before the login allows it.
    assert sent[begin : begin + 6] == ["MAIL", "RCPT", "DATA", "250 ", "250 ", "354 "]
    assert "This is a test mailing" in marked(desk.lab, mark)


def test_swaks_hears_that_the_password_is_wrong(desk: Desk, wrong: Login) -> None:
    ran = swaks(desk, wrong, "starttls", "LOGIN")

    assert ran.status == AUTHENTICATION_FAILED
    assert "<~* 535 5.7.8 User name or app password is wrong" in ran.text
    assert "*** No authentication type succeeded" in ran.text


def test_swaks_finds_no_other_mechanism(desk: Desk, login: Login) -> None:
    ran = swaks(desk, login, "implicit", "CRAM-MD5")

    assert ran.status == AUTHENTICATION_FAILED
    assert "*** Auth not attempted, requested type not available" in ran.text
