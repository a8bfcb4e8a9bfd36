"""Every code has one line to act on."""

from __future__ import annotations

import pytest

from proxy.oauth.remedies import _CODES, _ENTRA, UNKNOWN, remedy_of


@pytest.mark.parametrize("text", [*_ENTRA.values(), *_CODES.values(), UNKNOWN])
def test_a_remedy_is_one_printable_line_without_an_end(text: str) -> None:
    assert text.isprintable()
    assert not text.endswith(".")
    assert len(text) < 200


def test_the_exact_code_wins_over_the_general_one() -> None:
    assert remedy_of("invalid_grant/AADSTS50173") == _ENTRA["AADSTS50173"]
    assert remedy_of("invalid_grant/AADSTS99999") == _CODES["invalid_grant"]
    assert remedy_of("http_503") == _CODES["server_error"]
    assert remedy_of("http_404_not_json") == "check the addresses in [oauth2]"
    assert "issuer" in remedy_of("discovery_ConnectError")
    assert remedy_of("what/ever") == UNKNOWN
    assert remedy_of("") == UNKNOWN
