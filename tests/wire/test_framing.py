from __future__ import annotations

import pytest
from hypothesis import given, settings, strategies as st

from proxy.errors import ProtocolError
from proxy.wire.framing import InputBuffer


def filled(data: bytes) -> InputBuffer:
    buffer = InputBuffer()
    buffer.feed(data)
    return buffer


def test_line_is_taken_without_its_end_and_the_rest_stays() -> None:
    buffer = filled(b"one\r\ntwo\nthr")
    assert [buffer.take_line(10) for _ in range(3)] == [b"one", b"two", None]
    buffer.feed(b"ee\r\r\n")
    assert buffer.take_line(10) == b"three\r"
    assert buffer.take_all() == b""


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_limit_counts_the_line_without_its_end(end: bytes) -> None:
    assert filled(b"x" * 5 + end).take_line(5) == b"xxxxx"
    with pytest.raises(ProtocolError):
        filled(b"x" * 6 + end).take_line(5)


def test_line_without_an_end_is_too_long_once_no_end_can_save_it() -> None:
    buffer = filled(b"xxxxx\r")
    assert buffer.take_line(5) is None
    buffer.feed(b"x")
    with pytest.raises(ProtocolError):
        buffer.take_line(5)


def test_octets_are_counted() -> None:
    buffer = filled(b"\r\n\0abc")
    assert buffer.take(7) is None
    assert buffer.peek(2) == b"\r\n"
    assert buffer.take(4) == b"\r\n\0a"
    assert buffer.take(0) == b""
    assert len(buffer) == 2
    buffer.clear()
    assert buffer.take_all() == b""


def test_repr_shows_no_content() -> None:
    assert repr(filled(b"hunter2")) == "InputBuffer(7 bytes)"


def test_every_octet_is_searched_once_when_it_comes_alone() -> None:
    buffer = InputBuffer()
    for count in range(1, 8_193):
        buffer.feed(b"x")
        assert buffer.take_line(8_192) is None
        assert buffer._searched == count


@settings(max_examples=100, deadline=None)
@given(st.lists(st.binary(max_size=8).map(lambda line: line.replace(b"\n", b"\r")), max_size=20), st.binary(max_size=4))
def test_lines_and_rest_are_what_was_fed(lines: list[bytes], rest: bytes) -> None:
    rest = rest.replace(b"\n", b"")
    buffer = InputBuffer()
    taken = []
    for octet in b"".join(line + b"\r\n" for line in lines) + rest:
        buffer.feed(bytes([octet]))
        line = buffer.take_line(10)
        if line is not None:
            taken.append(line)
    assert taken == lines
    assert buffer.take_all() == rest
