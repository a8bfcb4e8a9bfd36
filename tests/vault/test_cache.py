from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from proxy.secret import Secret
from proxy.store.rows import (
    Account,
    AccountState,
    Credential,
    CredentialState,
    LoginRow,
    SecretRow,
    Standing,
    TokenState,
)
from proxy.vault import cache as cache_module
from proxy.vault.apppassword import generate
from proxy.vault.cache import Fingerprints, VerifyCache
from tests.service.house import Clock

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
PASSWORD = generate()


def row(account_id: int = 1, *, secret_id: int = 1, generation: int = 1, phc: str = "$argon2id$1") -> LoginRow:
    account = Account(
        account_id, "ann@x.test", "mail", "ann", AccountState.ACTIVE, False, TokenState.FRESH, NOON, "", NOON, "test"
    )
    credential = Credential(
        1, "id1", account_id, "ann@x.test", "scanner", frozenset({"imap"}), (), CredentialState.ACTIVE, None,
        generation, NOON, "test",
    )  # fmt: skip
    return LoginRow(account, credential, SecretRow(secret_id, "abcd", phc, None), 1)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def cache(clock: Clock) -> VerifyCache:
    return VerifyCache(ttl_s=300, clock=clock)


def test_an_entry_is_found_by_its_very_login_and_password_alone(cache: VerifyCache) -> None:
    cache.remember("ann@x.test", PASSWORD, row())
    assert cache.find("ann@x.test", PASSWORD) is not None
    assert cache.find("bob@x.test", PASSWORD) is None
    assert cache.find("ann@x.test", generate()) is None


def test_no_two_logins_can_share_a_key_by_moving_the_border_between_their_fields() -> None:
    fingerprints = Fingerprints()
    pairs = [("ann", "xpassword"), ("annx", "password"), ("", "annxpassword"), ("annxpassword", ""), ("ann\0x", "p")]
    assert len({fingerprints.of(login, Secret(password)) for login, password in pairs}) == len(pairs)


def test_a_fingerprint_is_of_this_process_alone_and_holds_no_password() -> None:
    one, other = Fingerprints(), Fingerprints()
    assert one.of("ann", Secret("pw")) == one.of("ann", Secret("pw"))
    assert one.of("ann", Secret("pw")) != other.of("ann", Secret("pw"))
    assert one.of("\ud800", Secret("\udfff"))  # what a client may make of UTF-8


@pytest.mark.parametrize(
    "other", [row(2), row(secret_id=2), row(generation=2), row(phc="$argon2id$2"), replace(row(), secret=None)]
)
def test_an_entry_is_for_its_account_secret_row_generation_and_hash_alone(cache: VerifyCache, other: LoginRow) -> None:
    cache.remember("ann@x.test", PASSWORD, row())
    known = cache.find("ann@x.test", PASSWORD)
    assert known is not None
    assert known.is_for(row())
    assert not known.is_for(other)


def test_an_entry_ends_at_its_time_and_finding_it_does_not_prolong_it(cache: VerifyCache, clock: Clock) -> None:
    cache.remember("ann@x.test", PASSWORD, row())
    for _ in range(2):
        clock.pass_s(149)
        assert cache.find("ann@x.test", PASSWORD) is not None
    clock.pass_s(2)
    assert cache.find("ann@x.test", PASSWORD) is None
    assert len(cache._entries) == 0
    cache.remember("ann@x.test", PASSWORD, row())
    clock.pass_s(300)
    assert cache.find("ann@x.test", PASSWORD) is None  # at its very end, too


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(cache_module, "MAX_ENTRIES", 10)
    return 10


def test_the_cache_is_bounded_and_forgets_the_oldest(cache: VerifyCache, small: int) -> None:
    for number in range(small + 5):
        cache.remember(f"user{number}", PASSWORD, row())
    assert len(cache._entries) == small
    assert cache.find("user4", PASSWORD) is None
    assert cache.find("user5", PASSWORD) is not None


def test_a_login_that_is_confirmed_again_is_among_the_last_to_go(cache: VerifyCache, small: int) -> None:
    for number in (*range(small), 0, small):
        cache.remember(f"user{number}", PASSWORD, row())
    assert cache.find("user0", PASSWORD) is not None
    assert cache.find("user1", PASSWORD) is None


def test_a_row_that_was_read_before_the_last_comparison_is_not_kept(cache: VerifyCache) -> None:
    cache.remember("ann@x.test", PASSWORD, row())
    cache.reconsider({1: Standing(1, AccountState.ACTIVE, CredentialState.ACTIVE, None, 1, None)}, 2)
    assert cache.find("ann@x.test", PASSWORD) is not None
    cache.remember("bob@x.test", PASSWORD, row())
    assert cache.find("bob@x.test", PASSWORD) is None
    cache.reconsider({}, 1)  # a backup was restored
    cache.remember("bob@x.test", PASSWORD, row())
    assert cache.find("bob@x.test", PASSWORD) is not None
