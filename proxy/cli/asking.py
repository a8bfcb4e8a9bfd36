"""Reads a secret from stdin: one line, bounded, hidden on a terminal. Never from an argument, which all can see."""

from __future__ import annotations

import contextlib
import sys
import unicodedata

from proxy.errors import OperatorError
from proxy.secret import Secret

MAX_LINE_BYTES = 16_384  # Entra's refresh tokens have about 2,000
TERMINAL_LINE = 4_095  # Linux, n_tty.c: what a terminal hands over of one line; the rest is dropped silently


def read_secret(what: str) -> Secret:
    """One line from stdin without surrounding white space; on a terminal asked for and not shown.

    what    names it in the prompt and in errors, for example "refresh token"
    raises  OperatorError if it is empty, too long, or no plain UTF-8 text
    """
    text = _line(what)
    if not text:
        raise OperatorError(f"there is no {what} on stdin", f"write it there as one line: ... < FILE with the {what}")
    if any(unicodedata.category(char) == "Cc" for char in text):
        raise OperatorError(f"the {what} holds control characters", "give its plain text, on one line")
    return Secret(text)


def read_line(what: str) -> str:
    """One line from stdin that may be seen, without surrounding white space. Raises OperatorError as read_secret."""
    if sys.stdin is None:
        text = ""
    elif sys.stdin.isatty():
        text = _typed(what)
    else:
        text = _piped(what)
    if not text:
        raise OperatorError(f"there is no {what} on stdin", "start again, and paste it as one line")
    return text


def _typed(what: str) -> str:
    # input() with readline reads the terminal character by character, which spares it TERMINAL_LINE. It does so only
    # if stdout is a terminal, too.
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401, PLC0415 - that it is imported is enough
    try:
        text = input()
    except EOFError:
        return ""
    if len(text) == TERMINAL_LINE:
        raise OperatorError(f"the terminal cut the {what} off", "leave stdout on the terminal, or use ... < FILE")
    return text.strip()


def _line(what: str) -> str:
    if sys.stdin is None:  # started with it closed
        return ""
    return _prompted(what) if sys.stdin.isatty() else _piped(what)


def _prompted(what: str) -> str:
    import getpass  # noqa: PLC0415 - only on a terminal

    try:
        text = getpass.getpass(f"{what.capitalize()} (not shown): ")
    except EOFError:
        return ""
    if len(text.encode(errors="replace")) >= TERMINAL_LINE:
        raise OperatorError(f"a terminal can't take a {what} this long", "put it into a file and use ... < FILE")
    return text.strip()


def _piped(what: str) -> str:
    data = sys.stdin.buffer.readline(MAX_LINE_BYTES + 1)
    if len(data) > MAX_LINE_BYTES:
        raise OperatorError(f"the {what} is longer than {MAX_LINE_BYTES} bytes", "check what stdin comes from")
    try:
        # PowerShell and Windows editors put a byte order mark in front.
        return data.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        raise OperatorError(f"the {what} is not UTF-8 text", "check what stdin comes from") from None
