"""One TOML table while it is read: typed values by key, and errors that name file, table and key.

Knows types and forms, not what Gatepost's keys mean; that is reader.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from proxy.config.address import BadAddress, network
from proxy.config.model import Network
from proxy.errors import ConfigError
from proxy.secret import SecretSource

C = TypeVar("C", bound=str)
T = TypeVar("T")
MAX_SHOWN = 80  # of a wrong value that an error repeats: enough to find it by


class Table:
    """A table of the configuration file. Unknown keys are refused at once, before any value is looked at."""

    def __init__(self, file: Path, name: str, values: Mapping[str, object], known: Sequence[str]) -> None:
        """`name` is how errors call the table, for example "[tls]" or "[[listen]] #2"; "" is the whole file."""
        self.file = file
        self.name = name
        self._values = values
        for key in values:
            if key not in known:
                raise self.error(key, "unknown key", _suggestion(key, known))

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def over(self, defaults: Mapping[str, object]) -> Table:
        """A copy with defaults where this one says nothing; tables in it are merged key by key, lists are not."""
        values = _merged(defaults, self._values)
        return Table(self.file, self.name, values, tuple(values))

    def error(self, key: str, what: str, remedy: str) -> ConfigError:
        """The ConfigError for a key of this table: file, key, what is wrong; the remedy."""
        where = " ".join(word for word in (self.name, shown(key)) if word)
        return ConfigError(f"{self.file}: {where}: {what}", remedy)

    def text(self, key: str) -> str | None:
        """A string without surrounding white space, None when the key is absent; "" is refused."""
        if key not in self._values:
            return None
        value = self._values[key]
        if not isinstance(value, str):
            raise self.error(key, f"is {_kind(value)}", "write a string in quotes")
        if not value.strip():
            raise self.error(key, "is empty", "give it a value, or remove the line")
        if not value.isprintable():
            raise self.error(key, "holds a control character", "write it on one line, without tabs")
        return value.strip()

    def required(self, key: str, example: str) -> str:
        value = self.text(key)
        if value is None:
            raise self.missing(key, example)
        return value

    def missing(self, key: str, example: str) -> ConfigError:
        return self.error(key, "is missing", f"add a line like {key} = {example}")

    def choice(self, key: str, choices: Sequence[C], default: C | None) -> C:
        """One of a few words. Without a default the key has to be there."""
        value = self.text(key)
        if value is None:
            if default is not None:
                return default
            raise self.error(key, "is missing", f"use {either(choices)}")
        for choice in choices:
            if value == choice:
                return choice
        raise self.error(key, f'"{shown(value)}" is not known', f"use {either(choices)}")

    def flag(self, key: str, *, default: bool) -> bool:
        value = self._values.get(key, default)
        if not isinstance(value, bool):
            raise self.error(key, f"is {_kind(value)}", "write true or false, without quotes")
        return value

    def number(self, key: str, default: int, low: int, high: int) -> int:
        """A whole number from low to high, both included."""
        value = self._values.get(key, default)
        # bool is an int to Python, not to whoever wrote the file.
        if not isinstance(value, int) or isinstance(value, bool):
            raise self.error(key, f"is {_kind(value)}", f"write a whole number from {low} to {high}")
        if not low <= value <= high:
            raise self.error(key, f"{value} is out of range", f"use a number from {low} to {high}")
        return value

    def texts(self, key: str) -> tuple[str, ...] | None:
        """A list of strings, each once, None when the key is absent."""
        if key not in self._values:
            return None
        value = self._values[key]
        if not isinstance(value, list):
            raise self.error(key, f"is {_kind(value)}", 'write a list like ["one", "two"]')
        words: list[str] = []
        for word in value:
            if not isinstance(word, str) or not word.strip() or not word.isprintable():
                raise self.error(key, "holds something that is no string", 'write a list like ["one", "two"]')
            if word.strip() in words:
                raise self.error(key, f'names "{shown(word.strip())}" twice', "name it once")
            words.append(word.strip())
        return tuple(words)

    def networks(self, key: str) -> tuple[Network, ...]:
        """A list of networks, each once and in the form that clients' addresses have; () when the key is absent."""
        found: list[Network] = []
        for text in self.texts(key) or ():
            try:
                found.append(network(text))
            except BadAddress as error:
                raise self.error(key, f'"{shown(text)}" {error.what}', error.remedy) from None
        return tuple(dict.fromkeys(found))

    def words(self, key: str) -> tuple[str, ...] | None:
        """A command line: strings as they stand, in order, None when the key is absent; never an empty list."""
        if key not in self._values:
            return None
        value = self._values[key]
        if not isinstance(value, list) or not value:
            raise self.error(key, f"is {_kind(value)}" if value else "is empty", 'write a list like ["one", "two"]')
        words = [word for word in value if isinstance(word, str) and word and word.isprintable()]
        if len(words) < len(value):
            raise self.error(key, "holds something that is no string", 'write a list like ["one", "two"]')
        return tuple(words)

    def pairs(self, key: str) -> tuple[tuple[str, str], ...]:
        """A table whose keys are free and whose values are strings, in the file's order; () when it is absent."""
        value = self._values.get(key, {})
        if not isinstance(value, dict):
            raise self.error(key, f"is {_kind(value)}", 'write a table like { name = "value" }')
        table = Table(self.file, f"{self.name} {key}", value, tuple(value))
        return tuple((name, table.required(name, '"..."')) for name in value)

    def parsed(self, key: str, parse: Callable[[str], T]) -> T | None:
        """What a parser of address.py makes of a string; its error gets the file and the key."""
        text = self.text(key)
        if text is None:
            return None
        try:
            return parse(text)
        except BadAddress as error:
            raise self.error(key, error.what, error.remedy) from None

    def secret(self, key: str) -> SecretSource | None:
        """Where a secret lies; a relative file name starts at the configuration file's directory."""
        text = self.text(key)
        if text is None:
            return None
        try:
            return SecretSource.parse(text, self.file.parent, key)
        except ConfigError as error:
            raise self.error(key, error.problem.removeprefix(f"{key} "), error.remedy) from None

    def path(self, key: str) -> Path | None:
        """A file name; a relative one starts at the configuration file's directory."""
        value = self.text(key)
        return None if value is None else self.file.parent / value

    def table(self, key: str, known: Sequence[str], name: str = "") -> Table:
        """A table below this one; an empty one when it is absent."""
        value = self._values.get(key, {})
        if not isinstance(value, dict):
            raise self.error(key, f"is {_kind(value)}", f"write it as a table, [{key}]")
        return Table(self.file, name or f"[{key}]", value, known)

    def tables(self, key: str, known: Sequence[str]) -> list[Table]:
        """A list of tables, [[key]]; errors count them from 1."""
        values = self._values.get(key, [])
        if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
            raise self.error(key, "is no list of tables", f"head each with [[{key}]]")
        return [Table(self.file, f"[[{key}]] #{count}", value, known) for count, value in enumerate(values, 1)]

    def named_tables(self, key: str, known: Sequence[str]) -> dict[str, Table]:
        """The tables [key.NAME], by name."""
        values = self._values.get(key, {})
        if not isinstance(values, dict):
            raise self.error(key, f"is {_kind(values)}", f"write tables, [{key}.NAME]")
        tables: dict[str, Table] = {}
        for name, value in values.items():
            if not isinstance(value, dict):
                raise self.error(f"{key}.{name}", f"is {_kind(value)}", f"write tables, [{key}.NAME]")
            tables[name] = Table(self.file, f"[{key}.{shown(name)}]", value, known)
        return tables


def shown(text: str) -> str:
    """Text of the file as an error may repeat it: printable, on one line, cut."""
    if not text.isprintable():
        text = text.encode("unicode_escape").decode("ascii")
    return text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN] + "..."


def either(choices: Sequence[str]) -> str:
    """The choices for a sentence: "a", "b" or "c"."""
    quoted = [f'"{choice}"' for choice in choices]
    return " or ".join([", ".join(quoted[:-1]), quoted[-1]] if len(quoted) > 1 else quoted)


def _merged(defaults: Mapping[str, object], values: Mapping[str, object]) -> dict[str, object]:
    merged = {**defaults, **values}
    for key, value in values.items():
        below = defaults.get(key)
        if isinstance(value, dict) and isinstance(below, dict):
            merged[key] = _merged(below, value)
    return merged


def _suggestion(key: str, known: Sequence[str]) -> str:
    import difflib  # noqa: PLC0415 - only an error needs it

    close = difflib.get_close_matches(key, known, n=1)
    if close:
        return f"did you mean {close[0]}?"
    return f"remove it; known here: {', '.join(known)}"


def _kind(value: object) -> str:
    # The value itself is not repeated: it may be a secret in the wrong place.
    kinds = {bool: "true or false", int: "a number", float: "a fraction", str: "a string", list: "a list"}
    return kinds.get(type(value), "a table" if isinstance(value, dict) else "a date")
