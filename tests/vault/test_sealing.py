from __future__ import annotations

import pickle
from dataclasses import replace

import pytest

from proxy.errors import ConfigError
from proxy.secret import Secret
from proxy.store.rows import Purpose, Wrap
from proxy.vault.sealing import (
    MasterPrivate,
    Recipient,
    SealBroken,
    generate_master,
    key_id_of,
    load_master,
    seal,
    unseal,
)

TOKEN = Secret("0.AXoA-refresh-ü")


def master() -> tuple[MasterPrivate, Recipient]:
    text, public = generate_master()
    return load_master(text), Recipient(public.key_id, public.public)


def flipped(data: bytes, position: int) -> bytes:
    return data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]


def test_what_is_sealed_to_a_public_half_is_opened_by_the_private_half_alone() -> None:
    private, public = master()
    stranger, _ = master()
    deposit = seal(Purpose.REFRESH_TOKEN, 1, TOKEN, [public])
    assert unseal(deposit, private).reveal() == TOKEN.reveal()
    with pytest.raises(SealBroken, match="not sealed to our master key"):
        unseal(deposit, stranger)


def test_each_of_several_recipients_opens_it() -> None:
    keys = [master() for _ in range(3)]
    deposit = seal(Purpose.REFRESH_TOKEN, 1, TOKEN, [public for _, public in keys])
    assert {unseal(deposit, private).reveal() for private, _ in keys} == {TOKEN.reveal()}


def test_a_changed_bit_anywhere_is_noticed() -> None:
    private, public = master()
    deposit = seal(Purpose.REFRESH_TOKEN, 1, TOKEN, [public])
    for position in range(len(deposit.ciphertext)):
        with pytest.raises(SealBroken, match="altered"):
            unseal(replace(deposit, ciphertext=flipped(deposit.ciphertext, position)), private)
    blob = deposit.wraps[0].blob
    for position in range(len(blob)):
        # The top bit of an X25519 point is ignored (RFC 7748 5), but the encapsulated key is bound by HPKE as bytes.
        with pytest.raises(SealBroken, match="altered"):
            unseal(replace(deposit, wraps=(Wrap(public.key_id, flipped(blob, position)),)), private)


@pytest.mark.parametrize("cut", [b"", b"short"])
def test_a_deposit_cut_short_is_broken_and_no_crash(cut: bytes) -> None:
    private, public = master()
    deposit = seal(Purpose.REFRESH_TOKEN, 1, TOKEN, [public])
    for damaged in (replace(deposit, ciphertext=cut), replace(deposit, wraps=(Wrap(public.key_id, cut),))):
        with pytest.raises(SealBroken):
            unseal(damaged, private)


def test_no_row_can_be_passed_off_as_another() -> None:
    private, public = master()
    one, two = (seal(Purpose.REFRESH_TOKEN, number, TOKEN, [public]) for number in (1, 2))
    forged = (
        replace(one, account_id=2),
        replace(one, row=two.row),
        replace(one, purpose=Purpose.PASSWORD),
        replace(one, wraps=two.wraps),
        replace(one, ciphertext=two.ciphertext),
    )
    for deposit in forged:
        with pytest.raises(SealBroken):
            unseal(deposit, private)


def test_the_same_token_never_looks_the_same_twice() -> None:
    _, public = master()
    one, two = (seal(Purpose.REFRESH_TOKEN, 1, TOKEN, [public], row="r") for _ in range(2))
    assert one.ciphertext != two.ciphertext
    assert one.wraps != two.wraps
    assert TOKEN.reveal().encode() not in one.ciphertext


def test_a_deposit_for_nobody_is_refused_before_it_is_lost() -> None:
    with pytest.raises(ValueError):
        seal(Purpose.REFRESH_TOKEN, 1, TOKEN, [])


def test_a_key_file_may_hold_older_keys_which_still_open_what_was_sealed_to_them() -> None:
    old_text, old = generate_master()
    new_text, new = generate_master()
    private = load_master(Secret(f"{new_text.reveal()}\n{old_text.reveal()}\n"))
    assert private.key_ids == (new.key_id, old.key_id)
    deposit = seal(Purpose.PASSWORD, 1, TOKEN, [Recipient(old.key_id, old.public)])
    assert unseal(deposit, private).reveal() == TOKEN.reveal()


def test_a_key_is_named_by_its_public_half() -> None:
    text, key = generate_master()
    assert load_master(text).key_ids == (key.key_id,) == (key_id_of(key.public),)


@pytest.mark.parametrize("text", ["", "hunter2", "gatepost-master-1:", "gatepost-master-1:AAAA", "gatepost-master-2:x"])
def test_a_file_that_holds_no_master_key_is_said_to_without_its_text(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_master(Secret(text))
    assert "hunter2" not in str(caught.value)
    assert caught.value.remedy


def test_neither_repr_nor_pickle_shows_a_private_half() -> None:
    text, key = generate_master()
    private = load_master(text)
    assert repr(private) == f"MasterPrivate({key.key_id})"
    with pytest.raises(TypeError):
        pickle.dumps(private)


def test_a_broken_seal_says_which_row_and_never_what() -> None:
    private, public = master()
    deposit = seal(Purpose.REFRESH_TOKEN, 1, TOKEN, [public])
    with pytest.raises(SealBroken) as caught:
        unseal(replace(deposit, account_id=2), private)
    assert deposit.row in str(caught.value)
    assert TOKEN.reveal() not in str(caught.value)
