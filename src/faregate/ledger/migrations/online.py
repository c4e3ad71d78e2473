"""For revisions after the first: what is done to tables that are in use.

A revision only adds: tables, nullable columns, columns with a constant default, indexes. Gateways of the release before
go on reading and writing meanwhile, and afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence

from alembic import op


def add_index(name: str, table: str, columns: Sequence[str], *, unique: bool = False) -> None:
    """Build an index while others write. What an attempt before has left half built goes first.

    It is no part of the revision's transaction: let it be the last, or the only thing a revision does. PostgreSQL
    builds none of a whole partitioned table in this way.
    """
    if op.get_bind().dialect.name != "postgresql":
        op.create_index(name, table, list(columns), unique=unique)
        return
    with op.get_context().autocommit_block():
        op.execute("SET lock_timeout = 0")  # it waits for open transactions, and nobody waits for it
        op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
        op.create_index(name, table, list(columns), unique=unique, postgresql_concurrently=True)
        op.execute("RESET lock_timeout")
