"""Billed amounts on their way to a meter: queued with the usage. They are summed in meter_windows.py.

`queue` is the door for whoever bills something: call it in the transaction that writes the usage. With
`stripe.meter: all`, `ChargesMetered` does it for every charge of credits that has a usage record.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import cast

from sqlalchemy import Connection, Engine, select

from faregate.core.call import Record
from faregate.core.metering import Metered, charged_usd
from faregate.errors import BookRefused
from faregate.ledger import tables
from faregate.ledger.dialect import Row, exact_param, insert_many

_OPTION = "faregate_metered"
_MOST_USD = Decimal(10) ** 12
_MOST_PLACES = 45
_ONCE = "ON CONFLICT (organization_id, source_id) DO NOTHING"
_o = tables.organizations.c


def metering(engine: Engine, metered: Metered) -> Engine:
    """The same engine; what its connections write is metered so."""
    return cast(Engine, engine.execution_options(**{_OPTION: metered}))


# Queueing -----------------------------------------------------------------------------------------------


def queue(
    conn: Connection,
    *,
    organization_id: str,
    source_id: str,
    amount_usd: Decimal,
    occurred_us: int,
    now_us: int,
) -> bool:
    """Queue a billed amount for the organization's meter, in the caller's transaction: both are written or neither.

    `source_id` names what was billed, once in its organization (of a usage record: its hold id): a repeat changes
    nothing. `amount_usd` is exact, whatever its places; it is rounded nowhere. Returns whether it is metered: False
    when the deployment has no `stripe.api_key` or the organization no Stripe customer. Raises BookRefused for an
    amount that is no number, above 10^12 USD or of more than 45 places.
    """
    _check(amount_usd)
    if _mode(conn) == "off":
        return False
    customer = _customers(conn, [organization_id]).get(organization_id)
    if customer is None:
        return False
    amount = exact_param(conn, amount_usd)
    row = (organization_id, source_id, customer[0], amount, occurred_us, None, now_us)
    insert_many(conn, tables.metered, [row], _ONCE)
    return True


def _check(amount_usd: Decimal) -> None:
    exponent = amount_usd.as_tuple().exponent
    if not isinstance(exponent, int) or abs(amount_usd) > _MOST_USD or exponent < -_MOST_PLACES:
        raise BookRefused("the amount cannot be metered: it is no number, too large, or of too many places")


def _mode(conn: Connection) -> Metered:
    return cast(Metered, conn.get_execution_options().get(_OPTION, "off"))


def _customers(conn: Connection, organizations: Sequence[str]) -> dict[str, tuple[str, Decimal]]:
    """(Stripe customer, credits per USD) of the organizations that have one."""
    query = select(_o.id, _o.stripe_customer_id, _o.credits_per_usd).where(
        _o.id.in_(organizations), _o.stripe_customer_id.is_not(None)
    )
    return {row[0]: (row[1], row[2]) for row in conn.execute(query)}


class ChargesMetered:
    """The charges of one transaction of the book, queued when every one of them is metered."""

    def __init__(self, conn: Connection) -> None:
        self._conn = conn
        self._on = _mode(conn) == "all"
        self._moves: list[Record] = []

    def move(self, record: Record) -> None:
        """A new record, or an adjustment's difference."""
        if self._on and record.charge_microcredits:
            self._moves.append(record)

    def flush(self, now_us: int) -> None:
        """Write them down, in the order of their sources."""
        if not self._moves:
            return
        customers = _customers(self._conn, sorted({record.organization_id for record in self._moves}))
        moves = [record for record in self._moves if record.organization_id in customers]
        rows = [self._row(record, *customers[record.organization_id], now_us) for record in moves]
        insert_many(self._conn, tables.metered, sorted(rows, key=lambda row: row[:2]), _ONCE)

    def _row(self, record: Record, customer: str, credits_per_usd: Decimal, now_us: int) -> Row:
        source = f"{record.hold_id}:adjustment" if record.kind == "adjustment" else record.hold_id
        amount = exact_param(self._conn, charged_usd(record.charge_microcredits, credits_per_usd))
        return record.organization_id, source, customer, amount, record.occurred_at_us, None, now_us
