"""A book that meters, a server that speaks Stripe's shapes, and senders between them, on a clock that tests move."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from decimal import Decimal

from sqlalchemy import select
from tests.ledger.conftest import World
from tests.upstreams.stripe import KEY, FakeStripe

from faregate.billing import LEASE_US, Billing, Meters
from faregate.core.metering import GRACE_US, HOUR_US
from faregate.export.stripe import StripeMeters
from faregate.ledger import tables
from faregate.ledger.database import Database
from faregate.ledger.metering import queue
from faregate.ledger.organizations import Organizations
from faregate.ledger.outbox import Outbox, Status


@dataclass
class Counts:
    """What billing tells operators."""

    tries: list[str] = field(default_factory=list)
    waiting: dict[str, int] = field(default_factory=dict)
    troubles: list[str] = field(default_factory=list)

    def meter_tried(self, outcome: str) -> None:
        self.tries.append(outcome)

    def meter_waiting(self, counts: dict[str, int], oldest_s: float) -> None:
        self.waiting = counts

    def trouble(self, what: str, detail: str) -> None:
        self.troubles.append(f"{what}: {detail}")


@dataclass
class Wall:
    """`ports.Clock` on the world's clock."""

    world: World

    def now_us(self) -> int:
        return self.world.now.us

    def monotonic(self) -> float:
        return self.world.now.us / 1e6


@dataclass
class Till:
    """One sender and its own connections to the book."""

    world: World
    database: Database
    stripe: FakeStripe
    billing: Billing
    counts: Counts
    sources: int = 0

    @property
    def outbox(self) -> Outbox:
        return Outbox(self.database)

    async def bill(self, amount: str, *, organization_id: str | None = None, ago_us: int = 0, source: str = "") -> None:
        """Something billed just now, or earlier."""
        self.sources += 1
        await self.database.write(
            queue,
            organization_id=organization_id or self.world.organization_id,
            source_id=source or f"u{self.sources}",
            amount_usd=Decimal(amount),
            occurred_us=self.world.now.us - ago_us,
            now_us=self.world.now.us,
        )

    def to_next_hour(self) -> None:
        """Just after the present hour is closed."""
        self.world.now.us = (self.world.now.us // HOUR_US + 1) * HOUR_US + GRACE_US

    def later(self, seconds: float) -> None:
        self.world.now.us += int(seconds * 1_000_000)

    async def hour(self) -> None:
        """Close the hour, and send."""
        self.to_next_hour()
        await self.billing.once()

    async def status(self) -> Status:
        return await self.outbox.status()

    async def carried(self) -> Decimal:
        """What waits to be a whole micro-USD."""
        column = tables.meter_sums.c.carry
        return await self.database.read(lambda conn: sum(conn.execute(select(column)).scalars(), Decimal(0)))


def to_stripe(stripe: FakeStripe, timeout_s: float) -> Callable[[], Awaitable[Meters]]:
    async def connect() -> Meters:
        return StripeMeters(KEY, stripe.url, timeout_s=timeout_s)

    return connect


@asynccontextmanager
async def till(
    world: World, stripe: FakeStripe, *, lease_us: int = LEASE_US, timeout_s: float = 1.0
) -> AsyncIterator[Till]:
    """A sender; the organization is Stripe's customer cus_1."""
    database = Database(world.url, now_us=world.now, metered="external")
    await Organizations(database).patch(world.organization_id, {"stripe_customer_id": "cus_1"})
    counts = Counts()
    billing = Billing(
        database,
        meter="llm_usage",
        connect=to_stripe(stripe, timeout_s),
        clock=Wall(world),
        events=counts,
        lease_us=lease_us,
    )
    try:
        yield Till(world, database, stripe, billing, counts)
    finally:
        await billing.close()
        await database.close()
