"""Reservations: holds that no process owns. The book says what each is, the gate counts it, anyone may end it.

create    reserve for one hold deadline -> row in the book -> deadline of its own -> answer
change    deadline of one hold deadline -> the book (one conditional transaction) -> settle, release or a new deadline
due       the book is asked: pending gets its deadline back, ended is closed, unknown is claimed and closed

Every change begins with a short deadline in the gate: whoever dies in the middle of one is found by the next sweep,
which does what the book says. So nothing here needs a journal, and nothing is half done for longer than a call's hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Protocol

from faregate.core.call import Hold, Principal, Reservation, Snapshot
from faregate.core.codec import encode_record
from faregate.core.reservation import hold_of, record_of
from faregate.errors import (
    BookUnavailable,
    Conflict,
    FaregateError,
    ReservationExpired,
    StoreUnavailable,
    StoreUnreached,
)
from faregate.ledger.reservations import Confirmation
from faregate.ports import Ask, Beat, BeatAnswer, Book, Clock, DueHold, Events, Gate, SweptHold
from faregate.slices import in_slices

_MOST_DUE = 256


class Rows(Protocol):
    """`ledger.reservations.Reservations`, as far as this file cares. Every method raises BookUnavailable."""

    async def create(self, wanted: Reservation) -> tuple[Reservation, bool]: ...
    async def confirm(self, reservation_id: str, actual: int) -> Confirmation: ...
    async def cancel(self, reservation_id: str) -> Reservation: ...
    async def forget(self, reservation_id: str) -> None: ...
    async def extend(self, reservation_id: str, expires_us: int) -> Reservation: ...
    async def look(self, ids: Sequence[str]) -> dict[str, Reservation]: ...
    async def expire_due(self, most: int) -> Sequence[Reservation]: ...


class Reserver:
    """Makes, ends and sweeps reservations. `heartbeat_s`: a third of the hold deadline."""

    def __init__(
        self, *, gate: Gate, book: Book, rows: Rows, clock: Clock, events: Events, heartbeat_s: float = 5.0
    ) -> None:
        self._gate = gate
        self._book = book
        self._rows = rows
        self._clock = clock
        self._events = events
        self._deadline_s = 3 * heartbeat_s

    # Making ---------------------------------------------------------------------------------------------

    async def create(self, principal: Principal, wanted: Reservation, ttl_s: int) -> tuple[Reservation, bool]:
        """Hold the credits and write it down. False: its caller's id stands for an earlier one, which is this.

        Raises what the gate raises (also KeyChanged), LimitExceeded, BookUnavailable; nothing is held then.
        """
        hold = await self._take(principal, wanted)
        now_us = self._clock.now_us()
        wanted = replace(
            wanted,
            limit_keys=hold.limit_keys,
            expires_us=now_us + ttl_s * 1_000_000,
            created_us=now_us,
            updated_us=now_us,
        )
        made, new = await self._write(wanted)
        if new:
            await self._keep(made, hold.asked_at)
        return made, new

    async def _take(self, principal: Principal, wanted: Reservation) -> Hold:
        ask = Ask(
            hold_id=wanted.id,
            kind="api",
            principal=principal,
            account_id=wanted.account_id,
            want_microcredits=wanted.microcredits,
            floor_microcredits=wanted.microcredits,
            want_tokens=0,
            floor_tokens=0,
            progress_microcredits=0,
            meta=encode_record(record_of(wanted, wanted.microcredits)),
        )
        try:
            return await self._gate.reserve(ask)
        except StoreUnavailable as error:
            if not isinstance(error, BookUnavailable | StoreUnreached):
                await self._release(wanted)  # It may have been applied, or still be: then a sweep finds no row for it.
            raise

    async def _write(self, wanted: Reservation) -> tuple[Reservation, bool]:
        try:
            made, new = await self._rows.create(wanted)
        except BookUnavailable:
            await self._undo(wanted)
            raise
        except FaregateError:
            await self._release(wanted)
            raise
        if made.id != wanted.id:
            await self._release(wanted)
        return made, new

    async def _undo(self, wanted: Reservation) -> None:
        """The row may be there after all. If the book cannot say so now, the hold is left to the sweep, which asks."""
        with suppress(BookUnavailable):
            await self._rows.forget(wanted.id)
            await self._release(wanted)

    async def _keep(self, made: Reservation, asked: float) -> None:
        """The book has it: from now on its hold lives as long as the book says."""
        try:
            answer = await self._gate.extend(self._beat(made))
            if answer == "no_hold" and self._clock.monotonic() - asked < self._deadline_s:
                (answer,) = await self._gate.reassert([self._lost(made)])
        except StoreUnavailable:
            return  # The book will be asked, by a sweep or by a rebuild.
        if answer != "ok":  # We stood still for so long that a sweep took it for a dead process's.
            await self._rows.forget(made.id)
            await self._release(made)
            raise StoreUnavailable("the hold of this reservation has expired, try again", retry_after_s=1)

    # Ending ---------------------------------------------------------------------------------------------

    async def confirm(self, one: Reservation, actual: int) -> Confirmation:
        """Charge `actual` microcredits, once. A repeat gets the first result. Raises ReservationExpired."""
        if one.state == "pending":
            await self._grip(one, actual if actual > one.microcredits else None)
        done = await self._rows.confirm(one.id, actual)
        if done.snapshot is None:
            await self._release(one)
            raise ended(done.reservation)
        await self._settle(one, done.snapshot)
        if done.new and actual > one.microcredits:
            self._events.overrun(actual - one.microcredits)
        return done

    async def cancel(self, one: Reservation) -> Reservation:
        """Give the credits back; repeatable. Raises ReservationExpired, or Conflict when it was confirmed."""
        if one.state == "pending":
            await self._grip(one)
            one = await self._rows.cancel(one.id)
            await self._close(one)
        if one.state != "released":
            raise ended(one)
        return one

    async def extend(self, one: Reservation, ttl_s: int) -> Reservation:
        """A deadline `ttl_s` from now, unless it has a later one. Raises ReservationExpired, Conflict."""
        if one.state == "pending":
            await self._grip(one)
            one = await self._rows.extend(one.id, self._clock.now_us() + ttl_s * 1_000_000)
        if one.state != "pending":
            await self._close(one)
            raise ended(one)
        with suppress(StoreUnavailable):  # The sweep does it.
            await self._gate.extend(self._beat(one))
        return one

    async def _grip(self, one: Reservation, overrun: int | None = None) -> None:
        """Before a change: the gate answers, holds what an overrun comes to, and asks the book soon if we die."""
        hold = replace(hold_of(one), microcredits=overrun or one.microcredits)
        if await self._gate.extend(Beat(hold=hold, microcredits=overrun, progress_microcredits=0)) == "no_hold":
            await self._gate.reassert([replace(self._lost(one), hold=hold, ttl_ms=None)])

    async def _close(self, one: Reservation) -> BeatAnswer:
        """Close the hold of one that has ended; if the gate is away, the sweep does it."""
        if one.state != "settled":
            return await self._release(one)
        snapshot = (await self._rows.confirm(one.id, one.actual or 0)).snapshot
        assert snapshot is not None, "settled stays settled"
        return await self._settle(one, snapshot)

    async def _settle(self, one: Reservation, snapshot: Snapshot) -> BeatAnswer:
        try:
            await self._gate.settle(hold_of(one), snapshot, hold_of(one).bucket)
            return "ok"
        except StoreUnavailable:
            return "lost"

    async def _release(self, one: Reservation) -> BeatAnswer:
        try:
            return await self._gate.release(hold_of(one))
        except StoreUnavailable:
            return "lost"

    # Sweeping -------------------------------------------------------------------------------------------

    async def expire(self) -> int:
        """End what nobody confirmed in time: in the book first, by whoever comes first. How many were."""
        expired = await self._rows.expire_due(_MOST_DUE)
        await in_slices(expired, self._release)
        return len(expired)

    async def sweep(self, due: Sequence[DueHold]) -> int:
        """Do what the book says with holds past their deadline in the gate. How many were closed."""
        closed = 0
        for start in range(0, len(due), _MOST_DUE):
            some = due[start : start + _MOST_DUE]
            known = await self._rows.look([one.hold_id for one in some])
            closed += sum(await in_slices(some, lambda one: self._sweep(one, known.get(one.hold_id))))  # noqa: B023
        return closed

    async def _sweep(self, due: DueHold, known: Reservation | None) -> bool:
        if known is None:
            return due.twice and await self._drop_unknown(due)
        if known.state == "pending":
            if known.expires_us <= self._clock.now_us():
                return False  # `expire` writes it down first.
            answer = await self._gate.extend(self._beat(known))
        else:
            answer = await self._close(known)
        if answer == "no_hold":  # Only its deadline is left: this takes it away.
            await self._gate.claim(due.bucket, due.account_id, due.hold_id)
        return answer == "ok" and known.state != "pending"

    async def _drop_unknown(self, due: DueHold) -> bool:
        """Its maker died, or will find the hold claimed when it has written its row, and undo that."""
        swept = await self._gate.claim(due.bucket, due.account_id, due.hold_id)
        if swept is None:
            return False
        snapshot: Snapshot = await self._book.snapshot(due.account_id, (), gate=False)
        await self._gate.settle(swept.hold, snapshot, due.bucket)
        self._events.trouble("swept", due.hold_id)
        return True

    # Shapes ---------------------------------------------------------------------------------------------

    def _ttl_ms(self, one: Reservation) -> int:
        return max(1, (one.expires_us - self._clock.now_us()) // 1000)

    def _beat(self, one: Reservation) -> Beat:
        """As the book has it."""
        return Beat(hold=hold_of(one), microcredits=one.microcredits, progress_microcredits=0, ttl_ms=self._ttl_ms(one))

    def _lost(self, one: Reservation) -> SweptHold:
        meta = encode_record(record_of(one, one.microcredits))
        return SweptHold(hold=hold_of(one), progress_microcredits=0, meta=meta, ttl_ms=self._ttl_ms(one))


def ended(one: Reservation) -> Conflict:
    """Why nothing more can be done with it."""
    if one.state == "settled":
        return Conflict("this reservation has been confirmed", param="reservationId")
    word = "cancelled" if one.state == "released" else "expired"
    return ReservationExpired(f"this reservation has {'been ' * (word == 'cancelled')}{word}", param="reservationId")
