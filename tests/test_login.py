"""The login path whole: real store, vault and broker; only the mail server behind `dial` is scripted."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest

from proxy.errors import Answer, Refusal, Refused, UpstreamError, UpstreamFault
from proxy.login.attempt import Attempt
from proxy.login.pace import GRID_S
from proxy.login.rules import OF_UPSTREAM
from proxy.login.service import LOGIN_S
from proxy.store.rows import AccountState, Credential, CredentialState
from proxy.wire.sasl import Bearer, Password
from tests.service.house import HOME, House, LogBook, wrong_password
from tests.service.token_endpoint import answers

pytest_plugins = ("tests.service.plugin",)
AWAY = "203.0.113.7"


async def refusal_of(house: House, login: str, password: str, **changes: object) -> Refusal:
    with pytest.raises(Refused) as caught:
        await house.enter(login, password, **changes)
    return caught.value.refusal


# -- in -----------------------------------------------------------------------------------------------------------


async def test_the_right_app_password_opens_the_mailbox_with_a_token(house: House) -> None:
    ann = house.account()
    password, credential = house.app_password(ann)
    passage = await house.enter("ann@x.test", password, client="Scanner 1.0")
    assert house.upstream.tokens == ["access.ann@x.test.1"]
    assert isinstance(passage.connection.credential, Bearer)
    assert passage.connection.credential.user == "box-ann@x.test"
    assert list(house.registry) == [passage.session]
    assert (passage.session.public_id, passage.session.peer) == (credential.public_id, HOME)
    await house.journal.flush()
    used = house.store.credential(credential.public_id)
    assert used is not None
    assert used.last_use is not None
    assert (used.last_use.address, used.last_use.client) == (HOME, "Scanner 1.0")


async def test_an_upstream_without_oauth2_gets_its_deposited_password(house: House) -> None:
    bob = house.account("bob@x.test", upstream="plain")
    password, _ = house.app_password(bob)
    passage = await house.enter("bob@x.test", password)
    assert isinstance(passage.connection.credential, Password)
    assert house.upstream.tokens == ["mailbox-password-bob@x.test"]


@pytest.mark.parametrize(
    "typed",
    [
        "Ann@X.TEST ",
        " ann@x.test",
        "ANN",
        "CORP\\ann",
        "\uff41\uff4e\uff4e@x.test",
        "re\u0301ne\u0301@x.test",
        "RÉNÉ@x.test",
    ],
)
async def test_every_spelling_of_a_login_name_is_the_one_account(house: House, typed: str) -> None:
    password, _ = house.app_password(house.account("ann@x.test", "ann", "réné@x.test"))
    passage = await house.enter(typed, password)
    assert passage.session.email == "ann@x.test"


@pytest.mark.parametrize("typed", ["user@x@y", "n" * 300, "", " ", "a\u200bnn@x.test", "\\ann", "@x.test"])
async def test_what_can_be_no_login_name_is_an_unknown_user_and_costs_nothing(house: House, typed: str) -> None:
    house.account()
    assert await refusal_of(house, typed, wrong_password()) is Refusal.UNKNOWN_USER
    assert (house.store.lookups, house.hasher.verifies) == (0, 0)


@pytest.mark.parametrize(
    "disguise",
    [
        str.upper,
        lambda text: "-".join(text[start : start + 5] for start in range(0, 20, 5)),
        lambda text: " ".join(text[start : start + 4] for start in range(0, 20, 4)) + " ",
        lambda text: text.replace("0", "O").replace("1", "l"),
        lambda text: text.replace("1", "I").replace("0", "o"),
    ],
)
async def test_an_app_password_may_be_typed_in_any_of_its_forms_for_one_verify(
    house: House, disguise: Callable[[str], str]
) -> None:
    password, _ = house.app_password(house.account())
    await house.enter("ann@x.test", disguise(password))
    assert house.hasher.verifies == 1


async def test_fifty_app_passwords_cost_one_hash_like_one(house: House) -> None:
    ann = house.account()
    passwords = [house.app_password(ann)[0] for _ in range(50)]
    await house.enter("ann@x.test", passwords[37])
    assert house.hasher.verifies == 1
    assert await refusal_of(house, "ann@x.test", wrong_password(like=passwords[12])) is Refusal.WRONG_PASSWORD
    assert house.hasher.verifies == 2
    assert await refusal_of(house, "ann@x.test", wrong_password()) is Refusal.WRONG_PASSWORD
    assert house.hasher.verifies == 2  # an unknown selector costs none


async def test_the_real_mailbox_password_costs_neither_look_up_nor_hash(house: House) -> None:
    house.account()
    assert await refusal_of(house, "ann@x.test", "Summer-2026!") is Refusal.NOT_AN_APP_PASSWORD
    assert (house.store.lookups, house.hasher.verifies) == (0, 0)


# -- out: every cause looks alike -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Wrong:
    """A way to be refused: what the row or the attempt is changed to."""

    refusal: Refusal
    row: dict[str, object] = field(default_factory=dict)
    attempt: dict[str, object] = field(default_factory=dict)
    after: Callable[[House, Credential], object] = lambda house, credential: None
    login: str = ""


WRONGS = (
    Wrong(Refusal.UNKNOWN_USER, login="nobody@x.test"),
    Wrong(Refusal.MALFORMED_CREDENTIALS, attempt={"credentials": None}),
    Wrong(Refusal.REVOKED, after=lambda house, one: house.store.revoke([one.public_id])),
    Wrong(
        Refusal.SUSPENDED,
        after=lambda house, one: house.store.set_credential_states([one.public_id], CredentialState.SUSPENDED),
    ),
    Wrong(Refusal.EXPIRED, row={"expires": datetime.now(UTC) - timedelta(seconds=1)}),
    Wrong(Refusal.WRONG_PROTOCOL, row={"protocols": frozenset({"smtp"})}),
    Wrong(Refusal.WRONG_NETWORK, row={"networks": ("10.0.0.0/8",)}),
    Wrong(Refusal.WRONG_LISTENER, attempt={"upstreams": ("plain",)}),
    Wrong(
        Refusal.ACCOUNT_DISABLED,
        after=lambda house, one: house.store.set_account_state(one.account_id, AccountState.DISABLED),
    ),
)


async def test_every_cause_gives_one_answer_on_the_grid_and_never_reaches_the_upstream(house: House) -> None:
    loop = asyncio.get_running_loop()

    async def try_it(number: int, wrong: Wrong) -> tuple[Refusal, Answer, float]:
        email = f"user{number}@x.test"
        password, credential = house.app_password(house.account(email), **wrong.row)
        wrong.after(house, credential)
        attempt = house.attempt(
            wrong.login or email, password, peer=f"192.0.2.{number}", **{"started": loop.time()} | wrong.attempt
        )
        with pytest.raises(Refused) as caught:
            await house.login.enter(attempt, house.upstream.dial)
        return caught.value.refusal, caught.value.refusal.answer, loop.time() - attempt.started

    async def guess() -> tuple[Refusal, Answer, float]:
        password, _ = house.app_password(house.account("guessed@x.test"))
        attempt = house.attempt("guessed@x.test", wrong_password(like=password), peer="192.0.2.99", started=loop.time())
        with pytest.raises(Refused) as caught:
            await house.login.enter(attempt, house.upstream.dial)
        return caught.value.refusal, caught.value.refusal.answer, loop.time() - attempt.started

    house.hashes._queue = 64
    results = await asyncio.gather(guess(), *(try_it(number, wrong) for number, wrong in enumerate(WRONGS)))
    assert [refusal for refusal, _, _ in results] == [Refusal.WRONG_PASSWORD, *(wrong.refusal for wrong in WRONGS)]
    assert {answer for _, answer, _ in results} == {Answer.CREDENTIALS}
    # Never before a point of the grid; the loop may be late, so nothing is asked of how long after.
    assert all(elapsed_s >= GRID_S for _, _, elapsed_s in results)
    assert (house.upstream.dialled, house.endpoint.requests, len(house.registry)) == ([], [], 0)


async def test_a_refusal_late_by_a_slow_part_waits_for_the_next_point_of_the_grid(house: House) -> None:
    loop = asyncio.get_running_loop()
    started = loop.time() - GRID_S - 0.45
    assert await refusal_of(house, "ann@x.test", "guess", started=started) is Refusal.NOT_AN_APP_PASSWORD
    assert loop.time() - started >= 2 * GRID_S


async def test_nobody_is_refused_sooner_than_the_slowest_of_late(house: House) -> None:
    loop = asyncio.get_running_loop()
    started = loop.time() - 2 * GRID_S - 0.45  # a hash that took this long, on a machine that is busy
    assert await refusal_of(house, "ann@x.test", "guess", started=started) is Refusal.NOT_AN_APP_PASSWORD
    started = loop.time() - GRID_S
    assert await refusal_of(house, "nobody@x.test", wrong_password(), started=started) is Refusal.UNKNOWN_USER
    assert loop.time() - started >= 3 * GRID_S


async def test_acting_for_somebody_else_is_refused_after_a_good_verify_only(house: House) -> None:
    password, _ = house.app_password(house.account("ann@x.test", "ann"))
    house.account("bob@x.test")
    assert await refusal_of(house, "ann", password, authzid="bob@x.test") is Refusal.WRONG_AUTHZID
    assert await refusal_of(house, "ann", wrong_password(), authzid="bob@x.test") is Refusal.WRONG_PASSWORD
    for authzid in ("", "ann", "ANN@x.test"):
        await house.enter("ann", password, authzid=authzid)
    assert Refusal.WRONG_AUTHZID.answer is Answer.AUTHORIZATION


async def test_an_ipv4_mapped_client_is_within_an_ipv4_network(house: House) -> None:
    password, _ = house.app_password(house.account(), networks=("10.0.0.0/8",))
    await house.enter("ann@x.test", password, peer="::ffff:10.1.2.3")
    assert await refusal_of(house, "ann@x.test", password, peer="::ffff:11.1.2.3") is Refusal.WRONG_NETWORK


async def test_an_expired_password_is_known_to_the_log_alone(house: House, book: LogBook) -> None:
    password, _ = house.app_password(house.account(), expires=datetime.now(UTC) - timedelta(seconds=1))
    assert await refusal_of(house, "ann@x.test", password) is Refusal.EXPIRED
    assert len(book.of(logging.INFO, "result=refused", "cause=expired", "user=ann@x.test")) == 1


async def test_the_log_names_the_account_whatever_name_was_typed(house: House, book: LogBook) -> None:
    ann = house.account("ann@x.test", "ann")
    password, _ = house.app_password(ann)
    house.upstream.script.append(UpstreamError(UpstreamFault.BUSY, "too many"))
    assert await refusal_of(house, "CORP\\Ann", password) is Refusal.UPSTREAM_BUSY
    assert len(book.of(logging.INFO, "cause=upstream_busy", "user=ann@x.test")) == 1


# -- throttle, deadlines, bugs --------------------------------------------------------------------------------------


async def test_a_guesser_is_throttled_and_the_owner_elsewhere_is_not(house: House) -> None:
    password, _ = house.app_password(house.account())
    guesses = [refusal_of(house, "ann@x.test", wrong_password(), peer=AWAY) for _ in range(4)]
    assert set(await asyncio.gather(*guesses)) == {Refusal.WRONG_PASSWORD}
    guesses = [refusal_of(house, "ann@x.test", f"guess {number}", peer=AWAY) for number in range(6)]
    await asyncio.gather(*guesses)
    throttled = await refusal_of(house, "ann@x.test", password, peer=AWAY)
    assert (throttled, throttled.answer) == (Refusal.THROTTLED, Answer.LIMIT)
    await house.enter("ann@x.test", password)  # from home


async def test_a_stuck_phone_is_one_line_in_the_log_and_never_throttled(house: House, book: LogBook) -> None:
    password = wrong_password()
    good, _ = house.app_password(house.account())
    for _ in range(4):
        await asyncio.gather(*(refusal_of(house, "ann@x.test", password) for _ in range(4)))
    assert len(book.of(logging.INFO, "event=login", "cause=wrong_password")) == 1
    await house.enter("ann@x.test", good)


async def test_a_login_without_end_is_refused_at_its_deadline_and_leaves_nothing(house: House) -> None:
    password, _ = house.app_password(house.account())
    house.upstream.release = asyncio.Event()
    loop = asyncio.get_running_loop()
    attempt: Attempt = house.attempt(
        "ann@x.test", password, started=loop.time() - LOGIN_S + 2.0
    )  # time to get as far as dialling
    with pytest.raises(Refused) as caught:
        await house.login.enter(attempt, house.upstream.dial)
    assert caught.value.refusal is Refusal.LOGIN_DEADLINE
    assert loop.time() - attempt.started >= LOGIN_S
    assert (len(house.upstream.dialled), house.upstream.lines, len(house.registry)) == (1, [], 0)


async def test_a_bug_of_ours_is_unavailable_and_logged_whole_without_secrets(house: House, book: LogBook) -> None:
    password, _ = house.app_password(house.account())
    house.upstream.script.append(ZeroDivisionError("a bug"))
    refusal = await refusal_of(house, "ann@x.test", password)
    assert (refusal, refusal.answer) == (Refusal.INTERNAL, Answer.UNAVAILABLE)
    assert len(book.of(logging.ERROR, "event=login_crashed", "ZeroDivisionError", "Traceback")) == 1


@pytest.mark.parametrize(
    ("fault", "refusal"),
    [
        (UpstreamFault.UNREACHABLE, Refusal.UPSTREAM_DOWN),
        (UpstreamFault.SILENT, Refusal.UPSTREAM_DOWN),
        (UpstreamFault.GARBAGE, Refusal.UPSTREAM_DOWN),
        (UpstreamFault.UNAVAILABLE, Refusal.UPSTREAM_DOWN),
        (UpstreamFault.UNTRUSTED, Refusal.UPSTREAM_UNTRUSTED),
        (UpstreamFault.BUSY, Refusal.UPSTREAM_BUSY),
        (UpstreamFault.PROTOCOL_OFF, Refusal.UPSTREAM_PROTOCOL_OFF),
    ],
)
async def test_an_upstream_that_does_not_let_us_in_is_dialled_once_and_blamed_rightly(
    house: House, fault: UpstreamFault, refusal: Refusal
) -> None:
    ann = house.account()
    password, _ = house.app_password(ann)
    house.upstream.script.append(UpstreamError(fault, "its words"))
    assert await refusal_of(house, "ann@x.test", password) is refusal
    assert refusal.answer is not Answer.CREDENTIALS
    assert (len(house.upstream.dialled), house.token_state(ann)) == (1, "fresh")
    # Nothing is held against the account; what is busy at one protocol may have room at the other.
    await house.enter("ann@x.test", password, protocol="smtp")


def test_every_fault_of_an_upstream_has_its_refusal() -> None:
    assert set(OF_UPSTREAM) == set(UpstreamFault)


async def test_no_secret_is_logged_when_everything_goes_wrong(house: House) -> None:
    """The house itself looks through every line at the end."""
    ann = house.account("ann@x.test", "ann")
    password, _ = house.app_password(ann)
    house.endpoint.script.append(answers(500, b"access.ann@x.test.1 is what I would have given"))
    await refusal_of(house, "ann@x.test", password)
    house.clock.pass_s(20)
    house.endpoint.script.append(answers(200, {"access_token": 7, "refresh_token": "refresh.ann@x.test.0"}))
    await refusal_of(house, "ann@x.test", password)
    house.clock.pass_s(20)
    house.upstream.script.append(RuntimeError("boom"))
    await refusal_of(house, "ann@x.test", password)
    await refusal_of(house, password, "swapped fields")
    await refusal_of(house, "ann@x.test", password + "x")
