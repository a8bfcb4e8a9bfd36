"""`gatepost account connect` as a process, with the person as plain HTTP: each way, each refusal, nothing stored."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator
from urllib.parse import quote

import httpx2
import pytest

from tests.connecting import Connecting, prepare, sign_in, stored, visit
from tests.gate import Gate
from tests.lab import Lab
from tests.lab.person import typed_by, walk
from tests.lab.talk import ANN, BOB, TIMEOUT_S

CY = "cy@example.test"


@pytest.fixture(scope="module")
def idle(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Gate:
    """A set-up that nobody serves, with accounts that have no token yet."""
    lab.idp.allow_redirect("http://127.0.0.1/")
    gate = prepare(lab, tmp_path_factory.mktemp("connect") / "gate")
    for user in (ANN, BOB, CY):
        gate.cli("account", "add", user, "--upstream", "lab")
    return gate


@pytest.fixture
def untouched(idle: Gate) -> Iterator[Gate]:
    """The same; when the test is over, Ann has what she had."""
    before = stored(idle, ANN)
    yield idle
    assert stored(idle, ANN) == before


def refusal(ended: tuple[int, str, str]) -> str:
    """The one line of a refused command."""
    status, said, complaint = ended
    assert status == 1, (said, complaint)
    assert "Connected" not in said
    lines = complaint.splitlines()
    assert sum(line.startswith("gatepost: ") for line in lines) == 1
    assert lines[-1].startswith("gatepost: ")
    assert "; " in lines[-1]
    return lines[-1]


def test_the_wrong_account_stores_nothing(lab: Lab, untouched: Gate) -> None:
    connect = Connecting(untouched, ANN)
    page = visit(sign_in(lab, connect.url(), BOB))
    assert f"signed in as {BOB}, which does not open {ANN}" in page.text
    assert f"signed in as {BOB}, which does not open {ANN}" in refusal(connect.end())


def test_a_pasted_address_of_somewhere_else_stores_nothing(lab: Lab, untouched: Gate) -> None:
    connect = Connecting(untouched, ANN, "--paste")
    address = sign_in(lab, connect.url(), ANN)
    elsewhere = address.replace("http://127.0.0.1/", "http://127.0.0.1/other")
    assert "begins with http://127.0.0.1/" in refusal(connect.end(elsewhere + "\n"))


def test_a_pasted_address_of_another_sign_in_stores_nothing(untouched: Gate) -> None:
    connect = Connecting(untouched, ANN, "--paste")
    connect.url()
    assert "another sign-in" in refusal(connect.end("http://127.0.0.1/?code=stolen&state=guessed\n"))


def test_nothing_pasted_stores_nothing(untouched: Gate) -> None:
    connect = Connecting(untouched, ANN, "--paste")
    connect.url()
    assert "no address on stdin" in refusal(connect.end())


def test_a_refresh_token_of_somebody_else_or_of_nobody_stores_nothing(lab: Lab, untouched: Gate) -> None:
    for token, says in ((lab.refresh_token(BOB), f"does not open {ANN}"), ("never-was-one", "invalid_grant")):
        done = untouched.run("account", "connect", ANN, "--refresh-token-stdin", stdin=token + "\n")
        line = refusal((done.code, done.out, done.err))
        assert says in line
        assert token not in line


def test_interrupting_it_stores_nothing_and_is_no_crash(untouched: Gate) -> None:
    for way in ((), ("--paste",)):
        connect = Connecting(untouched, ANN, *way)
        connect.url()
        connect.process.send_signal(signal.SIGINT)
        connect.process.wait(TIMEOUT_S)
        status, _, complaint = connect.end()
        assert status == 130
        assert "Traceback" not in complaint


def test_a_refresh_token_from_elsewhere_connects(lab: Lab, idle: Gate) -> None:
    done = idle.run("account", "connect", BOB, "--refresh-token-stdin", "--json", stdin=lab.refresh_token(BOB) + "\n")
    assert (done.code, done.err) == (0, "")
    assert done.json["opened"] == ["imap", "smtp"]
    assert stored(idle, BOB)["state"] == "fresh"


def test_a_shared_mailbox_says_whose_sign_in_it_lives_by(lab: Lab, idle: Gate) -> None:
    connect = Connecting(idle, CY, "--device")
    url = connect.told(r"open\s+(http\S+/device)$")
    code = connect.told(r"and type\s+(\S+)$")
    lab.idp.set_delegates({BOB: CY})
    try:
        with httpx2.Client(timeout=TIMEOUT_S, trust_env=False) as http:
            walk(http, lab, url, {"user_code": code, **typed_by(lab, BOB)})
        status, said, complaint = connect.end()
    finally:
        lab.idp.set_delegates({})
    assert (status, complaint) == (0, "")
    assert f"shared mailbox: this works for as long as {BOB}" in said
    assert stored(idle, CY)["state"] == "fresh"


def test_a_device_sign_in_that_is_cancelled_stores_nothing(lab: Lab, untouched: Gate) -> None:
    connect = Connecting(untouched, ANN, "--device")
    url = connect.told(r"or open\s+(http\S+)$")
    with httpx2.Client(timeout=TIMEOUT_S, trust_env=False) as http:
        page = http.get(url)
        xsrf = re.search(r'name="xsrf" value="([^"]+)"', page.text)
        code = re.search(r"user_code=([^&]+)", url)
        assert xsrf
        assert code
        form = {"xsrf": xsrf[1], "user_code": code[1], "abort": "yes"}
        http.post(str(page.url.copy_with(query=None)), data=form, follow_redirects=True)
    assert "access_denied" in refusal(connect.end())


def test_no_secret_of_a_sign_in_is_said(lab: Lab, idle: Gate) -> None:
    connect = Connecting(idle, ANN, "--paste")
    address = sign_in(lab, connect.url(), ANN)
    _, said, complaint = connect.end(address + "\n")
    code = re.search(r"code=([^&]+)", address)
    assert code
    assert code[1] not in said + complaint
    assert quote(code[1]) not in said + complaint
    assert json.loads(idle.cli("account", "show", ANN, "--json"))["token"]["state"] == "fresh"
