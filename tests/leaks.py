"""Finds secrets in text, in every form they could have got there: as they are, percent-encoded, in base64."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from urllib.parse import quote, quote_plus

MIN_LENGTH = 8  # shorter texts stand in any log by chance


def forms(secret: str) -> set[str]:
    """The spellings of a secret that must not turn up. Base64 at each of its three alignments inside a longer text."""
    data = secret.encode()
    found = {secret, secret.replace("-", ""), quote(secret), quote_plus(secret), repr(secret)[1:-1], data.hex()}
    for alphabet in (base64.b64encode, base64.urlsafe_b64encode):
        for offset in range(3):
            text = alphabet(b"\0" * offset + data).decode().rstrip("=")
            # What neighbours would change is cut off: the symbols that share bits with them.
            found.add(text[(0, 2, 3)[offset] : len(text) - 1])
    return {form for form in found if len(form) >= MIN_LENGTH}


def leaked(text: str, secrets: Iterable[str]) -> list[str]:
    """Which secrets are in the text: their first three characters and length, which is enough to find the culprit."""
    lowered = text.lower()
    return [
        f"{secret[:3]}... ({len(secret)} characters)"
        for secret in secrets
        if any(form in text or form.lower() in lowered for form in forms(secret))
    ]
