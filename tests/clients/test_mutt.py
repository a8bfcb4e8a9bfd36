"""mutt on a terminal: reads by IMAP, writes flags, sends by SMTP and files the copy by IMAP."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.clients.kit import LETTERBOX, Desk, Login, append, beyond, folder, marked, url
from tests.needs import needs

CONFIG = """\
set folder={imap}/ record=+{sent}
set imap_user={user} imap_pass="`cat {password_file}`"
set smtp_url={smtp} smtp_pass="`cat {password_file}`"
set ssl_force_tls=yes ssl_starttls=yes certificate_file={ca_file}
set from={user} use_from=yes hostname=localhost
set header_cache="" message_cachedir="" postponed=""
set mark_old=no pager=builtin
set confirmappend=no confirmcreate=no move=no quit=yes beep=no wait_key=no sleep_time=0
"""

FORMS = pytest.mark.parametrize("form", ["implicit", "starttls"])


def mutt(desk: Desk, login: Login, form: str, sent: str = "Sent") -> list[str | Path]:
    program = needs("mutt")
    is_implicit = form == "implicit"
    smtp = url("smtps", desk.gate.smtps) if is_implicit else url("smtp", desk.gate.smtp)
    config = desk.write(
        "muttrc",
        CONFIG.format(
            imap=url("imaps", desk.gate.imaps) if is_implicit else url("imap", desk.gate.imap),
            smtp=smtp.replace("://", f"://{login.user}@"),
            sent=sent,
            user=login.user,
            password_file=login.password_file,
            ca_file=desk.lab.ca_file,
        ),
    )
    return [program, "-n", "-F", config]


@FORMS
def test_mutt_reads_and_flags(desk: Desk, login: Login, mark: str, form: str) -> None:
    with beyond(desk.lab, login.user) as imap:
        imap.create(mark)
        append(imap, mark, "other")
        append(imap, mark, "wanted")
    saved = desk.home / "saved"
    keys = f"<search>~s wanted<enter><display-message><pipe-message>cat > {saved}<enter><exit><flag-message><quit>"

    ran = desk.run_on_terminal([*mutt(desk, login, form), "-f", f"+{mark}", "-e", f'push "{keys}"'], login)

    assert ran.status == 0, ran.text
    assert "Subject: wanted\n" in saved.read_text()
    assert "Twelve, at the harbour.\n" in saved.read_text()
    with beyond(desk.lab, login.user) as imap:
        assert folder(imap, mark) == {"other": set(), "wanted": {"\\Flagged", "\\Seen"}}


@FORMS
def test_mutt_sends_and_files_a_copy(desk: Desk, login: Login, mark: str, form: str) -> None:
    words = [*mutt(desk, login, form, sent=mark), "-s", mark, "--", LETTERBOX]

    ran = desk.run(words, login, "See you there.\n.\n")

    assert ran.status == 0, ran.text
    assert marked(desk.lab, mark).endswith("\n\nSee you there.\n.\n")
    with beyond(desk.lab, login.user) as imap:
        assert list(folder(imap, mark)) == [mark]


def test_mutt_hears_that_the_password_is_wrong(desk: Desk, wrong: Login) -> None:
    words = [*mutt(desk, wrong, "starttls"), "-f", "+INBOX", "-e", 'push "<quit>"']

    assert "SASL authentication failed." in desk.run_on_terminal(words, wrong).text
