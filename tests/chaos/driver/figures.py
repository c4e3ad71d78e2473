"""What the book has, beside what the upstream says it served and what clients were told."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from sqlalchemy import Connection

from faregate.ledger.engine import transact
from tests.chaos.driver.plan import Mark
from tests.chaos.driver.traffic import Call
from tests.chaos.verify import Forwarded

Basis = Literal["none", "exact", "estimated", "unconfirmed"]

_DRAIN_S = 12.0
"""How long a call may go on after its client has left: the longest script, and the provider's time-outs."""


@dataclass(slots=True)
class Billed:
    """The book's rows of one call."""

    kinds: list[str] = field(default_factory=list)
    """Of those that are no adjustments."""
    adjustments: int = 0
    charge_microcredits: int = 0
    estimated: bool = False
    """The last word on it is no count of the provider's."""
    released: bool = False
    """The last word on it is a truth of zero: of a call that somebody else had booked by policy."""

    @property
    def basis(self) -> Basis:
        """What its charge rests on."""
        if not self.kinds or self.released:
            return "none"
        if "unconfirmed" in self.kinds and not self.adjustments:
            return "unconfirmed"
        return "estimated" if self.estimated else "exact"


@dataclass(slots=True, kw_only=True)
class Purse:
    """An account in the book."""

    posted: int
    overdraft: int
    lowest: int
    """The least it ever had, by its entries."""
    raised: int = 0
    """What late truths charged on top of what had been booked for lost calls."""


@dataclass(slots=True, kw_only=True)
class Book:
    """All that the checks read of it, from one state."""

    calls: dict[str, Billed]
    ingested: int
    ingested_microcredits: int
    reservations: dict[str, tuple[str, int]]
    """State and actual amount by the caller's id."""
    purses: dict[str, Purse]
    """By external id."""
    credited: dict[str, int]
    """What was added to each account, its first credits among it."""


def read_book(url: str) -> Book:
    """SQLite or PostgreSQL."""
    return transact(url, _read, readonly=True)


def _read(conn: Connection) -> Book:
    def rows(sql: str) -> list[tuple[Any, ...]]:
        return [tuple(row) for row in conn.exec_driver_sql(sql)]

    calls: dict[str, Billed] = defaultdict(Billed)
    raised: dict[str, int] = defaultdict(int)
    ingested, ingested_sum = 0, 0
    columns = "tags, kind, is_adjustment, charge, estimated, account_id, outcome"
    sql = f"SELECT {columns} FROM usage_records ORDER BY is_adjustment, id"
    for tags, kind, is_adjustment, charge, estimated, account, outcome in rows(sql):
        if kind == "ingested":
            ingested, ingested_sum = ingested + 1, ingested_sum + charge
            continue
        call = calls[json.loads(tags)["user"]]
        call.charge_microcredits += charge
        call.estimated, call.released = bool(estimated), outcome == "released"
        if is_adjustment:
            call.adjustments += 1
            raised[account] += max(0, charge)
        else:
            call.kinds.append(kind)
    lowest: dict[str, int] = dict(rows("SELECT account_id, min(balance_after) FROM entries GROUP BY account_id"))
    added = "SELECT account_id, sum(amount) FROM entries WHERE reason = 'credit' GROUP BY account_id"
    sums: dict[str, int] = dict(rows(added))
    accounts = rows("SELECT id, external_id, posted, overdraft FROM accounts WHERE external_id IS NOT NULL")
    return Book(
        calls=dict(calls),
        ingested=ingested,
        ingested_microcredits=ingested_sum,
        reservations={
            name: (state, actual or 0)
            for name, state, actual in rows("SELECT caller_id, state, actual FROM reservations")
        },
        purses={
            name: Purse(
                posted=posted,
                overdraft=overdraft,
                lowest=lowest.get(account, 0),
                raised=raised[account],
            )
            for account, name, posted, overdraft in accounts
        },
        credited={name: int(sums.get(account, 0)) for account, name, *_ in accounts},
    )


@dataclass(slots=True, kw_only=True)
class Done:
    """A fault that was made: when, and what it was in words."""

    names: tuple[str, ...]
    details: tuple[str, ...]
    marks: frozenset[Mark]
    began: float
    ended: float = 0.0
    served_after_s: float | None = None
    """Until every host served again; None: it did not."""


@dataclass(slots=True, kw_only=True)
class Seen:
    """One call from all three sides."""

    call: Call
    served: Forwarded | None
    billed: Billed
    marks: frozenset[Mark]
    """Of the faults while it ran."""

    @property
    def price(self) -> int:
        """What the upstream served of it comes to."""
        return self.served.price_microcredits if self.served is not None else 0


def seen(
    calls: Mapping[str, Call], book: Book, account: list[Forwarded], faults: list[Done], slack_s: float
) -> list[Seen]:
    """Every call; `slack_s`: how long a fault is felt after its end: a hold deadline, and until TCP tries again."""
    served = {row.call: row for row in account}
    return [
        Seen(
            call=call,
            served=served.get(name),
            billed=book.calls.get(name, Billed()),
            marks=_marks(call, faults, slack_s),
        )
        for name, call in calls.items()
    ]


def _marks(call: Call, faults: list[Done], slack_s: float) -> frozenset[Mark]:
    end = call.ended + (1.0 if call.answer.complete else _DRAIN_S)
    found: set[Mark] = set()
    for fault in faults:
        if fault.began <= end and call.began <= fault.ended + slack_s:
            found |= fault.marks
    return frozenset(found)
