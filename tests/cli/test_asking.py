"""proxy/cli/asking.py: one line, bounded, asked for on a terminal."""

from __future__ import annotations

import getpass
import io
import sys

import pytest

from proxy.cli.asking import MAX_LINE_BYTES, TERMINAL_LINE, read_secret
from proxy.errors import OperatorError


class Terminal(io.TextIOWrapper):
    def isatty(self) -> bool:
        return True


def pipe(monkeypatch, data: bytes) -> io.BytesIO:
    buffer = io.BytesIO(data)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(buffer))
    return buffer


def terminal(monkeypatch, answer: str | None) -> list[str]:
    prompts: list[str] = []

    def ask(prompt: str) -> str:
        prompts.append(prompt)
        if answer is None:
            raise EOFError
        return answer

    monkeypatch.setattr(sys, "stdin", Terminal(io.BytesIO()))
    monkeypatch.setattr(getpass, "getpass", ask)
    return prompts


@pytest.mark.parametrize("data", [b"tok", b"tok\n", b"tok\r\n", b"  tok \nmore\n", b"\xef\xbb\xbftok\n"])
def test_first_line_without_white_space(data, monkeypatch):
    pipe(monkeypatch, data)
    assert read_secret("password").reveal() == "tok"


def test_longest_line_is_taken_and_a_longer_one_is_not_read_to_its_end(monkeypatch):
    pipe(monkeypatch, b"x" * MAX_LINE_BYTES)
    assert len(read_secret("password").reveal()) == MAX_LINE_BYTES
    buffer = pipe(monkeypatch, b"x" * 10 * MAX_LINE_BYTES)
    with pytest.raises(OperatorError, match="longer than"):
        read_secret("password")
    assert buffer.tell() <= MAX_LINE_BYTES + 1


def test_password_with_unusual_letters_is_taken(monkeypatch):
    pipe(monkeypatch, "pä\u00a0ß\n".encode())
    assert read_secret("password").reveal() == "pä\u00a0ß"


def test_terminal_is_asked_without_echo(monkeypatch):
    prompts = terminal(monkeypatch, " tok ")
    assert read_secret("refresh token").reveal() == "tok"
    assert prompts == ["Refresh token (not shown): "]


def test_end_of_file_on_a_terminal_is_no_secret(monkeypatch):
    terminal(monkeypatch, None)
    with pytest.raises(OperatorError, match="no password on stdin"):
        read_secret("password")


def test_line_that_the_terminal_cut_is_refused(monkeypatch):
    terminal(monkeypatch, "x" * TERMINAL_LINE)
    with pytest.raises(OperatorError, match="terminal can't take"):
        read_secret("refresh token")


def test_no_stdin_is_no_secret(monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(OperatorError, match="no password on stdin"):
        read_secret("password")
