from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from proxy.wire.extensions import common_esmtp, common_imap

EXCHANGE = (
    "IMAP4",
    "IMAP4rev1",
    "AUTH=PLAIN",
    "AUTH=XOAUTH2",
    "SASL-IR",
    "UIDPLUS",
    "MOVE",
    "ID",
    "UNSELECT",
    "IDLE",
    "LITERAL+",
)
DOVECOT = (
    "IMAP4rev1",
    "SASL-IR",
    "LOGIN-REFERRALS",
    "ID",
    "ENABLE",
    "idle",
    "LITERAL+",
    "THREAD=REFS",
    "STARTTLS",
    "LOGINDISABLED",
)


def test_only_what_all_have_is_offered_in_the_first_one_s_order_and_spelling() -> None:
    assert common_imap([EXCHANGE, DOVECOT]) == ("ID", "IDLE", "LITERAL+")
    assert common_imap([DOVECOT, EXCHANGE]) == ("ID", "idle", "LITERAL+")


@pytest.mark.parametrize(
    "name",
    [
        "STARTTLS",
        "LOGINDISABLED",
        "AUTH=PLAIN",
        "AUTH=XOAUTH2",
        "SASL-IR",
        "LOGIN-REFERRALS",
        "IMAP4rev1",
        "UNAUTHENTICATE",
        "X-NEW",
        "XYZ=1",
    ],
)
def test_what_concerns_the_login_or_is_not_known_is_never_offered(name: str) -> None:
    assert common_imap([[name, name.lower(), "IDLE"]]) == ("IDLE",)


@pytest.mark.parametrize(
    "name", ["THREAD=REFERENCES", "thread=orderedsubject", "QUOTA=RES-STORAGE", "APPENDLIMIT=35651584", "UTF8=ACCEPT"]
)
def test_an_allowed_family_is_offered_with_its_value(name: str) -> None:
    assert common_imap([[name], [name.upper()]]) == (name,)


@pytest.mark.parametrize("name", ["IDLE=1", "UTF8=ONLY", "COMPRESS=ZSTD"])
def test_a_value_that_is_not_known_is_not_offered(name: str) -> None:
    assert common_imap([[name]]) == ()


def test_a_family_with_two_values_is_no_common_one() -> None:
    assert common_imap([["APPENDLIMIT=1", "IDLE"], ["APPENDLIMIT=2", "IDLE"]]) == ("IDLE",)


@pytest.mark.parametrize("common", [common_imap, common_esmtp])
def test_where_nothing_is_known_nothing_is_offered(common: type[object]) -> None:
    assert common([]) == ()  # type: ignore[call-arg]
    assert common([[], ["IDLE", "DSN"]]) == ()  # type: ignore[call-arg]


def test_esmtp_keywords_are_common_with_their_parameters_alike() -> None:
    lists = [
        [
            "PIPELINING",
            "8BITMIME",
            "DSN",
            "AUTH LOGIN XOAUTH2",
            "STARTTLS",
            "XCLIENT NAME",
            "DELIVERBY 240",
            "LIMITS RCPTMAX=5",
        ],
        ["8bitmime", "PIPELINING", "CHUNKING", "DELIVERBY 120", "limits rcptmax=5"],
    ]
    assert common_esmtp(lists) == ("PIPELINING", "8BITMIME", "LIMITS RCPTMAX=5")


@pytest.mark.parametrize(
    ("sizes", "offered"),
    [
        (["SIZE 157286400"], "SIZE 157286400"),
        (["SIZE 200", "size 100"], "SIZE 100"),
        (["SIZE 200", "SIZE 0"], "SIZE 200"),  # RFC 1870 4: 0 is no limit
        (["SIZE", "SIZE 300"], "SIZE 300"),
        (["SIZE", "SIZE 0"], "SIZE"),
        (["SIZE ten"], "SIZE"),
        (["SIZE -1"], "SIZE"),
    ],
)
def test_of_several_sizes_the_smallest_is_offered(sizes: list[str], offered: str) -> None:
    assert common_esmtp([[size] for size in sizes]) == (offered,)


def test_size_is_offered_only_if_every_upstream_has_it() -> None:
    assert common_esmtp([["SIZE 100", "DSN"], ["DSN"]]) == ("DSN",)
    assert common_esmtp([["SIZEX 100"]]) == ()


def test_an_empty_line_of_a_strange_server_is_no_extension() -> None:
    assert common_esmtp([["", "DSN", " "], ["", " ", "DSN"]]) == ("DSN",)
    assert common_imap([["", "IDLE"], ["", "IDLE"]]) == ("IDLE",)


def test_an_extension_that_is_said_twice_is_offered_once() -> None:
    assert common_imap([["IDLE", "idle"], ["IDLE"]]) == ("IDLE",)
    assert common_esmtp([["DSN", "dsn"], ["DSN"]]) == ("DSN",)


@given(st.lists(st.lists(st.text() | st.sampled_from((*EXCHANGE, *DOVECOT, "SIZE 5", "DSN")))))
def test_whatever_servers_say_the_offer_is_a_part_of_it(lists: list[list[str]]) -> None:
    for offer in (common_imap(lists), common_esmtp(lists)):
        for word in offer:
            assert word.startswith("SIZE") or all(word.upper() in (one.upper() for one in said) for said in lists)
