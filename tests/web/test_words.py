"""The catalogues: nothing is missing, nothing is left over, and values stand where they stand in English."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import proxy.web
from proxy.store.audit_rows import Event
from proxy.web.activity import SENTENCES
from proxy.web.words import chosen, languages

HOME = Path(proxy.web.__file__).parent
IN_TEMPLATES = re.compile(r'\b_\("((?:[^"\\]|\\.)*)"')
OTHERS = sorted(set(languages()) - {"en"})


def texts() -> set[str]:
    """All that is to be translated: _("...") of templates, and N_("...") of the code, wherever it is shown."""
    found = {text for file in HOME.rglob("*.html") for text in IN_TEMPLATES.findall(file.read_text())}
    for file in HOME.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "N_":
                found.add(ast.literal_eval(node.args[0]))
    return found


def test_german_is_there() -> None:
    assert "de" in OTHERS


@pytest.mark.parametrize("language", OTHERS)
def test_a_catalogue_has_every_text_and_no_other(language: str) -> None:
    catalogue = languages()[language].catalogue
    assert sorted(texts() - set(catalogue)) == []
    assert sorted(set(catalogue) - texts()) == []


@pytest.mark.parametrize("language", OTHERS)
def test_translations_have_the_values_of_the_original(language: str) -> None:
    for text, translation in languages()[language].catalogue.items():
        assert set(re.findall(r"%\((\w+)\)s", text)) == set(re.findall(r"%\((\w+)\)s", translation)), text
        assert translation.strip() == translation
        assert translation


def test_every_event_of_the_audit_has_a_sentence() -> None:
    assert set(SENTENCES) == set(Event)


@pytest.mark.parametrize(
    ("header", "language"),
    [
        ("de-DE,de;q=0.9,en;q=0.8", "de"),
        ("en-US,en;q=0.9,de;q=0.8", "en"),
        ("fr,de;q=0.5", "de"),
        ("de;q=0,en", "en"),
        ("de;q=0.1,en;q=0.2", "en"),
        ("", "en"),
        ("*", "en"),
        ("de;q=never", "en"),
        ("x" * 10_000 + ",de", "en"),
    ],
)
def test_the_browser_chooses(header: str, language: str) -> None:
    assert chosen(header).language == language
