"""The SMTP front up to AUTH, on a connection in memory: whole and byte by byte."""

from __future__ import annotations

import asyncio
import re

import pytest

from proxy.config import Tls
from proxy.edge import smtp_answers as say
from proxy.edge.smtp import MAX_ERRORS, SmtpFront
from proxy.errors import Answer, Refusal
from tests.edge.smtp_front_kit import Client, Visit, Wire, soon, tls_contexts


@pytest.fixture(params=[False, True], ids=["whole", "bytewise"])
def meet(request):
    async def make(visit: Visit, *, secured: bool = False, ehlo: bool = True) -> Client:
        client = Client(visit, bytewise=request.param, secured=secured)
        assert await client.answer() == "220 gate.example ESMTP Gatepost"
        if ehlo:
            await client.ask("EHLO client.example")
        return client

    return make


@pytest.fixture
def tls_context():
    return tls_contexts()[0]


async def test_ehlo_offers_what_holds_before_and_after_the_login(meet):
    extensions = ("SIZE 1000000", "PIPELINING", "auth XOAUTH2", "AUTH=LOGIN", "STARTTLS", "pipelining", "CHUNKING")
    client = await meet(Visit(extensions=extensions), ehlo=False)
    assert (await client.ask("EHLO client.example")).splitlines() == [
        "250-gate.example",
        "250-ENHANCEDSTATUSCODES",
        "250-AUTH PLAIN LOGIN",
        "250-AUTH=PLAIN LOGIN",
        "250-SIZE 1000000",
        "250-PIPELINING",
        "250 CHUNKING",
    ]


@pytest.mark.parametrize("extension", ["8BITMIME\r\n250 EVIL", "", " SIZE", "SIZE\t1", "S\u00edZE 1", "X\0"])
async def test_ehlo_leaves_out_what_is_not_an_ehlo_keyword(meet, extension):
    client = await meet(Visit(extensions=(extension,)), ehlo=False)
    assert (await client.ask("EHLO x")).splitlines()[-1] == "250 AUTH=PLAIN LOGIN"


async def test_before_tls_ehlo_offers_starttls_and_no_auth(meet, tls_context):
    client = await meet(Visit(Tls.STARTTLS, tls_context=tls_context), ehlo=False)
    assert (await client.ask("EHLO x")).splitlines() == [
        "250-gate.example",
        "250-ENHANCEDSTATUSCODES",
        "250 STARTTLS",
    ]


async def test_under_implicit_tls_ehlo_offers_auth_and_no_starttls(meet, tls_context):
    client = await meet(Visit(Tls.IMPLICIT, tls_context=tls_context), secured=True, ehlo=False)
    offer = await client.ask("EHLO x")
    assert "STARTTLS" not in offer
    assert "AUTH PLAIN LOGIN" in offer


async def test_a_listener_without_tls_never_offers_starttls_whatever_the_house_has(meet, tls_context):
    client = await meet(Visit(Tls.NONE, tls_context=tls_context), ehlo=False)
    assert "STARTTLS" not in await client.ask("EHLO x")
    assert await client.ask("STARTTLS") == say.NO_TLS


async def test_a_missing_context_is_not_offered(meet):
    client = await meet(Visit(Tls.STARTTLS), ehlo=False)
    assert await client.ask("EHLO x") == "250-gate.example\n250 ENHANCEDSTATUSCODES"
    assert await client.ask("STARTTLS") == say.NO_TLS


async def test_starttls_takes_no_argument(meet, tls_context):
    client = await meet(Visit(Tls.STARTTLS, tls_context=tls_context))
    assert (await client.ask("STARTTLS foo")).startswith("501 5.5.4 ")


async def test_starttls_inside_tls_is_out_of_sequence(meet, tls_context):
    client = await meet(Visit(Tls.IMPLICIT, tls_context=tls_context), secured=True)
    assert (await client.ask("STARTTLS")).startswith("503 5.5.1 ")


OTHERS = ["MAIL FROM:<a@b.example>", "RCPT TO:<a@b.example>", "DATA", "BDAT 5", "VRFY ann", "EXPN list", "HELP",
          "LHLO x", "ETRN x", "cGFzc3dvcmQ=", "mail", "GET / HTTP/1.1"]  # fmt: skip


@pytest.mark.parametrize("command", [*OTHERS, "AUTH PLAIN AHgAeA=="])
async def test_without_tls_everything_else_needs_tls_first(meet, command):
    visit = Visit(Tls.STARTTLS)
    client = await meet(visit)
    assert (await client.ask(command)).startswith("530 5.7.0 Must issue a STARTTLS")
    assert visit.attempts == []


@pytest.mark.parametrize("command", [*OTHERS, "AUTH PLAIN AHgAeA=="])
async def test_without_ehlo_everything_else_needs_ehlo_first(meet, command):
    visit = Visit()
    client = await meet(visit, ehlo=False)
    assert (await client.ask(command)).startswith("503 5.5.1 ")
    assert visit.attempts == []


@pytest.mark.parametrize("command", OTHERS)
async def test_without_auth_everything_else_needs_auth_first(meet, command):
    client = await meet(Visit())
    assert await client.ask(command) == "530 5.7.0 Authentication required"


@pytest.mark.parametrize("tls", [Tls.STARTTLS, Tls.NONE])
async def test_harmless_commands_need_nothing(meet, tls):
    client = await meet(Visit(tls), ehlo=False)
    assert await client.ask("NOOP") == "250 2.0.0 OK"
    assert await client.ask("noop anything") == "250 2.0.0 OK"
    assert await client.ask("RSET") == "250 2.0.0 OK"
    assert await client.ask("HELO client.example") == "250 gate.example"
    assert await client.ask("QUIT") == "221 2.0.0 Goodbye"
    assert await client.is_closed()
    assert client.visit.reasons == ["quit"]


async def test_helo_suffices_for_the_order_but_not_for_auth(meet):
    client = await meet(Visit(), ehlo=False)
    await client.ask("HELO client.example")
    assert (await client.ask("MAIL FROM:<>")).startswith("530 5.7.0 ")
    assert (await client.ask("AUTH PLAIN AHgAeA==")).startswith("503 5.5.1 ")


@pytest.mark.parametrize(
    "command", ["EHLO", "HELO", "EHLO  ", "RSET x", "QUIT x", "AUTH", "AUTH PLAIN a b", "STARTTLS x"]
)
async def test_wrong_arguments_are_told_as_such(meet, command):
    client = await meet(Visit())
    assert (await client.ask(command)).startswith("501 5.5.4 ")


@pytest.mark.parametrize("line", [b"", b"\xff\xfe", b"\0", b"N\xc3\xb6OP"])
async def test_lines_that_are_no_command_get_an_answer(meet, line):
    client = await meet(Visit())
    assert re.match(r"5[03]0 5\.", await client.ask(line))
    assert await client.ask("NOOP") == "250 2.0.0 OK"


async def test_every_answer_has_an_enhanced_code_as_offered(meet):
    client = await meet(Visit(script=tuple(Refusal)))
    commands = ["NOOP", "RSET", "", "EHLO", "HELO", "QUIT x", "RSET x", "MAIL", "X", "AUTH", "AUTH X", "AUTH PLAIN x"]
    for command in [*commands, "AUTH PLAIN =", "NOOP", "QUIT"]:
        assert re.match(r"([245])\d\d \1\.\d\.\d+ ", await client.ask(command)), command
    for answer in say.ANSWERS.values():
        assert re.match(r"([45])\d\d \1\.\d\.\d+ ", answer)


async def test_no_answer_repeats_what_was_sent(meet):
    client = await meet(Visit())
    for command in ("MARK", "VRFY mark", "HELP mark", "AUTH mark", "RSET mark", "MARK mark", "EHLO mark", "HELO mark"):
        assert "mark" not in (await client.ask(command)).lower()


async def test_pipelined_commands_are_answered_in_order(meet):
    visit = Visit(script=(Refusal.WRONG_PASSWORD,))
    client = await meet(visit, ehlo=False)
    await client.send("EHLO x\r\nAUTH PLAIN AGEAYg==\r\nMAIL FROM:<a@b>\r\nRCPT TO:<a@b>\r\nDATA\r\nQUIT\r\n")
    answers = [(await client.answer())[-40:][:9] if n == 0 else (await client.answer())[:9] for n in range(6)]
    assert answers[1:] == ["535 5.7.8", "530 5.7.0", "530 5.7.0", "530 5.7.0", "221 2.0.0"]
    assert await client.is_closed()
    assert visit.relayed == []


async def test_what_is_pipelined_behind_quit_is_not_heard(meet):
    visit = Visit()
    client = await meet(visit)
    await client.send("QUIT\r\nAUTH PLAIN AGEAYg==\r\nNOOP\r\n")
    assert await client.answer() == "221 2.0.0 Goodbye"
    assert await client.is_closed()
    assert client.wire.said == b""
    assert visit.attempts == []


async def test_a_long_pipeline_leaves_the_loop_to_others():
    client = Client(Visit())
    await client.answer()
    client.front.data_received(b"NOOP\r\n" * 5_000)
    turn = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(turn.set_result, None)
    await turn
    assert client.wire.said.count(b"\r\n") < 10
    client.front.data_received(b"QUIT\r\n")
    assert await client.is_closed()
    assert client.wire.said.count(b"250 2.0.0 OK\r\n") == 5_000


async def test_a_bare_line_feed_ends_a_command(meet):
    client = await meet(Visit())
    await client.send(b"NOOP\nNOOP\r\n")
    assert [await client.answer(), await client.answer()] == ["250 2.0.0 OK", "250 2.0.0 OK"]


async def test_a_client_that_only_errs_is_closed(meet):
    client = await meet(Visit())
    for _ in range(MAX_ERRORS):
        assert (await client.ask("MAIL")).startswith("530 ")
    assert await client.ask("MAIL") == say.TOO_MANY_ERRORS
    assert await client.is_closed()
    assert client.visit.reasons == ["too_many_errors"]


@pytest.mark.parametrize("refusal", [Refusal.CONNECTION_CAP, Refusal.SHUTTING_DOWN])
async def test_a_refused_connection_is_greeted_with_421(refusal):
    client = Client(Visit(refusing=refusal))
    assert (await client.answer()).startswith("421 4.3.2 ")
    assert await client.is_closed()
    assert client.wire.said == b""


async def test_draining_says_421(meet):
    client = await meet(Visit())
    client.front.close(Answer.CLOSING)
    client.front.close(Answer.CLOSING)
    assert (await client.answer()).startswith("421 4.3.2 ")
    assert await client.is_closed()
    assert client.wire.said == b""
    assert client.visit.reasons == ["closing"]


async def test_draining_in_an_auth_dialogue_says_421(meet):
    client = await meet(Visit())
    assert await client.ask("AUTH PLAIN") == "334 "
    client.front.close(Answer.CLOSING)
    assert (await client.answer()).startswith("421 4.3.2 ")
    assert await client.is_closed()
    assert client.visit.attempts == []


async def test_draining_before_the_connection_is_made_greets_with_421():
    visit = Visit(Tls.IMPLICIT)
    front = SmtpFront(visit, asyncio.get_running_loop())
    front.close(Answer.CLOSING)
    wire = Wire(front, secured=True)
    front.connection_made(wire)
    await soon(visit.over.wait())
    assert bytes(wire.said).startswith(b"421 4.3.2 ")


async def test_the_deadline_counts_from_the_accept_and_no_command_moves_it(meet):
    client = await meet(Visit(age_s=59.0))
    assert await client.ask("NOOP") == "250 2.0.0 OK"
    assert (await client.answer()).startswith("421 4.4.2 ")
    assert await client.is_closed()
    assert client.visit.reasons == ["deadline"]


async def test_the_deadline_ends_an_unfinished_line():
    client = Client(Visit(age_s=59.0))
    await client.answer()
    await client.send("NOO")
    assert (await client.answer()).startswith("421 4.4.2 ")
    assert await client.is_closed()


async def test_a_client_that_reads_nothing_is_not_read_from_and_ends_at_the_deadline():
    visit = Visit(age_s=59.0)
    client = Client(visit)
    client.front.pause_writing()
    await client.send("NOOP\r\n" * 10)
    await soon(visit.over.wait())
    assert bytes(client.wire.said).count(b"250") == 0
    assert visit.reasons == ["deadline"]


async def test_hanging_up_ends_the_visit(meet):
    client = await meet(Visit())
    client.wire.hang_up()
    assert await client.is_closed()
    assert client.visit.reasons == ["closed_by_client"]


async def test_a_reset_ends_the_visit(meet):
    client = await meet(Visit())
    client.wire.lose(ConnectionResetError())
    assert await client.is_closed()
    assert client.visit.reasons == ["closed_by_client"]


async def test_an_end_before_the_greeting_is_an_end():
    client = Client(Visit())
    client.wire.lose()
    assert await client.is_closed()
    assert client.wire.said == b""
