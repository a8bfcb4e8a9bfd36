"""proxy/cli/output.py: tables that fit, moments, and text that cannot break a line."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from proxy.cli.output import day_and_time, document, moment, pairs, plain, table


def test_table_lines_up_and_has_no_trailing_blanks():
    text = table(("ID", "NAME", "X"), [("1", "Scanner", ""), ("22", "Fax", "y")], width=80)
    assert text == "ID  NAME     X\n1   Scanner\n22  Fax      y"


def test_wide_characters_take_two_cells():
    text = table(("NAME", "X"), [("日本", "1"), ("e\u0301a", "2"), ("abcd", "3")], width=80)
    assert text == "NAME  X\n日本  1\ne\u0301a    2\nabcd  3"


def test_narrow_terminal_cuts_the_widest_column():
    text = table(("ID", "NAME"), [("0123456789", "x" * 60)], width=40)
    assert text.splitlines()[1] == "0123456789  " + "x" * 26 + ".."
    assert all(len(line) <= 40 for line in text.splitlines())


def test_wide_characters_are_cut_at_a_whole_one():
    assert table(("N",), [("日" * 20,)], width=9).splitlines()[1] == "日日日.."


def test_no_column_vanishes_in_a_tiny_terminal():
    lines = table(("ONE", "TWO"), [("a" * 30, "b" * 30)], width=1).splitlines()
    assert lines[1] == "aaaaaa..  bbbbbb.."


def test_pipe_gets_everything(capsys):
    assert table(("N",), [("x" * 500,)]).splitlines()[1] == "x" * 500


def test_control_characters_are_spelled_out():
    assert plain("a\x1b[2J\n\u202e\udcff é") == "a\\x1b[2J\\n\\u202e\\udcff é"
    assert "\n" not in table(("N",), [("a\nb",)], width=80).splitlines()[1]
    assert pairs([("name", "a\nb"), ("x", "")]) == "name  a\\nb\nx"


def test_moments_are_rfc_3339_in_utc():
    at = datetime(2026, 11, 23, 1, 2, 3, 999999, tzinfo=timezone(timedelta(hours=2)))
    assert moment(at) == "2026-11-22T23:02:03Z"
    assert day_and_time(at, "never") == "2026-11-22 23:02Z"
    assert moment(None) is None
    assert day_and_time(None, "never") == "never"


@pytest.mark.parametrize("year", [1970, 2026, 9999])
def test_moments_have_four_digit_years(year):
    assert moment(datetime(year, 1, 1, tzinfo=UTC)) == f"{year}-01-01T00:00:00Z"


def test_document_is_ascii():
    assert document({"name": "Café"}).isascii()
