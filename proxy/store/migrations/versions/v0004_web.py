"""The web page: persons, whose mailbox is whose, grants, sessions of browsers, and what counts once."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "person",
        sa.Column("id", sa.Integer, nullable=False),
        *_texts("issuer", "tenant", "subject", "address", "display"),
        sa.Column("created", TIME, nullable=False),
        sa.Column("last_seen", TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_person"),
        sa.UniqueConstraint("issuer", "tenant", "subject", name="uq_person_issuer_tenant_subject"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "binding",
        sa.Column("account_id", sa.Integer, nullable=False),
        sa.Column("person_id", sa.Integer, nullable=False),
        sa.Column("created", TIME, nullable=False),
        sa.PrimaryKeyConstraint("account_id", name="pk_binding"),
        _belongs("binding", "account"),
        _belongs("binding", "person"),
    )
    op.create_index("ix_binding_person_id", "binding", ["person_id"])
    op.create_table(
        "access_grant",
        sa.Column("account_id", sa.Integer, nullable=False),
        *_texts("grantee"),
        sa.Column("person_id", sa.Integer),
        sa.Column("created", TIME, nullable=False),
        *_texts("created_by"),
        sa.PrimaryKeyConstraint("account_id", "grantee", name="pk_access_grant"),
        _belongs("access_grant", "account"),
        _belongs("access_grant", "person"),
    )
    op.create_index("ix_access_grant_person_id", "access_grant", ["person_id"])
    op.create_table(
        "web_session",
        *_texts("id_hash"),
        sa.Column("person_id", sa.Integer, nullable=False),
        sa.Column("is_admin", sa.Boolean, nullable=False),
        *(sa.Column(name, TIME, nullable=False) for name in ("created", "last_seen", "expires", "auth_time")),
        *_texts("amr", "acr", "address"),
        sa.Column("held_for", sa.Integer),
        sa.Column("held", sa.LargeBinary),
        sa.PrimaryKeyConstraint("id_hash", name="pk_web_session"),
        _belongs("web_session", "person"),
        sa.ForeignKeyConstraint(["held_for"], ["account.id"], name="fk_web_session_held_for", ondelete="SET NULL"),
    )
    op.create_index("ix_web_session_person_id", "web_session", ["person_id"])
    op.create_index("ix_web_session_expires", "web_session", ["expires"])
    op.create_table(
        "spent",
        *_texts("token_hash"),
        sa.Column("until", TIME, nullable=False),
        sa.PrimaryKeyConstraint("token_hash", name="pk_spent"),
    )
    op.create_index("ix_spent_until", "spent", ["until"])


def _texts(*names: str) -> list[sa.Column[str]]:
    return [sa.Column(name, sa.Text, nullable=False) for name in names]


def _belongs(table: str, owner: str) -> sa.ForeignKeyConstraint:
    column = f"{owner}_id"
    return sa.ForeignKeyConstraint([column], [f"{owner}.id"], name=f"fk_{table}_{column}", ondelete="CASCADE")
