"""Billed usage reaches Stripe once, to the last digit, whatever Stripe and the senders do on the way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from decimal import Decimal

import pytest
from tests.ledger.billed import Till, till
from tests.ledger.conftest import World
from tests.upstreams.stripe import FakeStripe, Play

from faregate.core.metering import DAY_US, HOUR_US, MAX_VALUE
from faregate.ledger.audit import audit
from faregate.ledger.organizations import Organizations


@pytest.fixture
async def stripe(world: World) -> AsyncIterator[FakeStripe]:
    stripe = await FakeStripe.started(world.now)
    yield stripe
    await stripe.stop()


@pytest.fixture
async def one(world: World, stripe: FakeStripe) -> AsyncIterator[Till]:
    async with till(world, stripe) as one:
        yield one
        assert audit(world.url) == []
        assert stripe.overlaps == 0


# Windows ------------------------------------------------------------------------------------------------


async def test_an_hours_usage_is_one_event_of_its_sum(one: Till) -> None:
    for amount in ("0.25", "0.000001", "1"):
        await one.bill(amount)
    await one.hour()
    (event,) = one.stripe.applied
    assert (event.customer, event.event_name, event.value) == ("cus_1", "llm_usage", 1_250_001)
    assert one.counts.waiting == {"queued": 0, "sending": 0, "dead": 0}


async def test_an_hour_that_is_open_is_not_sent(one: Till) -> None:
    await one.bill("1")
    await one.billing.once()
    one.later(3600 - one.world.now.us / 1e6 % 3600 + 119)
    await one.billing.once()
    assert one.stripe.applied == []
    assert (await one.status()).owed_usd == 1


async def test_the_timestamp_lies_in_the_window(one: Till) -> None:
    await one.bill("1")
    billed_us = one.world.now.us
    await one.hour()
    (event,) = one.stripe.applied
    assert event.timestamp * 1_000_000 // HOUR_US == billed_us // HOUR_US


async def test_what_is_less_than_a_micro_usd_waits_for_the_next_window(one: Till) -> None:
    await one.bill("0.0000007")
    await one.hour()
    assert one.stripe.applied == []
    await one.bill("0.0000007")
    await one.hour()
    assert one.stripe.total() == 1
    assert await one.carried() == Decimal("0.0000004")


async def test_late_usage_is_a_new_event_of_a_later_window(one: Till) -> None:
    await one.bill("1")
    await one.hour()
    await one.bill("2", ago_us=HOUR_US)
    await one.billing.once()
    assert one.stripe.total() == 1_000_000, "a closed window stays as it is"
    await one.hour()
    first, second = one.stripe.applied
    assert second.value == 2_000_000
    assert second.identifier != first.identifier
    assert second.timestamp > first.timestamp


async def test_a_correction_is_taken_off_what_comes_later(one: Till) -> None:
    await one.bill("-0.5")
    await one.hour()
    assert one.stripe.applied == []
    await one.bill("2")
    await one.hour()
    assert one.stripe.total() == 1_500_000


async def test_more_than_fifteen_digits_go_in_parts(one: Till) -> None:
    await one.bill("2500000000.000001")
    await one.hour()
    assert [event.value for event in one.stripe.applied] == [MAX_VALUE, MAX_VALUE, 500_000_000_000_003]
    assert len({event.timestamp // 60 for event in one.stripe.applied}) == 3
    assert one.stripe.total() == 2_500_000_000_000_001


async def test_many_amounts_are_summed_in_short_transactions(one: Till, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("faregate.ledger.meter_windows.CHUNK", 3)
    for _ in range(9):
        await one.bill("0.1000001")
    await one.hour()
    assert [event.value for event in one.stripe.applied] == [900_000]
    assert await one.carried() == Decimal("0.0000009")


async def test_each_customer_has_its_own_sum(one: Till) -> None:
    other = await Organizations(one.database).create(name="Other", stripe_customer_id="cus_2")
    await one.bill("1")
    await one.bill("2", organization_id=other.id)
    await Organizations(one.database).patch(one.world.organization_id, {"stripe_customer_id": "cus_3"})
    await one.bill("4")
    await one.hour()
    assert [one.stripe.total(f"cus_{n}") for n in (1, 2, 3)] == [1_000_000, 2_000_000, 4_000_000]


async def test_organizations_that_share_a_customer_wait_for_each_other(one: Till) -> None:
    one.stripe.delay_s = 0.05
    other = await Organizations(one.database).create(name="Other", stripe_customer_id="cus_1")
    await one.bill("1")
    await one.bill("2", organization_id=other.id)
    await one.hour()
    assert one.stripe.total() == 3_000_000


async def test_the_audit_finds_what_does_not_add_up(world: World, stripe: FakeStripe) -> None:
    async with till(world, stripe) as one:
        await one.bill("1.0000005")
        await one.hour()
        assert audit(world.url) == []
        await one.database.write(lambda conn: conn.exec_driver_sql("UPDATE outbox SET value = value - 1"))
        (finding,) = audit(world.url)
        assert (finding.check, "1.0000005 USD are metered, 0.9999995" in finding.detail) == ("meter", True)
        await one.database.write(lambda conn: conn.exec_driver_sql("DELETE FROM meter_sums"))
        assert [found.detail for found in audit(world.url)] == ["its sum is missing"]


# Faults -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("play", ["429", "500", "500_applied", "lost", "cut", "hang", "hang_applied", "garbage", "401"])
async def test_whatever_stripe_does_it_counts_once(one: Till, play: Play) -> None:
    one.stripe.plays += [play, play]
    await one.bill("1.5")
    await one.hour()
    assert (await one.status()).counts["queued"] == 1
    for _ in range(3):
        one.later(60)
        await one.billing.once()
    assert one.stripe.total() == 1_500_000
    status = await one.status()
    assert (status.counts["sent"], status.values["sent"], status.counts["queued"]) == (1, 1_500_000, 0)


async def test_a_try_is_not_made_before_its_time(one: Till) -> None:
    one.stripe.plays += ["429"]
    await one.bill("1")
    await one.hour()
    one.later(29)
    await one.billing.once()
    assert len(one.stripe.requests) == 1, "Retry-After says 30 seconds"
    one.later(1)
    await one.billing.once()
    assert one.stripe.total() == 1_000_000


async def test_stripe_out_of_reach(one: Till) -> None:
    await one.bill("1")
    address = one.stripe.url.rpartition(":")
    await one.stripe.stop()
    await one.hour()
    assert (await one.status()).counts["queued"] == 1
    again = await FakeStripe.started(one.world.now, int(address[2]))
    one.later(60)
    await one.billing.once()
    assert again.total() == 1_000_000
    await again.stop()


async def test_what_stripe_refuses_is_a_dead_letter_that_holds_up_nothing(one: Till) -> None:
    one.stripe.plays.append("400")
    await one.bill("1")
    await one.hour()
    await one.bill("2")
    await one.hour()
    status = await one.status()
    assert one.stripe.total() == 2_000_000
    assert [(letter.value, letter.code) for letter in status.dead] == [(1_000_000, "resource_missing")]
    assert one.counts.troubles[0].startswith("stripe_dead_letter: ")
    await one.outbox.retry(None, "compared")
    await one.billing.once()
    assert one.stripe.total() == 3_000_000


async def test_after_many_tries_it_is_for_people(one: Till, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("faregate.billing.MOST_ATTEMPTS", 2)
    one.stripe.plays += ["500", "500"]
    await one.bill("1")
    await one.hour()
    one.later(60)
    await one.billing.once()
    assert [letter.code for letter in (await one.status()).dead] == ["http_500"]


# Unsure for long ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("play", "tries"), [("lost", 1), ("cut", 2)])
async def test_after_20_hours_stripes_summaries_decide(one: Till, play: Play, tries: int) -> None:
    one.stripe.plays.append(play)
    one.stripe.forgets = True
    await one.bill("1.25")
    await one.hour()
    one.later(20 * 3600)
    await one.billing.once()
    assert one.stripe.total() == 1_250_000
    assert len(one.stripe.requests) == tries
    assert (await one.status()).counts["sent"] == 1


async def test_within_20_hours_the_identifier_is_enough(one: Till) -> None:
    one.stripe.plays.append("lost")
    one.stripe.summaries_fail = True
    await one.bill("1")
    await one.hour()
    one.later(20 * 3600 - 1)
    await one.billing.once()
    assert one.counts.tries == ["unknown", "duplicate"]


async def test_a_doubt_outlives_a_try_that_was_surely_not_applied(one: Till) -> None:
    one.stripe.plays += ["lost", "429"]
    one.stripe.forgets = True
    await one.bill("1")
    await one.hour()
    one.later(60)
    await one.billing.once()
    one.later(20 * 3600)
    await one.billing.once()
    assert one.counts.tries == ["unknown", "not_applied", "compared_delivered"]
    assert one.stripe.total() == 1_000_000


async def test_nothing_is_sent_again_while_it_cannot_be_compared(one: Till) -> None:
    one.stripe.plays.append("lost")
    one.stripe.forgets = one.stripe.summaries_fail = True
    await one.bill("1")
    await one.hour()
    one.later(21 * 3600)
    await one.billing.once()
    assert (await one.status()).counts["queued"] == 1
    one.stripe.summaries_fail = False
    one.later(3600)
    await one.billing.once()
    assert len(one.stripe.requests) == 1
    assert (await one.status()).counts["sent"] == 1


async def test_a_minute_that_somebody_else_counted_in_is_for_people(one: Till) -> None:
    one.stripe.plays.append("500_applied")
    one.stripe.forgets = True
    await one.bill("1")
    await one.hour()
    one.stripe.applied.append(one.stripe.applied[0])
    one.later(20 * 3600)
    await one.billing.once()
    (letter,) = (await one.status()).dead
    assert letter.code == "ambiguous"
    assert await one.outbox.retry([letter.id], "delivered") == [letter.id]
    await one.billing.once()
    assert len(one.stripe.requests) == 1


async def test_what_never_left_in_34_days_gets_a_timestamp_that_is_taken(one: Till) -> None:
    one.stripe.plays.append("429")
    await one.bill("1")
    await one.hour()
    one.later(40 * DAY_US / 1e6)
    await one.billing.once()
    assert one.stripe.total() == 1_000_000


async def test_what_may_have_left_in_34_days_is_looked_up_where_it_was(one: Till) -> None:
    one.stripe.plays.append("cut")
    await one.bill("1")
    await one.hour()
    one.later(40 * DAY_US / 1e6)
    await one.billing.once()
    assert one.counts.tries == ["unknown", "compared_missing", "delivered"]
    assert one.stripe.total() == 1_000_000


# Several senders ----------------------------------------------------------------------------------------


async def test_two_senders_at_once(one: Till) -> None:
    one.stripe.delay_s = 0.02
    async with till(one.world, one.stripe) as two:
        for customer in range(6):
            other = await Organizations(one.database).create(name=f"o{customer}", stripe_customer_id=f"cus_{customer}")
            await one.bill("1500000000", organization_id=other.id)
        one.to_next_hour()
        await asyncio.gather(one.billing.once(), two.billing.once())
    assert len(one.stripe.requests) == len({event.identifier for event in one.stripe.requests}) == 12
    assert sum(event.value for event in one.stripe.applied) == 6 * 1_500_000_000_000_000


async def test_a_claim_is_nobody_elses_until_its_lease_runs_out(one: Till) -> None:
    await one.bill("1")
    one.to_next_hour()
    async with till(one.world, one.stripe) as two:
        one.stripe.plays.append("hang")
        sending = asyncio.create_task(one.billing.once())
        await one.stripe.arrived.wait()
        await two.billing.once()
        assert len(one.stripe.requests) == 1
        sending.cancel()
        one.later(119)
        await two.billing.once()
        assert len(one.stripe.requests) == 1
        one.later(1)
        await two.billing.once()
    assert one.stripe.total() == 1_000_000
    assert (await one.status()).counts["sent"] == 1


async def test_one_event_of_a_customer_is_claimed_at_a_time(one: Till) -> None:
    await one.bill("1500000000")
    one.to_next_hour()
    await one.billing._close_windows()
    (first,) = await one.outbox.claim(60_000_000, 8)
    assert await one.outbox.claim(60_000_000, 8) == []
    await one.outbox.sent(first, "ok")
    (second,) = await one.outbox.claim(60_000_000, 8)
    assert second.event.id != first.event.id
    one.later(60)
    (again,) = await one.outbox.claim(60_000_000, 8)
    assert (again.event, again.attempts) == (second.event, 2)


async def test_a_sender_that_comes_back_late_spoils_nothing(one: Till) -> None:
    await one.bill("1")
    one.to_next_hour()
    await one.billing._close_windows()
    (old,) = await one.outbox.claim(1, 8)
    one.later(1)
    (new,) = await one.outbox.claim(60_000_000, 8)
    await one.outbox.again(old, "timeout", 0, applied=True)
    assert (await one.status()).counts["sending"] == 1, "its claim is over"
    await one.outbox.sent(old, "ok")
    await one.outbox.again(new, "timeout", 0, applied=True)
    assert (await one.status()).counts["sent"] == 1, "but what it delivered is delivered"
