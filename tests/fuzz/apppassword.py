"""The app-password reader: one normal form for every way of typing, and nothing else passes for one."""

from __future__ import annotations

from itertools import pairwise

from proxy.secret import Secret
from proxy.vault.apppassword import ALPHABET, LENGTH, MAX_TYPED, SELECTOR_SYMBOLS, AppPassword, parse
from proxy.wire.names import MAX_NAME_BYTES, canonical_login
from tests.fuzz.kit import demand, read_input

TOKENS = (
    b"k7mp2", b"x9qdw", b"00000", b"0", b"1", b"o", b"O", b"i", b"L", b"u", b"-", b" ", b"\xc2\xa0", b"\xe2\x80\x93",
    b"\t", b"\r\n", b"\xef\xbc\x90", b"\xc4\xb0", b"\xe2\x84\xaa", b"ann", b"@", b"example.org", b"\\", b"\xff",
    b"\xfe\x03 ", b"\xc3\x9f", b"a\xcc\x88", b"\xe2\x80\x8b",
)  # fmt: skip


def one(data: bytes) -> None:
    stream = read_input(data).stream
    text = stream.decode("utf-8", "replace")
    made = parse(Secret(text))
    if made is not None:
        _check(text, made)
    _checked(text)
    _name(text)


def _check(text: str, made: AppPassword) -> None:
    whole = made.whole.reveal()
    demand(len(text) <= MAX_TYPED, "a text over its bound is read")
    demand(len(whole) == LENGTH and set(whole) <= set(ALPHABET), "not the normal form", whole)
    demand(made.selector == whole[:SELECTOR_SYMBOLS], "a selector from elsewhere", made.selector)
    demand(whole not in repr(made), "an app password shows itself")
    for typed in (whole, whole.upper(), made.shown(), " ".join(whole), whole.replace("0", "O").replace("1", "l")):
        again = parse(Secret(typed))
        demand(again is not None and again.whole.reveal() == whole, "another way of typing it is another", typed)
    for at, symbol in enumerate(whole):
        other = ALPHABET[(ALPHABET.index(symbol) + 1 + at) % len(ALPHABET)]
        demand(parse(Secret(whole[:at] + other + whole[at + 1 :])) is None or other == symbol, "a typo passes", at)
    for at, (left, right) in enumerate(pairwise(whole)):
        swapped = whole[:at] + right + left + whole[at + 2 :]
        demand(left == right or parse(Secret(swapped)) is None, "a swap passes", at)


def _checked(text: str) -> None:
    """Of the 32 last symbols for nineteen exactly one fits."""
    start = "".join(symbol for symbol in text.lower() if symbol in ALPHABET)[: LENGTH - 1]
    if len(start) == LENGTH - 1:
        fitting = [made for symbol in ALPHABET if (made := parse(Secret(start + symbol))) is not None]
        demand(len(fitting) == 1, "not one check symbol", start)
        _check(start + fitting[0].whole.reveal()[-1], fitting[0])


def _name(text: str) -> None:
    name = canonical_login(text)
    if name is not None:
        demand(canonical_login(name) == name, "a canonical name is none", name)
        demand(0 < len(name.encode()) <= MAX_NAME_BYTES, "a name over its bound")
        demand(name.count("@") <= 1 and "\\" not in name and name == name.strip(), "not a name", name)
