"""Templates: autoescaped, strict about names, in the reader's language."""

from __future__ import annotations

from datetime import UTC, datetime

from jinja2 import Environment, PackageLoader, StrictUndefined

from proxy import __version__
from proxy.web.words import Words

# A date for people in any language, and without a locale: 2026-11-23 14:05.
_DAY = "%Y-%m-%d"
_MINUTE = "%Y-%m-%d %H:%M"


class Pages:
    """Renders; knows no request."""

    def __init__(self) -> None:
        self._environment = Environment(
            loader=PackageLoader("proxy.web"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.filters.update(day=day, minute=minute, iso=iso)
        self._environment.globals.update(version=__version__)

    def render(self, template: str, words: Words, **values: object) -> str:
        return self._environment.get_template(template).render(_=words.say, lang=words.language, **values)


def day(at: datetime) -> str:
    return at.astimezone(UTC).strftime(_DAY)


def minute(at: datetime) -> str:
    return at.astimezone(UTC).strftime(_MINUTE)


def iso(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="seconds")
