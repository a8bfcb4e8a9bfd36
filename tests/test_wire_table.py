"""The table "one wire answer per cause" of the design, written out by hand: what both fronts say to each cause."""

from __future__ import annotations

import pytest

from proxy.edge.smtp_answers import ANSWERS
from proxy.errors import Answer, Refusal
from proxy.wire.imap_words import FAREWELLS, REFUSALS

WRONG = ("NO [AUTHENTICATIONFAILED]", "535 5.7.8")
NOT_NOW = ("NO [UNAVAILABLE]", "454 4.7.0")
TOO_MUCH = ("NO [LIMIT]", "454 4.7.0")
ASK = ("NO [CONTACTADMIN]", "454 4.7.0")
CLOSED = ("* BYE", "421 4.3.2")

TABLE = {
    "unknown_user": WRONG,
    "malformed_credentials": WRONG,
    "not_an_app_password": WRONG,
    "wrong_password": WRONG,
    "revoked": WRONG,
    "suspended": WRONG,
    "expired": WRONG,
    "wrong_protocol": WRONG,
    "wrong_network": WRONG,
    "wrong_listener": WRONG,
    "account_disabled": WRONG,
    "wrong_authzid": ("NO [AUTHORIZATIONFAILED]", "535 5.7.8"),
    "clear_text": ("NO [PRIVACYREQUIRED]", "530 5.7.0"),
    "hash_queue_full": NOT_NOW,
    "store_down": NOT_NOW,
    "provider_down": NOT_NOW,
    "client_rejected": NOT_NOW,
    "upstream_down": NOT_NOW,
    "upstream_untrusted": NOT_NOW,
    "login_deadline": NOT_NOW,
    "internal": NOT_NOW,
    "throttled": TOO_MUCH,
    "upstream_busy": TOO_MUCH,
    "needs_consent": ASK,
    "upstream_refuses": ASK,
    "upstream_protocol_off": ASK,
    "connection_cap": CLOSED,
    "shutting_down": CLOSED,
}


def test_every_cause_stands_in_the_table() -> None:
    assert set(TABLE) == {refusal.value for refusal in Refusal}


@pytest.mark.parametrize(("cause", "imap", "smtp"), [(cause, *said) for cause, said in TABLE.items()])
def test_each_cause_has_the_answer_of_the_table_in_both_fronts(cause: str, imap: str, smtp: str) -> None:
    answer = Refusal(cause).answer
    assert ANSWERS[answer].startswith(smtp + " ")
    if imap == "* BYE":
        assert answer is Answer.CLOSING  # no text stands alone: the front says BYE with this one
        assert FAREWELLS[answer]
    else:
        assert b"NO " + REFUSALS[answer].partition(b" ")[0] == imap.encode()


def test_the_third_failure_is_told_by_both_fronts() -> None:
    assert ANSWERS[Answer.TOO_MANY_FAILURES].startswith("421 4.7.0 ")
    assert FAREWELLS[Answer.TOO_MANY_FAILURES]


def test_causes_that_must_look_alike_share_every_octet() -> None:
    wrong = {Refusal(cause).answer for cause, said in TABLE.items() if said is WRONG}
    assert len({REFUSALS[answer] for answer in wrong}) == len({ANSWERS[answer] for answer in wrong}) == 1
    # By SMTP a good password for somebody else is no news either; by IMAP RFC 5530 has a code of its own.
    assert ANSWERS[Answer.AUTHORIZATION] == ANSWERS[Answer.CREDENTIALS]
