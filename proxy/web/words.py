"""What the page says, in the reader's language: English stands in the code, the others in words/LANGUAGE.toml."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

DEFAULT = "en"
MAX_HEADER = 500  # characters of Accept-Language that are read


@dataclass(frozen=True, slots=True)
class Words:
    """One language. `say` gives a text with its %(name)s filled in; what is not in the catalogue stays English."""

    language: str
    catalogue: Mapping[str, str]

    def say(self, text: str, **values: object) -> str:
        found = self.catalogue.get(text, text)
        return found % values if values else found


@cache
def languages() -> Mapping[str, Words]:
    """All catalogues, by language."""
    found = {DEFAULT: Words(DEFAULT, {})}
    for file in files("proxy.web").joinpath("words").iterdir():
        name, _, form = file.name.rpartition(".")
        if form == "toml":
            found[name] = Words(name, tomllib.loads(file.read_text("utf-8"))["words"])
    return found


def chosen(accept_language: str) -> Words:
    """The first language of a browser's list that there is (RFC 9110 12.5.4), English for none."""
    wanted: list[tuple[float, str]] = []
    for part in accept_language[:MAX_HEADER].split(","):
        tag, _, parameters = part.partition(";")
        name, _, value = parameters.strip().partition("=")
        try:
            weight = float(value) if name.strip() == "q" else 1.0
        except ValueError:
            weight = 0.0
        if weight > 0:
            wanted.append((-weight, tag.strip().lower().partition("-")[0]))
    known = languages()
    for _, language in sorted(wanted, key=lambda one: one[0]):
        if language in known:
            return known[language]
    return known[DEFAULT]
