"""Secrets in memory and where they come from; knows nothing of what they open.

`Secret.reveal()` may be called in vault, oauth and wire/sasl only (tests/test_architecture.py).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from proxy.errors import ConfigError

MAX_SECRET_FILE_BYTES = 65_536  # a PEM key with its chain fits; anything longer is the wrong file


class Secret:
    """A text that must not be printed: no __str__, an empty repr, no pickling, no comparison."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The text itself, for vault, oauth and wire/sasl alone."""
        return self._text

    def __repr__(self) -> str:
        return "Secret()"

    def __str__(self) -> str:
        raise TypeError("a Secret has no text form; see Secret.reveal()")

    def __reduce__(self) -> str:
        raise TypeError("a Secret is never pickled")

    def __bool__(self) -> bool:
        return bool(self._text)


@dataclass(frozen=True, slots=True)
class SecretSource:
    """Where the configuration says a secret lies: a file, an environment variable, a systemd credential."""

    kind: Literal["file", "env", "credential"]
    name: str

    @classmethod
    def parse(cls, text: str, base: Path, key: str) -> Self:
        """Read "file:PATH", "env:NAME" or "credential:NAME".

        base    directory that a relative PATH starts at
        key     the configuration key, for the error
        raises  ConfigError for any other form
        """
        kind, colon, name = text.partition(":")
        if not colon or not name:
            kind = ""
        if kind == "file":
            return cls("file", str(base / name))
        if kind == "env":
            return cls("env", name)
        if kind == "credential" and "/" not in name and name not in (".", ".."):
            return cls("credential", name)
        # The text is not repeated: the usual mistake is the secret itself in place of its source.
        raise ConfigError(f'{key} must be "file:PATH", "env:NAME" or "credential:NAME"', "never the secret itself")

    def read(self) -> Secret:
        """The secret, without surrounding white space. Raises ConfigError with the remedy."""
        if self.kind == "env":
            text = os.environ.get(self.name)
            if text is None:
                raise ConfigError(f"environment variable {self.name} is not set", "set it, or use a file: source")
        else:
            text = self._read_file(self._path())
        if not text.strip():
            raise ConfigError(f"{self} is empty", "put the secret in, on one line")
        return Secret(text.strip())

    def _path(self) -> Path:
        if self.kind == "file":
            return Path(self.name)
        directory = os.environ.get("CREDENTIALS_DIRECTORY")  # systemd.exec(5), Credentials
        if directory is None:
            raise ConfigError(f"{self} needs systemd's CREDENTIALS_DIRECTORY", "run under the unit, or use file:")
        return Path(directory) / self.name

    def _read_file(self, path: Path) -> str:
        try:
            with path.open("rb") as file:
                data = file.read(MAX_SECRET_FILE_BYTES + 1)
        except OSError as error:
            raise ConfigError(f"cannot read {path}: {error.strerror}", "check that it exists and who owns it") from None
        if len(data) > MAX_SECRET_FILE_BYTES:
            raise ConfigError(f"{path} is longer than {MAX_SECRET_FILE_BYTES} bytes", "name the right file")
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError:
            raise ConfigError(f"{path} is not UTF-8 text", "name the right file") from None

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}"
