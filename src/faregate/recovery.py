"""Ending what dead processes left open: journals found on this disk, and holds whose owner's disk is gone too.

    journal says       the truth is                          ended by
    open               zero (never forwarded)                commit of zero, settle
    open, forward      unknown: by policy, `unconfirmed`     commit, settle
    ..., learned       learned                               commit (again), settle

Holds are put back into Redis first, before this process takes traffic; the book may come late.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from faregate.core.call import Hold, Record, bucket_of
from faregate.core.codec import decode_record, encode_record
from faregate.core.reservation import is_reservation
from faregate.core.truth import UnconfirmedPolicy, unconfirmed_record, zero_record
from faregate.errors import BookRefused, StoreUnavailable
from faregate.ports import Book, Clock, DueHold, Events, Gate, SweptHold
from faregate.slices import in_slices

BUCKETS = range(256)
_MOST_DUE = 256


class LeftOver(Protocol):
    """One hold in a dead process's journal."""

    @property
    def intent(self) -> Record: ...
    @property
    def hold(self) -> Hold | None: ...
    @property
    def progress_microcredits(self) -> int: ...
    @property
    def learned(self) -> Record | None: ...


class DeadJournal(Protocol):
    """A dead process's journal, locked by us."""

    @property
    def left(self) -> Mapping[str, LeftOver]: ...

    def closed(self, hold_id: str) -> None: ...

    def finish(self) -> None: ...


class Reservations(Protocol):
    """Holds of which the book says how long they live."""

    async def expire(self) -> int: ...

    async def sweep(self, due: Sequence[DueHold]) -> int: ...


class Recovery:
    """Replays journals and sweeps holds. `find` yields the dead journals of this disk, each locked."""

    def __init__(
        self,
        *,
        gate: Gate,
        book: Book,
        clock: Clock,
        events: Events,
        find: Callable[[], Iterator[DeadJournal]],
        name: str,
        reservations: Reservations | None = None,
        policy: UnconfirmedPolicy = "progress",
        heartbeat_s: float = 5.0,
    ) -> None:
        self._gate = gate
        self._book = book
        self._clock = clock
        self._events = events
        self._find = find
        self._name = name
        self._reservations = reservations
        self._policy = policy
        self._heartbeat_s = heartbeat_s
        self._seen: dict[tuple[str, str], float] = {}
        self._journals: list[DeadJournal] = []

    @property
    def left(self) -> int:
        """Holds of dead processes that have not been ended yet."""
        return sum(len(journal.left) for journal in self._journals)

    # Journals -------------------------------------------------------------------------------------------

    async def reassert(self) -> int:
        """Take every dead journal of this disk and put its holds into Redis, now and at every heartbeat until they end.

        How many holds are open. Reading happens on a thread: a journal can be large.
        """
        await asyncio.to_thread(self._take)
        left = [left for journal in self._journals for left in journal.left.values()]
        await self._gate.reassert([_as_lost(one) for one in left if one.hold is not None])
        return len(left)

    def _take(self) -> None:
        for journal in self._find():
            self._journals.append(journal)

    async def replay(self) -> bool:
        """End what the taken journals hold. True when nothing is left; else try again later."""
        for journal in list(self._journals):
            await in_slices([(journal, *item) for item in journal.left.items()], lambda one: self._end_of(*one))
            if not journal.left:
                self._journals.remove(journal)
                journal.finish()
        return not self._journals

    async def _end_of(self, journal: DeadJournal, hold_id: str, left: LeftOver) -> None:
        try:
            await self._end(left)
        except BookRefused as error:
            self._events.trouble("parked", f"{hold_id}: {error.message}")
        except StoreUnavailable:
            return  # It stays in the journal for the next pass.
        else:
            journal.closed(hold_id)

    async def _end(self, left: LeftOver) -> None:
        if left.learned is not None:
            await self._commit(left.learned, left.hold)
        elif left.hold is not None:
            intent = replace(left.intent, limit_keys=left.hold.counted)
            record = unconfirmed_record(intent, left.progress_microcredits, left.hold.microcredits, self._policy)
            await self._commit(record, left.hold)
        else:
            # A sweeper may have charged it, and a lost tail brought its hold back: only the book knows.
            await self._commit(zero_record(left.intent), _stub(left.intent))

    async def _commit(self, record: Record, hold: Hold | None) -> None:
        committed = await self._book.commit(record)
        await self._gate.settle(hold or _stub(record), committed.snapshot, bucket_of(record.organization_id))

    # Holds ----------------------------------------------------------------------------------------------

    async def sweep(self) -> int:
        """One pass over all buckets. Only what was due on two passes a heartbeat apart is closed. How many were."""
        now = self._clock.monotonic()
        due = await asyncio.gather(*(self._gate.due(bucket, self._name, _MOST_DUE) for bucket in BUCKETS))
        found = {
            (account, hold): bucket for bucket, members in zip(BUCKETS, due, strict=True) for account, hold in members
        }
        self._seen = {member: self._seen.get(member, now) for member in found}
        closed = 0
        reserved: list[DueHold] = []
        for (account_id, hold_id), bucket in found.items():
            twice = now - self._seen[(account_id, hold_id)] >= self._heartbeat_s * 0.9
            if is_reservation(hold_id):
                reserved.append(DueHold(bucket, account_id, hold_id, twice))
            elif twice:
                closed += await self._close(bucket, account_id, hold_id)
        return closed + (await self._reservations.sweep(reserved) if self._reservations and reserved else 0)

    async def expire(self) -> int:
        """Reservations whose time is over, whether or not Redis remembers them. How many were."""
        return await self._reservations.expire() if self._reservations else 0

    async def _close(self, bucket: int, account_id: str, hold_id: str) -> bool:
        swept = await self._gate.claim(bucket, account_id, hold_id)
        if swept is None:
            return False
        if swept.hold.kind == "arrears":
            return await self._close_arrears(swept.hold)
        try:
            intent = replace(decode_record(swept.meta), limit_keys=swept.hold.counted)
            record = unconfirmed_record(intent, swept.progress_microcredits, swept.hold.microcredits, self._policy)
            await self._commit(record, swept.hold)
        except (BookRefused, ValueError) as error:  # ValueError: its owner wrote what this release cannot read.
            self._events.trouble("parked", f"{hold_id}: {error}")
            return False
        self._events.trouble("swept", hold_id)
        return True

    async def _close_arrears(self, arrears: Hold) -> bool:
        """The charges of a process that died, with its disk, while SQL was away: Redis has their records."""
        parked = 0
        for data in await self._gate.folded(arrears):
            try:
                record = decode_record(data)
                committed = await self._book.commit(record)
            except (BookRefused, ValueError) as error:
                self._events.trouble("parked", f"{arrears.id}: {error}")
                parked += 1
                continue
            await self._gate.unfold(_stub(record), arrears, committed.snapshot)
        return not parked

    async def run(self) -> None:
        """Every heartbeat: siblings' journals, then due holds. A step that fails keeps no other from its turn."""
        while True:
            await asyncio.sleep(self._heartbeat_s)
            for step in (self.reassert, self.replay, self.expire, self.sweep):
                try:
                    await step()
                except StoreUnavailable as error:
                    self._events.trouble("sweep", error.message)


def _as_lost(left: LeftOver) -> SweptHold:
    assert left.hold is not None
    owed = left.learned.charge_microcredits if left.learned else 0
    hold = replace(left.hold, microcredits=max(left.hold.microcredits, owed))
    return SweptHold(hold=hold, progress_microcredits=left.progress_microcredits, meta=encode_record(left.intent))


def _stub(record: Record) -> Hold:
    """Enough of a hold to release or settle it: Redis remembers the rest."""
    return Hold(
        id=record.hold_id,
        kind=record.hold_kind,
        organization_id=record.organization_id,
        account_id=record.account_id,
        bucket=bucket_of(record.organization_id),
        microcredits=0,
        tokens=None,
        limit_keys=(),
    )
