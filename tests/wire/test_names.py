from __future__ import annotations

import pytest
from hypothesis import given, settings, strategies as st

from proxy.wire.names import MAX_NAME_BYTES, MAX_TYPED_CHARACTERS, canonical_login


@pytest.mark.parametrize(
    ("typed", "canonical"),
    [
        ("ann@example.org", "ann@example.org"),
        ("  Ann@Example.ORG ", "ann@example.org"),
        ("ann@example.org\u00a0", "ann@example.org"),
        ("scanner", "scanner"),
        ("DOMAIN\\Ann", "ann"),
        ("DOMAIN\\ann@example.org", "ann@example.org"),
        ("a\u030ann@example.org", "\u00e5nn@example.org"),  # NFD, as macOS types it
        ("\u00c5nn@example.org", "\u00e5nn@example.org"),
        ("\u212bnn@example.org", "\u00e5nn@example.org"),  # ANGSTROM SIGN
        ("\uff41\uff4e\uff4e\uff20example.org", "ann@example.org"),  # full width, its @ too
        ("DOMAIN\uff3cann", "ann"),
        ("stra\u00dfe@example.org", "strasse@example.org"),
        ("\u03a3\u03af\u03c3\u03c5\u03c6\u03bf\u03c2@x", "\u03c3\u03af\u03c3\u03c5\u03c6\u03bf\u03c3@x"),
        ("ann smith", "ann smith"),
    ],
)
def test_name_has_one_form(typed: str, canonical: str) -> None:  # E58
    assert canonical_login(typed) == canonical


@pytest.mark.parametrize(
    "typed",
    [
        *("", " ", "\u3000", "a@b@c", "a@b\uff20c", "@", "@b", "a@", "\\", "DOMAIN\\", "\\ann", "A\\B\\ann", "D\\ "),
        *("a\0b", "ann\n", "a\tb", "a\x7fb", "a\x85b", "a\u200bb", "\ufeffann", "a\u00adb", "a\u202eb", "a\u2028b"),
        *("a\ud800b", "a\ue000b", "a\u0378b"),
    ],
)
def test_what_is_no_name_is_none(typed: str) -> None:  # E58
    assert canonical_login(typed) is None


def test_name_is_bounded_in_octets() -> None:  # E58
    domain = "@example.org"
    assert canonical_login("a" * (MAX_NAME_BYTES - len(domain)) + domain) is not None
    assert canonical_login("a" * (MAX_NAME_BYTES - len(domain) + 1) + domain) is None
    assert canonical_login("\u00e9" * (MAX_NAME_BYTES // 2)) is not None
    assert canonical_login("\u00e9" * (MAX_NAME_BYTES // 2 + 1)) is None


def test_long_way_of_typing_a_short_name_is_understood() -> None:
    assert canonical_login("\uff41" * MAX_NAME_BYTES) == "a" * MAX_NAME_BYTES
    assert canonical_login(" " * (MAX_TYPED_CHARACTERS - 3) + "ann") == "ann"
    assert canonical_login(" " * (MAX_TYPED_CHARACTERS - 2) + "ann") is None


def test_name_that_grows_when_folded_is_bounded_after() -> None:
    assert canonical_login("\ufdfa" * 80) is None  # one character, 18 when folded


@settings(max_examples=300, deadline=None)
@given(
    st.text(max_size=40)
    | st.text(alphabet="aA@\\ \u00df\u0130\u0345\u03a3\u0308\uff20\uff3c\u00a8\u1e9b\u0323", max_size=12)
)
def test_canonical_form_is_a_fixed_point(text: str) -> None:
    once = canonical_login(text)
    if once is not None:
        assert canonical_login(once) == once
        assert 0 < len(once.encode()) <= MAX_NAME_BYTES
