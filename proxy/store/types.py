"""Column types of the store: times that are always aware and in UTC, and tuples of words."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import DateTime, Dialect, Text, TypeDecorator

SEPARATOR = "\n"  # in no login name, protocol, network or ESMTP keyword


class UtcDateTime(TypeDecorator[datetime]):
    """An aware datetime in and out, in UTC, to the microsecond.

    SQLite has no zones: what it keeps is text in UTC that sorts by time. PostgreSQL keeps timestamptz and answers in
    the session's zone.
    """

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        del dialect
        if value is None:
            return None
        if value.utcoffset() is None:
            raise ValueError("a time without a zone does not enter the store")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        del dialect
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Words(TypeDecorator[tuple[str, ...]]):
    """A tuple of non-empty strings, kept as lines of one text."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: tuple[str, ...] | None, dialect: Dialect) -> str | None:
        del dialect
        if value is None:
            return None
        if any(not word or SEPARATOR in word for word in value):
            raise ValueError("a word in the store is neither empty nor longer than a line")
        return SEPARATOR.join(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> tuple[str, ...] | None:
        del dialect
        return None if value is None else split_words(value)


def split_words(text: str) -> tuple[str, ...]:
    """The words that Words, or aggregate_strings over names, put into one text."""
    return tuple(text.split(SEPARATOR)) if text else ()
