"""Entries of one transaction: wallets are locked in id order, moved in memory, written once at the end."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import orjson
from sqlalchemy import Connection

from faregate.core.call import LimitState, Snapshot
from faregate.core.ids import new_id
from faregate.core.money import MAX_MICROCREDITS
from faregate.errors import BookRefused
from faregate.ledger import tables
from faregate.ledger.dialect import Row, among, for_update, insert_many, marks
from faregate.ledger.grants import Grant, Purse
from faregate.ledger.periods import successor


@dataclass(slots=True, kw_only=True)
class Wallet:
    """An account row, locked."""

    id: str
    organization_id: str
    posted: int
    seq: int
    overdraft: int
    gated: bool
    grants_until_us: int | None

    def snapshot(self, limits: tuple[LimitState, ...] = ()) -> Snapshot:
        return Snapshot(
            account_id=self.id,
            posted=self.posted,
            seq=self.seq,
            overdraft=self.overdraft,
            fresh_until_ms=(self.grants_until_us or 0) // 1000,
            gated=self.gated,
            limits=limits,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One immutable line of the ledger. `amount` is signed microcredits: credits +, debits -."""

    id: str
    organization_id: str
    account_id: str
    seq: int
    type: str
    amount: int
    balance_after: int
    reason: str
    description: str | None = None
    metadata: Mapping[str, object] | None = None
    payment_method: str | None = None
    usage_id: str | None = None
    hold_id: str | None = None
    limit_keys: str | None = None
    created_us: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """What an entry says beside its amount."""

    reason: str
    type: str | None = None
    """None: by the amount's sign, zero being a debit."""
    description: str | None = None
    metadata: Mapping[str, object] | None = None
    payment_method: str | None = None
    usage_id: str | None = None
    hold_id: str | None = None
    limit_keys: str | None = None


_WALLET = "SELECT id, organization_id, posted, seq, overdraft, gated_us, grants_until_us FROM accounts WHERE id "
_GRANTS = (
    "SELECT id, account_id, amount, remaining, priority, effective_us, expires_us, started, description,"
    " created_us, plan_id, assignment_id, period FROM grants WHERE "
)
_LIVE = "remaining > 0 AND account_id = "
"""A grant that has not started has all of it, one that is burnt or over has nothing: years of them are not read."""


def read_wallets(conn: Connection, account_ids: Iterable[str], *, lock: bool) -> dict[str, Wallet]:
    """Wallets by account id, in id order; unknown ids are left out."""
    ids = sorted(set(account_ids))
    these, params = among(conn, ids)
    sql = _WALLET + these + " ORDER BY id" + (for_update(conn) if lock else "")
    return {
        row[0]: Wallet(
            id=row[0],
            organization_id=row[1],
            posted=row[2],
            seq=row[3],
            overdraft=row[4],
            gated=row[5] is not None,
            grants_until_us=row[6],
        )
        for row in conn.exec_driver_sql(sql, params)
    }


class Posting:
    """Moves wallets and collects their entries; `flush` writes them."""

    def __init__(self, conn: Connection, account_ids: Iterable[str], now_us: int) -> None:
        self.conn = conn
        self.now_us = now_us
        self.wallets = read_wallets(conn, account_ids, lock=True)
        self._entries: list[Row] = []
        self._purses: dict[str, Purse] = {}
        self._moved: set[str] = set()

    def wallet(self, account_id: str, organization_id: str | None = None) -> Wallet:
        """Raises BookRefused when the account is unknown or another organization's."""
        wallet = self.wallets.get(account_id)
        if wallet is None or organization_id not in (None, wallet.organization_id):
            raise BookRefused("the account is not in the book")
        return wallet

    def post(
        self,
        wallet: Wallet,
        amount: int,
        line: Line,
        *,
        entry_id: str | None = None,
        created_us: int | None = None,
    ) -> Entry:
        """Move the balance by a signed amount and write it down."""
        wallet.seq += 1
        wallet.posted += amount
        entry = Entry(
            id=entry_id or new_id("txn"),
            organization_id=wallet.organization_id,
            account_id=wallet.id,
            seq=wallet.seq,
            type=line.type or ("credit" if amount > 0 else "debit"),
            amount=amount,
            balance_after=wallet.posted,
            reason=line.reason,
            description=line.description,
            metadata=line.metadata,
            payment_method=line.payment_method,
            usage_id=line.usage_id,
            hold_id=line.hold_id,
            limit_keys=line.limit_keys,
            created_us=self.now_us if created_us is None else created_us,
        )
        self._entries.append(_entry_row(entry))
        self._moved.add(wallet.id)
        return entry

    def insert(self, entry: Entry) -> None:
        """An entry in a place of its own, which moves nothing: a repair's, where one was missing."""
        self._entries.append(_entry_row(entry))

    def pending(self) -> list[Row]:
        """What will be written: id, seq, amount, balance after; in order."""
        return sorted(((row[0], row[3], row[5], row[6]) for row in self._entries), key=lambda row: row[1])

    def charge(self, wallet: Wallet, microcredits: int, line: Line, *, at_us: int, entry_id: str) -> Entry:
        """Take credits at a moment: grants that started or ended up to then are booked first, then burnt."""
        self.apply_due(wallet, min(at_us, self.now_us))
        entry = self.post(wallet, -microcredits, line, entry_id=entry_id)
        if wallet.grants_until_us is not None:
            self.purse(wallet).burn(entry.id, microcredits)
        return entry

    def refund(
        self, wallet: Wallet, microcredits: int, line: Line, *, entry_id: str, of_entry: tuple[str, int]
    ) -> Entry:
        """Give credits of an earlier charge `(entry id, microcredits)` back to where they came from."""
        charged_id, charged = of_entry
        posted = wallet.posted
        entry = self.post(wallet, microcredits, line, entry_id=entry_id)
        sql = f"SELECT grant_id, -amount FROM grant_moves WHERE amount < 0 AND entry_id = {marks(self.conn, 1)}"  # noqa: S608
        burnt = [(row[0], row[1]) for row in self.conn.exec_driver_sql(sql, (charged_id,))]
        pending = [move for purse in self._purses.values() for move in purse.moves if move.entry_id == charged_id]
        burnt += [(move.grant_id, -move.amount) for move in pending]
        if burnt:
            self._read_again(self.purse(wallet), [grant_id for grant_id, _ in burnt])
            self.purse(wallet).give_back(entry.id, burnt, charged, microcredits, posted=posted, now_us=self.now_us)
        return entry

    def purse(self, wallet: Wallet) -> Purse:
        """The account's grants with something in them, read once."""
        if wallet.id not in self._purses:
            rows = self.conn.exec_driver_sql(_GRANTS + _LIVE + marks(self.conn, 1), (wallet.id,))
            self._purses[wallet.id] = Purse(_grant(tuple(row)) for row in rows)
        return self._purses[wallet.id]

    def _read_again(self, purse: Purse, grant_ids: Iterable[str]) -> None:
        """Grants that have nothing left, but may get something back."""
        these, params = among(self.conn, sorted({grant_id for grant_id in grant_ids if grant_id not in purse}))
        if params and params != ([],):
            for row in self.conn.exec_driver_sql(f"{_GRANTS}id {these}", params):
                purse.add(_grant(tuple(row)))

    def apply_due(self, wallet: Wallet, until_us: int) -> None:
        """Book what grants have started or ended up to a moment, each as an entry of that moment."""
        if wallet.grants_until_us is None or wallet.grants_until_us > until_us:
            return
        purse = self.purse(wallet)
        while (due := purse.due(until_us)) is not None:
            grant = due.grant
            if due.what == "start":
                self._start(wallet, purse, grant)
            else:
                line = Line(reason="expiry", type="debit", description=grant.description)
                purse.expire(grant, self.post(wallet, -grant.remaining, line, created_us=due.moment_us).id)
        wallet.grants_until_us = purse.until_us()

    def _start(self, wallet: Wallet, purse: Purse, grant: Grant) -> None:
        """Its credits come; what does not fit into the largest balance there can be does not."""
        grant.amount = grant.remaining = max(0, min(grant.amount, MAX_MICROCREDITS - wallet.posted))
        debt = purse.debt(wallet.posted)
        line = Line(reason="grant", type="credit", description=grant.description)
        purse.start(grant, self.post(wallet, grant.amount, line, created_us=grant.effective_us).id, debt)
        if grant.assignment_id is not None:
            following = successor(self.conn, grant, self.now_us)
            if following is not None:
                purse.add(following)

    def flush(self) -> None:
        """Write entries, grants and wallets: one update per account, in id order."""
        for account_id, purse in sorted(self._purses.items()):
            self._write_purse(purse)
            self.wallets[account_id].grants_until_us = purse.until_us()
        insert_many(self.conn, tables.entries, self._entries)
        moved = [self.wallets[account_id] for account_id in sorted(self._moved | set(self._purses))]
        if moved:
            self.conn.exec_driver_sql(
                _update_sql(self.conn),
                [
                    (
                        wallet.posted,
                        wallet.seq,
                        wallet.overdraft,
                        wallet.grants_until_us,
                        self.now_us,
                        wallet.id,
                    )
                    for wallet in moved
                ],
            )

    def _write_purse(self, purse: Purse) -> None:
        moves = [(move.entry_id, move.grant_id, move.amount) for move in purse.moves]
        insert_many(self.conn, tables.grant_moves, moves)
        for grant in purse.changed():
            self.conn.execute(
                tables.grants.update()
                .where(tables.grants.c.id == grant.id)
                .values(amount=grant.amount, remaining=grant.remaining, started=grant.started)
            )


def _update_sql(conn: Connection) -> str:
    names = ("posted", "seq", "overdraft", "grants_until_us", "updated_us", "id")
    mark = marks(conn, len(names)).strip("()").split(",")
    sets = ", ".join(f"{name} = {value}" for name, value in zip(names[:-1], mark, strict=False))
    return f"UPDATE accounts SET {sets} WHERE id = {mark[-1]}"  # noqa: S608


def _entry_row(entry: Entry) -> Row:
    return (
        entry.id,
        entry.organization_id,
        entry.account_id,
        entry.seq,
        entry.type,
        entry.amount,
        entry.balance_after,
        entry.reason,
        entry.description,
        to_json(entry.metadata),
        entry.payment_method,
        entry.usage_id,
        entry.hold_id,
        entry.limit_keys,
        entry.created_us,
    )


def _grant(row: Row) -> Grant:
    return Grant(
        id=row[0],
        account_id=row[1],
        amount=row[2],
        remaining=row[3],
        priority=row[4],
        effective_us=row[5],
        expires_us=row[6],
        started=bool(row[7]),
        description=row[8],
        created_us=row[9],
        plan_id=row[10],
        assignment_id=row[11],
        period=row[12],
    )


def to_json(value: object) -> str | None:
    """Compact JSON; nothing for an empty value."""
    return orjson.dumps(value).decode() if value else None


def from_json(value: str | None) -> dict[str, object]:
    """The object `to_json` wrote."""
    return orjson.loads(value) if value else {}
