"""mbsync (isync): a folder here and a folder there, and whatever happened on either side comes to the other."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.clients.kit import Desk, Login, Ran, append, beyond, folder, message
from tests.needs import needs

# A blank line ends a section.
CONFIG = """\
IMAPAccount gatepost
Host localhost
Port {port}
User {user}
PassCmd "cat {password_file}"
SSLType {form}
AuthMechs {mechanism}
CertificateFile {ca_file}

IMAPStore there
Account gatepost

MaildirStore here
Path {here}/
SubFolders Verbatim

Channel both
Far :there:
Near :here:
Patterns {folder}
Create Both
Expunge Both
Sync All
SyncState *
"""


class Mbsync:
    def __init__(self, desk: Desk, login: Login, name: str, form: str, mechanism: str) -> None:
        self._program = needs("mbsync", "isync")
        self._desk, self._login = desk, login
        here = desk.home / "here"
        here.mkdir()
        self._maildir = here / name
        self._config = desk.write(
            "mbsyncrc",
            CONFIG.format(
                port=desk.gate.imaps.port if form == "IMAPS" else desk.gate.imap.port,
                user=login.user,
                password_file=login.password_file,
                form=form,
                mechanism=mechanism,
                ca_file=desk.lab.ca_file,
                here=here,
                folder=name,
            ),
        )

    def run(self) -> Ran:
        return self._desk.run([self._program, "--config", self._config, "both"], self._login)

    def done(self) -> None:
        ran = self.run()
        assert ran.status == 0, ran.text

    def put(self, mark: str) -> None:
        (self._maildir / "new" / f"1.{mark}.here").write_text(message(mark), newline="")

    def flag(self, mark: str, flags: str) -> None:
        """Replace the flags of a message, as a mail reader does: they are in the file's name."""
        file = self._files()[mark]
        file.rename(self._maildir / "cur" / f"{file.name.partition(':')[0]}:2,{flags}")

    def messages(self) -> dict[str, str]:
        """The subjects in the Maildir, each with its flags."""
        return {mark: file.name.partition(":2,")[2] for mark, file in self._files().items()}

    def _files(self) -> dict[str, Path]:
        files = [file for part in ("new", "cur") for file in (self._maildir / part).iterdir()]
        return {file.read_text().partition("Subject: ")[2].partition("\n")[0]: file for file in files}


@pytest.mark.parametrize(("form", "mechanism"), [("IMAPS", "PLAIN"), ("STARTTLS", "LOGIN")])
def test_mbsync_syncs_both_ways(desk: Desk, login: Login, mark: str, form: str, mechanism: str) -> None:
    begin = len(desk.gate.log())
    mbsync = Mbsync(desk, login, mark, form, mechanism)
    with beyond(desk.lab, login.user) as imap:
        imap.create(mark)
        for name in ("read", "starred", "deleted"):
            append(imap, mark, name)

    mbsync.done()
    assert mbsync.messages() == {"read": "", "starred": "", "deleted": ""}

    mbsync.put("written here")
    mbsync.flag("read", "S")
    with beyond(desk.lab, login.user) as imap:
        append(imap, mark, "arrived there")
        imap.select(mark)
        imap.store("2", "+FLAGS", r"(\Flagged)")
        imap.store("3", "+FLAGS", r"(\Deleted)")
        imap.expunge()
    mbsync.done()

    assert mbsync.messages() == {"read": "S", "starred": "F", "arrived there": "", "written here": ""}
    with beyond(desk.lab, login.user) as imap:
        assert folder(imap, mark) == {
            "read": {"\\Seen"},
            "starred": {"\\Flagged"},
            "arrived there": set(),
            "written here": set(),
        }
    desk.gate.await_log(rf"event=login .*user={login.user} .*result=ok .*mechanism={mechanism} ", after=begin)


def test_mbsync_hears_that_the_password_is_wrong(desk: Desk, wrong: Login) -> None:
    ran = Mbsync(desk, wrong, "INBOX", "IMAPS", "LOGIN").run()

    assert ran.status == 1
    assert "NO [AUTHENTICATIONFAILED] Login name or app password is wrong" in ran.text
