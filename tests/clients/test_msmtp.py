"""msmtp: what cron and scripts call as sendmail; its password comes from a command."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.clients.kit import LETTERBOX, Desk, Login, marked, message
from tests.needs import needs

NO_PERMISSION = 77  # EX_NOPERM of sysexits.h

CONFIG = """\
account gatepost
host localhost
port {port}
tls on
tls_starttls {starttls}
tls_trust_file {ca_file}
auth {mechanism}
user {user}
passwordeval cat {password_file}
from {user}
account default : gatepost
"""


def msmtp(desk: Desk, login: Login, form: str, mechanism: str) -> list[str | Path]:
    program = needs("msmtp")
    config = desk.write(
        "msmtprc",
        CONFIG.format(
            port=desk.gate.smtps.port if form == "implicit" else desk.gate.smtp.port,
            starttls="off" if form == "implicit" else "on",
            ca_file=desk.lab.ca_file,
            mechanism=mechanism,
            user=login.user,
            password_file=login.password_file,
        ),
    )
    return [program, "--file", config, LETTERBOX, "someone@elsewhere.test"]


@pytest.mark.parametrize("mechanism", ["plain", "login"])
@pytest.mark.parametrize("form", ["implicit", "starttls"])
def test_msmtp_sends_to_two(desk: Desk, login: Login, mark: str, form: str, mechanism: str) -> None:
    begin = len(desk.gate.log())
    mail = message(mark, "first\r\n.\r\n..last\r\n").replace("\r\n", "\n")

    ran = desk.run(msmtp(desk, login, form, mechanism), login, mail)

    assert ran.status == 0, ran.text
    assert marked(desk.lab, mark).endswith("\n\nfirst\n.\n..last\n")
    desk.lab.await_mail(lambda: [sent for sent in desk.lab.sent() if mark.encode() in sent])
    desk.gate.await_log(rf"event=login .*user={login.user} .*result=ok .*mechanism={mechanism.upper()} ", after=begin)


def test_msmtp_hears_that_the_password_is_wrong(desk: Desk, wrong: Login) -> None:
    ran = desk.run(msmtp(desk, wrong, "starttls", "on"), wrong, message("never sent"))

    assert ran.status == NO_PERMISSION
    assert "authentication failed (method PLAIN)" in ran.text
    assert "server message: 535 5.7.8 User name or app password is wrong" in ran.text
