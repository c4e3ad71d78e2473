"""One transaction of the book: records in, what is booked out. Safe to repeat, in any order.

Usage records are unique by (hold id, adjustment?); only rows that the insert returns as new are charged.
An `actual` that meets an `unconfirmed` becomes one adjustment of the difference. Anything else the book already
has is a duplicate, answered with its present state. Deductions have no usage record: their entry carries the hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal

from sqlalchemy import Connection

from faregate.core.call import Committed, LimitState, Record, Snapshot
from faregate.core.ids import new_id
from faregate.core.money import EXACT, MAX_MICROCREDITS
from faregate.errors import BookRefused
from faregate.ledger import tables
from faregate.ledger.dialect import Row, among, insert_many, insert_returning
from faregate.ledger.engine import wall_us
from faregate.ledger.kept import note_ended
from faregate.ledger.metering import ChargesMetered
from faregate.ledger.posting import Line, Posting, from_json
from faregate.ledger.rollups import Rollups
from faregate.ledger.rows import COUNTS, card_row, difference, storable, usage_row
from faregate.ledger.windows import Windows

DIRECT_ENDPOINTS = frozenset({"credits.deduct", "transactions.create", "reservations.confirm"})
"""Debits of the API itself: an entry, but nothing was used."""

_INSERT_NEW = "ON CONFLICT (hold_id, is_adjustment) DO NOTHING RETURNING hold_id"
_ADJUSTED = ":adjustment"


@dataclass(slots=True, kw_only=True)
class Booked:
    """What the book has for one hold."""

    id: str
    """The usage record, or the entry of a deduction."""
    account_id: str
    entry_id: str | None
    kind: str
    first_charge: int
    charge: int
    """Of the record and its adjustment."""
    cost: Decimal = Decimal(0)
    usage: dict[str, object] = field(default_factory=dict)
    adjusted: bool = False

    def takes(self, record: Record) -> bool:
        """A late truth meets a guess."""
        return record.kind == "actual" and self.kind == "unconfirmed" and not self.adjusted


@dataclass(frozen=True, slots=True)
class _Result:
    id: str
    new: bool
    charge: int


def write_batch(conn: Connection, records: Sequence[Record], now_us: int | None = None) -> list[Committed]:
    """Book records within the caller's transaction; one answer each, in order.

    Raises BookRefused, or what the driver says, when any cannot be booked: roll back, try them singly.
    """
    for record in records:
        _check(record)
    return _Batch(conn, records, wall_us() if now_us is None else now_us).run()


def _check(record: Record) -> None:
    if record.kind == "adjustment":
        raise BookRefused("adjustments are the book's own")
    if not 0 <= record.charge_microcredits <= MAX_MICROCREDITS:
        raise BookRefused("the charge is negative or too large")
    if record.paid_by is not None and record.charge_microcredits:
        raise BookRefused("what has been paid for is not charged")
    if not record.cost_usd.is_finite() or record.cost_usd < 0:
        raise BookRefused("the cost is negative or not a number")
    if any(isinstance(count, int) and count < 0 for count in record.usage.values()):
        raise BookRefused("a usage count is negative")


class _Batch:
    def __init__(self, conn: Connection, records: Sequence[Record], now_us: int) -> None:
        self.conn = conn
        self.records = [storable(conn, record) for record in records]
        self.now_us = now_us
        self.posting = Posting(conn, (record.account_id for record in records), now_us)
        self.windows = Windows(conn)
        self.rollups = Rollups(conn)
        self.metered = ChargesMetered(conn)
        self.booked: dict[str, Booked] = {}
        self.adjustments: list[Row] = []
        self.ended: list[Record] = []

    def run(self) -> list[Committed]:
        for record in self.records:
            self.posting.wallet(record.account_id, record.organization_id)
        places = range(len(self.records))
        usage = [place for place in places if self.records[place].endpoint not in DIRECT_ENDPOINTS]
        fresh = self._insert_first(usage)
        self._load_usage([self.records[place].hold_id for place in usage if place not in fresh])
        self._load_direct([record.hold_id for record in self.records if record.endpoint in DIRECT_ENDPOINTS])
        results = [self._book(self.records[place], fresh.get(place)) for place in places]
        self._flush()
        return self._answers(results)

    def _insert_first(self, places: Sequence[int]) -> dict[int, tuple[str, str | None]]:
        """Insert the first record of each hold; the new ones' (usage id, entry id) by place in the batch."""
        firsts: dict[str, int] = {}
        for place in places:
            firsts.setdefault(self.records[place].hold_id, place)
        records = {hold: self.records[place] for hold, place in firsts.items()}
        ids = {hold: (new_id("usage"), _entry_id(record)) for hold, record in records.items()}
        cards = {record.card.id: card_row(record.card) for record in records.values() if record.card}
        insert_many(self.conn, tables.cards, [cards[card] for card in sorted(cards)], "ON CONFLICT (id) DO NOTHING")
        rows = [self._row(record, ids[hold][0], ids[hold][1] or record.paid_by) for hold, record in records.items()]
        new = insert_returning(self.conn, tables.usage_records, rows, _INSERT_NEW)
        return {firsts[hold]: ids[hold] for (hold,) in new}

    def _row(self, record: Record, usage_id: str, entry_id: str | None) -> Row:
        adjustment = record.kind == "adjustment"
        return usage_row(
            self.conn,
            record,
            usage_id=usage_id,
            entry_id=entry_id,
            is_adjustment=adjustment,
            now_us=self.now_us,
        )

    def _book(self, record: Record, fresh: tuple[str, str | None] | None) -> _Result:
        if fresh is not None:
            self._count(record, *fresh)
            return _Result(fresh[0], True, record.charge_microcredits)
        direct = record.endpoint in DIRECT_ENDPOINTS
        booked = self.booked.get(record.hold_id)
        if booked is None:
            assert direct, "the insert found a record that the select does not"
            return self._book_direct(record)
        if booked.account_id != record.account_id:
            raise BookRefused("the hold is booked on another account")
        if not booked.takes(record):
            return _Result(booked.id, False, booked.charge)
        self._adjust(record, booked, direct=direct)
        return _Result(booked.id, True, booked.charge)

    def _count(self, record: Record, usage_id: str, entry_id: str | None) -> None:
        if record.upstream_id is not None:
            self.ended.append(record)
        self.windows.move(record)
        self.rollups.move(record, usage_id)
        self.metered.move(record)
        if entry_id is not None:
            line = Line(reason=_reason(record, "usage"), description=record.description, usage_id=usage_id)
            self._charge(record, line, entry_id)

    def _charge(self, record: Record, line: Line, entry_id: str) -> None:
        wallet = self.posting.wallet(record.account_id)
        self.posting.charge(wallet, record.charge_microcredits, line, at_us=record.occurred_at_us, entry_id=entry_id)

    def _book_direct(self, record: Record) -> _Result:
        entry_id = new_id("txn")
        self.windows.move(replace(record, usage={}))
        self._charge(record, _direct_line(record, _reason(record, "debit"), record.hold_id), entry_id)
        charge = record.charge_microcredits
        self.booked[record.hold_id] = Booked(
            id=entry_id,
            account_id=record.account_id,
            entry_id=entry_id,
            kind=record.kind,
            first_charge=charge,
            charge=charge,
        )
        return _Result(entry_id, True, charge)

    def _adjust(self, record: Record, booked: Booked, *, direct: bool) -> None:
        """The truth is known: book what it differs by. Price lines are the truth's own, not a difference."""
        change = replace(
            record,
            kind="adjustment",
            charge_microcredits=record.charge_microcredits - booked.charge,
            cost_usd=EXACT.subtract(record.cost_usd, booked.cost),
            usage={} if direct else difference(record.usage, booked.usage),
        )
        usage_id, entry_id = new_id("usage"), new_id("txn") if direct else _entry_id(change)
        self.windows.move(change)
        if direct:
            line = _direct_line(change, "adjustment", record.hold_id + _ADJUSTED)
        else:
            if record.upstream_id is not None:
                self.ended.append(record)
            self.rollups.move(change, usage_id)
            self.metered.move(change)
            self.adjustments.append(self._row(change, usage_id, entry_id))
            line = Line(reason="adjustment", description=record.description, usage_id=usage_id)
        if entry_id is not None:
            self._post_change(change, line, entry_id, booked)
        booked.adjusted, booked.charge = True, record.charge_microcredits

    def _post_change(self, change: Record, line: Line, entry_id: str, booked: Booked) -> None:
        if change.charge_microcredits >= 0 or booked.entry_id is None:
            self._charge(change, line, entry_id)
            return
        wallet, of_entry = self.posting.wallet(change.account_id), (booked.entry_id, booked.first_charge)
        self.posting.refund(wallet, -change.charge_microcredits, line, entry_id=entry_id, of_entry=of_entry)

    def _load_usage(self, holds: Sequence[str]) -> None:
        if not holds:
            return
        columns = ", ".join(("usage", *COUNTS))
        these, params = among(self.conn, holds)
        sql = (
            f"SELECT hold_id, id, account_id, entry_id, kind, charge, cost, {columns} FROM usage_records"  # noqa: S608
            f" WHERE hold_id {these} ORDER BY hold_id, is_adjustment"
        )
        for row in self.conn.exec_driver_sql(sql, params):
            first = self.booked.get(row[0])
            if first is None:
                self.booked[row[0]] = _booked(tuple(row))
            else:
                first.adjusted, first.charge = True, first.charge + row[5]

    def _load_direct(self, holds: Sequence[str]) -> None:
        if not holds:
            return
        these, params = among(self.conn, [name for hold in holds for name in (hold, hold + _ADJUSTED)])
        sql = f"SELECT hold_id, id, account_id, reason, amount FROM entries WHERE hold_id {these} ORDER BY hold_id"  # noqa: S608
        for hold, entry_id, account_id, reason, amount in self.conn.exec_driver_sql(sql, params):
            first = self.booked.get(hold.removesuffix(_ADJUSTED))
            if first is not None:
                first.adjusted, first.charge = True, first.charge - amount
            else:
                kind = "unconfirmed" if reason == "unconfirmed" else "actual"
                self.booked[hold] = Booked(
                    id=entry_id,
                    account_id=account_id,
                    entry_id=entry_id,
                    kind=kind,
                    first_charge=-amount,
                    charge=-amount,
                )

    def _flush(self) -> None:
        self.posting.flush()
        insert_many(self.conn, tables.usage_records, self.adjustments)
        self.rollups.flush()
        self.windows.flush()
        self.metered.flush(self.now_us)
        if self.ended:
            note_ended(self.conn, self.ended, self.now_us)

    def _answers(self, results: Sequence[_Result]) -> list[Committed]:
        plain = {account: wallet.snapshot() for account, wallet in self.posting.wallets.items()}
        return [
            Committed(
                snapshot=self._snapshot(record, plain),
                usage_id=result.id,
                new=result.new,
                charge_microcredits=result.charge,
            )
            for record, result in zip(self.records, results, strict=True)
        ]

    def _snapshot(self, record: Record, plain: dict[str, Snapshot]) -> Snapshot:
        if not record.limit_keys:
            return plain[record.account_id]
        limits: tuple[LimitState, ...] = self.windows.states(record.limit_keys)
        return self.posting.wallet(record.account_id).snapshot(limits)


def _entry_id(record: Record) -> str | None:
    """Nothing charged, no entry: the sequence does not move."""
    return new_id("txn") if record.charge_microcredits else None


def _reason(record: Record, otherwise: str) -> str:
    return "unconfirmed" if record.kind == "unconfirmed" else otherwise


def _direct_line(record: Record, reason: str, hold_id: str) -> Line:
    metadata = {name.removeprefix("metadata."): value for name, value in record.attribution.items()}
    return Line(
        reason=reason,
        description=record.description,
        metadata=metadata,
        hold_id=hold_id,
        limit_keys=" ".join(record.limit_keys) or None,
    )


def _booked(row: Row) -> Booked:
    _, record_id, account_id, entry_id, kind, charge, cost, usage, *counts = row
    columns = {name: count for name, count in zip(COUNTS, counts, strict=True) if count is not None}
    return Booked(
        id=record_id,
        account_id=account_id,
        entry_id=entry_id,
        kind=kind,
        first_charge=charge,
        charge=charge,
        cost=Decimal(cost),
        usage={**from_json(usage), **columns},
    )
