"""What SmtpFront relies on in aiosmtpd, and each fault it works around.

A fault that is gone fails its test here: then the override named in it can go too. A private name that is gone fails
as well, and the front must be read again before the version bound is raised.
"""

from __future__ import annotations

import asyncio
import gc
import importlib.metadata
import inspect
import logging
import socket

import pytest
from aiosmtpd import smtp as aiosmtpd_smtp
from aiosmtpd.smtp import SMTP

from proxy.edge.smtp import SmtpFront
from tests.edge.smtp_front_kit import PLAIN, Client, Visit, Wire, soon


class Plain:
    """aiosmtpd as it comes, with everything allowed, on a connection in memory."""

    def __init__(self, *, secured: bool = False, **keywords) -> None:
        keywords.setdefault("auth_require_tls", False)
        self.smtp = SMTP(None, hostname="x", loop=asyncio.get_running_loop(), **keywords)
        self.wire = Wire(self.smtp, secured=secured)
        self.smtp.connection_made(self.wire)

    async def answers(self, data: bytes, count: int = 1) -> list[str]:
        """What is said to this, behind greeting and EHLO."""
        self.wire.said.clear()
        self.smtp.data_received(data)
        while self.wire.said.count(b"\r\n") < count:
            self.wire.news.clear()
            await soon(self.wire.news.wait())
        return self.wire.said.decode().splitlines()

    async def end(self) -> None:
        self.wire.close()
        await soon(self.wire.lost.wait())
        await soon(asyncio.wait([self.smtp._handler_coroutine]))


@pytest.fixture
async def plain():
    server = Plain()
    await server.answers(b"", 1)
    await server.answers(b"EHLO x\r\n", 5)
    yield server
    await server.end()


@pytest.fixture
def mail_log():
    """Records of aiosmtpd's logger, seen before our filter drops them."""
    logger = logging.getLogger("mail.log")
    lines: list[str] = []

    def look(record: logging.LogRecord) -> bool:
        lines.append(record.getMessage())
        return True

    level = logger.level
    logger.setLevel(logging.DEBUG)
    logger.filters.insert(0, look)
    yield lines
    logger.filters.remove(look)
    logger.setLevel(level)


def test_the_version_is_one_that_was_read():
    assert importlib.metadata.version("aiosmtpd").split(".")[:2] == ["1", "4"]


def test_the_private_names_that_the_front_overrides_are_there():
    for name in ("_handle_client", "_reset_timeout", "_timeout_cb", "_set_rset_state", "_create_session"):
        assert callable(getattr(SMTP, name)), name
    for name in ("push", "handle_exception", "smtp_EHLO", "smtp_STARTTLS", "smtp_AUTH", "command_size_limits"):
        assert hasattr(SMTP, name), name


async def test_the_private_attributes_that_the_front_sets_are_used():
    source = inspect.getsource(SMTP)
    for name in ("_reader.readuntil()", "_writer.close()", "_smtp_methods.get(command)", "_timeout_handle.cancel()"):
        assert f"self.{name}" in source, name
    for text in (
        "while self.transport is not None",
        "_handler_coroutine.cancel()",
        "self.command_size_limits[command]",
    ):
        assert text in source, text


def test_the_loop_asks_its_reader_for_nothing_that_lines_lack():
    source = inspect.getsource(SMTP._handle_client)
    assert source.count("self._reader.") == source.count("self._reader.readuntil()") + source.count(
        "self._reader.read(e"
    )  # the last only after LimitOverrunError, which Lines never raises


async def test_the_sentences_that_are_reworded_are_still_said(plain):
    assert await plain.answers(b"NOOP\r\n") == ["250 OK"]
    assert await plain.answers(b"RSET\r\n") == ["250 OK"]
    assert await plain.answers(b"RSET x\r\n") == ["501 Syntax: RSET"]
    assert await plain.answers(b"QUIT x\r\n") == ["501 Syntax: QUIT"]
    assert await plain.answers(b"HELO\r\n") == ["501 Syntax: HELO hostname"]
    assert await plain.answers(b"\r\n") == ["500 Error: bad syntax"]
    assert await plain.answers(b"NOOP " + b"x" * 600 + b"\r\n") == ["500 Command line too long"]
    assert await plain.answers(b"QUIT\r\n") == ["221 Bye"]


async def test_fault_the_table_of_size_limits_is_shared_by_all_instances():
    """SmtpFront.__init__, SizeLimits (PR #58)."""
    SMTP.command_size_limits["MARK"] = 1
    SmtpFront(Visit(), asyncio.get_running_loop())
    assert SMTP.command_size_limits["MARK"] == 1
    SMTP(None, hostname="x", loop=asyncio.get_running_loop())
    assert "MARK" not in SMTP.command_size_limits


async def test_fault_the_table_of_size_limits_remembers_every_verb(plain):
    """SizeLimits: an over-long line with a new verb costs memory each time."""
    verb = b"V" * 600
    await plain.answers(verb + b"\r\n")
    assert verb.decode() in SMTP.command_size_limits
    client = Client(Visit())
    await client.answer()
    await client.ask("EHLO x")
    await client.ask(b"V" * 9_000)
    assert dict(client.front.command_size_limits) == {}


async def test_fault_the_host_name_is_asked_of_the_dns_unless_given(monkeypatch):
    """SmtpFront.__init__, hostname=."""

    def lookup(*_args):
        raise AssertionError("DNS")

    monkeypatch.setattr(socket, "getfqdn", lookup)
    SmtpFront(Visit(), asyncio.get_running_loop())
    with pytest.raises(AssertionError, match="DNS"):
        SMTP(None, loop=asyncio.get_running_loop())


async def test_fault_mechanisms_are_case_sensitive(plain):
    """smtp_AUTH (issue #305)."""
    assert (await plain.answers(f"AUTH plain {PLAIN}\r\n".encode()))[0].startswith("504 ")


async def test_fault_an_empty_initial_response_is_no_base64(plain):
    """smtp_AUTH."""
    assert (await plain.answers(b"AUTH PLAIN =\r\n"))[0].startswith("501 ")


async def test_fault_login_prompts_are_not_the_usual_ones(plain):
    """smtp_AUTH."""
    assert await plain.answers(b"AUTH LOGIN\r\n") != ["334 VXNlcm5hbWU6"]


async def test_fault_auth_lines_end_at_512_octets(plain):
    """smtp_AUTH, Lines: RFC 4954 4 wants 12,288."""
    assert await plain.answers(b"AUTH PLAIN " + b"A" * 600 + b"\r\n") == ["500 Command line too long"]


async def test_fault_implicit_tls_is_not_seen():
    """SmtpFront._is_secured (issue #281)."""
    server = Plain(secured=True, auth_require_tls=True)
    await server.answers(b"", 1)
    assert not any("AUTH" in line for line in await server.answers(b"EHLO x\r\n", 4))
    await server.end()


async def test_fault_the_text_of_an_exception_is_told_to_the_client(plain):
    """handle_exception."""

    async def broken(_arg):
        raise RuntimeError("mark-of-a-bug")

    plain.smtp._smtp_methods["NOOP"] = broken
    assert "mark-of-a-bug" in (await plain.answers(b"NOOP\r\n"))[0]


async def test_fault_what_a_client_sends_is_logged(plain, mail_log):
    """The filter on mail.log."""
    await plain.answers(b"mark-of-a-password\r\n")
    await plain.answers(b"AUTH LOGIN\r\n")
    await plain.answers(b"bWFyay1vZi1h!\r\n")
    assert any("mark-of-a-password" in line.lower() for line in mail_log)
    assert any("bWFyay1vZi1h" in line for line in mail_log)


def test_the_filter_on_its_logger_holds_at_every_level(caplog):
    logger = logging.getLogger("mail.log")
    assert aiosmtpd_smtp.log is logger
    with caplog.at_level(logging.DEBUG, logger="mail.log"):
        logger.critical("mark")
        logger.debug("mark")
    assert "mark" not in caplog.text


async def test_fault_the_timer_starts_anew_with_each_command(plain):
    """_reset_timeout: no deadline for the whole login."""
    before = plain.smtp._timeout_handle
    await plain.answers(b"NOOP\r\n")
    assert plain.smtp._timeout_handle is not before


async def test_fault_the_end_of_a_plain_connection_leaves_it_half_open(plain):
    """eof_received."""
    assert plain.smtp.eof_received() is True


async def test_fault_commands_behind_quit_are_executed(plain):
    """SmtpFront._finish, Lines.close."""
    plain.wire.write = plain.wire.said.extend
    plain.wire.said.clear()
    plain.smtp.data_received(b"QUIT\r\nNOOP\r\n")
    await soon(plain.wire.lost.wait())
    assert plain.wire.said == b"221 Bye\r\n250 OK\r\n"


async def test_fault_an_answer_repeats_what_was_sent(plain):
    """Verbs."""
    assert "MARK" in (await plain.answers(b"MARK\r\n"))[0]


async def test_fault_starttls_builds_its_own_protocol():
    """smtp_STARTTLS: asyncio's under uvloop too, with asyncio's own 60 s (issue #269)."""
    source = inspect.getsource(SMTP.smtp_STARTTLS)
    assert "sslproto.SSLProtocol(" in source
    assert "ssl_handshake_timeout" not in source


@pytest.mark.filterwarnings("ignore::ResourceWarning")
async def test_fault_a_stream_writer_that_is_collected_closes_its_transport():
    """connection_made: CPython 3.11.5 and later; aiosmtpd has such a writer, the front none."""
    protocol = asyncio.StreamReaderProtocol(asyncio.StreamReader())
    wire = Wire(protocol)
    writer = asyncio.StreamWriter(wire, protocol, None, asyncio.get_running_loop())
    del writer
    gc.collect()
    assert wire.is_closing()
    client = Client(Visit())
    await client.answer()
    assert not any(isinstance(value, asyncio.StreamWriter) for value in vars(client.front).values())


async def test_constructor_walks_all_members_for_each_connection():
    walks = []

    class Walked(SMTP):
        def __dir__(self):
            walks.append(None)
            return []

    Walked(None, hostname="x", loop=asyncio.get_running_loop())
    assert len(walks) == 2


async def test_front_shows_no_members_to_walk():
    front = SmtpFront(Visit(), asyncio.get_running_loop())
    assert dir(front) == []
    assert front._smtp_methods.get("EHLO") is not None
