"""Records, price cards and reservations as rows, and back again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any

import orjson
from sqlalchemy import Connection, RowMapping

from faregate.core.call import Record, Reservation
from faregate.core.codec import decode_card, encode_card
from faregate.core.money import EXACT
from faregate.core.price import PriceCard
from faregate.ledger.dialect import Row, exact_param
from faregate.ledger.posting import from_json, to_json

COUNTS = ("input_tokens", "cached_input_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens")
"""Counts with a column of their own."""
_IN_COLUMNS = frozenset(COUNTS)
_NUL = "\0"
_OWN_ATTRIBUTION = frozenset({"agent", "feature"})


def storable(conn: Connection, record: Record) -> Record:
    """The record as the database can hold it: PostgreSQL's text has no NUL, and a tag must not park a charge."""
    if conn.dialect.name != "postgresql":
        return record
    texts = (record.description, record.raw_usage, record.request_id, record.public_model, record.model)
    values: tuple[object, ...] = (*texts, *record.attribution, *record.attribution.values())
    if not any(_NUL in text for text in values if isinstance(text, str)):
        return record
    return replace(
        record,
        description=record.description and _without_nul(record.description),
        raw_usage=record.raw_usage and _without_nul(record.raw_usage),
        request_id=_without_nul(record.request_id),
        public_model=_without_nul(record.public_model),
        model=_without_nul(record.model),
        attribution={_without_nul(name): _plain(value) for name, value in record.attribution.items()},
    )


def _without_nul(text: str) -> str:
    return text.replace(_NUL, "\N{REPLACEMENT CHARACTER}")


def _plain(value: Any) -> Any:
    """A deduction's metadata may be any JSON, which the API has looked at."""
    return _without_nul(value) if isinstance(value, str) else value


def usage_row(
    conn: Connection, record: Record, *, usage_id: str, entry_id: str | None, is_adjustment: bool, now_us: int
) -> Row:
    """Columns in the table's order."""
    usage, attribution = record.usage, record.attribution
    return (
        usage_id,
        record.hold_id,
        is_adjustment,
        record.kind,
        record.organization_id,
        record.account_id,
        record.key_id,
        record.request_id,
        entry_id,
        record.occurred_at_us,
        now_us,
        record.charge_microcredits,
        exact_param(conn, record.cost_usd),
        record.context,
        record.endpoint,
        record.public_model,
        record.provider,
        record.provider_kind,
        record.model,
        *(usage.get(name) for name in COUNTS),
        to_json({name: value for name, value in usage.items() if name not in _IN_COLUMNS}),
        record.tier,
        record.card.id if record.card else None,
        to_json([_line(*line) for line in record.lines]),
        exact_param(conn, record.multiplier),
        exact_param(conn, record.markup_percent),
        exact_param(conn, record.credits_per_usd),
        record.estimated,
        record.outcome,
        record.status,
        record.stream,
        record.duration_ms,
        attribution.get("agent"),
        attribution.get("feature"),
        to_json({name: value for name, value in attribution.items() if name not in _OWN_ATTRIBUTION}),
        record.description,
        record.raw_usage,
        " ".join(record.limit_keys) or None,
    )


def _line(item: str, quantity: str, rate: str, amount: str) -> list[str]:
    product = EXACT.multiply(Decimal(quantity), Decimal(rate))
    return [item, quantity, rate] if product == Decimal(amount) else [item, quantity, rate, amount]


def price_lines(stored: str | None) -> list[tuple[str, Decimal, Decimal, Decimal]]:
    """Item, quantity, rate (USD) and amount (USD) of each price line."""
    lines = []
    for item, quantity, rate, *amount in orjson.loads(stored) if stored else []:
        product = Decimal(amount[0]) if amount else EXACT.multiply(Decimal(quantity), Decimal(rate))
        lines.append((item, Decimal(quantity), Decimal(rate), product))
    return lines


def difference(new: Mapping[str, object], old: Mapping[str, object]) -> dict[str, object]:
    """`new` - `old`, count by count; decimal strings stay decimal strings, nested maps stay maps."""
    result: dict[str, object] = {}
    for name in new.keys() | old.keys():
        result[name] = _minus(new.get(name), old.get(name))
    return result


def _minus(new: object, old: object) -> object:
    if isinstance(new, Mapping) or isinstance(old, Mapping):
        return difference(
            new if isinstance(new, Mapping) else {},
            old if isinstance(old, Mapping) else {},
        )
    if isinstance(new, str) or isinstance(old, str):
        return _decimal_minus(new, old)
    if isinstance(new, bool) or isinstance(old, bool):
        return new
    return (new if isinstance(new, int) else 0) - (old if isinstance(old, int) else 0)


def _decimal_minus(new: object, old: object) -> object:
    left, right = (Decimal(value) if isinstance(value, int | str) else Decimal(0) for value in (new, old))
    return format(EXACT.subtract(left, right), "f")


def card_row(card: PriceCard) -> Row:
    """Id and JSON; a card's id stands for its content."""
    return card.id, encode_card(card).decode()


def load_card(body: str) -> PriceCard:
    """The card that `card_row` wrote."""
    return decode_card(orjson.loads(body))


def reservation_row(one: Reservation) -> Row:
    """Columns in the table's order."""
    return (
        one.id,
        one.organization_id,
        one.account_id,
        one.id,
        one.caller_id,
        one.microcredits,
        one.actual,
        one.state,
        one.operation,
        one.model,
        to_json(dict(one.metadata)),
        one.entry_id,
        " ".join(one.limit_keys) or None,
        one.expires_us,
        one.created_us,
        one.updated_us,
    )


def read_reservation(row: RowMapping) -> Reservation:
    """A row as a reservation."""
    return Reservation(
        id=row["id"],
        organization_id=row["organization_id"],
        account_id=row["account_id"],
        caller_id=row["caller_id"],
        microcredits=row["amount"],
        actual=row["actual"],
        state=row["state"],
        operation=row["operation"],
        model=row["model"],
        metadata=from_json(row["meta"]),
        entry_id=row["entry_id"],
        limit_keys=tuple((row["limit_keys"] or "").split()),
        expires_us=row["expires_us"],
        created_us=row["created_us"],
        updated_us=row["updated_us"],
    )
