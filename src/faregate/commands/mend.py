"""`faregate audit --repair` outside the book: Redis and the journals brought into line with it.

Redis is corrected by saying the book's absolutes again, or by forgetting its copy of an account, which is read from the
book at its next call. A hold is removed only when the book says that it is over; one that nobody keeps alive is closed
the way a sweeper does, with a record. Dead journals are replayed. Nothing here edits the book.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence

from faregate.clock import SystemClock
from faregate.commands.local import WAIT_S, Book
from faregate.core.call import bucket_of
from faregate.core.ids import uuid7
from faregate.core.reservation import is_reservation
from faregate.credits.names import hold_keys, member
from faregate.credits.pipe import Pipe
from faregate.gateway.metrics import Metrics
from faregate.journal import dead_journals
from faregate.ledger.audit import Finding
from faregate.ledger.posting import read_wallets
from faregate.ledger.repair import Correction
from faregate.recovery import DeadJournal, Recovery

GATE_WOULD = {
    "gate": "forgotten, if nothing is held for it",
    "gate seq": "Redis forgets the account, and reads it from the book at its next call",
    "gate posted": "Redis forgets the account, and reads it from the book at its next call",
    "gate held": "Redis forgets the account, and sums its holds at its next call",
    "deadline": "it gets a deadline: its owner renews it, or a sweeper closes it",
    "overdue": "closed the way a sweeper does, with a record",
    "reservation": "held again at the account's next call, or dropped when the book says that it is over",
    "journal": "replayed",
}


async def mend(book: Book, found: Sequence[Finding]) -> list[Correction]:
    """Bring Redis into line; what was done."""
    assert book.pipe is not None
    done: list[Correction] = []
    for finding in found:
        if finding.account_id is not None:
            what = await _mend_one(book, book.pipe, finding)
            if what is not None:
                done.append(Correction(finding.subject, what))
    if any(finding.check == "overdue" for finding in found):
        closed = await _sweep(book)
        done.append(Correction("holds", f"{closed} were closed"))
    return done


async def _mend_one(book: Book, pipe: Pipe, finding: Finding) -> str | None:
    account_id, (bucket,) = finding.account_id or "", finding.delta
    _, acct, holds, due = hold_keys(bucket, account_id)
    if finding.check == "deadline":
        now_s, _ = await pipe.command((b"TIME",), WAIT_S)
        at_ms = (int(now_s) + int(3 * book.settings.timing.heartbeat_s)) * 1000
        await pipe.command((b"ZADD", due, b"NX", at_ms, member(account_id, finding.subject)), WAIT_S)
        return "the hold has a deadline again"
    if finding.check == "reservation" and await _is_over(book, finding.subject):
        await _drop(book, bucket, account_id, finding.subject)
        return "the reservation is over: it is held no more"
    if finding.check == "gate" and await pipe.command((b"EXISTS", holds), WAIT_S):
        return None  # Whose holds they are, only their owners can tell; they expire by themselves.
    await pipe.command((b"DEL", acct), WAIT_S)
    return "forgotten: it is read from the book at its next call"


async def _is_over(book: Book, hold_id: str) -> bool:
    known = await book.ledger.reservations.look([hold_id]) if is_reservation(hold_id) else {}
    return hold_id in known and known[hold_id].state != "pending"


async def _drop(book: Book, bucket: int, account_id: str, hold_id: str) -> None:
    """`settle` with what the book says: the verb that ends a hold."""
    assert book.gate is not None
    snapshot = await book.ledger.book.snapshot(account_id, (), gate=False)
    for lost in await book.gate.holds(bucket, account_id):
        if lost.hold.id == hold_id:
            await book.gate.settle(lost.hold, snapshot, bucket)


# What dead processes left -------------------------------------------------------------------------------


async def _sweep(book: Book) -> int:
    """Two passes a heartbeat apart, as the protocol wants it."""
    recovery = recovery_of(book, lambda: iter(()))
    await recovery.sweep()
    await asyncio.sleep(book.settings.timing.heartbeat_s)
    return await recovery.sweep()


async def replay(book: Book) -> bool:
    """What dead journals hold is booked. True: all of it."""
    folder = book.settings.data_dir / "journal"
    recovery = recovery_of(book, lambda: dead_journals(folder))
    await recovery.reassert()
    return await recovery.replay()


def recovery_of(book: Book, find: Callable[[], Iterator[DeadJournal]]) -> Recovery:
    """The protocol's own way to end what nobody owns any more."""
    assert book.gate is not None
    return Recovery(
        gate=book.gate,
        book=book.ledger.book,
        clock=SystemClock(),
        events=Metrics(),
        find=find,
        name=f"audit-{uuid7().hex[-8:]}",
        policy=book.settings.credits.on_unconfirmed,
        heartbeat_s=book.settings.timing.heartbeat_s,
    )


async def tell(book: Book, done: Iterable[Correction]) -> None:
    """Redis hears of the balances that a repair of the book has taken on."""
    if book.gate is None:
        return
    wallets = await book.ledger.database.read(read_wallets, sorted({one.subject for one in done}), lock=False)
    for wallet in wallets.values():
        await book.gate.settle(None, wallet.snapshot(), bucket_of(wallet.organization_id))
