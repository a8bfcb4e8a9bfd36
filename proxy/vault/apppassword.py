"""The app password's form: 20 symbols, of which 4 select, 15 are secret and 1 checks the rest.

75 secret bits are far beyond guessing through a throttled login and beyond argon2id offline. The check symbol is
public knowledge and the same for every account, so it tells a guesser nothing; it spares a hash for every typo,
every random guess and every time somebody types the password of the real mailbox.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from proxy.secret import Secret

ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # no i, l, o, u: 32 symbols that survive being read aloud
SELECTOR_SYMBOLS = 4
SECRET_SYMBOLS = 15
LENGTH = SELECTOR_SYMBOLS + SECRET_SYMBOLS + 1
GROUP = 5
MAX_TYPED = 200  # longer than any way of typing 20 symbols with separators; a bound on work

_VALUE = {symbol: value for value, symbol in enumerate(ALPHABET)}
_SEPARATORS = " -\t\u00a0\u2010\u2011\u2012\u2013\u2014"  # what text processors make of a dash or a blank
_READ_AS = str.maketrans("oil", "011", _SEPARATORS)
_FIELD_POLYNOMIAL = 0b100101  # x^5 + x^2 + 1, irreducible over GF(2)
# Twice each element of GF(32).
_DOUBLE = tuple(value << 1 ^ (_FIELD_POLYNOMIAL if value << 1 & 0b100000 else 0) for value in range(32))


@dataclass(frozen=True, slots=True)
class AppPassword:
    """A well-formed app password. `selector` finds its row; `whole` is what argon2id gets."""

    selector: str
    whole: Secret

    def shown(self) -> str:
        """As its owner gets to see it, once: four groups of five. For `create` alone to print."""
        text = self.whole.reveal()
        return "-".join(text[start : start + GROUP] for start in range(0, LENGTH, GROUP))


def generate() -> AppPassword:
    """A new random app password, from the system's generator."""
    values = [secrets.randbelow(len(ALPHABET)) for _ in range(LENGTH - 1)]
    values.append(_check_value(values))
    text = "".join(ALPHABET[value] for value in values)
    return AppPassword(text[:SELECTOR_SYMBOLS], Secret(text))


def parse(typed: Secret) -> AppPassword | None:
    """Read an app password as people type it: any case, with or without blanks and dashes, o as 0, i and l as 1.

    returns None for anything whose check symbol does not fit: a typo, a guess, another kind of password
    """
    text = typed.reveal()
    if len(text) > MAX_TYPED:
        return None
    normal = text.lower().translate(_READ_AS)
    if len(normal) != LENGTH:
        return None
    try:
        *values, check = [_VALUE[symbol] for symbol in normal]
    except KeyError:
        return None
    if _check_value(values) != check:
        return None
    return AppPassword(normal[:SELECTOR_SYMBOLS], Secret(normal))


def _check_value(values: list[int]) -> int:
    """Damm's check over GF(32), with the quasigroup x*y = 2x + y.

    It is totally anti-symmetric, since 2(2c + x) + y = 2(2c + y) + x only if x = y: every single wrong symbol and
    every swap of neighbours changes the check.

    Source: H. M. Damm, Total anti-symmetrische Quasigruppen, Marburg 2004.
    """
    interim = 0
    for value in values:
        interim = _DOUBLE[interim] ^ value
    return _DOUBLE[interim]
