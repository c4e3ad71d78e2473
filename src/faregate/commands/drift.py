"""Redis compared with the book, beside a running server and without false alarms.

What a running server is in the middle of looks like drift for a moment. So every account is read from Redis in one
transaction and only then from the book; what looks wrong is looked at again a second later, and counts only if it
is still so. A balance that was behind has to have reached at least what the book said the first time.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from faregate.commands.local import BUCKETS, WAIT_S, Book
from faregate.core.reservation import is_reservation
from faregate.credits.gate import parse_hold
from faregate.credits.names import base, hold_keys, member
from faregate.credits.pipe import Arg, Pipe
from faregate.journal.records import unclosed
from faregate.journal.writer import SUFFIX
from faregate.ledger.audit import Finding
from faregate.ledger.posting import read_wallets
from faregate.settings import Settings

_AGAIN_S = 1.0
_SCAN = 1_000
_MOST_DUE = 1_000

Where = tuple[int, str]
"""Bucket and account id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InGate:
    """An account as Redis has it, read in one transaction. `seq` None: only holds are there."""

    posted: int
    seq: int | None
    held: int
    warm: bool
    holds: Mapping[str, int] = field(default_factory=dict)


async def gate_drift(book: Book) -> list[Finding]:
    """G2 and G4 against Redis: balances, sums of holds, deadlines. Empty is good."""
    if book.pipe is None:
        return []
    accounts = await accounts_in_gate(book.pipe)
    found, seqs = await _compare(book, book.pipe, accounts, {})
    found += await _overdue(book, book.pipe)
    if not found:
        return []
    await asyncio.sleep(_AGAIN_S)
    again, _ = await _compare(book, book.pipe, await accounts_in_gate(book.pipe), seqs)
    again += await _overdue(book, book.pipe)
    first = {(finding.check, finding.subject) for finding in found}
    return [finding for finding in again if (finding.check, finding.subject) in first]


async def accounts_in_gate(pipe: Pipe) -> list[Where]:
    """Every account Redis knows, by balance or by holds."""
    found: set[Where] = set()
    for kind in ("acct", "holds"):
        async for key in scan(pipe, f"fg:{{b*}}:{kind}:*"):
            head, _, account = key.partition(f"}}:{kind}:")
            found.add((int(head.removeprefix("fg:{b")), account))
    return sorted(found)


async def scan(pipe: Pipe, pattern: str) -> AsyncIterator[str]:
    """Keys that match, each maybe more than once."""
    for node in pipe.nodes():
        cursor: bytes | None = None
        while cursor != b"0":
            cursor, keys = await node.command((b"SCAN", cursor or 0, b"MATCH", pattern, b"COUNT", _SCAN), WAIT_S)
            for key in keys:
                yield key.decode()


async def _compare(
    book: Book, pipe: Pipe, accounts: Sequence[Where], at_least: Mapping[str, int]
) -> tuple[list[Finding], dict[str, int]]:
    """What differs, and the sequence numbers of the book."""
    found: list[Finding] = []
    seqs: dict[str, int] = {}
    for bucket, account in accounts:
        seen = await look(pipe, bucket, account)
        wallet = (await book.ledger.database.read(read_wallets, [account], lock=False)).get(account)
        if wallet is None:
            found.append(Finding("gate", account, "Redis has it, the book does not", account, (bucket,)))
            continue
        seqs[account] = wallet.seq
        theirs = [*balance_findings(account, seen, wallet.posted, wallet.seq, at_least.get(account, wallet.seq))]
        theirs += await _without_deadline(pipe, bucket, account, seen.holds)
        if seen.warm:
            theirs += await _reservation_findings(book, pipe, bucket, account, seen.holds)
        found += [replace(finding, account_id=account, delta=(bucket,)) for finding in theirs]
    return found, seqs


def balance_findings(account: str, seen: InGate, posted: int, seq: int, at_least: int) -> Iterator[Finding]:
    """One account's. The book was read after Redis, so Redis may be behind it for a moment, never ahead."""
    if seen.seq is not None and seen.seq > seq:
        yield Finding("gate seq", account, f"Redis is at {seen.seq}, the book at {seq}: see faregate gate reset")
    elif seen.seq == seq and seen.posted != posted:
        yield Finding("gate posted", account, f"Redis says {seen.posted}, the book {posted}, both at {seq}")
    elif seen.warm and (seen.seq or 0) < at_least:
        yield Finding("gate seq", account, f"Redis is at {seen.seq or 0}, the book at {at_least}")
    total = sum(seen.holds.values())
    if seen.warm and seen.held != total:
        yield Finding("gate held", account, f"held is {seen.held}, its {len(seen.holds)} open holds sum to {total}")


async def look(pipe: Pipe, bucket: int, account: str) -> InGate:
    """One account, in one transaction."""
    gate, acct, holds, _ = hold_keys(bucket, account)
    fields, epoch, texts = await transaction(
        pipe.at(gate),
        (b"HMGET", acct, b"posted", b"seq", b"held", b"epoch"),
        (b"HGET", gate, b"epoch"),
        (b"HGETALL", holds),
    )
    amounts = {
        hold.decode(): parse_hold(text, bucket, account, hold.decode()).hold.microcredits
        for hold, text in zip(texts[::2], texts[1::2], strict=True)
        if text.startswith(b"1|")
    }
    return InGate(
        posted=int(fields[0] or 0),
        seq=None if fields[1] is None else int(fields[1]),
        held=int(fields[2] or 0),
        warm=fields[3] is not None and fields[3] == epoch,
        holds=amounts,
    )


async def transaction(pipe: Pipe, *commands: tuple[Arg, ...]) -> list[Any]:
    """Commands that Redis runs as one. Nothing else may use the pipe meanwhile."""
    parts: list[tuple[Arg, ...]] = [(b"MULTI",), *commands, (b"EXEC",)]
    replies = await asyncio.gather(*(pipe.command(part, WAIT_S) for part in parts))
    done: list[Any] = replies[-1]
    return done


async def _without_deadline(pipe: Pipe, bucket: int, account: str, holds: Iterable[str]) -> list[Finding]:
    """A hold that is not among the deadlines would never be swept."""
    found = []
    for hold in holds:
        score = await pipe.command((b"ZSCORE", f"{base(bucket)}due", member(account, hold)), WAIT_S)
        if score is None:
            found.append(Finding("deadline", hold, f"an open hold of {account} has no deadline"))
    return found


async def _reservation_findings(
    book: Book, pipe: Pipe, bucket: int, account: str, holds: Mapping[str, int]
) -> list[Finding]:
    """What the book has reserved is held, and nothing else for longer than a sweep takes to see to it."""
    found = []
    for one in await book.ledger.reservations.pending(account):
        if holds.get(one.id, -1) < one.microcredits:
            held = holds.get(one.id, 0)
            found.append(Finding("reservation", one.id, f"{one.microcredits} of {account} are reserved, {held} held"))
    mine = [hold for hold in holds if is_reservation(hold)]
    known = await book.ledger.reservations.look(mine) if mine else {}
    now_s, _ = await pipe.command((b"TIME",), WAIT_S)
    soon_ms = int(now_s) * 1000 + int(3000 * book.settings.timing.heartbeat_s) + 1000
    for hold in mine:
        state = known[hold].state if hold in known else "unknown"
        due_ms = await pipe.command((b"ZSCORE", f"{base(bucket)}due", member(account, hold)), WAIT_S)
        if state != "pending" and due_ms is not None and float(due_ms) > soon_ms:
            found.append(Finding("reservation", hold, f"it is held for {account}, the book says {state}"))
    return found


async def _overdue(book: Book, pipe: Pipe) -> list[Finding]:
    """Holds past their deadline by more than two passes of the sweeper, on Redis's clock."""
    now_s, _ = await pipe.command((b"TIME",), WAIT_S)
    limit_ms = int(now_s) * 1000 - int(2000 * book.settings.timing.sweep_s) - 1000
    command = (b"BYSCORE", b"LIMIT", 0, _MOST_DUE)
    due = await asyncio.gather(
        *(pipe.command((b"ZRANGE", f"{base(b)}due", b"-inf", limit_ms, *command), WAIT_S) for b in BUCKETS)
    )
    found = []
    for bucket, members in zip(BUCKETS, due, strict=True):
        for each in members:
            account, _, hold = each.decode().partition("|")
            if await pipe.command((b"HEXISTS", hold_keys(bucket, account)[2], hold), WAIT_S):
                found.append(
                    Finding("overdue", hold, f"a hold of {account} has outlived its deadline, nobody sweeps it")
                )
    return found


# Journals -----------------------------------------------------------------------------------------------


async def journal_drift(settings: Settings, *, running: bool) -> list[Finding]:
    """Journals of dead processes with holds in them. A running server has two heartbeats to replay them."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + (2 * settings.timing.heartbeat_s + 1 if running else 0)
    while found := [*_left_over(settings.data_dir / "journal")]:
        if loop.time() >= deadline:
            return found
        await asyncio.sleep(_AGAIN_S)
    return []


def _left_over(folder: Path) -> Iterator[Finding]:
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        left = unclosed(data) if (data := _dead(path)) is not None else {}
        if left:
            yield Finding("journal", path.name, f"{len(left)} calls of a dead process are not in the book yet")


def _dead(path: Path) -> bytes | None:
    """What a dead process wrote; None while somebody holds the lock. Ours is given back at once."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        fcntl.flock(fd, fcntl.LOCK_UN)
        return os.pread(fd, os.fstat(fd).st_size, 0)
    except OSError:
        return None
    finally:
        os.close(fd)
