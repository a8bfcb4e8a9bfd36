"""Parts of the lab go away and come back, a failed start explains itself, and in the end nothing is left."""

import imaplib
import re
import ssl
import subprocess
import sys
import time
from pathlib import Path

import httpx2
import pytest

from tests.lab import Lab, LabError, LabUnavailable
from tests.lab.idp import Idp
from tests.lab.process import group_members
from tests.lab.talk import ANN, TIMEOUT_S, Bearer, open_imap, open_smtp, refresh

STOP_TIMEOUT_S = 60


def test_parts_go_away_and_come_back_on_the_same_port(lab: Lab, http: httpx2.Client) -> None:
    token = lab.refresh_token(ANN)
    for part in (lab.idp, lab.postfix, lab.dovecot):
        part.stop()
        assert not part.is_running
    with pytest.raises(OSError, match="refused"):
        open_imap(lab, lab.imaps)
    with pytest.raises(OSError, match="refused"):
        open_smtp(lab, lab.submissions)
    with pytest.raises(httpx2.ConnectError):
        refresh(http, lab, token)
    for part in (lab.dovecot, lab.postfix, lab.idp):
        part.start()
    fresh = refresh(http, lab, token).json()["access_token"]  # an outage costs no tokens
    with open_imap(lab, lab.imaps) as imap:
        imap.authenticate("XOAUTH2", Bearer("XOAUTH2", ANN, fresh).answer)
    with open_smtp(lab, lab.submission) as smtp:
        smtp.auth("XOAUTH2", Bearer("XOAUTH2", ANN, fresh).for_smtp, initial_response_ok=False)


def test_imap_says_unavailable_while_the_identity_provider_is_away(rootless: Lab) -> None:
    token = rootless.access_token(ANN)
    bearer = Bearer("XOAUTH2", ANN, token)
    rootless.idp.stop()
    try:
        with open_imap(rootless, rootless.imaps) as imap, pytest.raises(imaplib.IMAP4.error, match="UNAVAILABLE"):
            imap.authenticate("XOAUTH2", bearer.answer)
    finally:
        rootless.idp.start()
    assert bearer.challenge == b""


@pytest.mark.parametrize("which", ["wrong_name", "untrusted"])
def test_a_bad_certificate_can_be_shown(rootless: Lab, which: str) -> None:
    rootless.dovecot.stop()
    rootless.dovecot.certificate = getattr(rootless.certificates, which)
    rootless.dovecot.start()
    try:
        with pytest.raises(ssl.SSLCertVerificationError):
            open_imap(rootless, rootless.imaps)
    finally:
        rootless.dovecot.stop()
        rootless.dovecot.certificate = rootless.certificates.server
        rootless.dovecot.start()


def test_secrets_stay_out_of_the_logs(lab: Lab) -> None:
    logs = lab.logs()
    assert set(logs) == {"idp", "dovecot", "postfix", "sink"} or set(logs) == {"idp", "dovecot", "submission", "sink"}
    text = "".join(logs.values())
    assert "imap" in text
    for secret in (lab.password(ANN), lab.totp_secret(ANN), lab.idp.client_secret, lab.idp.introspection_client_secret):
        assert secret not in text


def processes_of(directory: str) -> list[str]:
    """The command lines on this machine that name a lab's directory."""
    lines = [file.read_bytes() for file in Path("/proc").glob("[0-9]*/cmdline") if file.exists()]
    return [line.decode(errors="replace") for line in lines if directory.encode() in line]


def test_a_failed_start_tells_why_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Path] = []
    launch = Idp.launch

    def observed(idp: Idp) -> None:
        started.append(idp.server.log_file)
        launch(idp)

    monkeypatch.setattr("tests.lab.lab.Idp.launch", observed)
    monkeypatch.setattr("tests.lab.dovecot.CONFIG", "nonsense = yes\n")
    with pytest.raises(LabError, match=r"(?s)dovecot ended.*last lines.*nonsense.*What to do"):
        Lab.start()
    directory = started[0].parents[1]
    assert not directory.exists()
    assert processes_of(str(directory)) == []


def test_missing_programs_are_named_with_the_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tests.lab.programs.DOVECOT_SERVICES", tmp_path)
    with pytest.raises(LabUnavailable, match=r"dovecot-imapd.*make lab"):
        Lab.start()


@pytest.mark.parametrize("end", ["terminate", "kill"])
def test_nothing_is_left_when_the_owner_ends(end: str) -> None:
    """SIGTERM is an orderly stop; after SIGKILL the warden does it."""
    root = Path(__file__).parents[2]
    with subprocess.Popen(
        [sys.executable, "-m", "tests.lab"], cwd=root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as owner:
        assert owner.stdout is not None
        lines = []
        for line in owner.stdout:
            lines.append(line)
            if line.startswith("Ctrl-C"):
                break
        found = re.search(r"directory +(\S+)", "".join(lines))
        assert found, lines
        directory = Path(found[1])
        groups = [int(file.read_text().split()[0]) for file in directory.glob("pids/*")]
        assert len(groups) == 4
        assert all(group_members(group) for group in groups)
        getattr(owner, end)()
        owner.wait(STOP_TIMEOUT_S)
        deadline = time.monotonic() + TIMEOUT_S
        while end == "kill" and processes_of(str(directory)):  # the warden's own is the last
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert processes_of(str(directory)) == []
        assert [group for group in groups if group_members(group)] == []
        assert not directory.exists()
