"""G4 from raw data: entries sum to balances, sequences have no gaps, every derived figure equals its records.

Read-only, on one state of the book, so it runs while traffic runs; rows are streamed, memory is bounded. What a repair
has explained (repair.py) is found no more, as long as it stays exactly as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import groupby, islice
from typing import Any
from zlib import crc32

import orjson
from sqlalchemy import Connection

from faregate.core.limit_ids import kind_of_key
from faregate.core.metering import usd
from faregate.core.money import EXACT
from faregate.ledger import windows
from faregate.ledger.dialect import Row
from faregate.ledger.engine import transact
from faregate.ledger.rollups import ROLLUPS, SUMS

MAX_FINDINGS = 1_000
WINDOWS_PER_PASS = 200_000
_CHUNK = 1_000
REPAIR = "audit repair"
"""The reason of entries that correct what an audit has found."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that does not add up."""

    check: str
    subject: str
    detail: str
    account_id: str | None = field(default=None, compare=False)
    """Whose entries a correction would be among; None: it is derived, and is recomputed."""
    delta: tuple[Any, ...] = field(default=(), compare=False, repr=False)
    """What a derived figure lacks: its key (a rollup's after its table), then its numbers. Traffic moves both sides
    alike, so it stays true."""


def audit(database_url: str, *, max_findings: int = MAX_FINDINGS) -> list[Finding]:
    """Run every check; at most `max_findings` are returned. Empty is good."""
    return transact(database_url, lambda conn: list(islice(findings(conn), max_findings)), readonly=True)


def findings(conn: Connection) -> Iterator[Finding]:
    """What does not add up on this connection's state of the book."""
    known = explained(conn)
    for check in CHECKS:
        yield from (found for found in check(conn) if (found.check, found.subject, found.detail) not in known)


def explained(conn: Connection) -> set[tuple[str, ...]]:
    """What repairs have explained: (check, subject, detail)."""
    sql = f"SELECT meta FROM entries WHERE reason = '{REPAIR}' AND meta IS NOT NULL"  # noqa: S608
    known: set[tuple[str, ...]] = set()
    for (meta,) in _stream(conn, sql):
        known.update(tuple(found) for found in orjson.loads(meta).get("explains", ()))
    return known


def _stream(conn: Connection, sql: str) -> Iterator[Row]:
    for chunk in conn.execution_options(stream_results=True).exec_driver_sql(sql).partitions(_CHUNK):
        yield from (tuple(row) for row in chunk)


# Entries and balances -----------------------------------------------------------------------------------


def check_entries(conn: Connection) -> Iterator[Finding]:
    """Σ entries = posted; each balance_after goes on from the one before; seq runs 1, 2, 3 … up to the account's."""
    sql = (
        "SELECT a.id, a.posted, a.seq, e.id, e.seq, e.amount, e.balance_after FROM accounts a"
        " LEFT JOIN entries e ON e.account_id = a.id ORDER BY a.id, e.seq"
    )
    for account, rows in groupby(_stream(conn, sql), key=lambda row: row[:3]):
        yield from _check_account(account[0], account[1], account[2], rows)


def _check_account(account: str, posted: int, last: int, rows: Iterator[Row]) -> Iterator[Finding]:
    yield from check_chain(account, posted, last, (row[3:] for row in rows if row[3] is not None))


def check_chain(account: str, posted: int, last: int, entries: Iterator[Row]) -> Iterator[Finding]:
    """One account's entries in order: id, seq, amount, balance_after."""
    total, seq, balance = 0, 0, 0
    for entry, entry_seq, amount, balance_after in entries:
        total += amount
        if entry_seq != seq + 1:
            yield Finding("seq", account, f"entry {entry} has {entry_seq} after {seq}", account)
        if balance_after != balance + amount:
            detail = f"entry {entry} says {balance_after}, it is {amount} after {balance}"
            yield Finding("balance_after", account, detail, account)
        seq, balance = entry_seq, balance_after
    if total != posted:
        yield Finding("posted", account, f"posted is {posted}, the entries' sum is {total}", account)
    if seq != last:
        yield Finding("seq", account, f"the account is at {last}, its last entry at {seq}", account)


def check_usage(conn: Connection) -> Iterator[Finding]:
    """Every usage record that charged has its entry, of the same amount and account, and the other way round.

    One that was paid for before it was told of (`paid_by`) names an entry of its account, and charges nothing.
    """
    sql = (
        "SELECT u.id, u.charge, e.id, e.amount, u.account_id FROM usage_records u"
        " LEFT JOIN entries e ON e.id = u.entry_id"
        " WHERE (u.charge <> 0 AND (e.id IS NULL OR e.amount <> -u.charge OR e.account_id <> u.account_id"
        " OR e.usage_id IS NULL OR e.usage_id <> u.id)) OR (u.charge = 0 AND u.entry_id IS NOT NULL"
        " AND (u.kind <> 'ingested' OR e.id IS NULL OR e.account_id <> u.account_id))"
    )
    for usage, charge, entry, amount, account in _stream(conn, sql):
        yield Finding("usage", usage, f"charged {charge}, its entry {entry} says {amount}", account)
    orphans = (
        "SELECT e.id, e.usage_id, e.account_id FROM entries e LEFT JOIN usage_records u ON u.id = e.usage_id"
        " WHERE e.usage_id IS NOT NULL AND u.id IS NULL"
    )
    for entry, usage, account in _stream(conn, orphans):
        yield Finding("usage", entry, f"its usage record {usage} is missing", account)


def check_reservations(conn: Connection) -> Iterator[Finding]:
    """What was confirmed has one entry of that amount and account; nothing else has charged."""
    sql = (
        "SELECT r.id, r.state, r.actual, e.id, e.amount, r.account_id FROM reservations r LEFT JOIN entries e"
        " ON e.hold_id = r.hold_id WHERE (r.state = 'settled' AND (e.id IS NULL OR r.entry_id IS NULL"
        " OR e.id <> r.entry_id OR e.amount <> -r.actual OR e.account_id <> r.account_id))"
        " OR (r.state <> 'settled' AND e.id IS NOT NULL)"
    )
    for reservation, state, actual, entry, amount, account in _stream(conn, sql):
        detail = f"{state} at {actual}, its entry {entry} says {amount}"
        yield Finding("reservation", reservation, detail, account)


# Grants -------------------------------------------------------------------------------------------------


def check_grants(conn: Connection) -> Iterator[Finding]:
    """A grant's moves sum to what remains; what remains is covered by the balance; the account knows when to look."""
    sql = (
        "SELECT g.id, g.started, g.amount, g.remaining, sum(m.amount), g.account_id FROM grants g"
        " LEFT JOIN grant_moves m ON m.grant_id = g.id GROUP BY g.id, g.account_id, g.started, g.amount, g.remaining"
    )
    for grant, started, amount, remaining, moved, account in _stream(conn, sql):
        expected = (moved or 0) if started else amount
        if remaining != expected or (not started and moved is not None):
            yield Finding("grant", grant, f"{remaining} remain, its moves say {expected}", account)
    yield from _check_purses(conn)


def _check_purses(conn: Connection) -> Iterator[Finding]:
    sql = (
        "SELECT a.id, a.posted, a.grants_until_us,"
        " sum(CASE WHEN g.started THEN g.remaining ELSE 0 END),"
        " min(CASE WHEN NOT g.started THEN g.effective_us WHEN g.remaining > 0 THEN g.expires_us END)"
        " FROM accounts a JOIN grants g ON g.account_id = a.id GROUP BY a.id, a.posted, a.grants_until_us"
    )
    for account, posted, until, remaining, moment in _stream(conn, sql):
        if remaining > max(posted, 0):
            yield Finding("grant", account, f"{remaining} remain in grants, the balance is {posted}", account)
        if until != moment:
            yield Finding("grant", account, f"the next moment is {moment}, the account says {until}", account)


# Rollups ------------------------------------------------------------------------------------------------

_SUMS = (
    "{adder}(cost), sum(charge), sum(coalesce(input_tokens, 0)), sum(coalesce(cached_input_tokens, 0)),"
    " sum(coalesce(output_tokens, 0)), sum(coalesce(reasoning_tokens, 0)),"
    " sum(CASE WHEN is_adjustment THEN 0 ELSE 1 END)"
)
_OF_RECORDS = {"hour": "occurred_us / 3600000000", "day": "occurred_us / 86400000000"}
_OF_RECORDS |= {name: f"coalesce({name}, '')" for name in ("key_id", "agent", "feature")}


def sums_of_records(keys: Sequence[str], adder: str) -> str:
    """What the records say a table of rollups should hold, in the order of its keys."""
    columns = ", ".join(f"{_OF_RECORDS.get(key, key)} AS {key}" for key in keys)
    places = ", ".join(str(place) for place in range(1, len(keys) + 1))
    return f"SELECT {columns}, {_SUMS.format(adder=adder)} FROM usage_records GROUP BY {places} ORDER BY {places}"  # noqa: S608


def _stored(table: str, keys: Sequence[str]) -> str:
    return f"SELECT {', '.join((*keys, 'cost', *SUMS))} FROM {table} ORDER BY {', '.join(keys)}"  # noqa: S608


def check_rollups(conn: Connection) -> Iterator[Finding]:
    """The sums of each hour and day equal those of the records."""
    adder = "sum" if conn.dialect.name == "postgresql" else "exact_sum"
    for table, keys in ROLLUPS:
        records = _stream(conn, sums_of_records(keys, adder))
        yield from _differences(table.name, records, _stream(conn, _stored(table.name, keys)), len(keys))


def _differences(table: str, records: Iterator[Row], stored: Iterator[Row], width: int) -> Iterator[Finding]:
    """Both sides are streamed in key order and merged."""
    left, right = next(records, None), next(stored, None)
    while left is not None or right is not None:
        if right is None or (left is not None and left[:width] < right[:width]):
            yield Finding("rollup", _name(left, width), "is missing", delta=(table, *_lacking(left, None, width)))
            left = next(records, None)
        elif left is None or right[:width] < left[:width]:
            if any(_sums(right, width)):  # A repair has taken all of it back.
                delta = (table, *_lacking(None, right, width))
                yield Finding("rollup", _name(right, width), "has no records", delta=delta)
            right = next(stored, None)
        else:
            was, now = _sums(right, width), _sums(left, width)
            if was != now:
                delta = (table, *_lacking(left, right, width))
                yield Finding("rollup", _name(left, width), f"says {was}, the records {now}", delta=delta)
            left, right = next(records, None), next(stored, None)


def _sums(row: Row, width: int) -> tuple[Any, ...]:
    return Decimal(row[width]), *(int(value) for value in row[width + 1 :])


def _lacking(records: Row | None, stored: Row | None, width: int) -> tuple[Any, ...]:
    key = (records or stored or ())[:width]
    nothing = (0,) * (len(records or stored or ()) - width)
    left, right = (nothing if row is None else _sums(row, width) for row in (records, stored))
    return *key, *(one - other for one, other in zip(left, right, strict=True))


def _name(row: Row | None, width: int) -> str:
    return "/".join(str(part) for part in (row or ())[:width])


# Limit windows ------------------------------------------------------------------------------------------

_COUNTED = (
    "SELECT limit_keys, charge, coalesce(input_tokens, 0) + coalesce(output_tokens, 0), is_adjustment"
    " FROM usage_records WHERE limit_keys IS NOT NULL UNION ALL"
    " SELECT limit_keys, -amount, 0, reason = 'adjustment' FROM entries WHERE limit_keys IS NOT NULL"
)


def check_windows(conn: Connection) -> Iterator[Finding]:
    """What a window used equals what was counted in it. In passes, so that memory stays bounded."""
    count = next(_stream(conn, "SELECT count(*) FROM limit_windows"))[0]
    passes = 1 + count // WINDOWS_PER_PASS
    for turn in range(passes):
        yield from _check_windows(conn, turn, passes)


def _check_windows(conn: Connection, turn: int, passes: int) -> Iterator[Finding]:
    def mine(key: str) -> bool:
        return crc32(key.encode()) % passes == turn

    used: dict[str, int] = {}
    for keys, charge, tokens, adjustment in _stream(conn, _COUNTED):
        for key in keys.split(" "):
            kind = kind_of_key(key)
            if kind != "concurrency" and mine(key):
                moved = windows.amount(kind, charge=charge, tokens=tokens, is_adjustment=bool(adjustment))
                used[key] = used.get(key, 0) + moved
    for limit_id, start, stored in _stream(conn, "SELECT limit_id, start_s, used FROM limit_windows"):
        key = f"{limit_id}:{start}"
        if mine(key):
            counted = used.pop(key, 0)
            if counted != stored:
                delta = (limit_id, start, counted - stored)
                yield Finding("window", key, f"says {stored}, the records {counted}", delta=delta)
    for key, counted in used.items():
        delta = (*windows.parse_key(key), counted)
        yield Finding("window", key, f"is missing, the records say {counted}", delta=delta)


# Meters -------------------------------------------------------------------------------------------------


def check_meters(conn: Connection) -> Iterator[Finding]:
    """Σ of what was summed = Σ of what is queued and sent + what waits, to the last digit, for each customer."""
    adder = "sum" if conn.dialect.name == "postgresql" else "exact_sum"
    metered = (
        f"SELECT organization_id, customer, {adder}(amount) AS amount FROM metered"  # noqa: S608
        " WHERE window_us IS NOT NULL GROUP BY organization_id, customer"
    )
    sent = "SELECT organization_id, customer, sum(value) AS value FROM outbox GROUP BY organization_id, customer"
    sql = (
        f"SELECT s.organization_id, s.customer, s.carry, m.amount, o.value FROM meter_sums s"  # noqa: S608
        f" LEFT JOIN ({metered}) m ON m.organization_id = s.organization_id AND m.customer = s.customer"
        f" LEFT JOIN ({sent}) o ON o.organization_id = s.organization_id AND o.customer = s.customer"
    )
    for organization, customer, carry, amount, value in _stream(conn, sql):
        owed, made = Decimal(amount or 0), EXACT.add(Decimal(carry), usd(int(value or 0)))
        if owed != made:
            yield Finding("meter", f"{organization}/{customer}", f"{owed} USD are metered, {made} queued, sent or kept")
    orphans = (
        "SELECT m.organization_id, m.customer FROM (SELECT organization_id, customer FROM metered"
        " WHERE window_us IS NOT NULL UNION SELECT organization_id, customer FROM outbox) m"
        " LEFT JOIN meter_sums s ON s.organization_id = m.organization_id AND s.customer = m.customer"
        " WHERE s.customer IS NULL"
    )
    for organization, customer in _stream(conn, orphans):
        yield Finding("meter", f"{organization}/{customer}", "its sum is missing")


CHECKS: tuple[Callable[[Connection], Iterator[Finding]], ...] = (
    check_entries,
    check_usage,
    check_reservations,
    check_grants,
    check_rollups,
    check_windows,
    check_meters,
)
