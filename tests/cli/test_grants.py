"""`gatepost account grant`, `revoke-grant`; and what `serve --web-only` needs."""

from __future__ import annotations

import pytest

ANN, EVE = "ann@example.com", "eve@example.com"
SUBJECT = "https://login.example.com#eve-9"


@pytest.fixture
def with_ann(gatepost):
    gatepost.done("account", "add", ANN, "--upstream", "imaponly")
    return gatepost


def test_who_may_is_granted_listed_and_taken_away(with_ann):
    said = with_ann.done("account", "grant", ANN, "--to", "Eve@Example.com").out
    assert "may look after ann@example.com at the web page" in said
    assert "eve@example.com (granted, not signed in yet)" in said
    assert "before:" in with_ann.done("account", "grant", ANN, "--to", EVE).out
    both = with_ann.done("account", "grant", ANN, "--to", SUBJECT, "--json").json
    assert [one["person"] for one in both["access"]] == [EVE, SUBJECT]
    assert [(one["owner"], one["identity"]) for one in both["access"]] == [(False, None)] * 2
    left = with_ann.done("account", "revoke-grant", ANN, "--from", EVE, "--json").json
    assert [one["person"] for one in left["access"]] == [SUBJECT]
    assert "Nobody may now." in with_ann.done("account", "revoke-grant", ANN, "--from", SUBJECT).out


@pytest.mark.parametrize(
    ("person", "problem"),
    [
        ("eve", "is no e-mail address"),
        ("http://login.example.com#eve", "would trust what anybody may change"),
        ("login.example.com#eve", "is no https:// address"),
        ("https://login.example.com#", "has no subject"),
        (f"https://login.example.com#{'x' * 256}", "has no subject"),
    ],
)
def test_whom_that_cannot_mean_is_said(with_ann, person, problem):
    assert problem in with_ann.refused("account", "grant", ANN, "--to", person)


def test_what_is_not_there_is_not_taken_away(with_ann):
    assert "has no access" in with_ann.refused("account", "revoke-grant", ANN, "--from", EVE)
    with_ann.done("account", "grant", ANN, "--to", EVE)
    assert "did you mean eve@example.com?" in with_ann.refused(
        "account", "revoke-grant", ANN, "--from", "eva@example.com"
    )
    assert "there is no account" in with_ann.refused("account", "grant", "nobody@example.com", "--to", EVE)


def test_the_page_alone_needs_its_table(gatepost):
    assert "has no [web]" in gatepost.refused("serve", "--web-only")
