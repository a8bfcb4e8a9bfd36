"""The finder of leaks finds them; otherwise its silence over Gatepost's logs would say nothing."""

from __future__ import annotations

import base64

import pytest

from tests.leaks import leaked

SECRET = "k7mp2-x9qdw-3f4tz-p0aab"


@pytest.mark.parametrize(
    "text",
    [
        f"password={SECRET}",
        SECRET.upper(),
        SECRET.replace("-", ""),
        base64.b64encode(f"\0ann@example.test\0{SECRET}".encode()).decode(),
        base64.b64encode(f"\0bob@example.test\0{SECRET}!".encode()).decode(),
        base64.b64encode(f"\0cyd2@example.test\0{SECRET}".encode()).decode(),
        base64.b64encode(SECRET.encode()).decode(),
        SECRET.encode().hex(),
    ],
)
def test_a_leak_is_found_in_any_form(text: str) -> None:
    assert leaked(f"event=x {text} y", [SECRET])


def test_a_clean_text_is_clean() -> None:
    assert leaked("event=login user=ann@example.test result=ok", [SECRET]) == []
