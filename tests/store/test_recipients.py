"""proxy/store/recipients.py: nothing is written for keys that have changed. On SQLite and on PostgreSQL."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta

import pytest

from proxy.errors import StoreError
from proxy.store.rows import (
    LAST_REVOKED,
    AppKey,
    CredentialState,
    Deposit,
    MasterKey,
    NewAccount,
    Purpose,
    Recipient,
    RecipientsChanged,
    TokenState,
    Wrap,
)

LEASE = timedelta(seconds=30)
LATER = timedelta(microseconds=1)


@pytest.fixture
def sealed(store, master):
    return store.add_account(NewAccount("sue@x.test", "mail", "sue@x.test", (), "cli:root", sealed=True))


@pytest.fixture
def add_key(store, sealed, new_credential):
    """Adds an app password with its key; what is stored then must be given as opened."""

    def add(name, *opened, master="m1", **more):
        new = new_credential(sealed, name)
        key = AppKey(f"key of {name}", name.encode(), sealed.id, new.selector, master, b"locked\n\0" + name.encode())
        return store.add_credential(new, key, opened=opened, **more)

    return add


def sealed_deposit(account, *names, purpose=Purpose.REFRESH_TOKEN, text=b"sealed", row="row1"):
    wraps = tuple(Wrap(f"key of {name}", b"for " + name.encode()) for name in sorted(names))
    return Deposit(row, account.id, purpose, text, wraps)


def newer(master):
    return MasterKey("m2", b"\x02" * 32, master.created + LATER)


def secret_id(store, credential):
    row = store.find_login(credential.email, f"s{credential.public_id[2:]:0>3}")
    return row.secret.id


# -- whom to seal to ---------------------------------------------------------------------------------------------------


def test_ordinary_accounts_have_the_newest_master_and_sealed_ones_their_app_keys(store, ann, sealed, master, add_key):
    assert store.recipients(ann.id) == [Recipient("m1", master.public)]
    assert store.recipients(sealed.id) == []
    add_key("phone")
    add_key("laptop")
    assert store.recipients(sealed.id) == [Recipient("key of laptop", b"laptop"), Recipient("key of phone", b"phone")]
    store.add_master(newer(master))
    assert [one.key_id for one in store.recipients(ann.id)] == ["m2"]
    with pytest.raises(StoreError, match="no account 99"):
        store.recipients(99)


def test_an_app_key_comes_back_as_it_was_put(store, sealed, add_key):
    credential = add_key("phone")
    found = store.app_key(secret_id(store, credential))
    assert found == AppKey("key of phone", b"phone", sealed.id, found.selector, "m1", b"locked\n\0phone")
    assert store.app_key(99) is None


def test_a_key_under_an_older_master_is_refused_with_its_password(store, sealed, master, add_key):
    store.add_master(newer(master))
    with pytest.raises(RecipientsChanged):
        add_key("phone")
    assert store.credentials(sealed.id) == []
    add_key("phone", master="m2")


@pytest.mark.parametrize("names", [(), ("phone",), ("phone", "laptop", "gone"), ("gone",)])
def test_a_sealed_deposit_is_for_all_keys_of_the_account_or_not_written(store, sealed, add_key, clock, names):
    add_key("phone")
    add_key("laptop")
    fence = store.take_lease(sealed.id, "w1", clock.now, clock.now + LEASE)
    wrong = sealed_deposit(sealed, *names) if names else replace(sealed_deposit(sealed), wraps=(Wrap("m1", b"x"),))
    for write in (lambda: store.put_deposit(wrong), lambda: store.put_tokens(sealed.id, fence, [wrong])):
        with pytest.raises(RecipientsChanged):
            write()
    assert store.deposit(sealed.id, Purpose.REFRESH_TOKEN) is None
    assert store.put_tokens(sealed.id, fence, [sealed_deposit(sealed, "phone", "laptop")])  # the fence still stands


def test_an_ordinary_deposit_for_a_former_master_is_refused(store, ann, master, new_deposit, clock):
    fence = store.take_lease(ann.id, "w1", clock.now, clock.now + LEASE)
    store.add_master(newer(master))
    with pytest.raises(RecipientsChanged):
        store.put_tokens(ann.id, fence, [new_deposit(ann)])
    assert store.put_tokens(ann.id, fence, [replace(new_deposit(ann), wraps=(Wrap("m2", b"x"),))])


# -- a further app password --------------------------------------------------------------------------------------------


def test_a_new_key_opens_what_is_there(store, sealed, add_key):
    add_key("phone")
    refresh = sealed_deposit(sealed, "phone")
    access = sealed_deposit(sealed, "phone", purpose=Purpose.ACCESS_TOKEN, row="row2", text=b"access")
    store.put_deposit(refresh)
    store.put_deposit(access)
    more = Wrap("key of laptop", b"for laptop")
    add_key("laptop", (refresh, more), (access, more))
    assert store.deposit(sealed.id, Purpose.REFRESH_TOKEN).wraps == (more, *refresh.wraps)
    assert store.deposit(sealed.id, Purpose.ACCESS_TOKEN).wraps == (more, *access.wraps)


def test_a_new_key_that_would_not_open_what_is_there_is_refused(store, sealed, add_key):
    add_key("phone")
    refresh = sealed_deposit(sealed, "phone")
    store.put_deposit(refresh)
    more = Wrap("key of laptop", b"for laptop")
    with pytest.raises(RecipientsChanged):
        add_key("laptop")
    # A refresh meanwhile: the row is the same, the token another.
    store.put_deposit(replace(refresh, ciphertext=b"rotated"))
    with pytest.raises(RecipientsChanged):
        add_key("laptop", (refresh, more))
    assert [one.name for one in store.credentials(sealed.id)] == ["phone"]


def test_new_tokens_take_the_place_of_what_nobody_needs_to_open(store, sealed, add_key):
    add_key("phone")
    store.put_deposit(sealed_deposit(sealed, "phone"))
    store.put_deposit(sealed_deposit(sealed, "phone", purpose=Purpose.ACCESS_TOKEN, row="row2"))
    new = sealed_deposit(sealed, "phone", "laptop", text=b"signed in", row="row3")
    add_key("laptop", tokens=[new])
    assert store.deposit(sealed.id, Purpose.REFRESH_TOKEN) == new
    assert store.deposit(sealed.id, Purpose.ACCESS_TOKEN) is None
    with pytest.raises(RecipientsChanged):
        add_key("tablet", tokens=[new])  # not for the tablet
    assert len(store.credentials(sealed.id)) == 2


# -- revoking ----------------------------------------------------------------------------------------------------------


def test_revoking_drops_the_key_and_its_wraps(store, sealed, add_key):
    phone, laptop = add_key("phone"), add_key("laptop")
    ids = [secret_id(store, one) for one in (phone, laptop)]
    store.put_deposit(sealed_deposit(sealed, "phone", "laptop"))
    store.revoke([phone.public_id])
    assert store.app_key(ids[0]) is None
    assert store.app_key(ids[1]) is not None
    assert store.deposit(sealed.id, Purpose.REFRESH_TOKEN).wraps == (Wrap("key of laptop", b"for laptop"),)
    assert store.account("sue@x.test").token_state is TokenState.FRESH


def test_revoking_the_last_one_needs_consent_and_leaves_nothing_that_nobody_opens(store, sealed, add_key):
    both = [add_key("phone").public_id, add_key("laptop").public_id]
    store.put_deposit(sealed_deposit(sealed, "phone", "laptop"))
    store.revoke(both)
    now = store.account("sue@x.test")
    assert (now.token_state, now.token_detail) == (TokenState.NEEDS_CONSENT, LAST_REVOKED)
    assert store.deposit(sealed.id, Purpose.REFRESH_TOKEN) is None
    add_key("new phone")  # nothing is in the way of a new beginning
    store.put_deposit(sealed_deposit(sealed, "new phone"))
    assert store.account("sue@x.test").token_state is TokenState.FRESH


def test_suspending_keeps_the_key(store, sealed, add_key):
    phone = add_key("phone")
    store.put_deposit(sealed_deposit(sealed, "phone"))
    store.set_credential_states([phone.public_id], CredentialState.SUSPENDED)
    assert [one.key_id for one in store.recipients(sealed.id)] == ["key of phone"]


def test_an_account_that_never_had_anything_stored_loses_nothing(store, sealed, add_key):
    store.revoke([add_key("phone").public_id])
    assert store.account("sue@x.test").token_state is TokenState.NONE


def test_the_last_two_revoked_at_one_instant_are_noticed(store, sealed, add_key):
    both = [add_key("phone").public_id, add_key("laptop").public_id]
    store.put_deposit(sealed_deposit(sealed, "phone", "laptop"))
    start = threading.Barrier(2)

    def revoke(public_id):
        start.wait()
        store.revoke([public_id])

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(revoke, both))
    assert store.account("sue@x.test").token_state is TokenState.NEEDS_CONSENT


# -- key rotate --------------------------------------------------------------------------------------------------------


def test_a_master_goes_only_when_nothing_is_under_it(store, ann, master, new_deposit, add_key):
    sealed = store.account("sue@x.test")
    store.put_deposit(new_deposit(ann))
    add_key("phone")
    store.put_deposit(sealed_deposit(sealed, "phone", row="of sue"))
    store.add_master(newer(master))
    assert store.drop_master("m1") == 2
    assert [one.key_id for one in store.masters()] == ["m2", "m1"]
    (deposit,) = store.wraps_under("m1", "", 100)
    (key,) = store.app_keys_under("m1", "", 100)
    assert deposit == store.deposit(ann.id, Purpose.REFRESH_TOKEN)
    assert store.replace_wraps([(deposit, Wrap("m2", b"again"))]) == 1
    assert store.replace_app_keys([(key, replace(key, master="m2", locked=b"again"))]) == 1
    assert store.drop_master("m1") == 0
    assert [one.key_id for one in store.masters()] == ["m2"]
    assert store.deposit(ann.id, Purpose.REFRESH_TOKEN).wraps == (Wrap("m2", b"again"),)
    assert [one.key_id for one in store.recipients(sealed.id)] == ["key of phone"]


def test_pages_go_through_everything_once(store, ann, master, sealed, add_key):
    for number in range(7):
        account = store.add_account(NewAccount(f"u{number}@x.test", "mail", "u", (), "cli"))
        store.put_deposit(Deposit(f"row{number}", account.id, Purpose.PASSWORD, b"x", (Wrap("m1", b"w"),)))
        add_key(f"app{number}")
    rows, after = [], ""
    while page := store.wraps_under("m1", after, 3):
        rows += [one.row for one in page]
        after = page[-1].row
    keys, after = [], ""
    while page := store.app_keys_under("m1", after, 3):
        keys += [one.key_id for one in page]
        after = page[-1].key_id
    assert rows == [f"row{number}" for number in range(7)]
    assert keys == [f"key of app{number}" for number in range(7)]
    assert store.wraps_under("m0", "", 3) == []
    assert store.app_keys_under("m", "", 3) == []  # a beginning of an id is not the id


def test_what_was_replaced_meanwhile_is_left_alone(store, ann, master, new_deposit):
    store.put_deposit(new_deposit(ann))
    (before,) = store.wraps_under("m1", "", 100)
    store.add_master(newer(master))
    newest = replace(new_deposit(ann), wraps=(Wrap("m2", b"of a refresh"),))
    store.put_deposit(newest)
    assert store.replace_wraps([(before, Wrap("m2", b"late"))]) == 0
    assert store.deposit(ann.id, Purpose.REFRESH_TOKEN) == newest


def test_a_deposit_that_is_under_both_masters_loses_the_old_one(store, ann, master, new_deposit):
    store.add_master(newer(master))
    both = replace(new_deposit(ann), wraps=(Wrap("m1", b"old"), Wrap("m2", b"new")))
    store.put_deposit(both)
    (old,) = store.wraps_under("m1", "", 100)
    assert store.replace_wraps([(old, Wrap("m2", b"third"))]) == 1
    assert store.deposit(ann.id, Purpose.REFRESH_TOKEN).wraps == (Wrap("m2", b"new"),)


def test_deposits_and_a_rotation_at_one_instant_lose_nothing(store, master, new_deposit):
    """Eight threads deposit while another drops the master under them: every deposit can be opened by the new one."""
    accounts = [store.add_account(NewAccount(f"u{number}@x.test", "mail", "u", (), "cli")) for number in range(8)]
    start = threading.Barrier(9)

    def deposit(account):
        start.wait()
        for _ in range(5):
            while True:
                (recipient,) = store.recipients(account.id)
                try:
                    store.put_deposit(replace(new_deposit(account), wraps=(Wrap(recipient.key_id, b"x"),)))
                    break
                except RecipientsChanged:
                    continue

    def rotate(_):
        start.wait()
        store.add_master(newer(master))
        while store.drop_master("m1"):
            page = store.wraps_under("m1", "", 100)
            store.replace_wraps([(one, Wrap("m2", b"x")) for one in page])

    with ThreadPoolExecutor(9) as threads:
        work = [threads.submit(deposit, account) for account in accounts] + [threads.submit(rotate, None)]
        for one in work:
            one.result()
    found = [store.deposit(account.id, Purpose.REFRESH_TOKEN) for account in accounts]
    assert [one and one.wraps for one in found] == [(Wrap("m2", b"x"),)] * 8
