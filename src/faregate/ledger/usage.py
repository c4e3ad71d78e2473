"""Usage records as they are read: filtered, by cursor, or one with everything that explains it."""

from __future__ import annotations

import builtins
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Literal

from sqlalchemy import ColumnElement, Connection, RowMapping, func, select

from faregate.core.money import EXACT
from faregate.core.price import PriceCard
from faregate.errors import InvalidRequest, NotFound
from faregate.ledger import tables
from faregate.ledger.accounts import Page
from faregate.ledger.database import Database
from faregate.ledger.posting import from_json
from faregate.ledger.rows import COUNTS, load_card, price_lines
from faregate.ledger.summary import calls_by_time
from faregate.ledger.usage_filter import UsageFilter
from faregate.ledger.usage_walk import Place, walk

_t = tables.usage_records.c

UsageOrder = tuple[Literal["occurred", "charge"], bool]
"""By time or by charge; True: the largest first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageRecord:
    """One line of what was used. An adjustment's amounts and counts are differences to its hold's first record."""

    id: str
    hold_id: str
    is_adjustment: bool
    kind: str
    organization_id: str
    account_id: str
    key_id: str | None
    request_id: str
    entry_id: str | None
    occurred_us: int
    created_us: int
    charge_microcredits: int
    cost_usd: Decimal
    context: str
    endpoint: str
    public_model: str
    provider: str
    provider_kind: str
    model: str
    usage: Mapping[str, object]
    """As in core.usage.Usage, without Nones."""
    tier: str
    card_id: str | None
    lines: tuple[tuple[str, Decimal, Decimal, Decimal], ...]
    """Item, quantity, rate, amount (USD)."""
    multiplier: Decimal
    markup_percent: Decimal
    credits_per_usd: Decimal
    estimated: bool
    outcome: str
    status: int
    stream: bool
    duration_ms: int
    attribution: Mapping[str, str]
    description: str | None
    raw_usage: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class UsagePage:
    """Newest first. `next_cursor` None: there is no more."""

    records: tuple[UsageRecord, ...]
    next_cursor: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageDetail:
    """One record with its card, and the adjustment a late truth made."""

    record: UsageRecord
    adjustment: UsageRecord | None
    card: PriceCard | None


class UsageRecords:
    """Reading usage."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def list(self, wanted: UsageFilter, *, limit: int, cursor: str | None = None) -> UsagePage:
        """By time, newest first; as fast at any depth. Raises InvalidRequest for a cursor that is none."""
        return await self._database.read(_list, wanted, limit, None if cursor is None else _parse(cursor))

    async def page(self, wanted: UsageFilter, order: UsageOrder, *, limit: int, offset: int) -> Page[UsageRecord]:
        """A page by number, and how many there are: by time as fast at any depth, but for a day's records; by charge
        as slow as the filter is wide. A record is shown with its adjustment in its amounts and counts."""
        return await self._database.read(_page, wanted, order, limit, offset)

    async def get(self, reference: str, *, organization_id: str | None) -> UsageDetail:
        """By usage id or request id. Raises NotFound."""
        return await self._database.read(_get, reference, organization_id)


def _list(conn: Connection, wanted: UsageFilter, limit: int, after: Place | None) -> UsagePage:
    places = walk(conn, wanted, limit=limit + 1, after=after)
    records = _at(conn, places[:limit])
    more = len(places) > limit
    return UsagePage(records=tuple(records), next_cursor=_cursor(records[-1]) if more and records else None)


def _at(conn: Connection, places: builtins.list[Place]) -> builtins.list[UsageRecord]:
    known = records_by_id(conn, [record_id for _, record_id in places])
    return [known[record_id] for _, record_id in places]


def _page(conn: Connection, wanted: UsageFilter, order: UsageOrder, limit: int, offset: int) -> Page[UsageRecord]:
    by, down = order
    if by == "charge":
        return _page_by_charge(conn, wanted, down, limit, offset)
    calls = calls_by_time(conn, wanted)
    total = sum(calls.values())
    items: builtins.list[UsageRecord] = []
    if offset < total:
        near, skipped = _near(wanted, calls, offset, down)
        items = _at(conn, walk(conn, near, limit=limit, offset=offset - skipped, down=down, calls_only=True))
    return Page(items=tuple(_adjusted(conn, items)), total=total, limit=limit, offset=offset)


def _near(wanted: UsageFilter, calls: Mapping[int, int], offset: int, down: bool) -> tuple[UsageFilter, int]:
    """The filter from where a page begins, and how many calls come before that: less than a day's are left to skip."""
    skipped = 0
    starts = sorted(calls, reverse=down)
    for place, start_us in enumerate(starts):
        if skipped + calls[start_us] > offset:
            if place == 0:
                return wanted, 0
            bound = starts[place - 1] if down else start_us
            return (replace(wanted, end_us=bound) if down else replace(wanted, start_us=bound)), skipped
        skipped += calls[start_us]
    return wanted, 0


def _page_by_charge(conn: Connection, wanted: UsageFilter, down: bool, limit: int, offset: int) -> Page[UsageRecord]:
    """No index is in this order: everything the filter takes is sorted."""
    conditions = [*wanted.record_conditions(wanted.start_us, wanted.end_us), _t.is_adjustment.is_(False)]
    total = conn.execute(select(func.count()).select_from(tables.usage_records).where(*conditions)).scalar_one()
    ordered = [column.desc() if down else column.asc() for column in (_t.charge, _t.occurred_us, _t.id)]
    query = select(_t.occurred_us, _t.id).where(*conditions).order_by(*ordered).limit(limit).offset(offset)
    items = _at(conn, [(occurred, record_id) for occurred, record_id in conn.execute(query)])
    return Page(items=tuple(_adjusted(conn, items)), total=total, limit=limit, offset=offset)


def _adjusted(conn: Connection, records: list[UsageRecord]) -> list[UsageRecord]:
    """A late truth laid over each guess."""
    guesses = [record.hold_id for record in records if record.kind == "unconfirmed"]
    if not guesses:
        return records
    query = select(tables.usage_records).where(_t.hold_id.in_(guesses), _t.is_adjustment.is_(True))
    late = {row["hold_id"]: read_record(row) for row in conn.execute(query).mappings()}
    return [_corrected(record, late[record.hold_id]) if record.hold_id in late else record for record in records]


def _corrected(guess: UsageRecord, change: UsageRecord) -> UsageRecord:
    counts = {name: count for name, count in guess.usage.items() if isinstance(count, int)}
    for name, count in change.usage.items():
        if isinstance(count, int):
            counts[name] = counts.get(name, 0) + count
    charge = guess.charge_microcredits + change.charge_microcredits
    cost = EXACT.add(guess.cost_usd, change.cost_usd)
    return replace(change, id=guess.id, charge_microcredits=charge, cost_usd=cost, usage={**guess.usage, **counts})


def _get(conn: Connection, reference: str, organization_id: str | None) -> UsageDetail:
    row = _row(conn, _t.id == reference, organization_id) or _row(conn, _t.request_id == reference, organization_id)
    if row is None:
        raise NotFound("no such usage record")
    both = select(tables.usage_records).where(_t.hold_id == row["hold_id"]).order_by(_t.is_adjustment)
    records = [read_record(found) for found in conn.execute(both).mappings()]
    adjustment = records[1] if len(records) > 1 else None
    return UsageDetail(record=records[0], adjustment=adjustment, card=_card(conn, adjustment or records[0]))


def _row(conn: Connection, match: ColumnElement[bool], organization_id: str | None) -> RowMapping | None:
    query = select(tables.usage_records).where(match).order_by(_t.is_adjustment, _t.id).limit(1)
    if organization_id is not None:
        query = query.where(_t.organization_id == organization_id)
    return conn.execute(query).mappings().first()


def _card(conn: Connection, record: UsageRecord) -> PriceCard | None:
    query = select(tables.cards.c.body).where(tables.cards.c.id == record.card_id)
    body = conn.execute(query).scalar_one_or_none()
    return None if body is None else load_card(body)


def records_by_id(conn: Connection, ids: builtins.list[str]) -> dict[str, UsageRecord]:
    """The records of these ids."""
    query = select(tables.usage_records).where(_t.id.in_(ids))
    return {row["id"]: read_record(row) for row in conn.execute(query).mappings()}


def records_paid_by(conn: Connection, entry_ids: builtins.list[str]) -> dict[str, UsageRecord]:
    """By entry: the first record that was told of after that deduction had paid for it."""
    query = select(tables.usage_records).where(_t.entry_id.in_(entry_ids), _t.kind == "ingested").order_by(_t.id.desc())
    return {row["entry_id"]: read_record(row) for row in conn.execute(query).mappings()}


_RENAMED = frozenset({"charge", "cost", "usage", "lines", "tags", "agent", "feature", "limit_keys", *COUNTS})


def read_record(row: RowMapping) -> UsageRecord:
    """A row as a record."""
    counts = {name: row[name] for name in COUNTS if row[name] is not None}
    own = {name: row[name] for name in ("agent", "feature") if row[name] is not None}
    return UsageRecord(
        **{name: value for name, value in row.items() if name not in _RENAMED},
        charge_microcredits=row["charge"],
        cost_usd=row["cost"],
        usage={**counts, **from_json(row["usage"])},
        lines=tuple(price_lines(row["lines"])),
        attribution={**own, **{name: str(value) for name, value in from_json(row["tags"]).items()}},
    )


def _cursor(record: UsageRecord) -> str:
    return urlsafe_b64encode(f"{record.occurred_us}:{record.id}".encode()).decode().rstrip("=")


def _parse(cursor: str) -> Place:
    try:
        text = urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode("ascii")
        occurred, _, record_id = text.partition(":")
        if len(occurred) > 18 or not record_id.startswith("usage_"):
            raise ValueError
        return int(occurred), record_id
    except ValueError:
        raise InvalidRequest("cursor is not one of ours", param="cursor") from None
