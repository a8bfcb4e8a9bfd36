"""Rotation through whole logins: both texts of a sealed account's app password open the same, and one ends."""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime, timedelta

import pytest

from proxy.errors import Refusal, Refused
from tests.service.house import House
from tests.service.sealed_kit import app_password, kept, rotated, sealed_account

pytest_plugins = ("tests.service.plugin",)
SUE = "sue@x.test"
HOUR = timedelta(hours=1)


async def test_what_a_login_by_either_text_learns_the_other_can_open(house: House) -> None:
    account = sealed_account(house)
    former, credential = app_password(house, account, token=house.endpoint.new_family("sue"))
    await house.enter(SUE, former)
    new = rotated(house, account, credential.public_id, datetime.now(UTC) + HOUR, unlock=former)
    await house.enter(SUE, new)
    assert house.upstream.tokens == ["access.sue.1"] * 2  # the token that the former login had got
    for text, number in ((new, 2), (former, 3)):
        house.clock.pass_s(4000)
        forget_access_token(house)
        await house.enter(SUE, text)
        assert house.upstream.tokens[-1] == f"access.sue.{number}"
        assert kept(house, account, former) == kept(house, account, new)


async def test_former_text_is_refused_once_its_time_is_over_and_costs_no_second_hash(house: House) -> None:
    account = sealed_account(house)
    former, credential = app_password(house, account, token=house.endpoint.new_family("sue"))
    new = rotated(house, account, credential.public_id, datetime.now(UTC) - HOUR, unlock=former)
    with pytest.raises(Refused) as caught:
        await house.enter(SUE, former)
    assert caught.value.refusal is Refusal.EXPIRED
    assert house.hasher.stretches == 0
    await house.enter(SUE, new)


def forget_access_token(house: House) -> None:
    """In the store, too, it is used up."""
    connection = sqlite3.connect(house.url.removeprefix("sqlite:///"))
    with connection:
        connection.execute(
            "UPDATE deposit SET valid_until = '2020-01-01 00:00:00.000000' WHERE purpose = 'access_token'"
        )
    connection.close()
