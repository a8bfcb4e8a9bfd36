"""What administrators see and may do: everything but secrets, and nothing but revoking and ending."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from proxy.store.rows import LiveSession, Seat
from proxy.store.store import Store
from tests.web.conftest import ANN, EVE
from tests.web.kit import Visitor, WebGate

SEAT = Seat("seat-of-a-test", "mail7", 0)


@pytest.fixture
def admin(visitor: Visitor) -> Visitor:
    """Eve, who has no mailbox, as administrator."""
    visitor.lab.idp.set_id_claims(EVE, groups=["admins"])
    page = visitor.sign_in(EVE)
    assert page.status_code == 200, page.text
    return visitor


def account_id(admin: Visitor, email: str) -> str:
    page = admin.get("/admin").text
    return page[: page.index(f">{email}<")].rpartition("/admin/mailbox/")[2].partition('"')[0]


def test_an_administrator_revokes_anybodys_app_password(admin: Visitor, web: WebGate) -> None:
    made = web.create(ANN, "to be revoked")
    box = f"/admin/mailbox/{account_id(admin, ANN)}"
    page = admin.get(box).text
    assert "to be revoked" in page
    assert made["password"] not in page
    path = f"{box}/revoke/{made['id']}"
    refused = admin.post(path, {"csrf": "0" * 64})
    assert refused.status_code == 403
    assert "to be revoked" in web.live(ANN)
    answer = admin.post(path, admin.form(path, "self"))
    assert (answer.status_code, answer.headers["location"]) == (303, f"{box}?note=revoked")
    assert "to be revoked" not in web.live(ANN)
    assert admin.get(path).status_code == 404
    entries = admin.get("/admin/audit").text
    assert "App password revoked: to be revoked" in entries
    assert f"by {EVE}" in entries


def test_a_backup_stands_in_the_audit_in_the_reader_s_language(admin: Visitor, web: WebGate) -> None:
    web.cli("backup", str(web.directory / "audited.backup"))
    assert "Backup made" in admin.get("/admin/audit").text
    in_german = admin.get("/admin/audit", **{"accept-language": "de"}).text
    assert "Sicherung erstellt" in in_german
    assert "backed_up" not in in_german


def test_an_administrator_sees_and_ends_live_sessions(admin: Visitor, web: WebGate) -> None:
    store = Store.open(f"sqlite:///{web.directory / 'gatepost.db'}", migrate=False)
    try:
        account = store.account(ANN)
        assert account is not None
        live = LiveSession(
            *("live-1", account.id, ANN, "id", "Scanner", "imap", "lab", ANN, "192.0.2.7", "scanner 1.0"),
            datetime.now(UTC),
        )
        store.roster.publish(SEAT, [live], [])
        page = admin.get("/admin/sessions").text
        assert "192.0.2.7" in page
        assert "mail7" in page
        answer = admin.post("/admin/sessions/live-1/end", admin.form("/admin/sessions", "/live-1/end"))
        assert answer.status_code == 303
        assert store.roster.kicked(SEAT) == {"live-1"}
    finally:
        store.roster.retire(SEAT)
        store.close()


def test_token_health_is_told(admin: Visitor, web: WebGate) -> None:
    web.cli("account", "add", "new@example.test", "--upstream", "lab")
    page = admin.get("/admin").text
    assert "not connected" in page
    web.cli("account", "remove", "new@example.test")


def test_what_an_administrator_granted_stands_beside_the_mailbox(admin: Visitor, web: WebGate) -> None:
    web.cli("account", "grant", ANN, "--to", "help@example.test")
    page = admin.get(f"/admin/mailbox/{account_id(admin, ANN)}").text
    assert "help@example.test" in page
    assert "has not signed in yet" in page
    said = json.loads(web.cli("account", "revoke-grant", ANN, "--from", "help@example.test", "--json"))
    assert "help@example.test" not in [one["person"] for one in said["access"]]
