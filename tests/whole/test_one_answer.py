"""Outcomes E5-E8, E14-E26, E57, E58 at the listeners of a real process: what is said, octet for octet, and what not."""

from __future__ import annotations

import base64
import re
import socket
import ssl
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path

import pytest

from proxy.login.pace import GRID_S
from proxy.store.rows import AccountState, CredentialState, NewCredential
from proxy.store.store import Store
from proxy.vault.apppassword import generate
from proxy.vault.hashing import Hasher
from tests.edge.scripted import PATIENCE_S, Certificates
from tests.lab import Endpoint
from tests.service.house import CHEAP, wrong_password
from tests.whole.kit import UPSTREAM_PASSWORD, USER, House, Line, mail_server, make_house, write_config

ELSE, OFF = "else@example.org", "off@example.org"
MAPPED = '[[listen]]\nprotocol = "imap"\naddress = "[::ffff:127.0.0.1]:0"\ntls = "implicit"\nupstreams = ["main"]\n'
_names = count(1)


@dataclass
class Gatehouse:
    """A running Gatepost; `visits` are the sessions that the mail servers behind it let in."""

    house: House
    mapped: Endpoint
    visits: list[str] = field(default_factory=list)

    def create(self, *words: str, email: str = USER) -> str:
        return str(self.house.create(email, f"one {next(_names)}", *words)["password"])

    def with_store(self, change: Callable[[Store], None]) -> None:
        store = Store.open(f"sqlite:///{self.house.directory / 'gatepost.db'}", migrate=False)
        try:
            change(store)
        finally:
            store.close()

    def expired(self) -> str:
        """An app password that ended a second ago; `create` makes none such."""
        password = generate()
        self.house.secrets.append(password.shown())

        def add(store: Store) -> None:
            account = store.account(USER)
            assert account is not None
            number = f"expired{next(_names)}"
            past = datetime.now(UTC) - timedelta(seconds=1)
            phc = Hasher(**CHEAP).hash(password)
            both = frozenset({"imap", "smtp"})
            store.add_credential(
                NewCredential(number, account.id, number, both, (), past, "test", password.selector, phc)
            )

        self.with_store(add)
        return password.shown()


@pytest.fixture(scope="module")
def gatehouse(
    template: Path, certificates: Certificates, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gatehouse]:
    visits: list[str] = []

    def talk(_: Line) -> None:
        visits.append("somebody is in")

    house = make_house(template, tmp_path_factory.mktemp("one") / "gate")
    with (
        mail_server(certificates, "imap", talk) as imap,
        mail_server(certificates, "smtp", talk) as smtp,
    ):
        limits = "throttle_wrong = 1000\nthrottle_wrong_network = 1000"
        write_config(house, certificates, imap=imap.port, smtp=smtp.port, limits=limits)
        text = house.config.read_text()
        for kind in ("implicit", "starttls"):
            text = text.replace(f'tls = "{kind}"\n', f'tls = "{kind}"\nupstreams = ["main"]\n')
        other = text[text.index("[upstream.main]") : text.index("[log]")].replace("main", "other")
        house.config.write_text(text.replace("[log]\n", f"{MAPPED}{other}[log]\n"))
        for email, upstream in ((ELSE, "other"), (OFF, "main")):
            house.cli("account", "add", email, "--upstream", upstream, "--password-stdin", stdin=UPSTREAM_PASSWORD)
        house.start()
        try:
            line = house.await_log(r"event=listening on=imap://\[")
            mapped = Endpoint("localhost", int(re.findall(r"]:(\d+)", line)[0]))
            yield Gatehouse(house, mapped, visits)
            assert house.leaked() == []  # outcomes E62
            assert "Traceback" not in house.log()
        finally:
            house.kill()


def b64(text: str) -> bytes:
    return base64.b64encode(text.encode())


# -- E24, E25, E26, E58: one answer for all ---------------------------------------------------------------------------


def causes(at: Gatehouse) -> dict[str, tuple[str, str, str]]:
    """By a name of ours: the login, the password, and the cause that the log must have."""
    right = at.create()
    revoked, suspended = (at.house.create(USER, f"one {next(_names)}") for _ in range(2))
    at.house.cli("revoke", revoked["id"])
    off = at.create(email=OFF)

    def switch(store: Store) -> None:
        store.set_credential_states([suspended["id"]], CredentialState.SUSPENDED)
        disabled = store.account(OFF)
        assert disabled is not None
        store.set_account_state(disabled.id, AccountState.DISABLED)

    at.with_store(switch)
    return {
        "unknown user": ("nobody@example.org", right, "unknown_user"),
        "no name at all": ("ann@x@example.org", right, "unknown_user"),
        "300 characters": (f"{'n' * 300}@example.org", right, "unknown_user"),
        "look-alike": ("\u0430nn@example.org", right, "unknown_user"),  # a Cyrillic a
        "wrong secret": (USER, wrong_password(like=right), "wrong_password"),
        "unknown selector": (USER, generate().shown(), "wrong_password"),
        "a typo": (USER, right[:-1] + ("0" if right[-1] != "0" else "1"), "not_an_app_password"),
        "the mailbox's own password": (USER, UPSTREAM_PASSWORD, "not_an_app_password"),
        "revoked": (USER, revoked["password"], "revoked"),
        "suspended": (USER, suspended["password"], "suspended"),
        "expired": (USER, at.expired(), "expired"),
        "wrong network": (USER, at.create("--from", "10.0.0.0/8"), "wrong_network"),
        "account disabled": (OFF, off, "account_disabled"),
        "other listener's upstream": (ELSE, at.create(email=ELSE), "wrong_listener"),
        "somebody else's": (OFF, right, "wrong_password"),
        "no password": (USER, "", "malformed_credentials"),
        "no name": ("", right, "malformed_credentials"),
    }


def imap_answer(at: Gatehouse, login: str, password: str) -> tuple[bytes, float]:
    line = at.house.connect(at.house.imaps)
    line.line()
    begin = time.monotonic()
    answer = line.ask(b"tag AUTHENTICATE PLAIN " + b64(f"\0{login}\0{password}"))
    elapsed_s = time.monotonic() - begin
    if b" NO " in answer:
        assert line.ask(b"n NOOP").startswith(b"n OK")
    line.close()
    return answer, elapsed_s


def smtp_answer(at: Gatehouse, login: str, password: str) -> tuple[bytes, float]:
    line = at.house.connect(at.house.smtps)
    line.line()
    line.answer(b"EHLO client.example")
    begin = time.monotonic()
    answer = b"\n".join(line.answer(b"AUTH PLAIN " + b64(f"\0{login}\0{password}")))
    elapsed_s = time.monotonic() - begin
    if answer.startswith(b"535"):
        assert line.ask(b"NOOP").startswith(b"250 ")
    line.close()
    return answer, elapsed_s


@pytest.mark.parametrize(
    ("protocol", "other", "ask", "code"),
    [
        ("imap", "smtp", imap_answer, b"tag NO [AUTHENTICATIONFAILED] "),
        ("smtp", "imap", smtp_answer, b"535 5.7.8 "),
    ],
    ids=["imap", "smtp"],
)
def test_every_cause_is_answered_by_the_same_octets_and_never_reaches_the_upstream(
    gatehouse: Gatehouse,
    protocol: str,
    other: str,
    ask: Callable[[Gatehouse, str, str], tuple[bytes, float]],
    code: bytes,
) -> None:
    at = gatehouse
    tries = causes(at) | {"wrong protocol": (USER, at.create("--protocol", other), "wrong_protocol")}
    after, before = len(at.house.log()), len(at.visits)
    with ThreadPoolExecutor(len(tries)) as pool:
        heard = dict(zip(tries, pool.map(lambda one: ask(at, one[0], one[1]), tries.values()), strict=True))
    log = at.house.log()[after:]
    assert {answer for answer, _ in heard.values()} == {heard["unknown user"][0]}, heard
    assert heard["unknown user"][0].startswith(code)
    # Never sooner for what is sooner known; uvloop counts whole milliseconds, and we on another clock.
    assert all(elapsed_s > 0.9 * GRID_S for _, elapsed_s in heard.values())
    for name, (_, _, cause) in tries.items():
        wanted = sum(one == cause for _, _, one in tries.values())
        assert log.count(f"cause={cause} ") + log.count(f"cause={cause}\n") == wanted, name
    assert at.visits[before:] == []
    # The control: the very same octets of a password let in where nothing is wrong.
    login, password, _ = tries["wrong protocol"]
    answer, _ = (smtp_answer if protocol == "imap" else imap_answer)(at, login, password)
    assert answer.startswith((b"tag OK", b"235 ")), answer


def test_an_ipv4_rule_holds_for_a_client_of_an_ipv6_listener(gatehouse: Gatehouse) -> None:
    """Outcomes E57."""
    at = gatehouse
    for network, answer in (("127.0.0.0/8", b"tag OK"), ("10.0.0.0/8", b"tag NO [AUTHENTICATIONFAILED]")):
        plain = b64(f"\0{USER}\0{at.create('--from', network)}")
        line = at.house.connect(at.mapped)
        line.line()
        assert line.ask(b"tag AUTHENTICATE PLAIN " + plain).startswith(answer)
        line.close()


def test_an_app_password_is_taken_as_people_type_it(gatehouse: Gatehouse) -> None:
    """Outcomes E58, E59."""
    password = gatehouse.create()
    typed = password.upper().replace("-", " ").replace("0", "O").replace("1", "l")
    for login in (f" {USER} ", USER.upper(), "\uff41nn@example.org"):
        assert imap_answer(gatehouse, login, typed)[0].startswith(b"tag OK")
        assert smtp_answer(gatehouse, login, typed)[0].startswith(b"235 ")


# -- E5 to E8: TLS ----------------------------------------------------------------------------------------------------


def in_clear(endpoint: Endpoint) -> Line:
    line = Line(socket.create_connection(tuple(endpoint), timeout=PATIENCE_S))
    line.line()
    return line


def secured(line: Line, house: House) -> Line:
    context = ssl.create_default_context(cafile=str(house.directory / "cert.pem"))
    return Line(context.wrap_socket(line.sock, server_hostname="localhost"))


def assert_told_in_clear(house: House, after: int, protocol: str, password: str) -> None:
    """Once, and without a word of what came in clear."""
    house.await_log(r"event=login .* id=\w+", after=after)
    log = house.log()[after:]
    [told] = [line for line in log.splitlines() if "event=login " in line]
    assert f" info event=login service={protocol} peer=127.0.0.1 result=refused cause=clear_text " in told
    assert "user=" not in told
    assert password not in log


def test_in_clear_imap_takes_no_password_and_tls_comes_once(gatehouse: Gatehouse) -> None:
    house, password = gatehouse.house, gatehouse.create()
    after = len(house.log())
    line = in_clear(house.imap)
    line.send(b"c CAPABILITY\r\n")
    offered = line.line().split()
    line.line()
    assert b"LOGINDISABLED" in offered
    assert b"STARTTLS" in offered
    assert not [word for word in offered if word.startswith((b"AUTH=", b"SASL-IR"))]
    assert line.ask(b"l LOGIN %b %b" % (USER.encode(), password.encode())).startswith(b"l NO [PRIVACYREQUIRED]")
    assert line.ask(b"a AUTHENTICATE PLAIN " + b64(f"\0{USER}\0{password}")).startswith(b"a NO [PRIVACYREQUIRED]")
    assert_told_in_clear(house, after, "imap", password)
    assert line.ask(b"f STARTTLS foo").startswith(b"f BAD")
    assert line.ask(b"t STARTTLS").startswith(b"t OK")
    line = secured(line, house)
    line.send(b"c CAPABILITY\r\n")
    assert b"STARTTLS" not in line.line()
    line.line()
    assert line.ask(b"s STARTTLS").startswith(b"s BAD")
    assert line.ask(b"l LOGIN %b %b" % (USER.encode(), password.encode())).startswith(b"l OK")
    line.close()


def test_in_clear_smtp_takes_no_password_and_tls_comes_once(gatehouse: Gatehouse) -> None:
    house, password = gatehouse.house, gatehouse.create()
    after = len(house.log())
    line = in_clear(house.smtp)
    offered = line.answer(b"EHLO client.example")
    assert [word for word in offered if word[4:] == b"STARTTLS"]
    assert not [word for word in offered if word[4:].startswith(b"AUTH")]
    auth = b"AUTH PLAIN " + b64(f"\0{USER}\0{password}")
    for command in (auth, b"MAIL FROM:<a@example.org>", b"RCPT TO:<a@example.org>", b"DATA", b"VRFY a", b"BDAT 0 LAST"):
        assert line.ask(command).startswith(b"530 5.7.0 "), command
    for command in (b"NOOP", b"RSET"):
        assert line.ask(command).startswith(b"250 "), command
    assert_told_in_clear(house, after, "smtp", password)
    assert line.ask(b"STARTTLS foo").startswith(b"501 ")
    assert line.ask(b"STARTTLS").startswith(b"220 ")
    line = secured(line, house)
    assert line.ask(b"MAIL FROM:<a@example.org>").startswith(b"503 5.5.1 ")  # RFC 3207 4.2: as before the first EHLO
    assert line.ask(auth).startswith(b"503 5.5.1 ")
    assert not [word for word in line.answer(b"EHLO client.example") if word[4:] == b"STARTTLS"]
    assert line.ask(b"STARTTLS").startswith(b"503 5.5.1 ")
    assert line.ask(b"MAIL FROM:<a@example.org>").startswith(b"530 5.7.0 ")  # outcomes E23
    assert line.ask(auth).startswith(b"235 ")
    line.close()


@pytest.mark.parametrize("protocol", ["imap", "smtp"])
def test_commands_in_the_segment_of_starttls_are_never_executed(gatehouse: Gatehouse, protocol: str) -> None:
    """Outcomes E1."""
    house = gatehouse.house
    line = in_clear(house.imap if protocol == "imap" else house.smtp)
    if protocol == "imap":
        line.send(b"t STARTTLS\r\ninjected NOOP\r\n")
        assert line.line().startswith(b"t OK")
    else:
        line.answer(b"EHLO client.example")
        line.send(b"STARTTLS\r\nEHLO injected\r\nNOOP\r\n")
        assert line.line().startswith(b"220 ")
    line = secured(line, house)
    assert line.ask(b"n NOOP" if protocol == "imap" else b"QUIT").startswith(b"n OK" if protocol == "imap" else b"221 ")
    line.close()


@pytest.mark.parametrize(
    "said", [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"EHLO client.example\r\n"], ids=["http", "ehlo"]
)
@pytest.mark.parametrize("protocol", ["imap", "smtp"])
def test_clear_text_on_an_implicit_port_is_one_line_and_the_end(
    gatehouse: Gatehouse, protocol: str, said: bytes
) -> None:
    """Outcomes E8."""
    house = gatehouse.house
    after = len(house.log())
    line = Line(socket.create_connection(tuple(house.imaps if protocol == "imap" else house.smtps), timeout=PATIENCE_S))
    line.send(said)
    line.until_gone()
    line.close()
    assert "peer=127.0.0.1" in house.await_log("event=tls_failed", after=after)
    assert house.log()[after:].count("event=tls_failed") == 1


@pytest.mark.parametrize("protocol", ["imap", "smtp"])
def test_tls_1_0_is_one_line_and_the_end(gatehouse: Gatehouse, protocol: str) -> None:
    """Outcomes E8."""
    house = gatehouse.house
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        old.minimum_version = ssl.TLSVersion.TLSv1
        old.maximum_version = ssl.TLSVersion.TLSv1_1
        old.set_ciphers("ALL:@SECLEVEL=0")
    after = len(house.log())
    endpoint = house.imaps if protocol == "imap" else house.smtps
    with socket.create_connection(tuple(endpoint), timeout=PATIENCE_S) as sock, pytest.raises((ssl.SSLError, OSError)):
        old.wrap_socket(sock, server_hostname="localhost")
    house.await_log("event=tls_failed", after=after)


# -- E14 to E22: dialogues that go wrong, each on a connection of its own that goes on --------------------------------

LONG = b"A" * 12_289
ANY = b64("\0ann\0x")
TAGGED = b"NO [AUTHENTICATIONFAILED]"

IMAP: dict[str, tuple[tuple[bytes, bytes], ...]] = {
    "E13 no initial response": ((b"a AUTHENTICATE PLAIN", b"+ "), (ANY, b"a " + TAGGED)),
    "E14 empty initial response": ((b"a AUTHENTICATE PLAIN =", b"a " + TAGGED),),
    "E15 cancel": ((b"a AUTHENTICATE PLAIN", b"+ "), (b"*", b"a BAD")),
    "E15 cancel in LOGIN": ((b"a AUTHENTICATE LOGIN", b"+ VXNlcm5hbWU6"), (b"*", b"a BAD")),
    "E16 no base64": ((b"a AUTHENTICATE PLAIN", b"+ "), (b"!!!", b"a BAD")),
    "E16 initially": ((b"a AUTHENTICATE PLAIN !!!", b"a BAD"),),
    "E17 no NUL": ((b"a AUTHENTICATE PLAIN " + b64("ann"), b"a " + TAGGED),),
    "E17 one NUL": ((b"a AUTHENTICATE PLAIN " + b64("ann\0x"), b"a " + TAGGED),),
    "E17 three NULs": ((b"a AUTHENTICATE PLAIN " + b64("\0ann\0x\0y"), b"a " + TAGGED),),
    "E17 empty authcid": ((b"a AUTHENTICATE PLAIN " + b64("\0\0x"), b"a " + TAGGED),),
    "E17 empty password": ((b"a AUTHENTICATE PLAIN " + b64("\0ann\0"), b"a " + TAGGED),),
    "E17 bad UTF-8": ((b"a AUTHENTICATE PLAIN " + base64.b64encode(b"\0ann\0\xff\xfe"), b"a " + TAGGED),),
    "E19 name first": ((b"a authenticate login " + b64("ann"), b"+ UGFzc3dvcmQ6"), (b64("x"), b"a " + TAGGED)),
    "E21 unknown mechanism": ((b"a AUTHENTICATE CRAM-MD5", b"a NO"),),
}
SMTP: dict[str, tuple[tuple[bytes, bytes], ...]] = {
    "E13 no initial response": ((b"AUTH PLAIN", b"334"), (ANY, b"535 5.7.8 ")),
    "E14 empty initial response": ((b"AUTH PLAIN =", b"535 5.7.8 "),),
    "E15 cancel": ((b"AUTH PLAIN", b"334"), (b"*", b"501 5.7.0 ")),
    "E15 cancel in LOGIN": ((b"AUTH LOGIN", b"334 VXNlcm5hbWU6"), (b"*", b"501 5.7.0 ")),
    "E16 no base64": ((b"AUTH PLAIN", b"334"), (b"!!!", b"501 5.5.2 ")),
    "E16 initially": ((b"AUTH PLAIN !!!", b"501 5.5.2 "),),
    "E17 no NUL": ((b"AUTH PLAIN " + b64("ann"), b"535 5.7.8 "),),
    "E17 one NUL": ((b"AUTH PLAIN " + b64("ann\0x"), b"535 5.7.8 "),),
    "E17 three NULs": ((b"AUTH PLAIN " + b64("\0ann\0x\0y"), b"535 5.7.8 "),),
    "E17 empty authcid": ((b"AUTH PLAIN " + b64("\0\0x"), b"535 5.7.8 "),),
    "E17 empty password": ((b"AUTH PLAIN " + b64("\0ann\0"), b"535 5.7.8 "),),
    "E17 bad UTF-8": ((b"AUTH PLAIN " + base64.b64encode(b"\0ann\0\xff\xfe"), b"535 5.7.8 "),),
    "E19 name first": ((b"AUTH LOGIN " + b64("ann"), b"334 UGFzc3dvcmQ6"), (b64("x"), b"535 5.7.8 ")),
    "E19 lower case": ((b"auth login", b"334 VXNlcm5hbWU6"), (b64("ann"), b"334 UGFz"), (b64("x"), b"535 5.7.8 ")),
    "E19 old form": ((b"AUTH=PLAIN " + ANY, b"535 5.7.8 "),),
    "E20 long initial response": ((b"AUTH PLAIN " + LONG, b"500 5.5.6 "),),
    "E20 long response": ((b"AUTH PLAIN", b"334"), (LONG, b"500 5.5.6 ")),
    "E20 long command": ((b"NOOP " + LONG, b"500 5.5.2 "),),
    "E21 unknown mechanism": ((b"AUTH CRAM-MD5", b"504 5.5.4 "),),
    "E23 MAIL first": ((b"MAIL FROM:<a@example.org>", b"530 5.7.0 "),),
}


@pytest.mark.parametrize("case", IMAP)
def test_imap_dialogues_that_go_wrong(gatehouse: Gatehouse, case: str) -> None:
    line = gatehouse.house.connect(gatehouse.house.imaps)
    line.line()
    for said, heard in IMAP[case]:
        assert line.ask(said).startswith(heard)
    assert line.ask(b"n NOOP").startswith(b"n OK")
    line.close()


@pytest.mark.parametrize("case", SMTP)
def test_smtp_dialogues_that_go_wrong(gatehouse: Gatehouse, case: str) -> None:
    line = gatehouse.house.connect(gatehouse.house.smtps)
    line.line()
    line.answer(b"EHLO client.example")
    for said, heard in SMTP[case]:
        assert line.ask(said).startswith(heard)
    assert line.ask(b"NOOP").startswith(b"250 ")
    line.close()


def test_before_ehlo_auth_is_out_of_sequence(gatehouse: Gatehouse) -> None:
    """Outcomes E22. Behind a login, and inside a transaction, it is the upstream that answers."""
    line = gatehouse.house.connect(gatehouse.house.smtps)
    line.line()
    assert line.ask(b"AUTH PLAIN " + ANY).startswith(b"503 5.5.1 ")
    line.close()


@pytest.mark.parametrize("who", ["", USER, USER.upper()], ids=["nobody", "the account", "the account in capitals"])
def test_an_authzid_that_is_the_login_is_taken(gatehouse: Gatehouse, who: str) -> None:
    """Outcomes E18."""
    assert act_for(gatehouse, who, gatehouse.create()) == (b"a OK", b"235 2.7.0")


def test_an_authzid_of_somebody_else_is_refused_once_the_password_fits(gatehouse: Gatehouse) -> None:
    """Outcomes E18."""
    password = gatehouse.create()
    assert act_for(gatehouse, ELSE, password) == (b"a NO [AUTHORIZATIONFAILED]", b"535 5.7.8")
    assert act_for(gatehouse, ELSE, wrong_password(like=password)) == (b"a " + TAGGED, b"535 5.7.8")


def act_for(at: Gatehouse, who: str, password: str) -> tuple[bytes, bytes]:
    """What IMAP and SMTP begin their answers with."""
    plain = b64(f"{who}\0{USER}\0{password}")
    imap = at.house.connect(at.house.imaps)
    imap.line()
    heard = imap.ask(b"a AUTHENTICATE PLAIN " + plain)
    imap.close()
    smtp = at.house.connect(at.house.smtps)
    smtp.line()
    smtp.answer(b"EHLO client.example")
    answer = smtp.ask(b"AUTH PLAIN " + plain)
    smtp.close()
    words = heard.split()
    return b" ".join(words[: 3 if words[1] == b"NO" else 2]), b" ".join(answer.split()[:2])
