"""What upstream_imap relies on in aioimaplib without its promise: a new version that changes it fails here."""

from __future__ import annotations

import asyncio
import inspect
import logging
import re

import pytest
from aioimaplib import aioimaplib
from aioimaplib.aioimaplib import AUTH, NONAUTH, Command, IMAP4ClientProtocol

import proxy.edge.upstream_imap  # noqa: F401  # hangs the filter on the logger
from proxy.edge.upstream_imap import ImapSession


class Session(IMAP4ClientProtocol):
    """The library as it is, but for its way out."""

    def __init__(self) -> None:
        super().__init__(asyncio.get_running_loop())
        self.state = NONAUTH
        self.sent: list[str] = []

    def send(self, line: str, scrub: str | None = None) -> None:
        self.sent.append(line)


def test_what_we_override_has_the_librarys_signature():
    theirs = inspect.signature(IMAP4ClientProtocol.send).parameters
    assert list(theirs) == list(inspect.signature(ImapSession.send).parameters) == ["self", "line", "scrub"]


async def test_our_names_do_not_hide_the_librarys():
    theirs = set(vars(Session())) | set(dir(IMAP4ClientProtocol))
    attributes = re.findall(r"^ +self\.(\w+)(?::.*)? = ", inspect.getsource(ImapSession.__init__), re.MULTILINE)
    methods = {name for name in vars(ImapSession) if not name.startswith("__")} - {"send"}  # the one override
    assert "_buffer" in attributes
    assert "log_in" in methods
    assert not theirs & (methods | set(attributes))


@pytest.mark.parametrize(
    ("state", "name", "args"),
    [
        (NONAUTH, "CAPABILITY", ()),
        (NONAUTH, "STARTTLS", ()),
        (NONAUTH, "AUTHENTICATE", ("XOAUTH2", "eA==")),
        (NONAUTH, "LOGIN", ('"a b"', '"c"')),
        (AUTH, "EXAMINE", ("INBOX",)),
    ],
)
@pytest.mark.parametrize("status", ["OK", "NO", "BAD"])
async def test_a_command_is_sent_in_one_turn_and_closed_by_its_tagged_line(state, name, args, status):
    session = Session()
    session.state = state
    tag = session.new_tag()
    command = Command(name, tag, *args, loop=session.loop)
    execution = asyncio.create_task(session.execute(command))
    await asyncio.sleep(0)
    assert session.sent == [" ".join([tag, name, *args])]
    session.data_received(b"* CAPABILITY x\r\n")
    assert command.response.result not in ("OK", "NO", "BAD")
    session.data_received(f"{tag} {status} \r\n".encode())
    assert command.response.result == status
    assert (await execution).result == status


async def test_tags_are_capitals_that_our_logout_cannot_meet():
    session = Session()
    tags = [session.new_tag() for _ in range(100)]
    assert len(set(tags)) == 100
    assert all(tag.rstrip("0123456789").strip("ABCDEFGHIJKLMNOP") == "" for tag in tags)


@pytest.mark.parametrize("bad", ["a\rb", "a\nb", "a\0b"])
async def test_an_argument_that_would_break_the_line_is_a_value_error(bad):
    with pytest.raises(ValueError, match="not allowed") as caught:
        Command("LOGIN", "A1", '"x"', bad)
    assert bad not in str(caught.value)


async def test_the_library_logs_under_the_name_that_we_silence(caplog):
    assert aioimaplib.log.name == "aioimaplib.aioimaplib"
    with caplog.at_level(logging.DEBUG):
        aioimaplib.log.setLevel(logging.DEBUG)
        try:
            session = Session()
            session.data_received(b"* unasked\r\n")
            aioimaplib.log.critical("anything at all")
        finally:
            aioimaplib.log.setLevel(logging.NOTSET)
    assert [record for record in caplog.records if record.name.startswith("aioimaplib")] == []


def test_the_library_has_no_other_loggers():
    source = inspect.getsource(aioimaplib)
    assert source.count("getLogger(") == 1
    assert "print(" not in source
