"""What the transcripts cannot show of the grammar: its functions at their edges."""

from __future__ import annotations

import pytest
from hypothesis import given, settings, strategies as st

from proxy.errors import ProtocolError
from proxy.wire.imap_grammar import Command, LiteralMark, read_head, read_id, read_strings, split_literal


def command(*parts: bytes) -> Command:
    return Command(b"a1", b"LOGIN", parts[::2], parts[1::2])


@pytest.mark.parametrize("parts", [(b" a b c",), (b" a b ", b"c", b""), (b" ", b"a", b" ", b"b", b" ", b"c", b"")])
def test_more_strings_than_the_maximum_are_an_error(parts: tuple[bytes, ...]) -> None:
    assert read_strings(command(*parts), 3) == [b"a", b"b", b"c"]
    with pytest.raises(ProtocolError):
        read_strings(command(*parts), 2)


@pytest.mark.parametrize(
    ("line", "mark"),
    [
        (b"a {5}", LiteralMark(5, is_synchronising=True)),
        (b"a ({5+}", LiteralMark(5, is_synchronising=False)),
        (b'a "{" {0}', LiteralMark(0, is_synchronising=True)),
        (b"a ~{5}", LiteralMark(5, is_synchronising=True)),
        (b"a {0000000000005}", LiteralMark(5, is_synchronising=True)),
        *(
            (line, None)
            for line in (b"{5}", b"a{5}", b"a {5} ", b"a {5}}", b'a "b {5}', b'a "\\" {5}', b'a "b\\', b"}")
        ),
    ],
)
def test_literal_is_found_only_where_an_argument_may_start(line: bytes, mark: LiteralMark | None) -> None:
    assert split_literal(line)[1] == mark


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60) | st.text(alphabet='aA1 "\\{}()+~*5NIL', max_size=40).map(str.encode))
def test_random_lines_raise_nothing_but_what_is_declared(line: bytes) -> None:
    read_head(line)
    text, mark = split_literal(line)
    parts = (text,) if mark is None else (text, b"x", b"")
    for read in (lambda: read_strings(command(*parts), 2), lambda: read_id(command(*parts))):
        try:
            read()
        except ProtocolError:
            continue


def test_no_repr_shows_what_a_command_carries() -> None:
    assert "hunter2" not in repr(command(b" ann hunter2 ", b"hunter2", b""))
    assert "hunter2" not in repr(read_head(b"a1 LOGIN ann hunter2"))
