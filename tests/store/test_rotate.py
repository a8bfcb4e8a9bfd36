"""Rotation: one more secret, the former ones for a while; aliases; as many app passwords as an account may have."""

from __future__ import annotations

from datetime import timedelta

import pytest

from proxy.errors import StoreError
from proxy.store.audit_rows import Event, Wanted
from proxy.store.rows import (
    AppKey,
    CredentialState,
    Deposit,
    NewAccount,
    NewSecret,
    Purpose,
    RecipientsChanged,
    SelectorTaken,
    Wrap,
)

HOUR = timedelta(hours=1)


def test_both_secrets_are_the_same_app_password_and_the_former_ends(store, ann, scanner, clock):
    revision = store.revision()
    until = clock.now + HOUR
    assert store.rotate(scanner.public_id, NewSecret("t001", "$argon2id$new"), until) == scanner
    former, new = store.find_login("ann", "s001"), store.find_login("ann", "t001")
    assert former.credential == new.credential == scanner  # its generation, too: live sessions go on
    assert (former.secret.valid_until, new.secret.valid_until) == (until, None)
    assert store.standings([former.secret.id])[former.secret.id].secret_valid_until == until
    assert store.revision() == revision + 1


def test_second_rotation_never_prolongs_the_first_ones_secret(store, ann, scanner, clock):
    soon, late = clock.now + HOUR, clock.now + 9 * HOUR
    store.rotate(scanner.public_id, NewSecret("t001", "$argon2id$1"), soon)
    store.rotate(scanner.public_id, NewSecret("t002", "$argon2id$2"), late)
    ends = [store.find_login("ann", selector).secret.valid_until for selector in ("s001", "t001", "t002")]
    assert ends == [soon, late, None]


def test_selector_is_never_used_twice_not_even_by_a_rotation(store, ann, scanner, clock):
    with pytest.raises(SelectorTaken):
        store.rotate(scanner.public_id, NewSecret("s001", "$argon2id$new"), clock.now)
    assert store.find_login("ann", "s001").secret.valid_until is None


def test_texts_that_still_work_are_told_with_their_ends(store, ann, scanner, new_credential, clock):
    store.add_credential(new_credential(ann, "other"))
    until = clock.now + HOUR
    assert store.secret_ends(scanner.id) == [None]
    store.rotate(scanner.public_id, NewSecret("t001", "$argon2id$new"), until)
    assert store.secret_ends(scanner.id) == [None, until]
    clock.pass_s(3600)
    assert store.secret_ends(scanner.id) == [None]


def test_secret_that_nobody_saw_ends_and_the_others_go_on(store, ann, scanner, clock):
    until = clock.now + HOUR
    store.rotate(scanner.public_id, NewSecret("t001", "$argon2id$new"), until)
    revision = store.revision()
    store.end_secret(ann.id, "t001")
    assert store.find_login("ann", "t001").secret.is_over(clock.now)
    assert not store.find_login("ann", "s001").secret.is_over(clock.now)
    assert store.secret_ends(scanner.id) == [until]
    assert store.revision() == revision + 1
    (_, entry) = store.trail.entries(Wanted(events=(Event.ROTATED,)), 0, 10)
    assert (entry.app_password, entry.detail) == (scanner.public_id, "the new one was never shown, and has ended")
    store.end_secret(ann.id, "zzzz")  # none of this selector: nothing to end
    assert store.revision() == revision + 1


def test_revoked_or_unknown_app_password_is_not_rotated(store, ann, scanner, clock):
    store.revoke([scanner.public_id])
    with pytest.raises(StoreError, match="revoked for good"):
        store.rotate(scanner.public_id, NewSecret("t001", "$argon2id$new"), clock.now)
    with pytest.raises(StoreError, match="there is no app password"):
        store.rotate("nothing", NewSecret("t001", "$argon2id$new"), clock.now)


def test_suspended_app_password_is_rotated_and_stays_suspended(store, ann, scanner, clock):
    store.set_credential_states([scanner.public_id], CredentialState.SUSPENDED)
    one = store.rotate(scanner.public_id, NewSecret("t001", "$argon2id$new"), clock.now)
    assert one.state is CredentialState.SUSPENDED


def app_key(number: int, account_id: int, selector: str) -> AppKey:
    return AppKey(f"k{number}", bytes([number]) * 32, account_id, selector, "m1", b"locked")


def test_rotated_secret_of_a_sealed_account_opens_what_it_has_until_its_time_is_over(
    store, master, new_credential, clock
):
    sealed = store.add_account(NewAccount("sue@x.test", "mail", "sue", (), "cli", sealed=True))
    one = store.add_credential(new_credential(sealed, selector="s001"), app_key(1, sealed.id, "s001"))
    token = Deposit("row", sealed.id, Purpose.REFRESH_TOKEN, b"sealed", (Wrap("k1", b"wrapped"),))
    store.put_deposit(token)
    until = clock.now + HOUR
    new, key = NewSecret("t001", "$argon2id$new"), app_key(2, sealed.id, "t001")
    with pytest.raises(RecipientsChanged):
        store.rotate(one.public_id, new, until, key)  # a key that opens nothing
    store.rotate(one.public_id, new, until, key, opened=[(token, Wrap("k2", b"wrapped too"))])
    assert [each.key_id for each in store.recipients(sealed.id)] == ["k1", "k2"]
    assert store.trail.drop_outlived_keys() == 0
    clock.pass_s(3600)
    assert store.trail.drop_outlived_keys() == 1
    assert [each.key_id for each in store.recipients(sealed.id)] == ["k2"]
    assert store.deposit(sealed.id, Purpose.REFRESH_TOKEN).wraps == (Wrap("k2", b"wrapped too"),)
    assert store.trail.drop_outlived_keys() == 0


def test_account_has_no_more_app_passwords_than_it_may(store, ann, new_credential, clock):
    first = store.add_credential(new_credential(ann, "one"), most=2)
    soon = clock.now + HOUR
    store.add_credential(new_credential(ann, "two", expires=soon), most=2)
    with pytest.raises(StoreError, match="has 2 app passwords already"):
        store.add_credential(new_credential(ann, "three"), most=2)
    store.revoke([first.public_id])
    store.add_credential(new_credential(ann, "three"), most=2)
    clock.pass_s(3600)  # an expired one takes no room either
    store.add_credential(new_credential(ann, "four"), most=2)


def test_alias_logs_in_until_it_is_taken_away(store, ann, scanner):
    store.add_account(NewAccount("bob@x.test", "mail", "bob", (), "cli"))
    assert store.add_alias(ann.id, "printer", 3)
    assert not store.add_alias(ann.id, "printer", 3)
    assert store.find_login("printer", "s001").credential == scanner
    with pytest.raises(StoreError, match=r"bob@x\.test belongs"):
        store.add_alias(ann.id, "bob@x.test", 3)
    with pytest.raises(StoreError, match="3 aliases already"):
        store.add_alias(ann.id, "fourth", 3)
    assert store.remove_alias(ann.id, "printer")
    assert not store.remove_alias(ann.id, "printer")
    assert not store.remove_alias(ann.id, "bob@x.test")
    assert not store.remove_alias(ann.id, "ann@x.test")  # its e-mail stays
    assert store.find_login("printer", "s001") is None
