"""What an audit has found in the book, corrected: by entries of their own, never by editing one.

What counts as evidence, and what follows from it:

entries        immutable, each with its place (`seq`) and the balance it left. One that is missing leaves a gap whose
               amount its neighbours tell: an entry with that amount takes its place.
posted         where the entry of the account's own `seq` agrees with it, it stays, and one entry makes up for the
               difference of the sum; where it does not, the entries' sum is the balance.
usage records  one that charged and has no entry at all is charged now. One whose entry says something else was charged
               what the entry says.
reservations   one that was confirmed and has no entry is charged now.
grants         remain with what their moves say, and with no more than the balance has.
rollups, limit windows    are sums: what they lack is added. Traffic moves both sides alike meanwhile.

Every account that is corrected gets a last entry with the reason `audit repair`, mostly of zero. It says what was found
and takes the sequence on, so that Redis believes the new balance; what cannot be made good without an edit is explained
by it, and found no more while it stays exactly so. A repair may be run as often as one likes, beside traffic.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from heapq import merge
from typing import Any

from sqlalchemy import Connection

from faregate.core.ids import new_id, uuid7
from faregate.core.money import credits
from faregate.errors import Conflict
from faregate.ledger import tables
from faregate.ledger.audit import MAX_FINDINGS, REPAIR, Finding, audit, check_chain
from faregate.ledger.dialect import Row, exact_param, insert_many, marks
from faregate.ledger.engine import transact, wall_us
from faregate.ledger.leases import take_lease
from faregate.ledger.posting import Entry, Line, Posting, Wallet, to_json
from faregate.ledger.purses import correct_grants
from faregate.ledger.rollups import ROLLUPS, add_sums

_LEASE_US = 600_000_000
_NOTHING = (None, None)


@dataclass(frozen=True, slots=True)
class Correction:
    """One thing that was done. `subject`: an account, or what is derived."""

    subject: str
    what: str


def repair(database_url: str, *, now_us: Callable[[], int] = wall_us) -> list[Correction]:
    """Correct what an audit finds now. Raises Conflict while another repair is at it."""
    holder = uuid7().hex

    def lease(for_us: int) -> bool:
        return transact(database_url, lambda conn: take_lease(conn, "audit repair", holder, for_us, now_us()))

    if not lease(_LEASE_US):
        raise Conflict("another repair is running")
    try:
        return _repair(database_url, audit(database_url), now_us)
    finally:
        lease(0)


def _repair(database_url: str, found: Sequence[Finding], now_us: Callable[[], int]) -> list[Correction]:
    accounts: defaultdict[str, list[Finding]] = defaultdict(list)
    for finding in found:
        if finding.account_id is not None:
            accounts[finding.account_id].append(finding)
    done: list[Correction] = []
    for account_id, theirs in accounts.items():
        done += transact(database_url, lambda conn, a=account_id, f=theirs: _account(conn, a, f, now_us()))  # type: ignore[misc]
    derived = [finding for finding in found if finding.account_id is None]
    if derived:
        done += transact(database_url, lambda conn: _derived(conn, derived, now_us()))
    return done


def would(finding: Finding) -> str:
    """What a repair does about it, in a few words."""
    if finding.account_id is None:
        return "what it lacks is added, the sequence goes on"
    return {
        "seq": "an entry takes the missing one's place, or an entry of zero explains it",
        "balance_after": "explained by an entry of its own",
        "posted": "the balance becomes what the entries say, or one entry makes up for the sum",
        "usage": "charged if it never was, else explained by an entry of zero",
        "reservation": "charged if it never was, else explained by an entry of zero",
        "grant": "the grant remains with what its moves say, within the balance",
    }.get(finding.check, "explained by an entry of zero")


# An account ---------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Chain:
    """What an account's entries say, and those that take the place of missing ones."""

    total: int = 0
    last_seq: int = 0
    witness: int | None = None
    """The balance that the entry of the account's own sequence left."""
    fills: list[Entry] | None = None


def _account(conn: Connection, account_id: str, found: Sequence[Finding], now_us: int) -> list[Correction]:
    posting = Posting(conn, [account_id], now_us)
    wallet = posting.wallets.get(account_id)
    if wallet is None:
        return []
    chain = _read_chain(conn, wallet, now_us)
    for fill in chain.fills or ():
        posting.insert(fill)
    done = [
        Correction(account_id, f"entry {one.seq} of {credits(one.amount)} was missing") for one in chain.fills or ()
    ]
    posted, amount = _balance(wallet, chain)
    if posted != wallet.posted:
        done.append(Correction(account_id, f"the balance is {credits(posted)}, not {credits(wallet.posted)}"))
    if amount:
        done.append(Correction(account_id, f"{credits(amount)} make the entries' sum the balance"))
    wallet.posted, wallet.seq = posted - amount, max(chain.last_seq, wallet.seq)
    owed, explains = _owed(posting, wallet, found, made_up=bool(amount or chain.fills))
    done += [Correction(account_id, what) for what in owed]
    final = _last_entry(posting, wallet, amount, found, explains)
    grants = correct_grants(conn, wallet, final.id)
    done += [Correction(account_id, what) for what in grants]
    posting.flush()
    return done or [Correction(account_id, f"{len(found)} findings are explained")]


def _entries(conn: Connection, account_id: str) -> Iterator[Row]:
    sql = f"SELECT id, seq, amount, balance_after FROM entries WHERE account_id = {marks(conn, 1)} ORDER BY seq"  # noqa: S608
    for row in conn.exec_driver_sql(sql, (account_id,)):
        yield tuple(row)


def _read_chain(conn: Connection, wallet: Wallet, now_us: int) -> _Chain:
    chain = _Chain(fills=[])
    balance = 0
    for _, seq, amount, balance_after in _entries(conn, wallet.id):
        missing = balance_after - amount - balance
        if chain.last_seq + 1 < seq <= wallet.seq and missing:
            balance += missing
            chain.total += missing
            fill = _fill(conn, wallet, chain.last_seq + 1, missing, balance, now_us)
            assert chain.fills is not None
            chain.fills.append(fill)
        chain.total += amount
        chain.last_seq, balance = seq, balance_after
        if seq == wallet.seq:
            chain.witness = balance_after
    if chain.witness is None:
        chain.witness = balance
    return chain


def _fill(conn: Connection, wallet: Wallet, seq: int, amount: int, balance: int, now_us: int) -> Entry:
    """In the place of one that is missing; the record it was of, if one names an entry that is not there."""
    sql = (
        f"SELECT u.id, u.entry_id FROM usage_records u WHERE u.account_id = {marks(conn, 1)}"  # noqa: S608
        " AND u.entry_id IS NOT NULL AND NOT EXISTS (SELECT 1 FROM entries e WHERE e.id = u.entry_id)"
        f" AND u.charge = {-int(amount)} ORDER BY u.id LIMIT 1"
    )
    usage_id, entry_id = next((tuple(row) for row in conn.exec_driver_sql(sql, (wallet.id,))), _NOTHING)
    return Entry(
        id=entry_id or new_id("txn"),
        organization_id=wallet.organization_id,
        account_id=wallet.id,
        seq=seq,
        type="credit" if amount > 0 else "debit",
        amount=amount,
        balance_after=balance,
        reason=REPAIR,
        description="In the place of an entry that was missing.",
        usage_id=usage_id,
        created_us=now_us,
    )


def _balance(wallet: Wallet, chain: _Chain) -> tuple[int, int]:
    """The right balance, and the amount of the entry that makes the sum of all entries equal to it."""
    if chain.witness == wallet.posted:
        return wallet.posted, wallet.posted - chain.total
    return chain.total, 0


def _owed(
    posting: Posting, wallet: Wallet, found: Iterable[Finding], *, made_up: bool
) -> tuple[list[str], list[Finding]]:
    """Charges that were never made are made. What was done, and what the audit will say of them."""
    done: list[str] = []
    explains: list[Finding] = []
    for finding in found:
        if finding.check == "usage":
            charge = 0 if made_up else _never_charged(posting.conn, finding.subject)
            if charge:
                posting.post(wallet, -charge, Line(reason=REPAIR, usage_id=finding.subject))
                done.append(f"usage {finding.subject} was never charged: {credits(charge)}")
            explains.append(finding)
        elif finding.check == "reservation":
            hold_id, actual, entry_id, state = _reserved(posting.conn, finding.subject)
            if state == "settled" and entry_id is None and actual and not made_up:
                entry = posting.post(wallet, -actual, Line(reason=REPAIR, hold_id=hold_id))
                done.append(f"reservation {finding.subject} was never charged: {credits(actual)}")
                detail = f"{state} at {actual}, its entry {entry.id} says {-actual}"
                finding = Finding(finding.check, finding.subject, detail, wallet.id)
            explains.append(finding)
    return done, explains


def _never_charged(conn: Connection, usage_id: str) -> int:
    """The charge of a record that no entry knows of."""
    sql = (
        f"SELECT u.charge FROM usage_records u WHERE u.id = {marks(conn, 1)} AND u.kind <> 'ingested'"  # noqa: S608
        " AND NOT EXISTS (SELECT 1 FROM entries e WHERE e.usage_id = u.id)"
        " AND NOT EXISTS (SELECT 1 FROM entries e WHERE e.id = u.entry_id)"
    )
    return next((int(row[0]) for row in conn.exec_driver_sql(sql, (usage_id,))), 0)


def _reserved(conn: Connection, reservation_id: str) -> tuple[str, int, str | None, str]:
    joined = "reservations r LEFT JOIN entries e ON e.hold_id = r.hold_id"
    sql = f"SELECT r.hold_id, r.actual, e.id, r.state FROM {joined} WHERE r.id = {marks(conn, 1)}"  # noqa: S608
    hold_id, actual, entry_id, state = conn.exec_driver_sql(sql, (reservation_id,)).one()
    return hold_id, int(actual or 0), entry_id, state


def _last_entry(
    posting: Posting, wallet: Wallet, amount: int, found: Sequence[Finding], explains: Iterable[Finding]
) -> Entry:
    """It says what was found, and explains what will still be there."""
    entry_id = new_id("txn")
    seq, posted = wallet.seq + 1, wallet.posted + amount
    rows = merge(_entries(posting.conn, wallet.id), posting.pending(), key=lambda row: row[1])
    chain = check_chain(wallet.id, posted, seq, _with(rows, (entry_id, seq, amount, posted)))
    left = [*chain, *explains]
    if len(left) > MAX_FINDINGS:
        raise Conflict(f"account {wallet.id}: too much of it is wrong to be explained: restore a backup")
    meta = {
        "found": [f"{one.check}: {one.detail}" for one in found[:20]],
        "explains": [[one.check, one.subject, one.detail] for one in left],
    }
    line = Line(reason=REPAIR, description="What an audit found is corrected.", metadata=meta)
    return posting.post(wallet, amount, line, entry_id=entry_id)


def _with(rows: Iterator[Row], last: Row) -> Iterator[Row]:
    yield from rows
    yield last


# What is derived ----------------------------------------------------------------------------------------


def _derived(conn: Connection, found: Sequence[Finding], now_us: int) -> list[Correction]:
    for finding in found:
        add = _add_to_rollup if finding.check == "rollup" else _add_to_window
        add(conn, finding.delta)
        values: dict[str, Any] = {
            "id": new_id("adm"),
            "created_us": now_us,
            "organization_id": None,
            "who": REPAIR,
            "what": f"repair.{finding.check}",
            "target": finding.subject[:200],
            "detail": to_json({"found": finding.detail}),
        }
        conn.execute(tables.admin_audit.insert().values(values))
    return [Correction(finding.subject, f"{finding.check}: {finding.detail}") for finding in found]


def _add_to_rollup(conn: Connection, delta: tuple[Any, ...]) -> None:
    table, keys = next((table, keys) for table, keys in ROLLUPS if table.name == delta[0])
    key, (cost, *sums) = delta[1 : len(keys) + 1], delta[len(keys) + 1 :]
    add_sums(conn, table, keys, [(*key, exact_param(conn, cost), *sums)])


def _add_to_window(conn: Connection, delta: tuple[Any, ...]) -> None:
    tail = (
        "ON CONFLICT (limit_id, start_s) DO UPDATE SET used = limit_windows.used + excluded.used,"
        " seq = limit_windows.seq + 1"
    )
    insert_many(conn, tables.limit_windows, [(*delta, 1)], tail)
