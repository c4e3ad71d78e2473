"""Stripe's library against a server that speaks Stripe's shapes: every answer has one meaning."""

from __future__ import annotations

import logging
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from decimal import Decimal

import pytest
from tests.upstreams.stripe import KEY, Counted, FakeStripe, Play

from faregate.core.metering import Answer, MeterEvent
from faregate.errors import UpstreamError
from faregate.export.stripe import StripeMeters

NOW_US = 1_790_000_000_000_000
EVENT = MeterEvent(id="fg-1", meter="llm_usage", customer="cus_1", value=123_456_789_012_345, timestamp_s=1_789_999_140)
COUNTED = Counted("fg-1", "llm_usage", "cus_1", 123_456_789_012_345, 1_789_999_140)


@pytest.fixture
async def fake() -> AsyncIterator[FakeStripe]:
    fake = await FakeStripe.started(lambda: NOW_US)
    yield fake
    await fake.stop()


@pytest.fixture
async def meters(fake: FakeStripe) -> AsyncIterator[StripeMeters]:
    meters = StripeMeters(KEY, fake.url, timeout_s=1.0)
    yield meters
    await meters.close()


async def test_an_event_arrives_as_it_is(fake: FakeStripe, meters: StripeMeters) -> None:
    assert await meters.send(EVENT) == Answer(fate="delivered", code="ok")
    assert fake.applied == [COUNTED]


async def test_the_400_for_a_known_identifier_means_delivered(fake: FakeStripe, meters: StripeMeters) -> None:
    await meters.send(EVENT)
    assert await meters.send(EVENT) == Answer(fate="delivered", code="duplicate")
    assert fake.applied == [COUNTED]


@pytest.mark.parametrize(
    ("play", "answer"),
    [
        ("400", Answer(fate="refused", code="resource_missing")),
        ("401", Answer(fate="not_applied", code="http_401")),
        ("429", Answer(fate="not_applied", code="http_429", retry_after_s=30)),
        ("500", Answer(fate="unknown", code="http_500")),
        ("garbage", Answer(fate="unknown", code="http_200")),
        ("cut", Answer(fate="unknown", code="lost")),
        ("lost", Answer(fate="unknown", code="lost")),
        ("hang", Answer(fate="unknown", code="timeout")),
    ],
)
async def test_what_each_answer_means(fake: FakeStripe, meters: StripeMeters, play: Play, answer: Answer) -> None:
    fake.plays.append(play)
    assert await meters.send(EVENT) == answer
    assert len(fake.requests) == 1, "the library tries once, the outbox tries again"


async def test_a_connection_that_is_refused_has_carried_nothing() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        meters = StripeMeters(KEY, f"http://127.0.0.1:{taken.getsockname()[1]}", timeout_s=1.0)
        assert await meters.send(EVENT) == Answer(fate="not_applied", code="unreachable")
        await meters.close()


async def test_a_minutes_total_is_looked_up_on_whichever_page_the_meter_is(
    fake: FakeStripe, meters: StripeMeters
) -> None:
    fake.meters = ["other", "second", "llm_usage"]
    assert await meters.minute_total(EVENT) == 0
    await meters.send(EVENT)
    assert await meters.minute_total(EVENT) == Decimal(123_456_789_012_345)


@pytest.mark.parametrize("trouble", ["no meter", "count", "down"])
async def test_a_total_that_cannot_be_told(fake: FakeStripe, meters: StripeMeters, trouble: str) -> None:
    fake.meters = ["other"] if trouble == "no meter" else fake.meters
    fake.formula = "count" if trouble == "count" else "sum"
    fake.summaries_fail = trouble == "down"
    with pytest.raises(UpstreamError):
        await meters.minute_total(EVENT)


async def test_nothing_stripe_says_about_the_key_is_passed_on(
    fake: FakeStripe, meters: StripeMeters, caplog: pytest.LogCaptureFixture
) -> None:
    fake.plays += ["401", "400"]
    with caplog.at_level(logging.DEBUG):
        answers = [await meters.send(EVENT), await meters.send(EVENT)]
    assert KEY not in repr(answers)
    assert KEY not in caplog.text


def test_the_library_is_not_loaded_with_the_gateway() -> None:
    code = "import sys, faregate.app, faregate.commands.stripe; print('stripe' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
