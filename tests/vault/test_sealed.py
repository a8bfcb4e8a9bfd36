"""proxy/vault/sealed.py: an app key opens with its app password and the master together, and with nothing less."""

from __future__ import annotations

import pickle
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from argon2.low_level import Type, hash_secret_raw

from proxy.errors import ConfigError
from proxy.secret import Secret
from proxy.store.rows import Purpose, Recipient
from proxy.vault.apppassword import generate
from proxy.vault.hashing import Hasher
from proxy.vault.sealed import Concealer, make_app_key, recipient_of, relocked, unlocked, unwrapped
from proxy.vault.sealing import (
    MasterPrivate,
    NotForUs,
    SealBroken,
    _read_keys,
    generate_master,
    load_master,
    seal,
    unseal,
    wrap_for,
)

HASHER = Hasher(memory_kib=8, time=1, lanes=1)
TOKEN = Secret("refresh-token-of-ann")


@pytest.fixture
def pair():
    """The master as a process holds it, and its public half."""
    text, public = generate_master()
    return load_master(text), public


@pytest.fixture
def password():
    return generate()


@pytest.fixture
def key(pair, password):
    return make_app_key(7, password, pair[1], HASHER)


def opened(key, master, password):
    locked = unwrapped(key, master)
    return unlocked(locked, HASHER.stretched(locked.stretch, password))


def test_app_password_and_master_together_open_what_is_sealed_to_the_key(pair, password, key):
    deposit = seal(Purpose.REFRESH_TOKEN, 7, TOKEN, [recipient_of(key)])
    assert unseal(deposit, opened(key, pair[0], password)).reveal() == TOKEN.reveal()


def test_the_master_alone_opens_neither_deposit_nor_key(pair, password, key):
    deposit = seal(Purpose.REFRESH_TOKEN, 7, TOKEN, [recipient_of(key)])
    with pytest.raises(NotForUs):
        unseal(deposit, pair[0])
    for guess in (generate(), generate()):
        with pytest.raises(SealBroken):
            opened(key, pair[0], guess)


def test_the_app_password_alone_opens_nothing(password, key):
    with pytest.raises(NotForUs):
        opened(key, load_master(generate_master()[0]), password)


def test_what_verifies_the_password_is_not_what_unlocks_the_key(pair, password, key):
    """Even with one salt for both: the hash that lies in the database is no key."""
    stretch = unwrapped(key, pair[0]).stretch
    raw = hash_secret_raw(password.whole.reveal().encode(), stretch.salt, 1, 8, 1, 32, Type.ID)
    assert raw != HASHER.stretched(stretch, password)
    assert HASHER.new_stretch().salt != HASHER.new_stretch().salt


@pytest.mark.parametrize("change", [{"account_id": 8}, {"selector": "zzzz"}, {"key_id": "0" * 16}])
def test_a_key_moved_to_another_place_does_not_open(pair, password, key, change):
    with pytest.raises(SealBroken):
        opened(replace(key, **change), pair[0], password)


def test_every_flipped_bit_of_a_locked_key_is_noticed(pair, password, key):
    for index in range(len(key.locked)):
        spoilt = key.locked[:index] + bytes([key.locked[index] ^ 1]) + key.locked[index + 1 :]
        with pytest.raises(SealBroken):
            opened(replace(key, locked=spoilt), pair[0], password)


@pytest.mark.parametrize("locked", [b"", b"x", b"x" * 200])
def test_a_damaged_key_is_no_crash(pair, password, key, locked):
    with pytest.raises(SealBroken):
        opened(replace(key, locked=locked), pair[0], password)


def test_a_key_that_asks_for_all_the_memory_there_is_is_refused_before_it_is_computed(pair, password):
    class Greedy(Hasher):
        def new_stretch(self):
            return replace(super().new_stretch(), memory_kib=2**31)

        def stretched(self, stretch, password):
            return b"k" * 32

    key = make_app_key(7, password, pair[1], Greedy(memory_kib=8, time=1, lanes=1))
    with pytest.raises(SealBroken):
        unwrapped(key, pair[0])


def test_relocking_needs_no_app_password_and_lets_go_of_the_old_master(pair, password, key):
    text, newest = generate_master()
    after = relocked(key, pair[0].with_newest(text), newest)
    assert (after.key_id, after.public, after.master) == (key.key_id, key.public, newest.key_id)
    opened(after, load_master(text), password)
    with pytest.raises(NotForUs):
        opened(after, pair[0], password)


def test_one_more_recipient_opens_the_same_ciphertext(pair, password, key):
    other_password = generate()
    other = make_app_key(7, other_password, pair[1], HASHER)
    deposit = seal(Purpose.PASSWORD, 7, TOKEN, [recipient_of(key)])
    more = wrap_for(deposit, opened(key, pair[0], password), recipient_of(other))
    both = replace(deposit, wraps=(*deposit.wraps, more))
    for each, its_password in ((key, password), (other, other_password)):
        assert unseal(both, opened(each, pair[0], its_password)).reveal() == TOKEN.reveal()
    with pytest.raises(NotForUs):
        wrap_for(deposit, opened(other, pair[0], other_password), recipient_of(other))


def test_a_concealed_key_comes_back_with_its_password_only(pair, password, key):
    concealer = Concealer()
    key_open = opened(key, pair[0], password)
    hidden = concealer.conceal(key_open, password)
    assert concealer.conceal(key_open, password) != hidden
    again = concealer.reveal(hidden, password)
    deposit = seal(Purpose.REFRESH_TOKEN, 7, TOKEN, [recipient_of(key)])
    assert unseal(deposit, again).reveal() == TOKEN.reveal()
    with pytest.raises(SealBroken):
        concealer.reveal(hidden, generate())
    with pytest.raises(SealBroken):
        Concealer().reveal(hidden, password)  # another process


def test_open_keys_show_nothing_and_are_never_pickled(pair, password, key):
    key_open = opened(key, pair[0], password)
    assert repr(key_open) == f"OpenKey({key.key_id})"
    with pytest.raises(TypeError):
        pickle.dumps(key_open)


# -- a master that is rotated under a running process ------------------------------------------------------------------


class Source:
    """A master key file: its text, and how often it was read."""

    def __init__(self, text):
        self.text = text
        self.reads = 0

    def __call__(self):
        self.reads += 1
        return self.text


def test_an_unknown_key_id_makes_the_source_be_read_again(pair):
    text, newest = generate_master()
    source = Source(pair[0].text())
    running = load_master(pair[0].text(), source)
    source.text = pair[0].with_newest(text).text()
    deposit = seal(Purpose.REFRESH_TOKEN, 7, TOKEN, [recipient_of_master(newest)])
    assert unseal(deposit, running).reveal() == TOKEN.reveal()
    assert unseal(deposit, running).reveal() == TOKEN.reveal()
    assert source.reads == 1
    assert running.key_ids == (newest.key_id, pair[1].key_id)


def test_a_key_that_the_source_has_no_more_still_opens(pair):
    text, newest = generate_master()
    running = load_master(pair[0].text(), Source(text))
    assert running.private_half(newest.key_id) is not None
    assert running.private_half(pair[1].key_id) is not None


def test_a_key_id_that_nobody_knows_does_not_make_the_source_be_read_at_each_login(pair):
    source, now = Source(pair[0].text()), [100.0]
    running = MasterPrivate(_read_keys(pair[0].text()), source, lambda: now[0])
    for _ in range(10):
        assert running.private_half("0" * 16) is None
    assert source.reads == 1
    now[0] += 1.0
    running.private_half("0" * 16)
    assert source.reads == 2


def test_a_source_that_fails_leaves_what_is_held(pair):
    def gone():
        raise ConfigError("cannot read", "mend it")

    running = load_master(pair[0].text(), gone)
    assert running.private_half("0" * 16) is None
    assert running.private_half(pair[1].key_id) is not None


def recipient_of_master(key):
    return Recipient(key.key_id, key.public)


def test_times_of_new_masters_are_aware():
    assert generate_master()[1].created.tzinfo is UTC
    assert generate_master()[1].created <= datetime.now(UTC)
