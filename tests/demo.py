"""`make demo`: the story of an app password, told on the terminal with real servers, then left running to play with."""

from __future__ import annotations

import argparse
import imaplib
import re
import signal
import smtplib
import ssl
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from email.message import EmailMessage
from pathlib import Path

from tests.gate import Gate, GateError
from tests.lab import Lab, LabError
from tests.practice import Practice
from tests.web.kit import WebGate

ANN = "ann@example.test"
BOB = "bob@example.test"
TIMEOUT_S = 30.0
WELCOME = f"From: {BOB}\r\nSubject: Lunch?\r\nMessage-ID: <lunch@example.test>\r\n\r\nTwelve, at the harbour.\r\n"


REAL = "Dovecot, Postfix and an OpenID provider"


class StoryError(Exception):
    """The story did not go as told."""


def say(text: str) -> None:
    print(f"\n{text}", flush=True)


def show(text: str) -> None:
    print(f"    {text}", flush=True)


def told(claim: bool, text: str) -> None:
    if not claim:
        raise StoryError(text)
    show(text)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.demo", description=__doc__)
    parser.add_argument("--once", action="store_true", help="end after the story in place of waiting for Ctrl-C")
    parser.add_argument("--practice", action="store_true", help="in front of servers from PyPI, in place of Debian's")
    said = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        tell(once=said.once, is_practice=said.practice)
    except (StoryError, GateError, LabError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print()
    return 0


def tell(*, once: bool, is_practice: bool) -> None:
    upstream = Practice if is_practice else Lab
    parts = Practice.parts if is_practice else REAL
    say(f"1. A mail server that takes nothing but OAuth2 tokens: {parts}, on loopback.")
    with upstream.start((ANN, BOB)) as lab, tempfile.TemporaryDirectory(prefix="gatepost-demo-") as directory:
        trust = ssl.create_default_context(cafile=lab.ca_file)
        show(f"IMAP {lab.imaps}, submission {lab.submissions}, provider {lab.idp.issuer}")
        refused = refusal(lambda: imap_login(lab.imaps.port, trust, lab.password(ANN)))
        told("OK" not in refused, f"Ann's real password, by IMAP LOGIN, without a token: {refused}")
        lab.deliver(ANN, WELCOME.encode())

        say("2. Gatepost in front of it: gatepost init, account add, create, serve.")
        gate = WebGate.made(lab, Path(directory), is_https=False)
        gate.serve_words = ()  # the page runs beside the workers
        gate.add_account(ANN)
        show(f"account {ANN} added, with the refresh token of her sign-in")
        scanner = gate.create(ANN, "Scanner, 2nd floor")
        show(f'app password "{scanner["name"]}": {scanner["password"]}   (shown once, never again)')
        try:
            gate.start()
            use(gate, lab, trust, scanner)
            lock_out(gate, trust, scanner)
            show_page(gate)
            if not once:
                leave_running(gate, lab)
            gate.stop()
        finally:
            gate.kill()
    say("The end. Nothing is left running.")


def use(gate: Gate, lab: Lab | Practice, trust: ssl.SSLContext, scanner: dict[str, str]) -> None:
    say("3. An old client reads mail through Gatepost: plain LOGIN, no OAuth2.")
    client = imap_login(gate.imaps.port, trust, scanner["password"])
    show(f"LOGIN {ANN} ***** -> OK")
    _, count = client.select("INBOX")
    show(f"SELECT INBOX -> {(count[0] or b'?').decode()} message")
    subject = literal(client.fetch("1", "(BODY[HEADER.FIELDS (SUBJECT)])"))
    text = literal(client.fetch("1", "(BODY[TEXT])"))
    show(f"FETCH 1 -> {subject} / {text}")
    told(subject == "Subject: Lunch?", "the message arrived whole")
    client.logout()

    say("4. The same client sends mail by SMTP AUTH.")
    with smtplib.SMTP("localhost", gate.smtp.port, timeout=TIMEOUT_S) as smtp:
        smtp.starttls(context=trust)
        smtp.login(ANN, scanner["password"])
        smtp.send_message(message(ANN, BOB, "Re: Lunch?", "See you there."))
    show("STARTTLS, AUTH PLAIN, MAIL, RCPT, DATA -> 250")
    (arrived,) = lab.await_mail(lambda: lab.inbox(BOB))
    told(b"Subject: Re: Lunch?" in arrived, "Bob has it in his INBOX")


def lock_out(gate: Gate, trust: ssl.SSLContext, scanner: dict[str, str]) -> None:
    say("5. A wrong password is refused, in the same words as any other reason.")
    wrong = refusal(lambda: imap_login(gate.imaps.port, trust, "correct-horse-battery"))
    told("AUTHENTICATIONFAILED" in wrong, f"LOGIN -> {wrong}")

    say("6. The scanner is stolen. The password is revoked while the client is connected and waits in IDLE.")
    client = imap_login(gate.imaps.port, trust, scanner["password"])
    client.select("INBOX")
    client.send(b"i1 IDLE\r\n")
    client.readline()
    show(gate.cli("revoke", scanner["id"]).strip())
    revoked_at = time.monotonic()
    while line := client.readline():  # what the server still said; an empty line is the end of the connection
        show(f"server: {line.decode().strip()}")
    show(f"the live session ended {time.monotonic() - revoked_at:.1f} s after the command")
    client.shutdown()
    again = refusal(lambda: imap_login(gate.imaps.port, trust, scanner["password"]))
    told("AUTHENTICATIONFAILED" in again, f"LOGIN with the revoked password -> {again}")

    say("7. What the log knows of it:")
    for log_line in re.findall(r"event=(?:login|session_end) .*", gate.log())[-4:]:
        show(log_line)


def show_page(gate: WebGate) -> None:
    say("8. The page where people do it for themselves, after their sign-in with MFA:")
    gate.await_log("event=web_ready")
    straight = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # it is on loopback
    with straight.open(gate.web, timeout=TIMEOUT_S) as answer:
        title = re.search(r"<title>(.*?)</title>", answer.read().decode())
    told(title is not None, f"{gate.web} -> {title[1] if title else ''}")


def leave_running(gate: WebGate, lab: Lab | Practice) -> None:
    mine = gate.create(ANN, "Yours")
    say("9. Now yours. Open the page in a browser and sign in as Ann:")
    show(f"page       {gate.web}")
    show(f"user       {ANN}")
    show(f"password   {lab.password(ANN)}")
    show(f"one-time code   {sys.executable} -m tests.lab.code {lab.totp_secret(ANN)}")
    say("Or point a mail client at it:")
    show(f"IMAP   localhost port {gate.imaps.port} (SSL/TLS), or {gate.imap.port} (STARTTLS)")
    show(f"SMTP   localhost port {gate.smtps.port} (SSL/TLS), or {gate.smtp.port} (STARTTLS)")
    show(f"user   {ANN}")
    show(f"app password   {mine['password']}")
    show(f"certificate authority   {lab.ca_file}")
    show("")
    show(f"curl --cacert {lab.ca_file} --user {ANN} imaps://localhost:{gate.imaps.port}/INBOX")
    show(f"{sys.executable} -m proxy list --config {gate.config}")
    show(f"{sys.executable} -m proxy revoke {mine['id']} --config {gate.config}")
    show(f"log: {gate.log_file}")
    say("Ctrl-C ends it.")
    assert gate.process is not None
    gate.process.wait()


def imap_login(port: int, trust: ssl.SSLContext, password: str) -> imaplib.IMAP4_SSL:
    client = imaplib.IMAP4_SSL("localhost", port, ssl_context=trust, timeout=TIMEOUT_S)
    try:
        client.login(ANN, password)
    except BaseException:
        client.shutdown()
        raise
    return client


def refusal(login: Callable[[], object]) -> str:
    try:
        login()
    except imaplib.IMAP4.error as error:
        words = error.args[0]
        return words.decode() if isinstance(words, bytes) else str(words)
    return "OK"


def literal(answer: tuple[str, list[object]]) -> str:
    """The text of a FETCH of one body part."""
    part = answer[1][0]
    assert isinstance(part, tuple)
    return str(part[1].decode().strip())


def message(sender: str, recipient: str, subject: str, text: str) -> EmailMessage:
    mail = EmailMessage()
    mail["From"], mail["To"], mail["Subject"] = sender, recipient, subject
    mail.set_content(text)
    return mail


if __name__ == "__main__":
    sys.exit(main())
