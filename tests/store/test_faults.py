"""Foreign exceptions become ours once, and repeat no parameter."""

from __future__ import annotations

import sqlite3

import pytest
from sqlalchemy import text
from sqlalchemy.exc import (
    DataError,
    IntegrityError,
    InvalidRequestError,
    OperationalError,
    StatementError,
    TimeoutError as PoolTimeout,
)

from proxy.errors import StoreError, StoreUnavailable
from proxy.store.faults import translate, translated
from proxy.store.rows import SelectorTaken

SECRET = "$argon2id$hunter2"


def of_sqlite(code: int, text: str = "said so") -> OperationalError:
    orig = sqlite3.OperationalError(text)
    orig.sqlite_errorcode = code
    return OperationalError("SELECT", {"phc": SECRET}, orig)


def of_postgresql(state: str | None, text: str = "said so\nmore", kind=OperationalError) -> OperationalError:
    orig = Exception(text)
    orig.sqlstate = state
    return kind("SELECT", {"phc": SECRET}, orig)


@pytest.mark.parametrize(
    "error",
    [
        *map(of_sqlite, (5, 6, 10, 13, 14, 261, 517, 522, 778)),  # also extended codes: BUSY_RECOVERY, IOERR_...
        *map(of_postgresql, (None, "08006", "40P01", "40001", "53300", "55P03", "57014", "57P01", "25006", "58030")),
        PoolTimeout("QueuePool limit"),
    ],
    ids=repr,
)
def test_down_locked_and_slow_are_unavailable(error):
    translation = translate(error, "the store")
    assert isinstance(translation, StoreUnavailable)
    assert str(translation).startswith("the store: ")
    assert SECRET not in str(translation)
    assert "\n" not in str(translation)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (of_sqlite(8), "cannot be written"),
        (of_sqlite(11), "damaged"),
        (of_sqlite(26), "not a database"),
        (of_sqlite(1, "no such table: account"), "gatepost db upgrade"),
        (of_sqlite(1, "near SELECT: syntax error"), "OperationalError"),
        (of_postgresql("42P01"), "gatepost db upgrade"),
        (of_postgresql("42501"), "grant it"),
        (of_postgresql("XX001"), "XX001"),
        (of_postgresql(None, kind=DataError), "cannot hold this text"),
    ],
    ids=repr,
)
def test_what_an_operator_must_mend_says_how(error, words):
    translation = translate(error, "the store")
    assert isinstance(translation, StoreError)
    assert words in str(translation)
    assert translation.remedy
    assert SECRET not in str(translation)


@pytest.mark.parametrize("error", [of_sqlite(8), of_sqlite(3), of_sqlite(264), of_postgresql("42501")], ids=repr)
def test_denied_right_is_an_outage_for_a_server_that_runs(error):
    assert isinstance(translate(error, "the store"), StoreUnavailable)


def test_constraints_say_what_was_asked_for():
    def violated(text: str) -> BaseException:
        return translate(IntegrityError("INSERT", {"phc": SECRET}, sqlite3.IntegrityError(text)), "the store")

    assert isinstance(violated("UNIQUE constraint failed: secret.account_id, secret.selector"), SelectorTaken)
    assert "login name" in str(violated("UNIQUE constraint failed: login_name.name"))
    assert "of this name" in str(violated("UNIQUE constraint failed: credential.account_id, credential.name"))
    assert "any more" in str(violated("FOREIGN KEY constraint failed"))
    assert isinstance(violated("CHECK constraint failed: ck_revision_one_row"), StoreError)


def test_bug_of_ours_stays_what_it_is():
    bug = InvalidRequestError("not a statement")
    assert translate(bug, "the store") is bug
    orig = ValueError("a time without a zone")
    assert translate(StatementError("refused", "INSERT", {}, orig), "the store") is orig


def test_translated_exception_drags_no_driver_text_along():
    with pytest.raises(StoreError) as raised, translated("the store"):
        raise of_sqlite(11, f"row ({SECRET})")
    assert raised.value.__cause__ is None
    assert raised.value.__suppress_context__


def test_driver_exception_of_a_statement_hides_its_parameters(store):
    engine = store._database._engine  # below the translation
    insert = text("INSERT INTO login_name (name, account_id) VALUES (:name, 99)")
    with engine.connect() as connection, pytest.raises(IntegrityError) as raised:
        connection.execute(insert, {"name": SECRET})
    assert SECRET not in str(raised.value)
