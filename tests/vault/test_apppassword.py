from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from proxy.secret import Secret
from proxy.vault.apppassword import ALPHABET, LENGTH, MAX_TYPED, SELECTOR_SYMBOLS, AppPassword, generate, parse


def text_of(password: AppPassword) -> str:
    return password.whole.reveal()


SOME = [text_of(generate()) for _ in range(1500)]


def test_every_single_wrong_symbol_is_found() -> None:
    for text in SOME[:20]:
        for position in range(LENGTH):
            for symbol in ALPHABET.replace(text[position], ""):
                assert parse(Secret(text[:position] + symbol + text[position + 1 :])) is None


def test_every_swap_of_neighbours_is_found() -> None:
    seen = set()
    for text in SOME:
        for position in range(LENGTH - 1):
            first, second = text[position], text[position + 1]
            swapped = text[:position] + second + first + text[position + 2 :]
            assert first == second or parse(Secret(swapped)) is None
            seen.add((position, first, second))
    assert len(seen) > 10_000  # of 19 x 32 x 31 there are


def test_one_random_guess_in_thirty_two_has_a_fitting_check() -> None:
    """The check spares hashes and gives nothing else: every selector and secret has exactly one."""
    stem = SOME[0][:-1]
    assert sum(parse(Secret(stem + symbol)) is not None for symbol in ALPHABET) == 1


def test_a_generated_password_has_the_form_that_the_design_fixes() -> None:
    password = generate()
    text = text_of(password)
    assert len(text) == LENGTH == 20
    assert set(text) <= set(ALPHABET)
    assert not set("ilou") & set(ALPHABET)
    assert len(ALPHABET) == 32
    assert password.selector == text[:SELECTOR_SYMBOLS]
    assert [len(group) for group in password.shown().split("-")] == [5, 5, 5, 5]
    assert password.shown().replace("-", "") == text


def test_a_thousand_passwords_are_all_different_and_use_every_symbol() -> None:
    texts = {text_of(generate()) for _ in range(1000)}
    assert len(texts) == 1000
    for position in range(LENGTH):
        assert {text[position] for text in texts} == set(ALPHABET)


@pytest.mark.parametrize("text", SOME[:3], ids=range(3))
@pytest.mark.parametrize(
    "typed",
    [
        "{0}",
        " {0}\t",
        "{1}",
        "{1} ",
        "{2}",
        "{3}",
        "{4}",
    ],
)
def test_cosmetics_do_not_matter(text: str, typed: str) -> None:
    groups = [text[start : start + 5] for start in range(0, LENGTH, 5)]
    forms = (
        text,
        "-".join(groups),
        " ".join(groups).upper(),
        "\u2013".join(groups).replace("0", "O").replace("1", "L"),
        "\u00a0".join(text).replace("0", "o").replace("1", "i"),
    )
    parsed = parse(Secret(typed.format(*forms)))
    assert parsed is not None
    assert (text_of(parsed), parsed.selector) == (text, text[:4])


@pytest.mark.parametrize(
    "typed",
    [
        "",
        " ",
        "-" * 20,
        "0" * 19,
        "0" * 21,
        "Summer-2026!",
        SOME[0] + SOME[1],
        SOME[0] + "0",
        SOME[0][:-1],
        "u" + SOME[0][1:],
    ],
    ids=range(10),  # the texts are random, and workers must agree on names
)
def test_anything_else_is_no_app_password(typed: str) -> None:
    assert parse(Secret(typed)) is None


def test_separators_are_ignored_up_to_a_bound() -> None:
    assert parse(Secret(SOME[0] + " " * (MAX_TYPED - LENGTH))) is not None
    assert parse(Secret(SOME[0] + " " * (MAX_TYPED - LENGTH + 1))) is None
    assert parse(Secret(" " * 10_000_000)) is None


@given(st.text())
def test_any_text_is_read_or_refused_without_a_crash(typed: str) -> None:
    parsed = parse(Secret(typed))
    assert parsed is None or parse(parsed.whole) is not None


def test_its_repr_shows_no_secret() -> None:
    password = generate()
    assert text_of(password)[4:] not in repr(password)
