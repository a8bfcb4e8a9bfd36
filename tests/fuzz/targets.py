"""The targets by name, and the corpus of each."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, cast

CORPUS = Path(__file__).parent / "corpus"
TARGETS = (
    "imap", "imap_front", "smtp_lines", "smtp_front", "sasl", "proxy_header", "apppassword", "upstream_imap",
    "upstream_smtp",
)  # fmt: skip

# What each target is there for: the modules whose lines count as reached or not.
READS = {
    "imap": ("wire/imap", "wire/imap_command", "wire/imap_grammar", "wire/imap_words", "wire/framing"),
    "imap_front": ("edge/imap", "wire/imap", "wire/imap_command"),
    "smtp_lines": ("edge/smtp_lines",),
    "smtp_front": ("edge/smtp", "edge/smtp_auth", "edge/smtp_verbs", "edge/smtp_answers", "edge/smtp_lines"),
    "sasl": ("wire/sasl", "wire/said", "edge/smtp_auth"),
    "proxy_header": ("wire/proxy_header", "edge/forwarded", "wire/addresses"),
    "apppassword": ("vault/apppassword", "wire/names"),
    "upstream_imap": ("edge/upstream_imap", "wire/said", "wire/sasl"),
    "upstream_smtp": ("edge/upstream_smtp", "wire/smtp", "wire/said"),
}


class Target(Protocol):
    """A module: its words, for those who make inputs, and `one`, which raises for a broken invariant."""

    TOKENS: Sequence[bytes]
    one: Callable[[bytes], None]


def load(name: str) -> Target:
    return cast("Target", importlib.import_module(f"tests.fuzz.{name}"))


def corpus(name: str) -> list[bytes]:
    return [file.read_bytes() for file in sorted((CORPUS / name).iterdir())]
