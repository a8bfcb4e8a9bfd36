from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from proxy.errors import Answer, Refusal
from proxy.login.rules import Wanted, judge
from proxy.store.rows import Account, AccountState, Credential, CredentialState, LoginRow, SecretRow, TokenState

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)
ACCOUNT = Account(1, "ann@x.test", "mail", "ann", AccountState.ACTIVE, False, TokenState.FRESH, NOON, "", NOON, "test")
CREDENTIAL = Credential(
    1, "id1", 1, "ann@x.test", "scanner", frozenset({"imap"}), (), CredentialState.ACTIVE, None, 1, NOON, "test"
)
SECRET = SecretRow(1, "abcd", "$argon2id$", None)
ROW = LoginRow(ACCOUNT, CREDENTIAL, SECRET, 1)
WANTED = Wanted("imap", "192.0.2.1", ("mail",), "ann", "")


def row(account: Account = ACCOUNT, **changes: object) -> LoginRow:
    return replace(ROW, account=account, credential=replace(CREDENTIAL, **changes))


def test_what_is_allowed_is_let_in() -> None:
    assert judge(ROW, WANTED, NOON) is None


@pytest.mark.parametrize(
    ("one", "refusal"),
    [
        (replace(ROW, credential=None), Refusal.WRONG_PASSWORD),
        (replace(ROW, secret=None), Refusal.WRONG_PASSWORD),
        (row(state=CredentialState.REVOKED), Refusal.REVOKED),
        (row(state=CredentialState.SUSPENDED), Refusal.SUSPENDED),
        (row(replace(ACCOUNT, state=AccountState.DISABLED)), Refusal.ACCOUNT_DISABLED),
        (row(expires=NOON), Refusal.EXPIRED),
        (row(expires=NOON - SECOND), Refusal.EXPIRED),
        (row(expires=NOON + SECOND), None),
        (replace(ROW, secret=replace(SECRET, valid_until=NOON)), Refusal.EXPIRED),
        (replace(ROW, secret=replace(SECRET, valid_until=NOON + SECOND)), None),
        (row(protocols=frozenset({"smtp"})), Refusal.WRONG_PROTOCOL),
        (row(protocols=frozenset()), Refusal.WRONG_PROTOCOL),
        (row(networks=("192.0.2.0/24",)), None),
        (row(networks=("10.0.0.0/8", "192.0.2.1/32")), None),
        (row(networks=("10.0.0.0/8", "2001:db8::/32")), Refusal.WRONG_NETWORK),
        (row(replace(ACCOUNT, upstream="other")), Refusal.WRONG_LISTENER),
    ],
)
def test_each_rule_has_its_refusal(one: LoginRow, refusal: Refusal | None) -> None:
    assert judge(one, WANTED, NOON) is refusal
    assert refusal is None or refusal.answer is Answer.CREDENTIALS


@pytest.mark.parametrize(
    ("peer", "is_in"),
    [
        ("10.1.2.3", True), ("::ffff:10.1.2.3", True), ("::ffff:11.1.2.3", False), ("11.1.2.3", False),
        ("2001:db8::1", True), ("2001:db8::1%eth0", True), ("2001:db9::1", False), ("::10.1.2.3", False),
    ],
)  # fmt: skip
def test_an_address_is_within_a_network_of_its_own_kind(peer: str, is_in: bool) -> None:
    one = row(networks=("10.0.0.0/8", "2001:db8::/32"))
    assert judge(one, replace(WANTED, peer=peer), NOON) is (None if is_in else Refusal.WRONG_NETWORK)


@pytest.mark.parametrize(
    ("authzid", "is_own"),
    [("", True), ("ann", True), ("ann@x.test", True), ("ann.smith@x.test", False), ("bob", False), (None, False)],
)
def test_nobody_acts_for_anybody_else(authzid: str | None, is_own: bool) -> None:
    assert judge(ROW, replace(WANTED, authzid=authzid), NOON) is (None if is_own else Refusal.WRONG_AUTHZID)


def test_the_authorization_is_judged_last_so_that_it_tells_only_who_may_log_in() -> None:
    for one in (row(state=CredentialState.REVOKED), row(expires=NOON), row(networks=("10.0.0.0/8",))):
        refusal = judge(one, replace(WANTED, authzid="bob"), NOON)
        assert refusal is not None
        assert refusal.answer is Answer.CREDENTIALS
