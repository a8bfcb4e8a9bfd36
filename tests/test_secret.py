from __future__ import annotations

import copy
import json
import pickle
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest

from proxy.errors import ConfigError
from proxy.secret import MAX_SECRET_FILE_BYTES, Secret, SecretSource


@dataclass
class Holder:
    secret: Secret


def test_a_secret_has_no_text_form() -> None:
    secret = Secret("hunter2")
    assert repr(secret) == "Secret()"
    assert "hunter2" not in repr(Holder(secret))
    for render in (str, format, "%s".__mod__, lambda one: f"{one}", json.dumps, "".__add__):
        with pytest.raises(TypeError) as caught:
            render(secret)
        assert "hunter2" not in str(caught.value)
    assert secret.reveal() == "hunter2"


def test_a_secret_is_neither_pickled_nor_copied_nor_compared() -> None:
    secret = Secret("hunter2")
    for take in (pickle.dumps, copy.copy, copy.deepcopy, lambda one: asdict(Holder(one))):
        with pytest.raises(TypeError):
            take(secret)
    assert secret != Secret("hunter2")
    assert not hasattr(secret, "__dict__")
    assert bool(secret)
    assert not Secret("")


def test_a_traceback_with_locals_shows_no_secret() -> None:
    def fail(secret: Secret) -> None:
        raise ValueError("no")

    try:
        fail(Secret("hunter2"))
    except ValueError as error:
        shown = "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())
    assert "secret = Secret()" in shown
    assert shown.count("hunter2") == 1  # the line of this test itself


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("file:/etc/key", SecretSource("file", "/etc/key")),
        ("file:key", SecretSource("file", "/base/key")),
        ("env:NAME", SecretSource("env", "NAME")),
        ("credential:master", SecretSource("credential", "master")),
    ],
)
def test_a_source_is_named_by_its_kind(text: str, source: SecretSource) -> None:
    assert SecretSource.parse(text, Path("/base"), "keys.master") == source
    assert str(source) == f"{source.kind}:{source.name}"


@pytest.mark.parametrize(
    "text", ["hunter2", "", "file:", "env:", ":hunter2", "FILE:x", "pass:hunter2", "credential:../x", "credential:.."]
)
def test_a_secret_in_place_of_its_source_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        SecretSource.parse(text, Path("/base"), "upstream.mail.oauth2.client_secret")
    assert "client_secret" in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_a_secret_is_read_without_the_white_space_around_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "key").write_text(" hunter2 \r\n")
    monkeypatch.setenv("KEY", "hunter2\n")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    for source in (
        SecretSource("file", str(tmp_path / "key")),
        SecretSource("env", "KEY"),
        SecretSource("credential", "key"),
    ):
        assert source.read().reveal() == "hunter2"


@pytest.mark.parametrize("content", [b"", b" \n", b"\xff\xfehunter2", b"hunter2" * MAX_SECRET_FILE_BYTES])
def test_a_file_that_holds_no_secret_is_refused_with_a_remedy(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "key").write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        SecretSource("file", str(tmp_path / "key")).read()
    assert caught.value.remedy
    assert "hunter2" not in str(caught.value)


def test_a_source_that_is_not_there_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    monkeypatch.delenv("KEY", raising=False)
    sources = (
        SecretSource("file", str(tmp_path / "none")),
        SecretSource("file", str(tmp_path)),
        SecretSource("env", "KEY"),
        SecretSource("credential", "key"),
    )
    for source in sources:
        with pytest.raises(ConfigError) as caught:
            source.read()
        assert caught.value.remedy
