"""Outcome E62: a run in which about everything happens, at level debug, and not one secret in what it logged."""

from __future__ import annotations

import base64
import contextlib
import imaplib
import json
import re
import signal
import smtplib
import sys
import time
from pathlib import Path

import pytest

from tests.gate import READY_S, Gate, GateError
from tests.lab import Endpoint, Lab
from tests.lab.talk import tls
from tests.leaks import leaked
from tests.service.house import wrong_password

ANN, BOB = "ann@example.test", "bob@example.test"
TIMEOUT_S = 20
HOOK = "import sys; open(sys.argv[1], 'a').write(sys.stdin.read())"
BODY = "a word of the message that nobody else may read"
TYPED = 'typed "into the wrong\\field'  # a password in place of the name


class Run:
    """A Gatepost of two workers whose log is read in either form."""

    def __init__(self, gate: Gate, form: str) -> None:
        self.gate = gate
        self.form = form
        self.said: list[str] = []  # what commands printed on stderr
        self.tokens: list[str] = []

    def start(self) -> None:
        gate = self.gate
        gate.launch()
        self.await_event("ready")
        for line in gate.log().splitlines():
            found = self._listening(line)
            if found is not None:
                protocol, port, kind = found
                name = {"imap implicit": "imaps", "imap starttls": "imap", "smtp implicit": "smtps"}
                setattr(gate, name.get(f"{protocol} {kind}", "smtp"), Endpoint("localhost", port))

    def _listening(self, line: str) -> tuple[str, int, str] | None:
        if self.form == "json":
            event = json.loads(line)
            if event.get("event") != "listening":
                return None
            protocol, _, rest = event["on"].partition("://")
            return protocol, int(rest.rpartition(":")[2]), event["tls"]
        found = re.search(r"event=listening on=(imap|smtp)://127\.0\.0\.1:(\d+) tls=(\w+)", line)
        return (found[1], int(found[2]), found[3]) if found else None

    def await_event(self, event: str, count: int = 1) -> None:
        pattern = rf'"event": "{event}"' if self.form == "json" else rf"event={event}\b"
        deadline = time.monotonic() + READY_S
        while len(re.findall(pattern, self.gate.log())) < count:
            if time.monotonic() > deadline:
                raise GateError(f"no {event}:\n{self.gate.log()[-2000:]}")
            time.sleep(0.02)

    def imap(self) -> imaplib.IMAP4:
        return imaplib.IMAP4_SSL(*self.gate.imaps, ssl_context=tls(self.gate.lab), timeout=TIMEOUT_S)

    def smtp(self) -> smtplib.SMTP:
        smtp = smtplib.SMTP("localhost", self.gate.smtp.port, timeout=TIMEOUT_S)
        smtp.starttls(context=tls(self.gate.lab))
        smtp.ehlo()
        return smtp

    def note_tokens(self) -> None:
        """Remember what the store holds now: each of these was in memory of the server."""
        assert self.gate.leaked() == []
        self.tokens += self.gate.stored_tokens()


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_run_at_debug_leaves_no_secret_and_no_message_in_its_log(form: str, lab: Lab, tmp_path: Path) -> None:
    alerts = tmp_path / "alerts"
    gate = Gate.prepare(lab, tmp_path / "gate", workers=2)
    hook = json.dumps([sys.executable, "-I", "-c", HOOK, str(alerts)])
    more = f'\n[alerts]\ncommand = {hook}\n[metrics]\naddress = "127.0.0.1:0"\n'
    gate.config.write_text(gate.config.read_text().replace("[log]\n", f'[log]\nformat = "{form}"\n') + more)
    run = Run(gate, form)
    for user in (ANN, BOB):
        gate.add_account(user)
    scanner, phone = gate.create(ANN, "scanner"), gate.create(BOB, "phone")
    first_key = (gate.directory / "master.key").read_text().strip()
    gate.secrets += [lab.password(ANN), BODY, TYPED, first_key]
    lab.deliver(ANN, f"Subject: x\r\n\r\n{BODY}\r\n".encode())
    run.start()
    try:
        come_in(run, scanner["password"])
        run.note_tokens()  # those that the first logins got
        are_refused(run, scanner["password"])
        renew_and_lose(run, lab, phone["password"])
        administer(run, scanner["id"])
        assert gate.process is not None
        gate.process.send_signal(signal.SIGHUP)
        run.await_event("reloaded")
        run.note_tokens()
        assert gate.stop() == 0
    finally:
        gate.kill()
    log = gate.log()
    words = ("token_refreshed", "login", "session_end", "token_state", "audit", "stopped", "worker_ready")
    assert [word for word in words if word not in log] == []
    assert len(log.splitlines()) > 50
    secrets = [*gate.secrets, *run.tokens, (gate.directory / "master.key").read_text().strip()]
    assert len(set(run.tokens)) >= 3  # refresh and access tokens, before and after a renewal
    for text in (log, alerts.read_text(), "\n".join(run.said)):
        assert leaked(text, secrets) == []


def come_in(run: Run, password: str) -> None:
    """By every mechanism that there is; one reads a message, one sends it on."""
    plain = f"\0{ANN}\0{password}".encode()
    ways = (
        lambda client: client.login(ANN, password),
        lambda client: client.authenticate("PLAIN", lambda _: plain),
        lambda client: client.authenticate("LOGIN", lambda asked: (ANN if b"ser" in asked else password).encode()),
    )
    for way in ways:
        client = run.imap()
        with contextlib.suppress(imaplib.IMAP4.error):  # AUTH=LOGIN is not offered by IMAP listeners
            way(client)
            client.select("INBOX")
            client.fetch("1", "(BODY[TEXT])")
        client.logout()
    for mechanism in ("PLAIN", "LOGIN"):
        smtp = run.smtp()
        smtp.user, smtp.password = ANN, password
        smtp.auth(mechanism, getattr(smtp, f"auth_{mechanism.lower()}"))
        smtp.sendmail(ANN, [BOB], f"Subject: x\r\n\r\n{BODY}\r\n")
        smtp.quit()


def are_refused(run: Run, password: str) -> None:
    wrong = wrong_password(password)
    run.gate.secrets.append(wrong)
    for name, tried in ((ANN, wrong), (ANN, run.gate.lab.password(ANN)), (TYPED, wrong), (password, ANN)):
        client = run.imap()
        with pytest.raises(imaplib.IMAP4.error):
            client.login(f'"{name}"' if " " not in name else ANN, tried)
        client.shutdown()
    smtp = run.smtp()
    code, _ = smtp.docmd("AUTH", "PLAIN " + base64.b64encode(f"{TYPED}\0{BOB}\0{wrong}".encode()).decode())
    assert code == 535
    smtp.docmd("AUTH", "PLAIN " + base64.b64encode(password.encode()).decode())  # no separators
    smtp.close()


def renew_and_lose(run: Run, lab: Lab, password: str) -> None:
    """Bob's grant is withdrawn: his login fails, an alert goes out, and he signs in again."""
    lab.idp.revoke(BOB)
    client = run.imap()
    with pytest.raises(imaplib.IMAP4.error, match="CONTACTADMIN"):
        client.login(BOB, password)
    client.shutdown()
    run.await_event("token_state")
    token = lab.refresh_token(BOB)
    run.gate.secrets.append(token)
    run.gate.cli("account", "connect", BOB, "--refresh-token-stdin", stdin=f"{token}\n")
    client = run.imap()
    client.login(BOB, password)
    client.logout()


def administer(run: Run, scanner: str) -> None:
    gate = run.gate
    rotated = json.loads(gate.cli("rotate", scanner, "--json"))
    gate.secrets.append(rotated["password"])
    client = run.imap()
    client.login(ANN, rotated["password"])
    gate.cli("key", "rotate")
    gate.secrets.append((gate.directory / "master.key").read_text().strip())
    gate.cli("backup", str(gate.directory / "backup"))
    gate.cli("revoke", scanner)  # ends the live session
    run.await_event("audit")
    client.shutdown()
    for words in (("rotate", scanner), ("create", ANN, "--name", "x", "--protocol", "pop3")):
        done = gate.run(*words)
        assert done.code != 0
        run.said.append(done.err)
