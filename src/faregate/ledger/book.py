"""ports.Book over SQL: records, snapshots, and credits that come in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from sqlalchemy import Connection, func, select

from faregate.core.call import Committed, Limit, Record, Snapshot
from faregate.core.ids import new_id
from faregate.core.money import MAX_MICROCREDITS
from faregate.errors import InvalidRequest, NotFound
from faregate.ledger import tables
from faregate.ledger.database import Database
from faregate.ledger.grants import Grant
from faregate.ledger.periods import insert_grant
from faregate.ledger.posting import Entry, Line, Posting, Wallet, read_wallets
from faregate.ledger.reservations import read_pending
from faregate.ledger.windows import Key, read_windows


class SqlBook:
    """The only truth about money. Every method raises BookUnavailable when SQL is out of reach."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def commit(self, record: Record) -> Committed:
        """Write it if the book does not have it, charge what is new. Raises BookRefused for what it won't take.

        A deduction (`commit.DIRECT_ENDPOINTS`) has no usage record: `usage_id` is then its entry's id.
        """
        return await self._database.commit(record)

    async def snapshot(self, account_id: str, limits: Sequence[tuple[Limit, int]], *, gate: bool) -> Snapshot:
        """The account and its limit windows (limit, window start in s). Raises NotFound.

        `gate` marks that it will have holds, and brings the pending reservations; `gated` is what held before.
        Due grants are booked first.
        """
        keys = [(limit.id, start) for limit, start in limits]
        now_us = self._database.now_us()
        wallet, snapshot = await self._database.read(_read, account_id, keys, gate=gate, now_us=now_us)
        due = wallet.grants_until_us is not None and wallet.grants_until_us <= now_us
        if due or (gate and not wallet.gated):
            return await self._database.upkeep(_refresh, account_id, keys, gate=gate, now_us=now_us)
        return snapshot

    async def apply_due_grants(self, account_id: str) -> Snapshot:
        """Book what grants have started or ended by now, each as an entry of its own at its moment."""
        return await self._database.upkeep(_refresh, account_id, [], gate=False, now_us=self._database.now_us())

    async def balance_at(self, account_id: str, moment_us: int) -> int:
        """What the account had posted at a moment, recomputed from its entries. Raises NotFound, InvalidRequest.

        An entry counts from the moment it was booked, but what a grant brings or takes from the moment it was due.
        """
        if moment_us > self._database.now_us():
            raise InvalidRequest("at must not be in the future", param="at")
        await self.snapshot(account_id, (), gate=False)  # What is due by now is an entry from here on.
        return await self._database.read(_balance_at, account_id, moment_us)

    async def add_credits(
        self,
        account_id: str,
        microcredits: int,
        *,
        description: str | None = None,
        payment_method: str | None = None,
        expires_us: int | None = None,
        priority: int = 0,
        metadata: Mapping[str, object] | None = None,
    ) -> tuple[Entry, Snapshot]:
        """Credits come in; with `expires_us` they are a grant, which pays debt first. Raises InvalidRequest."""
        line = _credit_line(description, payment_method, expires_us, metadata)
        now_us = self._database.now_us()
        return await self._database.write(_add, account_id, microcredits, line, expires_us, priority, now_us)

    async def schedule_grant(
        self,
        account_id: str,
        microcredits: int,
        *,
        effective_us: int,
        expires_us: int | None = None,
        priority: int = 0,
        description: str | None = None,
    ) -> tuple[str, Snapshot]:
        """Credits that come in later: the grant's id, and the snapshot with its new `fresh_until_ms`."""
        now_us = self._database.now_us()
        grant = _new_grant(account_id, microcredits, effective_us, expires_us, priority, description, now_us)
        return await self._database.write(_schedule, grant, now_us)

    async def set_overdraft(self, account_id: str, microcredits: int, description: str | None = None) -> Snapshot:
        """How far below zero the account may go: a zero entry, so that the sequence carries it to Redis."""
        return await self._database.write(
            _set_overdraft, account_id, microcredits, description, self._database.now_us()
        )


def _credit_line(
    description: str | None,
    payment_method: str | None,
    expires_us: int | None,
    metadata: Mapping[str, object] | None,
) -> Line:
    return Line(
        reason="credit" if expires_us is None else "grant",
        type="credit",
        description=description,
        payment_method=payment_method,
        metadata=metadata,
    )


def _read(
    conn: Connection, account_id: str, keys: Sequence[Key], *, gate: bool, now_us: int
) -> tuple[Wallet, Snapshot]:
    wallet = read_wallets(conn, [account_id], lock=False).get(account_id)
    if wallet is None:
        raise NotFound("no such account", param="accountId")
    return wallet, _snapshot(conn, wallet, keys, gate=gate, now_us=now_us)


def _snapshot(conn: Connection, wallet: Wallet, keys: Sequence[Key], *, gate: bool, now_us: int) -> Snapshot:
    states = read_windows(conn, keys)
    snapshot = wallet.snapshot(tuple(states[key] for key in keys))
    return replace(snapshot, reservations=read_pending(conn, wallet.id, now_us)) if gate else snapshot


def _balance_at(conn: Connection, account_id: str, moment_us: int) -> int:
    entry = tables.entries.c
    total = func.coalesce(func.sum(entry.amount), 0)
    query = select(total).where(entry.account_id == account_id, entry.created_us <= moment_us)
    return int(conn.execute(query).scalar_one())


def _posting(conn: Connection, account_id: str, now_us: int) -> tuple[Posting, Wallet]:
    posting = Posting(conn, [account_id], now_us)
    if account_id not in posting.wallets:
        raise NotFound("no such account", param="accountId")
    return posting, posting.wallets[account_id]


def _refresh(conn: Connection, account_id: str, keys: Sequence[Key], *, gate: bool, now_us: int) -> Snapshot:
    posting, wallet = _posting(conn, account_id, now_us)
    posting.apply_due(wallet, now_us)
    posting.flush()
    if gate and not wallet.gated:
        mark = tables.accounts.update().where(tables.accounts.c.id == account_id).values(gated_us=now_us)
        conn.execute(mark)
    return _snapshot(conn, wallet, keys, gate=gate, now_us=now_us)


def _add(
    conn: Connection,
    account_id: str,
    microcredits: int,
    line: Line,
    expires_us: int | None,
    priority: int,
    now_us: int,
) -> tuple[Entry, Snapshot]:
    _check_amount(microcredits)
    posting, wallet = _posting(conn, account_id, now_us)
    posting.apply_due(wallet, now_us)
    if wallet.posted + microcredits > MAX_MICROCREDITS:
        raise InvalidRequest("the balance would be too large", param="amount")
    if expires_us is None:
        entry = posting.post(wallet, microcredits, line)
    else:
        grant = _new_grant(account_id, microcredits, now_us, expires_us, priority, line.description, now_us)
        purse = posting.purse(wallet)
        debt = purse.debt(wallet.posted)
        insert_grant(conn, grant)
        purse.add(grant)
        entry = posting.post(wallet, microcredits, line)
        purse.start(grant, entry.id, debt)
    posting.flush()
    return entry, wallet.snapshot()


def _schedule(conn: Connection, grant: Grant, now_us: int) -> tuple[str, Snapshot]:
    posting, wallet = _posting(conn, grant.account_id, now_us)
    insert_grant(conn, grant)
    posting.purse(wallet)
    posting.flush()
    return grant.id, wallet.snapshot()


def _set_overdraft(
    conn: Connection, account_id: str, microcredits: int, description: str | None, now_us: int
) -> Snapshot:
    if not 0 <= microcredits <= MAX_MICROCREDITS:
        raise InvalidRequest("overdraft must be 0 or more credits, and not too large", param="overdraft")
    posting, wallet = _posting(conn, account_id, now_us)
    wallet.overdraft = microcredits
    posting.post(wallet, 0, Line(reason="overdraft", description=description))
    posting.flush()
    return wallet.snapshot()


def _new_grant(
    account_id: str,
    microcredits: int,
    effective_us: int,
    expires_us: int | None,
    priority: int,
    description: str | None,
    now_us: int,
) -> Grant:
    _check_amount(microcredits)
    if expires_us is not None and expires_us <= max(effective_us, now_us):
        raise InvalidRequest("expiresAt must be in the future", param="expiresAt")
    return Grant(
        id=new_id("grant"),
        account_id=account_id,
        amount=microcredits,
        remaining=microcredits,
        priority=priority,
        effective_us=effective_us,
        expires_us=expires_us,
        started=False,
        description=description,
        created_us=now_us,
    )


def _check_amount(microcredits: int) -> None:
    if not 0 < microcredits <= MAX_MICROCREDITS:
        raise InvalidRequest("amount must be greater than 0 and not too large", param="amount")
