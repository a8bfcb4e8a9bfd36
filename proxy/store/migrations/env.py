"""Alembic's entry: runs on the connection, inside the transaction and under the lock of proxy/store/migrate.py."""

from __future__ import annotations

from alembic import context

from proxy.store.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,  # SQLite alters a table by copying it
    transactional_ddl=True,  # all or nothing, on SQLite too
)
with context.begin_transaction():
    context.run_migrations()
