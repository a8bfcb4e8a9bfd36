"""Sealed accounts through whole logins: what opens them, what is kept for whom, and what it costs."""

from __future__ import annotations

import asyncio
import base64
import gc
import json
import sqlite3
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import ModuleType

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from proxy.errors import Refusal, Refused, UpstreamError, UpstreamFault
from proxy.secret import Secret
from proxy.store.rows import LAST_REVOKED, Account, Deposit, MasterKey, Purpose, Recipient
from proxy.vault.sealed import Locked, OpenKey, _outer_opened, relocked, unlocked, unwrapped
from proxy.vault.sealing import (
    KEY_BYTES,
    NONCE_BYTES,
    SealBroken,
    _associated,
    generate_master,
    load_master,
    unseal,
    wrap_for,
)
from tests.service.house import House, wrong_password
from tests.service.sealed_kit import HASHER, app_password, kept, opened_key, parsed, sealed_account, sealed_to_all
from tests.service.token_endpoint import Request, TokenEndpoint, answers, refuses, waits

pytest_plugins = ("tests.service.plugin",)
Sue = tuple[Account, str, str]


@pytest.fixture
async def sue(house: House) -> Sue:
    """A sealed account with two app passwords: the first by a sign-in, the second unlocked by the first."""
    account = sealed_account(house)
    phone, _ = app_password(house, account, token=house.endpoint.new_family("sue"))
    laptop, _ = app_password(house, account, unlock=phone)
    return account, phone, laptop


async def refusal_of(house: House, password: str, **changes: object) -> Refusal:
    with pytest.raises(Refused) as caught:
        await house.enter("sue@x.test", password, **changes)
    return caught.value.refusal


async def after_its_token_expired(house: House) -> None:
    """The access token is used up, in memory and in the store."""
    house.clock.pass_s(4000)
    connection = sqlite3.connect(house.url.removeprefix("sqlite:///"))
    with connection:
        connection.execute(
            "UPDATE deposit SET valid_until = '2020-01-01 00:00:00.000000' WHERE purpose = 'access_token'"
        )
    connection.close()


# -- what it costs ----


async def test_a_cold_login_computes_argon2_twice_and_a_cached_one_never(house: House, sue: Sue) -> None:
    await house.enter("sue@x.test", sue[1])
    assert (house.hasher.verifies, house.hasher.stretches) == (1, 1)
    for _ in range(3):
        await house.enter("sue@x.test", sue[1])
    assert (house.hasher.verifies, house.hasher.stretches) == (1, 1)
    assert house.upstream.tokens == ["access.sue.1"] * 4


async def test_an_ordinary_login_is_not_stretched(house: House) -> None:
    password, _ = house.app_password(house.account())
    await house.enter("ann@x.test", password)
    assert (house.hasher.verifies, house.hasher.stretches) == (1, 0)


async def test_a_wrong_password_is_verified_and_never_stretched(house: House, sue: Sue) -> None:
    assert await refusal_of(house, wrong_password(like=sue[1])) is Refusal.WRONG_PASSWORD
    assert await refusal_of(house, wrong_password()) is Refusal.WRONG_PASSWORD
    assert (house.hasher.verifies, house.hasher.stretches) == (1, 0)
    assert house.endpoint.requests == []


async def test_a_right_password_that_may_not_enter_is_never_stretched(house: House, sue: Sue) -> None:
    password, _ = app_password(house, sue[0], unlock=sue[1], expires=datetime.now(UTC) - timedelta(seconds=1))
    assert await refusal_of(house, password) is Refusal.EXPIRED
    assert await refusal_of(house, sue[1], upstreams=("plain",)) is Refusal.WRONG_LISTENER
    assert house.hasher.stretches == 0


async def test_both_computations_run_in_the_hashing_threads_under_one_ticket(house: House, sue: Sue) -> None:
    threads: list[str] = []
    tickets: list[int] = []

    class Told(type(house.hasher)):  # type: ignore[misc]
        def note(self) -> None:
            threads.append(threading.current_thread().name)
            tickets.append(house.tickets)

        def verify(self, phc, password):
            self.note()
            return super().verify(phc, password)

        def stretched(self, stretch, password):
            self.note()
            return super().stretched(stretch, password)

    house.hasher.__class__ = Told
    await house.enter("sue@x.test", sue[1])
    assert [name.partition("_")[0] for name in threads] == ["argon2", "argon2"]
    assert tickets == [1, 1]


# -- what opens it ----


def windows(data: bytes) -> Iterator[bytes]:
    return (data[start : start + KEY_BYTES] for start in range(len(data) - KEY_BYTES + 1))


def everything(house: House, *more: bytes) -> list[bytes]:
    """Every value in the database and in the master key, and what the master opens of them."""
    connection = sqlite3.connect(house.url.removeprefix("sqlite:///"))
    tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    values = [value for table in tables for row in connection.execute(f"SELECT * FROM {table}") for value in row]
    connection.close()
    found = [value.encode() if isinstance(value, str) else value for value in values if isinstance(value, str | bytes)]
    keys = house.store.app_keys_under(house.store.masters()[0].key_id, "", 1000)
    found += [_outer_opened(key, house.master) for key in keys]
    masters = [house.master.private_half(key_id) for key_id in house.master.key_ids]
    return [*found, *(one.private_bytes_raw() for one in masters if one is not None), *more]


def opens(deposit: Deposit, value: bytes) -> bool:
    """Whether any 32 bytes of a value are the deposit's data key, or a private half that it is wrapped to."""
    bound_to = _associated(deposit.row, deposit.account_id, deposit.purpose)
    nonce, sealed = deposit.ciphertext[:NONCE_BYTES], deposit.ciphertext[NONCE_BYTES:]
    for window in windows(value):
        try:
            AESGCM(window).decrypt(nonce, sealed, bound_to)
        except InvalidTag:
            pass
        else:
            return True
        for wrap in deposit.wraps:
            try:
                unseal(deposit, OpenKey(wrap.key_id, X25519PrivateKey.from_private_bytes(window)))
            except SealBroken:
                continue
            return True
    return False


def digest_of(phc: str) -> bytes:
    return base64.b64decode(phc.rpartition("$")[2] + "==")


async def test_database_and_master_key_together_decrypt_nothing(house: House, sue: Sue) -> None:
    """With both: the master on every wrap and lock, then every 32 bytes that are to be had as every key there is."""
    account, phone, _ = sue
    await house.enter("sue@x.test", phone)  # so that there is an access token too
    deposits = [house.store.deposit(account.id, purpose) for purpose in (Purpose.REFRESH_TOKEN, Purpose.ACCESS_TOKEN)]
    values = everything(house)
    joined = b"\n".join(values)
    for deposit in deposits:
        assert deposit is not None
        with pytest.raises(SealBroken):
            unseal(deposit, house.master)
        assert kept(house, account, phone, deposit.purpose).encode() not in joined  # type: ignore[union-attr]
        assert not any(opens(deposit, value) for value in values)
    key = opened_key(house, account, phone)
    private = key.private_half(key.key_id)
    assert private is not None
    assert private.private_bytes_raw() not in joined
    # What verifies the app passwords unlocks neither of them, as it is or cut.
    hashes = [window for value in values if b"argon2id" in value for window in windows(digest_of(value.decode()))]
    locks = [unwrapped(one, house.master) for one in house.store.app_keys_under(house.store.masters()[0].key_id, "", 9)]
    assert (len(hashes), len(locks)) == (2, 2)
    for lock in locks:
        for guess in hashes:
            with pytest.raises(SealBroken):
                unlocked(lock, guess)
    # And the search is a real one: with the password in hand, it finds.
    assert opens(deposits[0], private.private_bytes_raw())  # type: ignore[arg-type]


async def test_the_database_and_an_app_password_without_the_master_decrypt_nothing(house: House, sue: Sue) -> None:
    row = house.store.find_login("sue@x.test", sue[1][:4])
    assert row is not None
    assert row.secret is not None
    key = house.store.app_key(row.secret.id)
    assert key is not None
    with pytest.raises(SealBroken):
        unwrapped(key, load_master(generate_master()[0]))
    # Even who guesses where the salt is finds no lock that the password opens: it is inside the master's.
    for salt in {key.locked[start : start + 16] for start in range(len(key.locked) - 15)}:
        stretched = HASHER.stretched(replace(HASHER.new_stretch(), salt=salt), parsed(sue[1]))
        with pytest.raises(SealBroken):
            unlocked(Locked(key, HASHER.new_stretch(), key.locked), stretched)


async def test_between_logins_the_process_holds_no_token_and_no_key_in_the_clear(house: House, sue: Sue) -> None:
    """Everything that the service floor refers to, searched for tokens and private halves."""
    account, phone, laptop = sue
    ordinary, _ = house.app_password(house.account())
    for password in (phone, laptop, phone):
        await house.enter("sue@x.test", password)
    await house.enter("ann@x.test", ordinary)
    secrets = {kept(house, account, phone, purpose) for purpose in (Purpose.REFRESH_TOKEN, Purpose.ACCESS_TOKEN)}
    house.upstream.lines.clear()
    house.upstream.dialled.clear()
    gc.collect()
    texts = set()
    seen: set[int] = set()
    todo: list[object] = [house.broker, house.cache, house.login, house.hashes]
    while todo:
        one = todo.pop()
        if id(one) in seen or isinstance(one, type | ModuleType):
            continue
        seen.add(id(one))
        assert not isinstance(one, OpenKey)
        if isinstance(one, Secret):
            texts.add(one.reveal())
        if not callable(one) or hasattr(one, "__self__"):
            todo += gc.get_referents(one)
    assert "access.ann@x.test.1" in texts  # the search is a real one: of an ordinary account it finds the token
    assert not texts & secrets


# -- what is kept for whom ----


async def test_a_rotated_token_is_kept_for_all_live_app_passwords(house: House, sue: Sue) -> None:
    account, phone, laptop = sue
    await house.enter("sue@x.test", phone)
    assert [kept(house, account, one) for one in (phone, laptop)] == ["refresh.sue.1"] * 2
    await after_its_token_expired(house)
    await house.enter("sue@x.test", laptop)
    assert [kept(house, account, one) for one in (phone, laptop)] == ["refresh.sue.2"] * 2
    await house.enter("sue@x.test", phone)
    assert house.upstream.tokens == ["access.sue.1", "access.sue.2", "access.sue.2"]
    assert (len(house.endpoint.requests), house.endpoint.reuses) == (2, [])


async def test_a_process_that_starts_opens_with_either_password_what_another_kept(house: House, sue: Sue) -> None:
    await house.enter("sue@x.test", sue[1])
    async with house.another() as other:
        await other.enter("sue@x.test", sue[2])
        assert other.upstream.tokens == ["access.sue.1"]
    assert len(house.endpoint.requests) == 1


async def test_logins_by_several_passwords_at_once_are_one_refresh(house: House, sue: Sue) -> None:
    results = await asyncio.gather(*(house.enter("sue@x.test", one) for one in (sue[1], sue[2], sue[1], sue[2])))
    assert len(results) == 4
    assert len(house.endpoint.requests) == 1
    assert set(house.upstream.tokens) == {"access.sue.1"}


async def test_a_revoked_password_opens_nothing_that_comes_later(house: House, sue: Sue) -> None:
    account, phone, laptop = sue
    old = opened_key(house, account, phone)
    row = house.store.find_login("sue@x.test", phone[:4])
    assert row is not None
    assert row.credential is not None
    house.store.revoke([row.credential.public_id])
    assert await refusal_of(house, phone) is Refusal.REVOKED
    now = house.store.deposit(account.id, Purpose.REFRESH_TOKEN)
    assert now is not None
    with pytest.raises(SealBroken):
        unseal(now, old)
    await house.enter("sue@x.test", laptop)
    later = house.store.deposit(account.id, Purpose.REFRESH_TOKEN)
    assert later is not None
    with pytest.raises(SealBroken):
        unseal(later, old)


async def test_the_last_password_takes_everything_with_it(house: House, sue: Sue) -> None:
    account, phone, laptop = sue
    await house.enter("sue@x.test", phone)
    house.store.revoke([one.public_id for one in house.store.credentials(account.id)])
    assert house.store.deposit(account.id, Purpose.REFRESH_TOKEN) is None
    now = house.store.account("sue@x.test")
    assert now is not None
    assert (now.token_state.value, now.token_detail) == ("needs_consent", LAST_REVOKED)
    assert await refusal_of(house, laptop) is Refusal.REVOKED
    fresh, _ = app_password(house, account, token=house.endpoint.new_family("sue2"))
    await house.enter("sue@x.test", fresh)
    assert house.upstream.tokens[-1] == "access.sue2.1"


async def test_the_first_password_may_come_before_anything_is_stored(house: House) -> None:
    account = sealed_account(house)
    password, _ = app_password(house, account)
    assert await refusal_of(house, password) is Refusal.NEEDS_CONSENT
    house.store.put_deposit(sealed_to_all(house, account, house.endpoint.new_family("sue")))
    await house.enter("sue@x.test", password)
    assert house.upstream.tokens == ["access.sue.1"]


async def test_a_sealed_mailbox_password_works_without_oauth2(house: House) -> None:
    account = sealed_account(house, upstream="plain")
    password, _ = app_password(house, account, token="password-of-the-mailbox")
    await house.enter("sue@x.test", password)
    assert house.upstream.tokens == ["password-of-the-mailbox"]


# -- no background refresh ----


async def test_nobody_gets_a_token_without_an_app_password(house: House, sue: Sue) -> None:
    """Whatever runs in the background or asks from the command line has no key to bring."""
    account, phone, _ = sue
    await house.enter("sue@x.test", phone)
    upstream = house.upstreams["mail"]
    for lacking in (house.broker.token(account, upstream), house.broker.password(account)):
        with pytest.raises(Refused) as caught:
            await lacking
        assert caught.value.refusal is Refusal.NEEDS_CONSENT
    assert len(house.endpoint.requests) == 1
    assert house.token_state(account) == "fresh"


# -- trouble ----


async def test_while_the_store_is_down_a_cached_login_uses_what_is_held_sealed(house: House, sue: Sue) -> None:
    await house.enter("sue@x.test", sue[1])
    house.store.is_down = True
    await house.enter("sue@x.test", sue[1])
    assert await refusal_of(house, sue[2]) is Refusal.STORE_DOWN
    assert house.upstream.tokens == ["access.sue.1"] * 2


async def test_while_the_provider_is_down_the_token_is_used_until_it_expires(house: House, sue: Sue) -> None:
    house.endpoint.lifetime_s = 50
    await house.enter("sue@x.test", sue[1])
    house.endpoint.script.append(answers(500, b""))
    await house.enter("sue@x.test", sue[2])
    assert house.upstream.tokens == ["access.sue.1"] * 2


async def test_a_refused_token_is_renewed_with_the_key_of_the_login(house: House, sue: Sue) -> None:
    await house.enter("sue@x.test", sue[1])
    house.clock.pass_s(61)
    house.upstream.refuses = lambda token: UpstreamError(UpstreamFault.REFUSED) if token == "access.sue.1" else None
    await house.enter("sue@x.test", sue[1])
    assert house.upstream.tokens == ["access.sue.1", "access.sue.1", "access.sue.2"]
    assert kept(house, sue[0], sue[2]) == "refresh.sue.2"


async def test_a_young_token_that_is_refused_is_not_renewed_for_being_sealed(house: House, sue: Sue) -> None:
    await house.enter("sue@x.test", sue[1])
    house.upstream.refuses = lambda _: UpstreamError(UpstreamFault.REFUSED)
    assert await refusal_of(house, sue[1]) is Refusal.UPSTREAM_REFUSES
    assert len(house.endpoint.requests) == 1


async def test_a_damaged_app_key_is_the_administrators_and_no_crash(house: House, sue: Sue) -> None:
    connection = sqlite3.connect(house.url.removeprefix("sqlite:///"))
    with connection:
        connection.execute(
            "UPDATE recipient SET sealed_private = substr(sealed_private, 1, 60) WHERE secret_id NOT NULL"
        )
    connection.close()
    assert await refusal_of(house, sue[1]) is Refusal.NEEDS_CONSENT


async def test_lost_consent_is_noted_as_for_anybody(house: House, sue: Sue) -> None:
    house.endpoint.script.append(refuses("invalid_grant"))
    assert await refusal_of(house, sue[1]) is Refusal.NEEDS_CONSENT
    assert house.token_state(sue[0]) == "needs_consent"
    assert kept(house, sue[0], sue[1]) == "refresh.sue.0"


async def test_what_an_outdated_refresh_learned_does_not_mark_a_new_sign_in(house: House, sue: Sue) -> None:
    account, phone, laptop = sue

    async def lost_meanwhile(endpoint: TokenEndpoint, request: Request, writer: asyncio.StreamWriter) -> None:
        house.store.put_deposit(sealed_to_all(house, account, house.endpoint.new_family("new")))
        await answers(400, json.loads('{"error": "invalid_grant"}'))(endpoint, request, writer)

    house.endpoint.script.append(lost_meanwhile)
    assert await refusal_of(house, phone) is Refusal.NEEDS_CONSENT
    assert house.token_state(account) == "fresh"
    await house.enter("sue@x.test", laptop)
    assert house.upstream.tokens == ["access.new.1"]


# -- while a refresh is under way ----


async def test_a_password_made_during_a_refresh_opens_its_result(house: House, sue: Sue) -> None:
    account, phone, _ = sue
    house.endpoint.script.append(waits)
    login = asyncio.create_task(house.enter("sue@x.test", phone))
    await house.endpoint.has_asked.wait()
    tablet, _ = app_password(house, account, unlock=phone)
    house.endpoint.release.set()
    await login
    assert kept(house, account, tablet) == "refresh.sue.1"
    await house.enter("sue@x.test", tablet)
    assert len(house.endpoint.requests) == 1


async def test_a_password_revoked_during_a_refresh_does_not_open_its_result(house: House, sue: Sue) -> None:
    account, phone, laptop = sue
    old = opened_key(house, account, laptop)
    row = house.store.find_login("sue@x.test", laptop[:4])
    assert row is not None
    assert row.credential is not None
    house.endpoint.script.append(waits)
    login = asyncio.create_task(house.enter("sue@x.test", phone))
    await house.endpoint.has_asked.wait()
    house.store.revoke([row.credential.public_id])
    house.endpoint.release.set()
    await login
    assert kept(house, account, phone) == "refresh.sue.1"
    deposit = house.store.deposit(account.id, Purpose.REFRESH_TOKEN)
    assert deposit is not None
    with pytest.raises(SealBroken):
        unseal(deposit, old)


async def test_a_refresh_whose_last_password_goes_ends_without_a_crash(house: House, sue: Sue) -> None:
    account, phone, _ = sue
    house.endpoint.script.append(waits)
    login = asyncio.create_task(house.enter("sue@x.test", phone))
    await house.endpoint.has_asked.wait()
    house.store.revoke([one.public_id for one in house.store.credentials(account.id)])
    house.endpoint.release.set()
    with pytest.raises(Refused) as caught:
        await login
    assert caught.value.refusal is Refusal.NEEDS_CONSENT
    assert house.token_state(account) == "needs_consent"


def rotate(house: House) -> MasterKey:
    """What `key rotate` does to the store; the running master learns the key as it would from its file."""
    (old,) = house.store.masters()
    text, new = generate_master()
    both = house.master.with_newest(text)
    house.secrets.add(text.reveal())
    house.store.add_master(new)
    house.master._reread = both.text
    for deposit in house.store.wraps_under(old.key_id, "", 100):
        house.store.replace_wraps([(deposit, wrap_for(deposit, both, Recipient(new.key_id, new.public)))])
    for key in house.store.app_keys_under(old.key_id, "", 100):
        house.store.replace_app_keys([(key, relocked(key, both, new))])
    assert house.store.drop_master(old.key_id) == 0
    return new


@pytest.mark.parametrize("is_sealed", [True, False])
async def test_a_master_rotated_during_a_refresh_loses_no_token(house: House, sue: Sue, is_sealed: bool) -> None:
    """The old master is gone from the store when the answer comes: it is sealed anew, not thrown away."""
    ann = house.account()
    password = sue[1] if is_sealed else house.app_password(ann)[0]
    email = "sue@x.test" if is_sealed else "ann@x.test"
    house.endpoint.script.append(waits)
    login = asyncio.create_task(house.enter(email, password))
    await house.endpoint.has_asked.wait()
    new = rotate(house)
    house.endpoint.release.set()
    await login
    await after_its_token_expired(house)
    await house.enter(email, password)
    assert house.endpoint.reuses == []
    assert [one.key_id for one in house.store.masters()] == [new.key_id]


async def test_cold_logins_go_on_over_a_rotation(house: House, sue: Sue) -> None:
    await house.enter("sue@x.test", sue[1])
    for _ in range(3):
        rotate(house)
        house.cache._entries.clear()
        house.broker.forget(sue[0].id)
        await house.enter("sue@x.test", sue[1])
        await house.enter("sue@x.test", sue[2])
    assert set(house.upstream.tokens) == {"access.sue.1"}
