"""What a finished call costs, to the microcredit."""

from __future__ import annotations

import json
from decimal import ROUND_HALF_EVEN, Decimal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.story.conftest import Open
from tests.story.house import INPUT, OUTPUT, Caller, House, events

ODD = """
- provider: up
  model: "*"
  per_million: {input: 1.2345, cached_input: 0.0371, output: 9.87, reasoning: 3.3, audio_input: 40}
  max_output_tokens: 1000
"""


async def test_a_plain_answer_says_what_it_cost(house: House) -> None:
    got = await house.call()
    record = await house.record()
    assert record.charge_microcredits == 10 * INPUT + 5 * OUTPUT
    assert got.headers["x-faregate-credits-charged"] == "0.02"
    assert got.headers["x-faregate-cost-usd"] == "0.00002"
    assert got.headers["x-faregate-credits-remaining"] == "999.98"
    assert got.headers["x-faregate-usage-id"] == record.id
    assert got.headers["x-faregate-request-id"] == record.request_id


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_without_usage_is_estimated_and_never_free(house: House, stream: bool) -> None:
    got = await house.call("up/no-usage", stream=stream)
    assert got.status_code == 200
    record = await house.record()
    assert (record.estimated, record.outcome) == (True, "no_usage")
    assert int(str(record.usage["output_tokens"])) >= 5
    assert record.charge_microcredits > 5 * OUTPUT


@pytest.mark.parametrize("stream", [False, True])
async def test_an_explicit_zero_is_a_value(house: House, stream: bool) -> None:
    await house.call("up/zero-usage", stream=stream)
    record = await house.record()
    assert (record.charge_microcredits, record.estimated) == (0, False)


@pytest.mark.parametrize("stream", [False, True])
async def test_the_truth_is_charged_even_above_the_hold_and_the_balance(house: House, stream: bool) -> None:
    poor = await house.caller(1_000_000)
    await house.call("up/overrun", by=poor, max_tokens=10, stream=stream)
    await house.settled(poor)
    assert await house.balance(poor) == 1_000_000 - (10 * INPUT + 5000 * OUTPUT)
    assert (await house.call(by=poor)).status_code == 402


async def test_markup_and_multiplier_are_in_the_charge_and_not_in_the_cost(house: House) -> None:
    dear = await house.caller(organization={"markup_percent": Decimal("7.5")}, max_multiplier=Decimal(3))
    await house.call(by=dear, headers={"x-faregate-multiplier": "1.5"})
    record = await house.record(dear)
    assert record.cost_usd == Decimal("0.00002")
    assert record.charge_microcredits == int(20_000 * Decimal("1.075") * Decimal("1.5"))


async def test_a_client_that_asks_finds_its_cost_in_the_usage_chunk(house: House) -> None:
    body = await house.stream(headers={"x-faregate-include-cost": "true"}, stream_options={"include_usage": True})
    usage = events(body)[-2]["usage"]
    assert (usage["cost_usd"], usage["credits"], usage["completion_tokens"]) == (Decimal("0.00002"), Decimal("0.02"), 5)


async def test_embeddings_and_completions_are_charged(house: House) -> None:
    await house.http.post("/v1/embeddings", json={"model": "up/e", "input": "hi"})
    await house.http.post("/v1/completions", json={"model": "up/c", "prompt": "hi", "max_tokens": 3})
    await house.settled()
    assert {record.endpoint: record.charge_microcredits for record in await house.records()} == {
        "embeddings": 10 * INPUT,
        "completions": 10 * INPUT + 3 * OUTPUT,
    }


async def test_the_served_tier_sets_the_price(open_house: Open) -> None:
    tiers = "\n".join(
        f'- {{provider: up, model: "*", tier: {tier}, per_million: {{input: {rate}, output: {rate}}}}}'
        for tier, rate in (("default", 1), ("flex", 0.5), ("priority", 4))
    )
    house = await open_house(prices=tiers)
    answer = {"choices": [], "usage": {"prompt_tokens": 10, "completion_tokens": 10}, "service_tier": "flex"}
    await house.call(script={"raw": [json.dumps(answer)]}, service_tier="priority")
    assert (await house.record()).charge_microcredits == 20 * INPUT // 2


@st.composite
def usages(draw: st.DrawFn) -> dict[str, object]:
    input_tokens, output_tokens = draw(st.integers(0, 3_000_000)), draw(st.integers(0, 200_000))
    return {
        "prompt_tokens": input_tokens,
        "completion_tokens": output_tokens,
        "prompt_tokens_details": {"cached_tokens": draw(st.integers(0, input_tokens))},
        "completion_tokens_details": {"reasoning_tokens": draw(st.integers(0, output_tokens))},
    }


def owed(usage: dict[str, object]) -> tuple[Decimal, int]:
    """G7 by hand: USD and microcredits."""
    cached, reasoning = (
        int(json.loads(json.dumps(usage[name]))[part])
        for name, part in (
            ("prompt_tokens_details", "cached_tokens"),
            ("completion_tokens_details", "reasoning_tokens"),
        )
    )
    counts = (int(str(usage["prompt_tokens"])) - cached, cached, int(str(usage["completion_tokens"])) - reasoning)
    rates = ("1.2345", "0.0371", "9.87", "3.3")
    usd = sum(
        (count * Decimal(rate) / 10**6 for count, rate in zip((*counts, reasoning), rates, strict=True)), Decimal(0)
    )
    charge = usd * Decimal("1.05") * Decimal("1.3") * 1000 * 10**6
    return usd, int(charge.to_integral_value(ROUND_HALF_EVEN))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(usage=usages(), stream=st.booleans())
async def test_a_charge_is_the_exact_decimal_price_of_the_usage(
    odd: tuple[House, Caller], usage: dict[str, object], stream: bool
) -> None:
    house, caller = odd
    answer = json.dumps({"choices": [], "usage": usage})
    raw = [f"data: {answer}\n\n", "data: [DONE]\n\n"] if stream else [answer]
    await house.call(by=caller, script={"raw": raw}, stream=stream, headers={"x-faregate-multiplier": "1.3"})
    record = (await house.records(caller))[0]
    assert (record.cost_usd, record.charge_microcredits) == owed(usage)


@pytest.fixture
async def odd(open_house: Open) -> tuple[House, Caller]:
    house = await open_house(prices=ODD)
    return house, await house.caller(10**15, organization={"markup_percent": Decimal(5)}, max_multiplier=Decimal(2))
