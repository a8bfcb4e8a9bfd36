"""What the page refuses, by plain HTTP at a real process: outcomes E63 and E64, and each rule of who may."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx2
import pytest

from proxy.web.cookies import once_of
from tests.web.conftest import ANN, BOB, CY, DEE, EVE
from tests.web.kit import Visitor, WebGate, shown


@pytest.fixture
def bob(visitor: Visitor) -> Visitor:
    """Bob, signed in."""
    page = visitor.sign_in(BOB)
    assert page.status_code == 200, page.text
    return visitor


@pytest.fixture
def stranger(web: WebGate) -> Iterator[Visitor]:
    """Another browser."""
    with Visitor(web) as visitor:
        yield visitor


def title(page: httpx2.Response) -> str:
    found = re.search(r"<title>(.*?) ·", page.text)
    return found[1] if found else page.text


def is_signed_in(visitor: Visitor) -> bool:
    return "Sign out" in visitor.get("/").text


# E63: state, nonce, tabs, the back button, a second POST.


def test_a_sign_in_ends_once(visitor: Visitor, stranger: Visitor) -> None:
    back = visitor.at_provider(visitor.to_provider(), BOB)
    assert visitor.back(back).status_code == 200
    again = visitor.back(back)
    assert (again.status_code, title(again)) == (403, "This sign-in is over")
    stolen = stranger.back(back)
    assert (stolen.status_code, title(stolen)) == (403, "This sign-in is over")
    assert not is_signed_in(stranger)


def test_a_sign_in_that_began_in_another_browser_is_refused_and_its_own_may_still_end_it(
    visitor: Visitor, stranger: Visitor
) -> None:
    back = visitor.at_provider(visitor.to_provider(), BOB)
    stranger.to_provider()  # has a text of its own
    assert stranger.back(back).status_code == 403
    assert not is_signed_in(stranger)
    assert visitor.back(back).status_code == 200


@pytest.mark.parametrize("change", ["state", "code", "none"])
def test_an_answer_that_was_tampered_with_is_refused(visitor: Visitor, change: str) -> None:
    back = visitor.at_provider(visitor.to_provider(), BOB)
    query = {name: values[0] for name, values in parse_qs(urlsplit(back).query).items()}
    if change == "none":
        query = {}
    else:
        query[change] = query[change][:-1] + ("a" if query[change][-1] != "a" else "b")
    page = visitor.get(f"/signed-in?{urlencode(query)}")
    assert page.status_code == (502 if change == "code" else 403)
    assert not is_signed_in(visitor)


def test_the_code_of_a_sign_in_is_left_behind_whatever_comes(visitor: Visitor) -> None:
    back = visitor.at_provider(visitor.to_provider(), BOB)
    answers = [visitor.http.get(back), visitor.http.get(back)]
    assert [answer.status_code for answer in answers] == [303, 303]
    assert all("code=" not in answer.headers["location"] for answer in answers)
    assert all(answer.headers["referrer-policy"] == "no-referrer" for answer in answers)


def test_two_tabs_may_both_sign_in(visitor: Visitor) -> None:
    first, second = visitor.to_provider(), visitor.to_provider()
    one, other = visitor.at_provider(first, BOB), visitor.at_provider(second, BOB)
    assert visitor.back(other).status_code == 200
    assert visitor.back(one).status_code == 200


def test_a_form_that_is_sent_twice_makes_and_shows_one(bob: Visitor) -> None:
    box = bob.mailbox()
    fields = {**bob.form(f"{box}/new", "/new"), "name": "sent twice", "protocols": "imap", "expires": ""}
    first, second = bob.post(f"{box}/new", fields), bob.post(f"{box}/new", fields)
    assert (first.status_code, bool(shown(first))) == (200, True)
    assert (second.status_code, shown(second), title(second)) == (409, "", "It was made, and shown, before")
    assert shown(first) not in second.text
    bob.gate.secrets.append(shown(first))
    assert bob.gate.live(BOB).count("sent twice") == 1


def test_a_double_click_is_one_even_when_both_arrive_at_once(bob: Visitor) -> None:
    box = bob.mailbox()
    fields = {**bob.form(f"{box}/new", "/new"), "name": "double click", "protocols": "imap", "expires": ""}
    answers: list[httpx2.Response] = []
    clicks = [threading.Thread(target=lambda: answers.append(bob.post(f"{box}/new", fields))) for _ in range(4)]
    for click in clicks:
        click.start()
    for click in clicks:
        click.join()
    passwords = [shown(answer) for answer in answers if shown(answer)]
    bob.gate.secrets += passwords
    assert sorted(answer.status_code for answer in answers) == [200, 409, 409, 409]
    assert len(passwords) == 1
    assert bob.gate.live(BOB).count("double click") == 1


def test_a_second_tab_with_the_same_name_makes_no_other(bob: Visitor) -> None:
    box = bob.mailbox()
    tabs = [bob.form(f"{box}/new", "/new") for _ in range(2)]
    answers = [bob.post(f"{box}/new", {**tab, "name": "two tabs", "protocols": "imap"}) for tab in tabs]
    bob.gate.secrets.append(shown(answers[0]))
    assert [answer.status_code for answer in answers] == [200, 422]
    assert "There is an app password of this name already" in answers[1].text
    assert bob.gate.live(BOB).count("two tabs") == 1


def test_what_was_shown_once_is_on_no_page_again_and_was_never_to_be_kept(bob: Visitor) -> None:
    made = bob.create("seen once")
    password = shown(made)
    bob.gate.secrets.append(password)
    assert made.headers["cache-control"] == "no-store"
    assert "<svg" in made.text
    box = bob.mailbox()
    for path in (box, f"{box}/new", "/", f"{box}/revoke/{bob.gate.listed(BOB)[0]['id']}"):
        page = bob.get(path)
        assert password not in page.text
        assert password.replace("-", "") not in page.text
        assert page.headers["cache-control"] == "no-store"


# CSRF


@pytest.mark.parametrize("missing", ["csrf", "once"])
def test_a_form_without_its_token_is_refused(bob: Visitor, missing: str) -> None:
    box = bob.mailbox()
    fields = {**bob.form(f"{box}/new", "/new"), "name": f"no {missing}", "protocols": "imap"}
    for value in ("", "0" * 64, fields[missing][:-1] + "x"):
        answer = bob.post(f"{box}/new", {**fields, missing: value})
        assert (answer.status_code, title(answer)) == (403, "That did not come from this page")
    assert f"no {missing}" not in bob.gate.live(BOB)


def test_a_form_of_another_session_is_refused(bob: Visitor, stranger: Visitor) -> None:
    stranger.sign_in(ANN)
    theirs = stranger.form(f"{stranger.mailbox()}/new", "/new")
    answer = bob.post(f"{bob.mailbox()}/new", {**theirs, "name": "theirs", "protocols": "imap"})
    assert answer.status_code == 403


@pytest.mark.parametrize("origin", ["https://evil.test", "null", "https://localhost", ""])
def test_a_form_from_elsewhere_is_refused(bob: Visitor, origin: str) -> None:
    box = bob.mailbox()
    fields = {**bob.form(f"{box}/new", "/new"), "name": "elsewhere", "protocols": "imap"}
    assert bob.post(f"{box}/new", fields, origin=origin).status_code == 403
    assert bob.http.post(f"{box}/new", data=fields).status_code == 403
    assert bob.post("/sign-out", bob.form("/", "/sign-out"), origin=origin).status_code == 403
    assert is_signed_in(bob)


def test_what_changes_something_takes_no_get_and_no_multipart(bob: Visitor) -> None:
    assert bob.http.get("/sign-out").status_code == 405
    fields = bob.form("/", "/sign-out")
    files = {name: (None, value) for name, value in fields.items()}
    answer = bob.http.post("/sign-out", files=files, headers={"origin": bob.gate.web})
    assert answer.status_code == 415
    assert bob.post("/sign-out", {**fields, "more": "x" * 20_000}).status_code == 413
    assert bob.post("/sign-out", {**fields, **{f"f{number}": "" for number in range(50)}}).status_code == 400
    assert is_signed_in(bob)


# E64 and who may


def test_whoever_signs_in_for_a_mailbox_must_be_who_is_signed_in(bob: Visitor) -> None:
    box = bob.mailbox()
    before = bob.gate.token_state(BOB)
    bob.provider.cookies.clear()
    page = bob.sign_in(ANN, f"{box}/connect")
    assert (page.status_code, title(page)) == (403, "That was somebody else")
    bob.provider.cookies.clear()
    page = bob.sign_in(ANN, f"{box}/sign-in-again")
    assert (page.status_code, title(page)) == (403, "That was somebody else")
    assert bob.gate.token_state(BOB) == before
    assert BOB in bob.get("/").text  # and the session is still his


def test_a_login_at_the_mail_server_proves_no_ownership(visitor: Visitor) -> None:
    """Eve's token opens Ann's mailbox, as a colleague's with full access does; it is Ann's all the same."""
    visitor.lab.idp.set_delegates({EVE: ANN})
    page = visitor.sign_in(EVE)
    assert (page.status_code, title(page)) == (403, "There is no mailbox for you here")
    assert not is_signed_in(visitor)


def test_a_grant_opens_one_mailbox_and_its_end_closes_it(visitor: Visitor, web: WebGate) -> None:
    web.cli("account", "grant", BOB, "--to", EVE)
    page = visitor.sign_in(EVE)
    assert page.status_code == 200
    assert BOB in page.text
    made = visitor.create("made by Eve")
    web.secrets.append(shown(made))
    assert made.status_code == 200
    assert "made by Eve" in web.live(BOB)
    said = web.cli("account", "revoke-grant", BOB, "--from", EVE)
    assert "may no longer look after" in said
    assert not is_signed_in(visitor)
    assert visitor.sign_in(EVE).status_code == 403


def test_an_address_that_nobody_verified_opens_nothing(visitor: Visitor) -> None:
    """Somebody calls himself Bob at a provider that does not look."""
    visitor.lab.idp.set_id_claims(DEE, email=BOB, email_verified=False)
    assert title(visitor.sign_in(DEE)) == "There is no mailbox for you here"
    visitor.lab.idp.set_id_claims(EVE, email=BOB, email_verified=None)
    visitor.provider.cookies.clear()
    assert title(visitor.sign_in(EVE)) == "There is no mailbox for you here"


def test_a_mailbox_that_is_bound_is_not_the_next_persons_of_that_address(bob: Visitor, stranger: Visitor) -> None:
    """Bob left, and his address was given to Dee."""
    bob.lab.idp.set_id_claims(DEE, email=BOB)
    page = stranger.sign_in(DEE)
    assert (page.status_code, title(page)) == (403, "This mailbox has another owner")
    assert not is_signed_in(stranger)


def test_a_password_alone_is_not_enough(visitor: Visitor) -> None:
    visitor.lab.idp.set_amr("pwd")
    page = visitor.sign_in(BOB)
    assert (page.status_code, title(page)) == (403, "One more factor is needed")
    assert not is_signed_in(visitor)


def test_tokens_of_a_tenant_that_is_not_listed_open_nothing(visitor: Visitor) -> None:
    visitor.lab.idp.set_id_claims(BOB, tid="11111111-2222-3333-4444-555555555555", oid="x")
    assert title(visitor.sign_in(BOB)) == "You may not use this page"
    assert not is_signed_in(visitor)


def test_a_provider_that_does_not_ask_again_is_told_from_one_that_does(visitor: Visitor) -> None:
    """An old auth_time: one may look, and is not sent round in circles when one wants to make something."""
    visitor.lab.idp.set_login_age(5_000)
    assert visitor.sign_in(BOB).status_code == 200
    box = visitor.mailbox()
    hidden = visitor.http.get(f"{box}/new")
    assert (hidden.status_code, hidden.headers["location"]) == (303, f"{box}/sign-in-again")
    page = visitor.sign_in(BOB, f"{box}/new")
    assert (page.status_code, title(page)) == (403, "Please sign in once more")
    csrf = visitor.form("/", "/sign-out")["csrf"]
    once = once_of(visitor.http.cookies["__Host-gatepost"])
    forced = visitor.post(f"{box}/new", {"csrf": csrf, "once": once, "name": "stale", "protocols": "imap"})
    assert (forced.status_code, title(forced)) == (403, "Please sign in once more")
    assert "stale" not in visitor.gate.live(BOB)


def test_a_person_who_breaks_off_changes_nothing(visitor: Visitor) -> None:
    url = visitor.to_provider()
    asked = visitor.provider.get(url, follow_redirects=True)
    end = visitor.provider.post(f"{asked.url}/abort")
    while end.is_redirect and end.headers["location"].startswith(visitor.lab.idp.issuer):
        end = visitor.provider.get(end.headers["location"])
    page = visitor.back(end.headers["location"])
    assert (page.status_code, title(page)) == (403, "The sign-in was broken off")


def test_somebody_elses_mailbox_is_as_if_it_were_not(bob: Visitor) -> None:
    own = bob.mailbox()
    for path in (f"/mailbox/{number}{rest}" for number in range(1, 9) for rest in ("", "/new", "/connect")):
        if not path.startswith(own):
            assert bob.get(path).status_code == 404, path
    form = {**bob.form(f"{own}/new", "/new"), "name": "theirs", "protocols": "imap"}
    other = next(f"/mailbox/{number}" for number in range(1, 4) if f"/mailbox/{number}" != own)
    assert bob.post(f"{other}/new", form).status_code == 404
    assert bob.get(f"{own}/revoke/0123456789").status_code == 404


def test_nobody_sees_anything_without_a_session(visitor: Visitor) -> None:
    for path in ("/mailbox/1", "/mailbox/1/new", "/admin", "/admin/audit", "/admin/mailbox/1"):
        page = visitor.get(path)
        assert page.url.path == "/"
        assert "A password for each mail program" in page.text


def test_administration_is_for_its_group(bob: Visitor, stranger: Visitor) -> None:
    for path in ("/admin", "/admin/sessions", "/admin/audit", "/admin/mailbox/1"):
        assert bob.get(path).status_code == 404
    bob.lab.idp.set_id_claims(EVE, groups=["staff", "admins"])
    assert stranger.sign_in(EVE).status_code == 200  # without a mailbox of her own
    for path in ("/admin", "/admin/sessions", "/admin/audit", "/admin/mailbox/1"):
        assert stranger.get(path).status_code == 200
    assert stranger.get("/mailbox/1").status_code == 404  # she makes no passwords for others


# Sessions


def test_signing_out_ends_the_session_and_not_the_cookie_alone(bob: Visitor) -> None:
    cookies = dict(bob.http.cookies)
    assert bob.post("/sign-out", bob.form("/", "/sign-out")).status_code == 303
    assert not is_signed_in(bob)
    bob.http.cookies.update(cookies)
    assert not is_signed_in(bob)


def test_signing_out_everywhere_ends_the_other_browser(bob: Visitor, stranger: Visitor) -> None:
    stranger.sign_in(BOB)
    assert is_signed_in(stranger)
    assert bob.post("/sign-out-everywhere", bob.form(bob.mailbox(), "/sign-out-everywhere")).status_code == 303
    assert [is_signed_in(one) for one in (bob, stranger)] == [False, False]


def test_a_session_has_a_new_name_after_each_sign_in(bob: Visitor) -> None:
    before = bob.http.cookies["__Host-gatepost"]
    bob.sign_in(BOB)
    after = bob.http.cookies["__Host-gatepost"]
    assert before != after
    bob.http.cookies.clear()
    bob.http.cookies.set("__Host-gatepost", before, domain="localhost.local", path="/")
    assert not is_signed_in(bob)


def test_cookies_are_for_this_host_alone(visitor: Visitor) -> None:
    begun = visitor.http.get("/sign-in")
    ended = visitor.http.get(visitor.at_provider(begun.headers["location"], BOB))
    for answer, name in ((begun, "__Host-gatepost-browser"), (ended, "__Host-gatepost")):
        cookie = answer.headers["set-cookie"]
        assert cookie.startswith(f"{name}=")
        parts = {part.strip().lower() for part in cookie.split(";")[1:]}
        assert {"httponly", "secure", "path=/", "samesite=lax"} <= parts
        assert not any(part.startswith("domain") for part in parts)


def test_a_sealed_mailbox_gets_its_app_password_in_the_same_sign_in(visitor: Visitor, web: WebGate) -> None:
    page = visitor.sign_in(CY)
    assert (page.status_code, title(page)) == (200, "New app password")
    box = page.url.path.removesuffix("/new")
    made = visitor.create("sealed phone", box)
    assert made.status_code == 200
    web.secrets.append(shown(made))
    assert web.token_state(CY) == "fresh"
    # The next one needs a sign-in of its own: nobody but the app passwords opens what is stored.
    assert visitor.http.get(f"{box}/new").headers["location"] == f"{box}/sign-in-again"
    visitor.provider.cookies.clear()
    visitor.sign_in(CY, f"{box}/new")
    again = visitor.create("sealed tablet", box)
    assert again.status_code == 200
    web.secrets.append(shown(again))


def test_the_audit_tells_who_was_there(bob: Visitor) -> None:
    bob.gate.secrets.append(shown(bob.create("in the audit")))
    page = bob.get(bob.mailbox())
    assert "App password made: in the audit" in page.text
    assert re.search(rf"from 127\.0\.0\.1 by {BOB}", page.text)
