"""AUTH on the SMTP front: the dialogue, its limits, every answer, and the way into the relay."""

from __future__ import annotations

import asyncio
import logging
import weakref

import pytest

from proxy.config import Tls
from proxy.edge import smtp_answers as say
from proxy.edge.smtp import MAX_CLIENT_NAME
from proxy.edge.smtp_verbs import MAX_COMMAND_BYTES
from proxy.errors import Answer, Refusal
from proxy.wire.sasl import MAX_SASL_BYTES
from tests.edge.smtp_front_kit import PASSWORD, PLAIN, Client, Door, Visit, b64, soon

ANN = ("ann@example.org", PASSWORD, "")
USER = b64("ann@example.org")


@pytest.fixture(params=[False, True], ids=["whole", "bytewise"])
def meet(request):
    async def make(visit: Visit, *, secured: bool = False, name: str = "client.example") -> Client:
        client = Client(visit, bytewise=request.param, secured=secured)
        await client.answer()
        await client.ask(f"EHLO {name}")
        return client

    return make


DIALOGUES = {
    "initial response": [(f"AUTH PLAIN {PLAIN}", "235 2.7.0")],
    "lower case": [(f"auth plain {PLAIN}", "235 2.7.0")],
    "mixed case and spaces": [(f"Auth  pLaIn   {PLAIN}  ", "235 2.7.0")],
    "prompted": [("AUTH PLAIN", "334 "), (PLAIN, "235 2.7.0")],
    "verb of old": [(f"AUTH=PLAIN {PLAIN}", "235 2.7.0")],
    "verb of old, prompted": [
        ("auth=login", "334 VXNlcm5hbWU6"),
        (USER, "334 UGFzc3dvcmQ6"),
        (b64(PASSWORD), "235 2.7.0"),
    ],
    "login": [("AUTH LOGIN", "334 VXNlcm5hbWU6"), (USER, "334 UGFzc3dvcmQ6"), (b64(PASSWORD), "235 2.7.0")],
    "login lower case": [("auth login", "334 VXNlcm5hbWU6"), (USER, "334 UGFzc3dvcmQ6"), (b64(PASSWORD), "235 2.7.0")],
    "login with user": [(f"AUTH LOGIN {USER}", "334 UGFzc3dvcmQ6"), (b64(PASSWORD), "235 2.7.0")],
}


@pytest.mark.parametrize("dialogue", DIALOGUES.values(), ids=DIALOGUES)
@pytest.mark.parametrize(("tls", "secured"), [(Tls.NONE, False), (Tls.IMPLICIT, True)])
async def test_the_dialogues_that_clients_hold_lead_in(meet, dialogue, tls, secured):
    visit = Visit(tls)
    client = await meet(visit, secured=secured)
    for said, answer in dialogue:
        heard = await client.ask(said)
        assert heard == answer or (answer.startswith("235") and heard.startswith(answer + " "))
    assert visit.attempts == [ANN]
    assert visit.mechanisms[0] in ("PLAIN", "LOGIN")
    assert len(visit.relayed) == 1
    assert visit.reasons == []


async def test_an_empty_initial_response_is_refused_like_a_wrong_password(meet):
    visit = Visit(script=(Refusal.MALFORMED_CREDENTIALS,))
    client = await meet(visit)
    assert await client.ask("AUTH PLAIN =") == say.ANSWERS[Answer.CREDENTIALS]
    assert visit.attempts == [None]


@pytest.mark.parametrize("raw", [b"", b"a", b"a\0b", b"a\0b\0c\0d", b"\0\0secret", b"\0ann\0", b"\0ann\0\xff"])
async def test_malformed_credentials_go_the_way_of_wrong_ones(meet, raw):
    visit = Visit(script=(Refusal.MALFORMED_CREDENTIALS,))
    client = await meet(visit)
    await client.ask("AUTH PLAIN")
    assert await client.ask(b64(raw)) == say.ANSWERS[Answer.CREDENTIALS]
    assert visit.attempts == [None]


async def test_an_authzid_goes_to_the_login(meet):
    visit = Visit()
    client = await meet(visit)
    await client.ask(f"AUTH PLAIN {b64('bob' + chr(0) + 'ann' + chr(0) + 'pw')}")
    assert visit.attempts == [("ann", "pw", "bob")]


CUT_SHORT = {
    "cancelled": (["AUTH PLAIN", "*"], "501 5.7.0"),
    "cancelled at the password": (["AUTH LOGIN", USER, "*"], "501 5.7.0"),
    "invalid base64": (["AUTH PLAIN", "!!!!"], "501 5.5.2"),
    "invalid base64 at the password": ([f"AUTH LOGIN {USER}", "abc"], "501 5.5.2"),
    "invalid initial response": (["AUTH PLAIN abc"], "501 5.5.2"),
    "initial response that is not ASCII": (["AUTH PLAIN \u00e4\u00e4\u00e4\u00e4"], "501 5.5.2"),
    "star as initial response": (["AUTH PLAIN *"], "501 5.5.2"),
    "unknown mechanism": (["AUTH CRAM-MD5"], "504 5.5.4"),
    "mechanism that is not ASCII": (["AUTH PL\u00c4IN"], "504 5.5.4"),
    "mechanism for upstreams only": ([f"AUTH XOAUTH2 {PLAIN}"], "504 5.5.4"),
    "long response": (["AUTH PLAIN", "A" * (MAX_SASL_BYTES + 1)], "500 5.5.6"),
    "very long response": (["AUTH PLAIN", "A" * 3 * MAX_SASL_BYTES], "500 5.5.6"),
    "long command": (["AUTH PLAIN " + "A" * (MAX_SASL_BYTES - 10)], "500 5.5.6"),
    "very long command": (["auth plain " + "A" * 3 * MAX_SASL_BYTES], "500 5.5.6"),
}


@pytest.mark.parametrize(("dialogue", "code"), CUT_SHORT.values(), ids=CUT_SHORT)
async def test_a_dialogue_that_fails_leaves_the_connection_usable(meet, dialogue, code):
    visit = Visit()
    client = await meet(visit)
    for said in dialogue[:-1]:
        assert (await client.ask(said)).startswith("334 ")
    assert (await client.ask(dialogue[-1])).startswith(code + " ")
    assert visit.attempts == []
    assert (await client.ask(f"AUTH PLAIN {PLAIN}")).startswith("235 ")
    assert visit.attempts == [ANN]


async def test_a_response_of_the_longest_length_is_heard(meet):
    visit = Visit()
    client = await meet(visit)
    password = "x" * (MAX_SASL_BYTES // 4 * 3 - 2 - len("ann"))
    response = b64(f"\0ann\0{password}")
    assert len(response) == MAX_SASL_BYTES
    await client.ask("AUTH PLAIN")
    assert (await client.ask(response)).startswith("235 ")
    assert visit.attempts == [("ann", password, "")]


async def test_an_initial_response_of_the_longest_length_is_heard(meet):
    visit = Visit()
    client = await meet(visit)
    password = "x" * (MAX_SASL_BYTES // 4 * 3 - 9 - 2 - len("ann"))
    command = f"AUTH PLAIN {b64(chr(0) + 'ann' + chr(0) + password)}"
    assert MAX_SASL_BYTES - 4 < len(command) <= MAX_SASL_BYTES
    assert (await client.ask(command)).startswith("235 ")
    assert visit.attempts == [("ann", password, "")]


async def test_a_command_of_the_longest_length_is_heard_and_a_longer_one_is_not(meet):
    client = await meet(Visit())
    assert (await client.ask("NOOP " + "x" * (MAX_COMMAND_BYTES - 5))).startswith("250 ")
    assert (await client.ask("NOOP " + "x" * (MAX_COMMAND_BYTES - 4))).startswith("500 5.5.2 ")
    assert (await client.ask("NOOP" + " " * 2 * MAX_SASL_BYTES)).startswith("500 5.5.2 ")
    assert (await client.ask("NOOP" + "\r" * 2 * MAX_SASL_BYTES)).startswith("500 5.5.2 ")
    assert (await client.ask("NOOP")).startswith("250 ")


async def test_a_long_command_before_ehlo_is_told_so(meet):
    client = Client(Visit())
    await client.answer()
    assert (await client.ask("EHLO " + "x" * MAX_COMMAND_BYTES)).startswith("500 5.5.2 ")


async def test_before_ehlo_auth_is_out_of_sequence():
    visit = Visit()
    client = Client(visit)
    await client.answer()
    assert (await client.ask(f"AUTH PLAIN {PLAIN}")).startswith("503 5.5.1 ")
    assert visit.attempts == []


async def test_in_clear_where_tls_is_due_the_password_is_not_looked_at(meet):
    visit = Visit(Tls.STARTTLS)
    client = await meet(visit)
    assert (await client.ask(f"AUTH PLAIN {PLAIN}")).startswith("530 5.7.0 ")
    assert (await client.ask("AUTH LOGIN")).startswith("530 5.7.0 ")
    assert (await client.ask(f"AUTH=PLAIN {PLAIN}")).startswith("530 5.7.0 ")
    assert visit.attempts == []
    assert len(visit.in_clear) == 3


async def test_in_clear_a_command_that_is_no_login_is_told_as_none(meet):
    visit = Visit(Tls.STARTTLS)
    client = await meet(visit)
    assert (await client.ask("MAIL FROM:<a@example.org>")).startswith("530 5.7.0 ")
    assert visit.in_clear == []


ONCE = [refusal for refusal in Refusal if refusal.answer is not Answer.CLOSING]


@pytest.mark.parametrize("refusal", ONCE, ids=lambda refusal: refusal.value)
async def test_each_refusal_has_its_answer_and_no_other(refusal):
    client = Client(Visit(script=(refusal,)))
    await client.answer()
    await client.ask("EHLO x")
    heard = await client.ask(f"AUTH PLAIN {PLAIN}")
    codes = {Answer.CREDENTIALS: "535 5.7.8", Answer.AUTHORIZATION: "535 5.7.8", Answer.PRIVACY: "530 5.7.0"}
    assert heard.startswith(codes.get(refusal.answer, "454 4.7.0") + " ")
    assert heard == say.ANSWERS[refusal.answer]
    assert (await client.ask("NOOP")).startswith("250 ")


def test_temporary_refusals_differ_in_their_words():
    temporary = [text for text in say.ANSWERS.values() if text.startswith("454")]
    assert len(set(temporary)) == len(temporary) == 4
    assert "SMTP AUTH" in say.ANSWERS[Answer.PROTOCOL_OFF]


def test_every_answer_has_its_sentence():
    assert set(say.ANSWERS) == set(Answer)


async def test_the_third_failure_closes(meet):
    visit = Visit(script=(Refusal.WRONG_PASSWORD, Refusal.WRONG_AUTHZID, Refusal.UNKNOWN_USER))
    client = await meet(visit)
    assert (await client.ask(f"AUTH PLAIN {PLAIN}")).startswith("535 5.7.8 ")
    assert (await client.ask(f"AUTH PLAIN {PLAIN}")).startswith("535 5.7.8 ")
    await client.send(f"AUTH PLAIN {PLAIN}\r\nAUTH PLAIN {PLAIN}\r\n")
    assert (await client.answer()).startswith("421 4.7.0 ")
    assert await client.is_closed()
    assert client.wire.said == b""
    assert len(visit.attempts) == 3
    assert visit.reasons == ["too_many_failures"]


async def test_what_is_not_the_clients_fault_does_not_count(meet):
    refusals = (Refusal.STORE_DOWN, Refusal.THROTTLED, Refusal.NEEDS_CONSENT, Refusal.UPSTREAM_PROTOCOL_OFF)
    client = await meet(Visit(script=(Refusal.WRONG_PASSWORD, *refusals, Refusal.WRONG_PASSWORD)))
    for code in ("535", "454", "454", "454", "454", "535", "235"):
        assert (await client.ask(f"AUTH PLAIN {PLAIN}")).startswith(code + " ")


async def test_ehlo_does_not_forget_failures(meet):
    client = await meet(Visit(script=(Refusal.WRONG_PASSWORD,) * 3))
    for code in ("535", "535", "421"):
        await client.ask("EHLO again")
        assert (await client.ask(f"AUTH PLAIN {PLAIN}")).startswith(code + " ")


async def test_shutting_down_in_a_login_closes(meet):
    client = await meet(Visit(script=(Refusal.SHUTTING_DOWN,)))
    assert (await client.ask(f"AUTH PLAIN {PLAIN}")).startswith("421 4.3.2 ")
    assert await client.is_closed()


@pytest.mark.parametrize(
    ("said", "noted"),
    [("scanner-3.lan", "scanner-3.lan"), ("[192.0.2.7]", "[192.0.2.7]"), ("a\x1b[2J\u202eb", "a[2Jb")],
)
async def test_the_ehlo_name_is_the_clients(meet, said, noted):
    visit = Visit()
    client = await meet(visit, name=said)
    await client.ask(f"AUTH PLAIN {PLAIN}")
    assert visit.clients == [noted]


async def test_a_long_client_name_is_cut(meet):
    visit = Visit()
    client = await meet(visit, name="x" * 5000)
    await client.ask(f"AUTH PLAIN {PLAIN}")
    assert visit.clients == ["x" * MAX_CLIENT_NAME]


async def test_bytes_that_are_no_text_are_no_part_of_the_client_name(meet):
    visit = Visit()
    client = await meet(visit, name="x")
    await client.ask(b"EHLO a\xff\xfeb")
    await client.ask(f"AUTH PLAIN {PLAIN}")
    assert visit.clients == ["ab"]


async def test_after_success_everything_behind_auth_is_left_over_and_the_timer_is_off(meet):
    visit = Visit()
    client = Client(visit)
    await client.answer()
    await client.send(f"EHLO x\r\nAUTH PLAIN {PLAIN}\r\nMAIL FROM:<a@b>\r\nRSET\n\0\xff tail")
    await client.answer()
    assert (await client.answer()).startswith("235 2.7.0 ")
    transport, _, leftover = visit.relayed[0]
    assert leftover == "MAIL FROM:<a@b>\r\nRSET\n\0\xff tail".encode()
    assert transport is client.wire
    assert not client.wire.readable.is_set()
    assert client.front._timeout_handle.cancelled()
    assert client.wire.said == b""


async def test_after_success_the_front_neither_speaks_nor_closes():
    visit = Visit()
    client = Client(visit)
    await client.answer()
    await client.ask("EHLO x")
    await client.ask(f"AUTH PLAIN {PLAIN}")
    client.front.close(Answer.CLOSING)
    client.front._timeout_cb()
    client.front.data_received(b"NOOP\r\n")
    await soon(asyncio.wait([client.front._handler_coroutine]))
    assert client.wire.said == b""
    assert not client.wire.is_closing()


async def test_the_front_is_freed_once_the_relay_has_its_connection():
    visit = Visit()
    client = Client(visit)
    await client.answer()
    await client.ask("EHLO x")
    await client.ask(f"AUTH PLAIN {PLAIN}")
    wire = client.wire
    await soon(asyncio.wait([client.front._handler_coroutine]))
    front = weakref.ref(client.front)
    wire.set_protocol(asyncio.Protocol())
    del client  # and no collection of cycles
    assert front() is None
    assert not wire.is_closing()


async def test_hanging_up_cancels_the_login(meet):
    cancelled = asyncio.Event()

    async def never() -> Door:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return Door()

    visit = Visit(script=(never,))
    client = await meet(visit)
    await client.send(f"AUTH PLAIN {PLAIN}\r\n")
    await soon(visit.entered.wait())
    client.wire.hang_up()
    await soon(cancelled.wait())
    assert not client.wire.lost.is_set()
    assert await client.is_closed()
    assert visit.reasons == ["closed_by_client"]
    assert client.wire.said == b""


async def test_draining_cancels_the_login(meet):
    visit = Visit(script=(asyncio.Event().wait,))
    client = await meet(visit)
    await client.send(f"AUTH PLAIN {PLAIN}\r\n")
    await soon(visit.entered.wait())
    client.front.close(Answer.CLOSING)
    assert (await client.answer()).startswith("421 4.3.2 ")
    assert await client.is_closed()
    assert visit.relayed == []


async def test_the_deadline_cancels_the_login():
    visit = Visit(script=(asyncio.Event().wait,), age_s=59.0)
    client = Client(visit)
    await client.answer()
    await client.ask("EHLO x")
    await client.send(f"AUTH PLAIN {PLAIN}\r\n")
    assert (await client.answer()).startswith("421 4.4.2 ")
    assert await client.is_closed()


async def test_a_passage_that_comes_after_the_hang_up_is_abandoned():
    door = Door()

    async def stubborn() -> Door:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return door  # the upstream said OK in the same instant
        raise AssertionError

    visit = Visit(script=(stubborn,))
    client = Client(visit)
    await client.answer()
    await client.ask("EHLO x")
    await client.send(f"AUTH PLAIN {PLAIN}\r\n")
    await soon(visit.entered.wait())
    client.wire.hang_up()
    assert await client.is_closed()
    assert visit.abandoned == [door]
    assert door.is_aborted
    assert visit.relayed == []
    assert client.wire.said == b""


@pytest.mark.parametrize("error", [RuntimeError("mark-of-a-bug"), ConnectionResetError("mark-of-a-bug")])
async def test_a_bug_is_answered_in_general_and_logged_whole_without_its_text(meet, caplog, error):
    async def broken() -> Door:
        raise error

    client = await meet(Visit(script=(broken,)))
    await client.send(f"AUTH PLAIN {PLAIN}\r\n")
    if isinstance(error, RuntimeError):
        assert (await client.answer()).startswith("421 4.3.0 ")
    assert await client.is_closed()
    [record] = [
        record for record in caplog.records if record.name == "gatepost.smtp" and record.levelno >= logging.ERROR
    ]
    assert type(error).__name__ in record.getMessage()
    assert "in broken" in record.getMessage()
    assert "mark-of" not in caplog.text


async def test_nothing_that_a_client_sent_reaches_a_log_at_any_level(meet, caplog):
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.DEBUG, logger="mail.log")
    client = await meet(Visit(script=(Refusal.WRONG_PASSWORD,) * 2), name="mark-of-the-name")
    await client.ask("mark-of-a-verb mark-of-an-argument")
    await client.ask("VRFY mark-of-an-argument")
    await client.ask("AUTH mark-of-a-mechanism mark")
    await client.ask("AUTH PLAIN mark-that-is-no-base64")
    await client.ask(f"AUTH LOGIN {USER}")
    await client.ask("mark-that-is-no-base64")
    await client.ask(f"AUTH PLAIN {PLAIN}")
    await client.ask(f"AUTH LOGIN {USER}")
    await client.ask(b64(PASSWORD))
    await client.ask(PASSWORD)
    await client.ask("x" * 20_000)
    await client.ask(f"AUTH PLAIN {PLAIN}")
    assert "event=smtp_answer" in caplog.text
    for secret in ("mark", PLAIN, USER, b64(PASSWORD), PASSWORD, "xxxx"):
        assert secret not in caplog.text.lower() if secret == "mark" else secret not in caplog.text
    assert [record for record in caplog.records if record.name == "mail.log"] == []
