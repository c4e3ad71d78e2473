"""Run by alembic: uses the connection that schema.py hands over.

On SQLite all revisions are one transaction, which schema.py has begun; on PostgreSQL each is one of its own.
"""

from __future__ import annotations

from alembic import context

from faregate.ledger.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transactional_ddl=True,
    transaction_per_migration=True,
)
with context.begin_transaction():
    context.run_migrations()
