"""The whole way with a real browser: `gatepost account connect`, password and TOTP in Chromium, then a login."""

from __future__ import annotations

import imaplib
import json
import shutil
import ssl
from collections.abc import Iterator

import pytest
from playwright.sync_api import BrowserContext, Page, sync_playwright

from tests.connecting import Connecting, prepare, stored
from tests.gate import Gate
from tests.lab import Lab
from tests.lab.talk import ANN, BOB, TIMEOUT_S

CHROMIUM = "/usr/bin/chromium"
# Without these Chromium looks for its maker's hosts, and as root it needs the first.
QUIET = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-default-apps --no-proxy-server"
).split()
PATIENCE_MS = 15_000


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrowserContext]:
    if shutil.which(CHROMIUM) is None:
        pytest.fail(f"{CHROMIUM} is missing. What to do: run `make lab` (as root, once).")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch_persistent_context(
            tmp_path_factory.mktemp("chromium"), executable_path=CHROMIUM, args=QUIET, headless=True
        )
        browser.set_default_timeout(PATIENCE_MS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: BrowserContext) -> Iterator[Page]:
    """A page of a browser that nobody is signed in with."""
    browser.clear_cookies()
    page = browser.new_page()
    yield page
    page.close()


@pytest.fixture(scope="module")
def connecting_gate(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gate]:
    """A running Gatepost with accounts that have no token yet."""
    lab.idp.allow_redirect("http://127.0.0.1/")
    gate = prepare(lab, tmp_path_factory.mktemp("browser") / "gate")
    for user in (ANN, BOB):
        gate.cli("account", "add", user, "--upstream", "lab")
    gate.start()
    yield gate
    gate.kill()
    assert gate.leaked() == []


def sign_in(page: Page, lab: Lab, url: str, user: str) -> None:
    """What a person does at the provider's pages, up to the last click."""
    page.goto(url)
    page.get_by_label("E-mail address").fill(user)
    page.get_by_label("Password").fill(lab.password(user))
    page.get_by_role("button", name="Next").click()
    page.get_by_label("Six-digit code").fill(lab.totp_code(user))
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("button", name="Allow").click()


def log_in(gate: Gate, user: str, password: str) -> str:
    context = ssl.create_default_context(cafile=str(gate.lab.ca_file))
    with imaplib.IMAP4_SSL(*gate.imaps, ssl_context=context, timeout=TIMEOUT_S) as imap:
        imap.login(user, password)
        return imap.select("INBOX")[0]


def test_a_sign_in_with_mfa_lets_an_app_password_in_without_a_restart(
    lab: Lab, connecting_gate: Gate, page: Page
) -> None:
    gate = connecting_gate
    password = gate.create(ANN, "before the sign-in")["password"]
    with pytest.raises(imaplib.IMAP4.error, match="CONTACTADMIN"):
        log_in(gate, ANN, password)
    connect = Connecting(gate, ANN)
    sign_in(page, lab, connect.url(), ANN)
    page.get_by_role("heading", name=f"{ANN} is connected").wait_for()
    status, said, complaint = connect.end()
    assert (status, complaint) == (0, "")
    assert f"Connected {ANN}: imap and smtp let it in. {ANN} signed in." in said
    assert stored(gate, ANN)["state"] == "fresh"
    assert log_in(gate, ANN, password) == "OK"


def test_a_browser_elsewhere_and_a_pasted_address(lab: Lab, connecting_gate: Gate, page: Page) -> None:
    connect = Connecting(connecting_gate, BOB, "--paste", "--json")
    url = connect.url()
    with page.expect_request(lambda request: request.url.startswith("http://127.0.0.1/?")) as arrived:
        sign_in(page, lab, url, BOB)
    status, said, _ = connect.end(arrived.value.url + "\n")
    assert status == 0
    assert json.loads(said) == {
        "account": BOB,
        "upstream": "lab",
        "upstream_user": BOB,
        "signed_in_as": BOB,
        "shared": False,
        "opened": ["imap", "smtp"],
        "refused": [],
    }
    assert log_in(connecting_gate, BOB, connecting_gate.create(BOB, "pasted")["password"]) == "OK"


def test_a_person_who_cancels_leaves_things_as_they_were(lab: Lab, connecting_gate: Gate, page: Page) -> None:
    before = stored(connecting_gate, ANN)
    connect = Connecting(connecting_gate, ANN)
    page.goto(connect.url())
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("heading", name="The mailbox is not connected").wait_for()
    status, _, complaint = connect.end()
    assert status == 1
    assert complaint.count("\n") == 1
    assert "access_denied; the consent was refused at the provider" in complaint
    assert stored(connecting_gate, ANN) == before
