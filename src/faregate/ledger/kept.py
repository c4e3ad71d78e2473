"""Rows of responses, as they are written: in a transaction of their own, or in the one that books their records."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection

from faregate.core.call import Record
from faregate.core.codec import encode_record
from faregate.ledger import tables
from faregate.ledger.dialect import Row, insert_many

KEPT_S = 31 * 86_400
"""OpenAI keeps responses for 30 days."""

_NOW_RUNS = (
    "ON CONFLICT (organization_id, id) DO UPDATE SET account_id = excluded.account_id, key_id = excluded.key_id,"
    " hold_id = excluded.hold_id, provider = excluded.provider, model = excluded.model, state = excluded.state,"
    " tokens = excluded.tokens, meta = excluded.meta, poller = excluded.poller, due_us = excluded.due_us"
    " WHERE responses.hold_id <> excluded.hold_id"
)
_HAS_ENDED = (
    "ON CONFLICT (organization_id, id) DO UPDATE SET hold_id = excluded.hold_id, account_id = excluded.account_id,"
    " key_id = excluded.key_id, provider = excluded.provider, model = excluded.model, state = excluded.state,"
    " tokens = excluded.tokens, meta = NULL, poller = NULL, due_us = excluded.due_us"
)


def note_ended(conn: Connection, records: Sequence[Record], now_us: int) -> None:
    """In the transaction that books them: what their providers keep is theirs, and has ended."""
    forgotten_us = now_us + KEPT_S * 1_000_000
    rows = {(one.organization_id, one.upstream_id): _row(one, "ended", None, None, forgotten_us) for one in records}
    insert_many(conn, tables.responses, list(rows.values()), _HAS_ENDED)


def _row(record: Record, state: str, meta: str | None, poller: str | None, due_us: int) -> Row:
    return (
        record.organization_id,
        record.upstream_id,
        record.account_id,
        record.key_id,
        record.hold_id,
        record.provider,
        record.model,
        state,
        record.tokens,
        meta,
        poller,
        due_us,
        record.occurred_at_us,
    )


def note_running(conn: Connection, record: Record, name: str, lease_us: int) -> None:
    """A background response that the provider took; a second time changes nothing."""
    row = _row(record, "running", encode_record(record).decode(), name, lease_us)
    insert_many(conn, tables.responses, [row], _NOW_RUNS)
