"""App passwords, their secrets, last uses, standings: on SQLite and on PostgreSQL."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from proxy.errors import StoreError
from proxy.store.rows import AccountState, CredentialState, LastUse, NewAccount, SelectorTaken, Standing, Use


def test_app_password_comes_back_as_it_was_added(store, ann, new_credential, clock):
    expires = clock.now + timedelta(days=90, microseconds=1)
    new = new_credential(ann, protocols=frozenset({"smtp"}), networks=("10.0.0.0/8", "fd00::/8"), expires=expires)
    made = store.add_credential(new)
    assert (made.public_id, made.account_id, made.email) == (new.public_id, ann.id, ann.email)
    assert (made.name, made.protocols, made.networks) == ("scanner", {"smtp"}, ("10.0.0.0/8", "fd00::/8"))
    assert (made.state, made.expires, made.generation) == (CredentialState.ACTIVE, expires, 1)
    assert (made.created, made.created_by, made.last_use) == (clock.now, "cli:root", None)
    assert store.credential(new.public_id) == made
    assert store.credential("unknown") is None


def test_app_passwords_are_listed_by_account_and_all_together(store, ann, scanner, new_credential):
    bob = store.add_account(NewAccount("bob@x.test", "mail", "bob", (), "cli"))
    second = store.add_credential(new_credential(ann, "phone"))
    of_bob = store.add_credential(new_credential(bob))
    assert store.credentials(ann.id) == [scanner, second]
    assert store.credentials(bob.id) == [of_bob]
    assert store.credentials(None) == [scanner, second, of_bob]
    assert store.credentials(99) == []


def test_live_name_is_unique_in_the_account_and_the_error_names_the_other(store, ann, scanner, new_credential):
    with pytest.raises(StoreError, match=f'"scanner" already; .*gatepost revoke {scanner.public_id}'):
        store.add_credential(new_credential(ann))
    store.set_credential_states([scanner.public_id], CredentialState.SUSPENDED)
    with pytest.raises(StoreError, match='"scanner" already'):
        store.add_credential(new_credential(ann))
    assert len(store.credentials(ann.id)) == 1


def test_name_of_a_revoked_app_password_is_free_again(store, ann, scanner, new_credential):
    store.revoke([scanner.public_id])
    assert store.add_credential(new_credential(ann)).name == "scanner"


def test_selector_is_never_used_twice_in_an_account_even_after_revoke(store, ann, scanner, new_credential):
    store.revoke([scanner.public_id])
    with pytest.raises(SelectorTaken):
        store.add_credential(new_credential(ann, "phone", selector="s001"))
    assert store.credentials(ann.id) == store.revoke([scanner.public_id])  # nothing half-done
    bob = store.add_account(NewAccount("bob@x.test", "mail", "bob", (), "cli"))
    store.add_credential(new_credential(bob, selector="s001"))


def test_app_password_of_no_account_is_refused(store, new_credential):
    with pytest.raises(StoreError, match="no account 99"):
        store.add_credential(new_credential(99))


def test_public_id_is_unique(store, ann, scanner, new_credential):
    with pytest.raises(StoreError, match="this id is taken"):
        store.add_credential(new_credential(ann, "phone", public_id=scanner.public_id))


def test_revoke_raises_generation_and_revision_once(store, ann, scanner, new_credential):
    phone = store.add_credential(new_credential(ann, "phone"))
    before = store.revision()
    revoked = store.revoke([phone.public_id, scanner.public_id, phone.public_id])
    assert [one.public_id for one in revoked] == [phone.public_id, scanner.public_id]
    assert {one.state for one in revoked} == {CredentialState.REVOKED}
    assert {one.generation for one in revoked} == {2}
    assert store.revision() == before + 1
    assert store.revoke([scanner.public_id, phone.public_id]) == revoked[::-1]
    assert store.revision() == before + 1


def test_revoke_with_one_unknown_id_revokes_nothing(store, scanner):
    before = store.revision()
    with pytest.raises(StoreError, match="no app password nope; see gatepost list"):
        store.revoke([scanner.public_id, "nope"])
    assert store.credential(scanner.public_id) == scanner
    assert store.revision() == before


def test_suspended_app_password_resumes_but_a_revoked_one_never(store, scanner):
    ids = [scanner.public_id]
    assert store.set_credential_states(ids, CredentialState.SUSPENDED)[0].state is CredentialState.SUSPENDED
    assert store.set_credential_states(ids, CredentialState.ACTIVE) == [replace(scanner, generation=3)]
    store.revoke(ids)
    with pytest.raises(StoreError, match="revoked for good"):
        store.set_credential_states(ids, CredentialState.ACTIVE)


def test_better_hash_replaces_only_the_one_that_was_verified(store, ann, scanner):
    secret = store.find_login("ann", "s001").secret
    assert store.replace_phc(secret.id, secret.phc, "$argon2id$better")
    assert not store.replace_phc(secret.id, secret.phc, "$argon2id$other")
    assert store.find_login("ann", "s001").secret.phc == "$argon2id$better"
    assert not store.replace_phc(99, secret.phc, "$argon2id$other")


def test_newest_use_stays_whatever_the_order_of_batches(store, ann, scanner, new_credential, clock):
    phone = store.add_credential(new_credential(ann, "phone"))
    early = LastUse(clock.now, "192.0.2.1", "imap", "mutt 2.2")
    late = LastUse(clock.pass_s(0.000001), "2001:db8::1", "smtp", "")
    gone = Use(99, late, "")
    before = store.revision()
    store.record_uses([Use(scanner.id, late, ""), gone, Use(phone.id, early, ""), Use(scanner.id, early, "")])
    store.record_uses([Use(scanner.id, early, ""), Use(phone.id, late, "")])
    store.record_uses([])
    assert store.credential(scanner.public_id).last_use == late
    assert store.find_login("ann", "s002").credential.last_use == late
    assert store.revision() == before


def test_standings_tell_what_live_sessions_are_worth(store, ann, scanner, new_credential, clock):
    expires = clock.pass_s(60)
    phone = store.add_credential(new_credential(ann, "phone", expires=expires))
    ids = {name: store.find_login("ann", name).secret.id for name in ("s001", "s002")}
    store.revoke([scanner.public_id])
    store.set_account_state(ann.id, AccountState.DISABLED)
    assert store.standings([*ids.values(), 99]) == {
        ids["s001"]: Standing(scanner.id, AccountState.DISABLED, CredentialState.REVOKED, None, 3, None),
        ids["s002"]: Standing(phone.id, AccountState.DISABLED, CredentialState.ACTIVE, expires, 2, None),
    }


def test_standings_of_more_sessions_than_a_statement_has_parameters(store, ann, scanner):
    secret = store.find_login("ann", "s001").secret
    assert list(store.standings(range(secret.id, secret.id + 40_000))) == [secret.id]
    assert store.standings([]) == {}


def test_learned_extensions_are_kept_per_upstream_and_protocol(store):
    assert store.extensions("mail", "smtp") is None
    store.put_extensions("mail", "smtp", ("SIZE 1000000", "PIPELINING"))
    store.put_extensions("mail", "imap", ())
    assert store.extensions("mail", "smtp") == ("SIZE 1000000", "PIPELINING")
    assert store.extensions("mail", "imap") == ()
    store.put_extensions("mail", "smtp", ("PIPELINING",))
    assert store.extensions("mail", "smtp") == ("PIPELINING",)
    with pytest.raises(ValueError, match="a word in the store"):
        store.put_extensions("mail", "smtp", ("A\nB",))
