"""Whatever is billed, and whatever Stripe does, its total is the usage's sum to the last digit."""

from __future__ import annotations

import asyncio
from decimal import Decimal, localcontext
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given, settings
from hypothesis import strategies as st

from faregate.core.metering import HOUR_US, usd
from faregate.core.money import EXACT
from faregate.ledger.audit import audit
from faregate.ledger.book import SqlBook
from faregate.ledger.database import Database
from faregate.ledger.organizations import Organizations
from faregate.ledger.schema import prepare
from tests.ledger.billed import Till, till
from tests.ledger.conftest import Now, World
from tests.upstreams.stripe import FakeStripe, Play

PLAYS: tuple[Play, ...] = ("ok", "lost", "cut", "500", "500_applied", "429", "401", "400", "garbage")
amounts = st.one_of(
    st.decimals(min_value=Decimal("-0.01"), max_value=3, places=12),
    st.decimals(min_value=0, max_value=2_000_000_000, places=30),
)
bills = st.tuples(st.just("bill"), amounts, st.integers(0, 3))
waits = st.tuples(st.just("wait"), st.sampled_from([10, 3600, 30 * 3600]), st.just(0))
faults = st.tuples(st.just("fault"), st.sampled_from(PLAYS), st.just(0))
steps = st.lists(st.one_of(bills, bills, waits, faults), min_size=1, max_size=20)


async def take(one: Till, two: Till, step: tuple[str, object, int]) -> Decimal:
    """One step; what it bills."""
    match step:
        case ("bill", Decimal() as amount, hours):
            await one.bill(str(amount), ago_us=hours * HOUR_US)
            return amount
        case ("wait", int() as seconds, _):
            one.later(seconds)
            await asyncio.gather(one.billing.once(), two.billing.once())
        case (_, play, _):
            one.stripe.plays.append(play)  # type: ignore[arg-type]
    return Decimal(0)


async def settle(one: Till) -> None:
    """Stripe is well again, and people have looked at what was stuck."""
    one.stripe.plays.clear()
    for _ in range(4):
        one.later(2 * 3600)
        await one.billing.once()
        await one.outbox.retry(None, "compared")


async def live(folder: str, taken: list[tuple[str, object, int]]) -> None:
    url, now = f"sqlite:///{Path(folder)}/book.db", Now()
    prepare(url)
    database = Database(url, now_us=now)
    organization = await Organizations(database).create(name="Acme")
    account = organization.default_account_id
    world = World(url, now, database, SqlBook(database), organization.id, account, account)
    stripe = await FakeStripe.started(now)
    async with till(world, stripe, timeout_s=5) as one, till(world, stripe, timeout_s=5) as two:
        with localcontext(EXACT):
            billed = sum([await take(one, two, step) for step in taken], Decimal(0))
            await settle(one)
            assert usd(stripe.total()) + await one.carried() == billed
        status = await one.status()
        assert (status.values["sent"], status.counts["queued"]) == (stripe.total(), 0)
        assert len({event.identifier for event in stripe.applied}) == len(stripe.applied)
        assert stripe.overlaps == 0
        assert audit(url) == []
    await stripe.stop()
    await database.close()


@settings(max_examples=12, deadline=None)
@given(steps)
def test_stripes_total_is_what_was_billed(taken: list[tuple[str, object, int]]) -> None:
    with TemporaryDirectory() as folder:
        asyncio.run(live(folder, taken))
