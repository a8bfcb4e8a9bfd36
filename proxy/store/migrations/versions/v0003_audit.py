"""The audit, where app passwords were used from, and live sessions as their workers publish them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "audit",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("at", TIME, nullable=False),
        sa.Column("event", sa.String(32), nullable=False),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("node", sa.Text, nullable=False),
        sa.Column("worker", sa.Integer),
        *_texts("account", "app_password", "name", "protocol", "address", "cause", "detail"),
        sa.Column("count", sa.Integer, nullable=False),
        sa.Column("until", TIME),
        sa.Column("untold", sa.Boolean, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_audit"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_audit_at", "audit", ["at"])
    op.create_index("ix_audit_account_id", "audit", ["account", "id"])
    untold = sa.text("untold")
    op.create_index("ix_audit_untold", "audit", ["id"], sqlite_where=untold, postgresql_where=untold)
    op.create_table(
        "sighting",
        sa.Column("credential_id", sa.Integer, nullable=False),
        *_texts("address", "network"),
        sa.Column("last_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("credential_id", "address", name="pk_sighting"),
        sa.ForeignKeyConstraint(
            ["credential_id"], ["credential.id"], name="fk_sighting_credential_id", ondelete="CASCADE"
        ),
    )
    op.create_table(
        "worker",
        *_texts("id", "node"),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("until", TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_worker"),
    )
    op.create_table(
        "session",
        *_texts("id", "worker_id"),
        sa.Column("account_id", sa.Integer, nullable=False),
        *_texts("email", "public_id", "name", "protocol", "upstream", "upstream_user", "address", "client"),
        sa.Column("since", TIME, nullable=False),
        sa.Column("is_kicked", sa.Boolean, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_session"),
        sa.ForeignKeyConstraint(["worker_id"], ["worker.id"], name="fk_session_worker_id", ondelete="CASCADE"),
    )
    op.create_index("ix_session_worker_id", "session", ["worker_id"])
    op.create_index("ix_session_account_id", "session", ["account_id"])
    op.create_index("ix_session_mailbox", "session", ["upstream", "upstream_user", "protocol"])


def _texts(*names: str) -> list[sa.Column[str]]:
    return [sa.Column(name, sa.Text, nullable=False) for name in names]
