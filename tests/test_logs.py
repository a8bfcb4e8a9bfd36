from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest
from hypothesis import given, strategies as st

from proxy.logs import TALKATIVE, Line
from proxy.outlet import Outlet, configure

logger = logging.getLogger("gatepost.test")


class Stderr:
    """What was written to standard error so far."""

    def __init__(self, capture: pytest.CaptureFixture[str]) -> None:
        self._capture = capture
        self._text = ""

    def getvalue(self) -> str:
        self._text += self._capture.readouterr().err
        return self._text


@pytest.fixture
def stderr(capfd: pytest.CaptureFixture[str]) -> Iterator[Stderr]:
    """What configure() changes is put back."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    levels = {name: logging.getLogger(name).level for name in TALKATIVE}
    # One that another test left may have a thread, and would be kept.
    root.handlers[:] = [one for one in handlers if not isinstance(one, Outlet)]
    yield Stderr(capfd)
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, before in levels.items():
        logging.getLogger(name).setLevel(before)


def test_a_text_line_is_a_time_a_level_and_key_value_pairs(stderr: Stderr) -> None:
    configure("info", "text")
    logger.info("%s", Line("login", user="ann@x.test", result="ok", ms=41, cause=None, detail="two words", tls=True))
    moment, _, rest = stderr.getvalue().partition(" ")
    assert moment.endswith("Z")
    assert rest == 'info event=login user=ann@x.test result=ok ms=41 detail="two words" tls=true\n'


def test_a_json_line_has_the_fields_themselves(stderr: Stderr) -> None:
    configure("info", "json")
    logger.warning("%s", Line("login", user="ann@x.test", ms=41, tls=True, cause=None))
    entry = json.loads(stderr.getvalue())
    assert entry.pop("time").endswith("Z")
    assert entry == {
        "level": "warning", "logger": "gatepost.test",
        "event": "login", "user": "ann@x.test", "ms": 41, "tls": True, "cause": None,
    }  # fmt: skip


def test_a_json_line_without_an_event_is_a_message(stderr: Stderr) -> None:
    configure("info", "json")
    logger.info("event=%s", "plain")
    assert json.loads(stderr.getvalue())["message"] == "event=plain"


@given(st.text())
def test_no_value_makes_a_line_or_a_field_of_its_own(value: str) -> None:
    text = str(Line("login", user=value, result="refused"))
    assert text.isprintable()
    assert text.startswith("event=login user=")
    assert text.endswith(" result=refused")
    shown = text.removeprefix("event=login user=").removesuffix(" result=refused")
    assert (json.loads(shown) if shown.startswith('"') else shown) == value
    assert shown.startswith('"') or not set(shown) & set(' ="')


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_traceback_is_logged_whole(stderr: Stderr, form: str) -> None:
    configure("info", form)  # type: ignore[arg-type]
    try:
        raise ZeroDivisionError("boom")
    except ZeroDivisionError:
        logger.exception("%s", Line("crashed"))
    assert "boom" in stderr.getvalue()
    assert "test_a_traceback_is_logged_whole" in stderr.getvalue()
    if form == "json":
        assert len(stderr.getvalue().splitlines()) == 1


def test_the_journal_files_every_line_of_a_traceback_under_its_priority(stderr: Stderr) -> None:
    configure("debug", "text", journal="stderr")
    try:
        raise ZeroDivisionError("boom")
    except ZeroDivisionError:
        logger.exception("%s", Line("crashed"))
    assert {line[:3] for line in stderr.getvalue().splitlines()} == {"<3>"}
    for level, prefix in ((logging.WARNING, "<4>"), (logging.INFO, "<6>"), (logging.DEBUG, "<7>")):
        logger.log(level, "%s", Line("one"))
        assert stderr.getvalue().splitlines()[-1].startswith(prefix)


def test_the_journal_files_json_under_its_priority_too(stderr: Stderr) -> None:
    configure("info", "json", journal="stderr")
    logging.getLogger("gatepost").error("%s", Line("broken"))
    line = stderr.getvalue()
    assert line.startswith("<3>{")
    assert json.loads(line[3:])["event"] == "broken"


@pytest.mark.parametrize("name", [*TALKATIVE, "aioimaplib.aioimaplib", "httpcore2.http11", "sqlalchemy.engine.Engine"])
def test_no_library_s_debug_gets_out_whatever_its_level(
    stderr: Stderr, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure("debug", "text")
    library = logging.getLogger(name)
    # What a server of another test hung on it.
    monkeypatch.setattr(library, "handlers", [])
    monkeypatch.setattr(library, "propagate", True)
    before = library.level
    library.setLevel(logging.DEBUG)
    try:
        library.debug("AUTHENTICATE XOAUTH2 hunter2")
        library.info("hunter2")
        library.warning("what needs a human")
    finally:
        library.setLevel(before)
    assert "hunter2" not in stderr.getvalue()
    # Two say nothing at any level once the modules that use them are loaded: their warnings quote the client.
    is_muted = name.partition(".")[0] in ("mail", "aioimaplib")
    assert is_muted or "what needs a human" in stderr.getvalue()


def test_our_own_debug_is_heard_at_debug_alone(stderr: Stderr) -> None:
    configure("info", "text")
    logger.debug("%s", Line("hidden"))
    configure("debug", "text")
    logger.debug("%s", Line("heard"))
    assert "hidden" not in stderr.getvalue()
    assert stderr.getvalue().count("heard") == 1  # configured twice, written once


def test_a_line_that_nobody_reads_is_never_rendered(stderr: Stderr) -> None:
    class Untouchable(str):
        __slots__ = ()

        def __str__(self) -> str:
            raise AssertionError("rendered")

    configure("warning", "text")
    logger.info("%s", Line("login", user=Untouchable("x")))
