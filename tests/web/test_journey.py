"""The seed's journey in a real browser: sign in with MFA, make an app password, see it once, use it, revoke it.

pytest tests/web/test_journey.py --pictures        also writes docs/images
"""

from __future__ import annotations

import imaplib
import re
import shutil
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Error, Page, expect, sync_playwright

from tests.clients.kit import Desk, Login
from tests.clients.test_mbsync import Mbsync
from tests.lab import Lab
from tests.lab.talk import TIMEOUT_S
from tests.web.conftest import ANN, BOB, DEE
from tests.web.kit import WebGate
from tests.whole.test_connect_browser import CHROMIUM, PATIENCE_MS, QUIET, sign_in

AXE = Path(__file__).parent / "axe" / "node_modules" / "axe-core" / "axe.min.js"
IMAGES = Path(__file__).parents[2] / "docs" / "images"
PICTURES = {
    *(("desktop", name) for name in ("welcome", "new", "made", "mailbox", "admin")),
    *(("phone", name) for name in ("made", "mailbox")),
    ("dark", "made"),
    ("german", "new"),
}
PHONE = {"width": 390, "height": 844}
DESKTOP = {"width": 1100, "height": 800}


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """Not for the session: while it is open its loop runs in this thread, and asynchronous tests need theirs."""
    if shutil.which(CHROMIUM) is None or not AXE.is_file():
        pytest.fail(f"{CHROMIUM} or axe-core is missing. What to do: run `make lab` (as root, once).")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET, headless=True)
        yield browser
        browser.close()


@pytest.fixture
def context(chromium: Browser) -> Iterator[BrowserContext]:
    context = chromium.new_context(ignore_https_errors=True, viewport=DESKTOP, locale="en-GB", timezone_id="UTC")
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    context.set_default_timeout(PATIENCE_MS)
    yield context
    context.close()


@pytest.fixture
def page(context: BrowserContext) -> Iterator[Page]:
    page = context.new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text) if "Policy" in message.text else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    yield page
    assert complaints == []  # nothing is inline, nothing from elsewhere


@pytest.fixture
def desk(web: WebGate, tmp_path: Path) -> Desk:
    return Desk(web, tmp_path)


def come_in(page: Page, lab: Lab, web: WebGate, user: str) -> None:
    """From our front page through the provider's pages back to ours."""
    page.goto(web.web)
    href = page.locator("main a.button").get_attribute("href")
    sign_in(page, lab, f"{web.web}{href}", user)
    page.wait_for_url(f"{web.web}/**")


def create(page: Page, web: WebGate, name: str) -> str:
    """Through the form; the app password that the page shows."""
    page.get_by_role("link", name="New app password").click()
    page.get_by_label("Name", exact=True).fill(name)
    page.get_by_role("button", name="Make the app password").click()
    password = page.locator("#secret").inner_text()
    web.secrets.append(password)
    return password


def faults(page: Page) -> list[str]:
    """What axe-core finds, WCAG 2.2 AA and best practice."""
    # Content Security Policy lets no script of ours be injected; evaluate runs in a world of its own.
    page.evaluate(AXE.read_text())
    found = page.evaluate("axe.run()")
    return [f"{fault['id']}: {node['html']}" for fault in found["violations"] for node in fault["nodes"]]


def test_the_whole_journey(page: Page, lab: Lab, web: WebGate, desk: Desk) -> None:
    come_in(page, lab, web, ANN)
    expect(page.get_by_role("status")).to_contain_text("Gatepost has access to this mailbox now")
    assert web.token_state(ANN) == "fresh"
    page.get_by_role("link", name="New app password").click()
    page.get_by_label("Name", exact=True).fill("Mail on my old laptop")
    page.get_by_label("Mail program or device").select_option("Something else")
    page.get_by_label("How long?").select_option("90 days")
    page.get_by_role("button", name="Make the app password").dblclick()
    password = page.locator("#secret").inner_text()
    web.secrets.append(password)
    assert re.fullmatch(r"[0-9a-z]{5}(-[0-9a-z]{5}){3}", password)
    for endpoint in (web.imaps, web.smtps):
        expect(page.get_by_text(f"localhost · port {endpoint.port} · SSL/TLS")).to_be_visible()
    expect(page.get_by_role("img", name="QR code with the app password")).to_be_visible()
    page.get_by_role("button", name="Copy").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == password
    assert password not in page.url

    page.get_by_role("link", name="Done, I have it").click()
    expect(page.get_by_role("heading", name="Mail on my old laptop")).to_be_visible()
    assert password not in page.content()

    secret = desk.write("password", password + "\n")
    client = Mbsync(desk, Login(ANN, password, secret), "INBOX", "IMAPS", "PLAIN")
    client.done()

    page.get_by_role("link", name="Revoke Mail on my old laptop").click()
    page.get_by_role("button", name="Revoke it").click()
    expect(page.get_by_role("status")).to_contain_text("Revoked.")
    expect(page.get_by_role("heading", name="Mail on my old laptop")).to_have_count(0)
    ran = client.run()
    assert ran.status == 1
    assert "AUTHENTICATIONFAILED" in ran.text


def test_revoking_on_the_page_ends_a_live_session(page: Page, lab: Lab, web: WebGate) -> None:
    come_in(page, lab, web, ANN)
    password = create(page, web, "idle client")
    trust = ssl.create_default_context(cafile=str(lab.ca_file))
    client = imaplib.IMAP4_SSL(*web.imaps, ssl_context=trust, timeout=TIMEOUT_S)
    try:
        client.login(ANN, password)
        client.select("INBOX")
        page.get_by_role("link", name="Done, I have it").click()
        page.get_by_role("link", name="Revoke idle client").click()
        page.get_by_role("button", name="Revoke it").click()
        expect(page.get_by_role("status")).to_contain_text("Revoked.")
        assert client.readline() == b""  # a clean end, without a word
    finally:
        client.shutdown()


def test_back_reload_and_a_second_tab_show_nothing_more(page: Page, lab: Lab, web: WebGate) -> None:
    come_in(page, lab, web, ANN)
    password = create(page, web, "shown once")
    page.on("dialog", lambda dialog: dialog.accept())
    page.reload()  # sends the form again
    expect(page.get_by_role("heading", name="It was made, and shown, before")).to_be_visible()
    assert password not in page.content()
    page.go_back()
    page.wait_for_load_state()
    assert password not in page.content()
    # What a POST answered and may not be kept is asked for anew: Chromium shows a page of its own that offers it.
    with pytest.raises(Error, match="ERR_CACHE_MISS"):
        page.go_forward()
    tab = page.context.new_page()
    tab.goto(f"{web.web}/")
    expect(tab.get_by_role("heading", name="shown once")).to_be_visible()
    assert password not in tab.content()
    assert web.live(ANN).count("shown once") == 1


def test_going_back_from_the_list_does_not_show_it_either(page: Page, lab: Lab, web: WebGate) -> None:
    come_in(page, lab, web, ANN)
    password = create(page, web, "left behind")
    page.get_by_role("link", name="Done, I have it").click()
    expect(page.get_by_role("heading", name="left behind")).to_be_visible()
    page.go_back()
    expect(page.get_by_role("heading", name="New app password")).to_be_visible()
    assert password not in page.content()
    assert web.live(ANN).count("left behind") == 1


def test_consent_that_was_lost_is_given_again_with_one_click(page: Page, lab: Lab, web: WebGate) -> None:
    come_in(page, lab, web, BOB)
    password = create(page, web, "before the loss")
    lab.idp.revoke(BOB)
    trust = ssl.create_default_context(cafile=str(lab.ca_file))
    # The access token is good for a while; the server's refusal, or the next renewal, brings it out.
    client = imaplib.IMAP4_SSL(*web.imaps, ssl_context=trust, timeout=TIMEOUT_S)
    try:
        with pytest.raises(imaplib.IMAP4.error, match=r"CONTACTADMIN|UNAVAILABLE"):
            client.login(BOB, password)
    finally:
        client.shutdown()
    assert web.token_state(BOB) in ("needs_consent", "upstream_refuses")
    page.get_by_role("link", name="Done, I have it").click()
    page.get_by_role("link", name="Connect the mailbox").click()
    sign_in(page, lab, page.url, BOB)
    expect(page.get_by_role("status")).to_contain_text("Gatepost has access to this mailbox now")
    assert web.token_state(BOB) == "fresh"
    with imaplib.IMAP4_SSL(*web.imaps, ssl_context=trust, timeout=TIMEOUT_S) as client:
        client.login(BOB, password)


def test_it_works_without_scripts(chromium: Browser, lab: Lab, web: WebGate) -> None:
    context = chromium.new_context(ignore_https_errors=True, java_script_enabled=False)
    context.set_default_timeout(PATIENCE_MS)
    page = context.new_page()
    come_in(page, lab, web, ANN)
    create(page, web, "no scripts")
    expect(page.get_by_role("button", name="Copy")).to_have_count(0)
    page.get_by_role("link", name="Done, I have it").click()
    page.get_by_role("link", name="Revoke no scripts").click()
    page.get_by_role("button", name="Revoke it").click()
    expect(page.get_by_role("status")).to_contain_text("Revoked.")
    context.close()


@pytest.mark.parametrize(
    ("look", "options"),
    [
        ("desktop", {"viewport": DESKTOP}),
        ("phone", {"viewport": PHONE, "device_scale_factor": 2}),
        ("dark", {"viewport": DESKTOP, "color_scheme": "dark"}),
        ("german", {"viewport": PHONE, "device_scale_factor": 2, "locale": "de-DE"}),
    ],
)
def test_every_page_is_readable_for_everybody(
    chromium: Browser, web: WebGate, look: str, options: dict[str, object], request: pytest.FixtureRequest
) -> None:
    """axe-core finds nothing in light and dark, and nothing is wider than the screen."""
    lab = web.lab
    lab.idp.set_id_claims(ANN, groups=["admins"])
    context = chromium.new_context(ignore_https_errors=True, timezone_id="UTC", **{"locale": "en-GB", **options})
    context.set_default_timeout(PATIENCE_MS)
    page = context.new_page()
    found: dict[str, list[str]] = {}

    def look_at(name: str) -> None:
        page.wait_for_load_state()
        found[name] = faults(page) if look in ("desktop", "dark") else []
        if page.evaluate("document.documentElement.scrollWidth > window.innerWidth"):
            found[name].append("wider than the screen")
        if request.config.getoption("--pictures") and (look, name) in PICTURES:
            IMAGES.mkdir(exist_ok=True)
            page.screenshot(path=IMAGES / f"web-{name}-{look}.png", full_page=True)

    page.goto(web.web)
    look_at("welcome")
    come_in(page, lab, web, ANN)
    box = page.url.partition("?")[0]
    page.goto(f"{box}/new")
    look_at("new")
    page.locator("#name").fill(f"Scanner, 2nd floor ({look})")
    page.locator("#program").select_option("device")
    page.locator("[value=imap]").uncheck()
    page.locator("button[type=submit]").last.click()
    web.secrets.append(page.locator("#secret").inner_text())
    look_at("made")
    page.goto(f"{box}/new")
    page.locator("summary").click()
    page.locator("#name").fill("Phone")
    page.locator("#networks").fill("nowhere")
    page.locator("button[type=submit]").last.click()
    look_at("mistake")
    page.goto(box)
    look_at("mailbox")
    page.locator("a[href*='/revoke/']").first.click()
    look_at("revoke")
    web.cli("backup", str(web.directory / f"{look}{'-one-long-word' * 12}.backup"))  # the audit shows its name
    for path, name in (("/admin", "admin"), ("/admin/sessions", "sessions"), ("/admin/audit", "audit")):
        page.goto(f"{web.web}{path}")
        look_at(name)
    page.goto(f"{web.web}{box.removeprefix(web.web).replace('/mailbox', '/admin/mailbox')}")
    look_at("admin-mailbox")
    page.goto(f"{web.web}/nowhere")
    look_at("nowhere")
    context.close()
    assert found == {name: [] for name in found}


def test_the_keyboard_is_enough(page: Page, lab: Lab, web: WebGate) -> None:
    come_in(page, lab, web, ANN)
    page.get_by_role("link", name="New app password").focus()
    page.keyboard.press("Enter")
    page.wait_for_url("**/new")
    page.keyboard.type("by keyboard")  # the name has the focus
    page.keyboard.press("Enter")
    web.secrets.append(page.locator("#secret").inner_text())
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()


def test_a_first_sign_in_makes_the_account_where_that_is_wanted(chromium: Browser, lab: Lab, tmp_path: Path) -> None:
    gate = WebGate.made(lab, tmp_path / "gate", 'create_accounts = true\ndomains = ["example.test"]', is_https=False)
    try:
        gate.start_page()
        page = chromium.new_page()
        page.set_default_timeout(PATIENCE_MS)
        come_in(page, lab, gate, DEE)
        expect(page.get_by_role("heading", name=DEE)).to_be_visible()
        assert gate.token_state(DEE) == "fresh"
        create(page, gate, "first")
        page.context.close()
        assert gate.stop_page() == 0
        assert gate.leaked() == []
    finally:
        gate.kill()
