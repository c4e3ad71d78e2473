"""Billed usage on its way to Stripe: closes windows, sends their events, and settles what nobody is sure of.

Several gateways on one database may run it at once: windows close once, events are claimed with a lease. Whoever dies
in the middle leaves its claims to the others; an event that was sent twice is one event to Stripe, by its identifier.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from decimal import Decimal
from typing import Protocol

from faregate.core.metering import (
    MOST_ATTEMPTS,
    Answer,
    MeterEvent,
    last_closed_us,
    looked_up,
    too_early_us,
    wait_us,
)
from faregate.errors import BookUnavailable, UpstreamError
from faregate.ledger.database import Database
from faregate.ledger.meter_windows import Windows
from faregate.ledger.outbox import Claim, Outbox
from faregate.ports import Clock

log = logging.getLogger("faregate")

LANES = 8
"""Events in flight at once, each of another customer or meter."""
LEASE_US = 120_000_000
"""Longer than a comparison and a try may take together."""


class Meters(Protocol):
    """Where events go."""

    async def send(self, event: MeterEvent) -> Answer:
        """One try. Raises nothing."""
        ...

    async def minute_total(self, event: MeterEvent) -> Decimal:
        """What the customer's meter has counted in the event's minute. Raises UpstreamError."""
        ...

    async def close(self) -> None: ...


class BillingEvents(Protocol):
    """What is counted."""

    def meter_tried(self, outcome: str) -> None: ...

    def meter_waiting(self, counts: dict[str, int], oldest_s: float) -> None: ...

    def trouble(self, what: str, detail: str) -> None: ...


class Billing:
    """One process's share. `connect` is called with the first event to send."""

    def __init__(
        self,
        database: Database,
        *,
        meter: str,
        connect: Callable[[], Awaitable[Meters]],
        clock: Clock,
        events: BillingEvents,
        every_s: float = 5.0,
        lease_us: int = LEASE_US,
    ) -> None:
        self._windows = Windows(database)
        self._outbox = Outbox(database)
        self._meter = meter
        self._connect = connect
        self._clock = clock
        self._events = events
        self._every_s = every_s
        self._lease_us = lease_us
        self._closed_us = 0
        self._meters: Meters | None = None

    async def run(self) -> None:
        """For the life of the process."""
        try:
            while True:
                await asyncio.sleep(self._every_s)
                try:
                    await self.once()
                except BookUnavailable as error:
                    log.info("billing waits for the book: %s", error)
        finally:
            await self.close()

    async def close(self) -> None:
        """Hang up; what is sent later connects again."""
        meters, self._meters = self._meters, None
        if meters is not None:
            await meters.close()

    async def once(self) -> None:
        """Close what is to be closed, send what is due. Raises BookUnavailable."""
        await self._close_windows()
        while claims := await self._outbox.claim(self._lease_us, LANES):
            await asyncio.gather(*map(self._deliver, claims))
        counts, oldest_us = await self._outbox.counts()
        age_us = 0 if oldest_us is None else self._clock.now_us() - oldest_us
        self._events.meter_waiting(counts, max(0, age_us) / 1e6)

    async def _close_windows(self) -> None:
        """Once an hour. What is owed from before its end is summed in short transactions."""
        until_us = last_closed_us(self._clock.now_us())
        if until_us <= self._closed_us:
            return
        while owing := await self._windows.owing(until_us):
            for one in owing:
                while not await self._windows.close(one, self._meter, until_us):
                    pass
        self._closed_us = until_us

    async def _deliver(self, claim: Claim) -> None:
        """One event, to the end of this try. A report that the book does not take is made again after the lease."""
        try:
            await self._try(claim)
        except BookUnavailable as error:
            log.info("what became of meter event %s is not noted: %s", claim.event.id, error)

    async def _try(self, claim: Claim) -> None:
        if early_us := too_early_us(claim.event, self._clock.now_us()):
            await self._outbox.again(claim, "early", early_us, applied=False)
            return
        meters = await self._connected()
        if claim.compare:
            event = await self._compare(meters, claim)
            if event is None:
                return
            claim = replace(claim, event=event, tried_us=None)
        answer = await meters.send(claim.event)
        self._events.meter_tried("duplicate" if answer.code == "duplicate" else answer.fate)
        await self._report(claim, answer)

    async def _connected(self) -> Meters:
        if self._meters is None:
            self._meters = await self._connect()
        return self._meters

    async def _report(self, claim: Claim, answer: Answer) -> None:
        applied = answer.fate == "unknown"
        if answer.fate == "delivered":
            await self._outbox.sent(claim, answer.code)
        elif answer.fate == "refused" or claim.attempts >= MOST_ATTEMPTS:
            await self._bury(claim, answer.code, applied=applied)
        else:
            await self._outbox.again(claim, answer.code, wait_us(claim.attempts, answer), applied=applied)

    async def _bury(self, claim: Claim, code: str, *, applied: bool) -> None:
        await self._outbox.dead(claim, code, applied=applied)
        self._events.trouble("stripe_dead_letter", f"meter event {claim.event.id} will not be sent again: {code}")

    async def _compare(self, meters: Meters, claim: Claim) -> MeterEvent | None:
        """What to send, since Stripe has not counted it; None: that is settled, or cannot be told now."""
        try:
            total = await meters.minute_total(claim.event)
        except UpstreamError as error:
            log.warning("meter event %s cannot be looked up: %s", claim.event.id, error.message)
            self._events.meter_tried("not_compared")
            await self._report(claim, Answer(fate="not_applied", code="not_compared"))
            return None
        others, unsure = await self._outbox.others(claim.event)
        verdict = "ambiguous" if unsure else looked_up(claim.event, total, others)
        self._events.meter_tried(f"compared_{verdict}")
        if verdict == "missing":
            return await self._outbox.missing(claim)
        if verdict == "delivered":
            await self._outbox.sent(claim, "compared")
        else:
            await self._bury(claim, "ambiguous", applied=False)
        return None


def dead_letters(database: Database) -> Callable[[], Awaitable[str]]:
    """A note for operators: how many meter events wait for a decision of theirs; nothing when there are none."""

    async def note() -> str:
        counts, _ = await Outbox(database).counts()
        return f"dead letters: {counts['dead']} (faregate stripe status)" if counts["dead"] else ""

    return note
