"""offlineimap: tells its name by ID before it logs in, and syncs a Maildir both ways.

Over implicit TLS only: at STARTTLS its imaplib2 3.05 now and then waits for ever on a busy machine, and does so without
Gatepost too (seen 4 times of 120 straight at Dovecot, 2 of 60 at Gatepost).
"""

from __future__ import annotations

from pathlib import Path

from tests.clients.kit import Desk, Login, Ran, append, beyond, folder, message
from tests.needs import needs

CONFIG = """\
[general]
accounts = gatepost
metadata = {home}/metadata
ui = basic

[Account gatepost]
localrepository = here
remoterepository = there

[Repository here]
type = Maildir
localfolders = {home}/here

[Repository there]
type = IMAP
remotehost = localhost
remoteport = {port}
ssl = yes
sslcacertfile = {ca_file}
remoteuser = {user}
remotepassfile = {password_file}
folderfilter = lambda name: name == '{folder}'
"""


def offlineimap(desk: Desk, login: Login, name: str) -> Ran:
    config = desk.write(
        "offlineimaprc",
        CONFIG.format(
            home=desk.home,
            port=desk.gate.imaps.port,
            ca_file=desk.lab.ca_file,
            user=login.user,
            password_file=login.password_file,
            folder=name,
        ),
    )
    return desk.run([needs("offlineimap", "offlineimap3"), "-o", "-1", "-c", config], login)


def test_offlineimap_syncs_both_ways(desk: Desk, login: Login, mark: str) -> None:
    begin = len(desk.gate.log())
    with beyond(desk.lab, login.user) as imap:
        imap.create(mark)
        append(imap, mark, "there")
    maildir = _maildir(desk.home / "here" / mark)
    (maildir / "new" / "1.1.here").write_text(message("here"), newline="")

    ran = offlineimap(desk, login, mark)

    assert ran.status == 0, ran.text
    here = [file.read_text() for part in ("new", "cur") for file in (maildir / part).iterdir()]
    assert sorted(text.partition("Subject: ")[2].partition("\n")[0] for text in here) == ["here", "there"]
    with beyond(desk.lab, login.user) as imap:
        assert set(folder(imap, mark)) == {"here", "there"}
    desk.gate.await_log(rf'event=login .*user={login.user} .*result=ok .*client="OfflineIMAP ', after=begin)


def test_offlineimap_hears_that_the_password_is_wrong(desk: Desk, wrong: Login) -> None:
    ran = offlineimap(desk, wrong, "INBOX")

    assert ran.status != 0
    assert "[AUTHENTICATIONFAILED] Login name or app password is wrong" in ran.text


def _maildir(path: Path) -> Path:
    for part in ("new", "cur", "tmp"):
        (path / part).mkdir(parents=True)
    return path
