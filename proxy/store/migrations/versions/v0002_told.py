"""What people were told by alerts: once per change, whichever process or node noticed it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "told",
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("account_id", sa.Integer),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("subject", name="pk_told"),
        sa.UniqueConstraint("account_id", name="uq_told_account_id"),
        sa.ForeignKeyConstraint(["account_id"], ["account.id"], name="fk_told_account_id", ondelete="CASCADE"),
    )
