"""The first schema. A migration never imports proxy.store.schema: it says what was true at its time."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

WORD = sa.String(32)
TIME = sa.DateTime(timezone=True)
LIVE = sa.text("state != 'revoked'")


def upgrade() -> None:
    _accounts()
    _credentials()
    _deposits()
    op.create_table(
        "learned",
        sa.Column("upstream", sa.Text, nullable=False),
        sa.Column("protocol", sa.Text, nullable=False),
        sa.Column("extensions", sa.Text, nullable=False),
        sa.Column("learned_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("upstream", "protocol", name="pk_learned"),
    )
    revisions = op.create_table(
        "revision",
        sa.Column("id", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("value", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_revision"),
        sa.CheckConstraint("id = 1", name=op.f("ck_revision_one_row")),
    )
    op.bulk_insert(revisions, [{"id": 1, "value": 1}])


def _accounts() -> None:
    op.create_table(
        "account",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("email", sa.Text, nullable=False),
        sa.Column("upstream", sa.Text, nullable=False),
        sa.Column("upstream_user", sa.Text, nullable=False),
        sa.Column("state", WORD, nullable=False),
        sa.Column("sealed", sa.Boolean, nullable=False),
        sa.Column("token_state", WORD, nullable=False),
        sa.Column("token_since", TIME, nullable=False),
        sa.Column("token_detail", sa.Text, nullable=False),
        sa.Column("created", TIME, nullable=False),
        sa.Column("created_by", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_account"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "login_name",
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("account_id", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_login_name"),
        _of("account_id", "account.id", "fk_login_name_account_id"),
    )
    op.create_index("ix_login_name_account_id", "login_name", ["account_id"])
    op.create_table(
        "lease",
        sa.Column("account_id", sa.Integer, nullable=False),
        sa.Column("owner", sa.Text),
        sa.Column("fence", sa.BigInteger, nullable=False),
        sa.Column("until", TIME),
        sa.PrimaryKeyConstraint("account_id", name="pk_lease"),
        _of("account_id", "account.id", "fk_lease_account_id"),
    )


def _credentials() -> None:
    op.create_table(
        "credential",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("public_id", sa.Text, nullable=False),
        sa.Column("account_id", sa.Integer, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("protocols", sa.Text, nullable=False),
        sa.Column("networks", sa.Text, nullable=False),
        sa.Column("state", WORD, nullable=False),
        sa.Column("expires", TIME),
        sa.Column("generation", sa.Integer, nullable=False),
        sa.Column("created", TIME, nullable=False),
        sa.Column("created_by", sa.Text, nullable=False),
        sa.Column("last_at", TIME),
        sa.Column("last_address", sa.Text),
        sa.Column("last_protocol", sa.Text),
        sa.Column("last_client", sa.Text),
        sa.PrimaryKeyConstraint("id", name="pk_credential"),
        sa.UniqueConstraint("public_id", name="uq_credential_public_id"),
        _of("account_id", "account.id", "fk_credential_account_id"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_credential_account_id", "credential", ["account_id"])
    op.create_index(
        "uq_credential_live_name",
        "credential",
        ["account_id", "name"],
        unique=True,
        sqlite_where=LIVE,
        postgresql_where=LIVE,
    )
    op.create_table(
        "secret",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("account_id", sa.Integer, nullable=False),
        sa.Column("credential_id", sa.Integer, nullable=False),
        sa.Column("selector", sa.Text, nullable=False),
        sa.Column("phc", sa.Text, nullable=False),
        sa.Column("valid_until", TIME),
        sa.Column("created", TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_secret"),
        sa.UniqueConstraint("account_id", "selector", name="uq_secret_account_id_selector"),
        _of("account_id", "account.id", "fk_secret_account_id"),
        _of("credential_id", "credential.id", "fk_secret_credential_id"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_secret_credential_id", "secret", ["credential_id"])


def _deposits() -> None:
    op.create_table(
        "recipient",
        sa.Column("key_id", sa.Text, nullable=False),
        sa.Column("public", sa.LargeBinary, nullable=False),
        sa.Column("created", TIME, nullable=False),
        sa.Column("secret_id", sa.Integer),
        sa.Column("sealed_private", sa.LargeBinary),
        sa.PrimaryKeyConstraint("key_id", name="pk_recipient"),
        sa.UniqueConstraint("secret_id", name="uq_recipient_secret_id"),
        sa.CheckConstraint(
            "(secret_id IS NULL) = (sealed_private IS NULL)", name=op.f("ck_recipient_private_of_secret")
        ),
        _of("secret_id", "secret.id", "fk_recipient_secret_id"),
    )
    op.create_table(
        "deposit",
        sa.Column("row_id", sa.Text, nullable=False),
        sa.Column("account_id", sa.Integer, nullable=False),
        sa.Column("purpose", WORD, nullable=False),
        sa.Column("ciphertext", sa.LargeBinary, nullable=False),
        sa.Column("valid_until", TIME),
        sa.Column("created", TIME, nullable=False),
        sa.PrimaryKeyConstraint("row_id", name="pk_deposit"),
        sa.UniqueConstraint("account_id", "purpose", name="uq_deposit_account_id_purpose"),
        _of("account_id", "account.id", "fk_deposit_account_id"),
    )
    op.create_table(
        "wrap",
        sa.Column("row_id", sa.Text, nullable=False),
        sa.Column("key_id", sa.Text, nullable=False),
        sa.Column("blob", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("row_id", "key_id", name="pk_wrap"),
        _of("row_id", "deposit.row_id", "fk_wrap_row_id"),
        _of("key_id", "recipient.key_id", "fk_wrap_key_id"),
    )
    op.create_index("ix_wrap_key_id", "wrap", ["key_id"])


def _of(column: str, target: str, name: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint([column], [target], name=name, ondelete="CASCADE")
