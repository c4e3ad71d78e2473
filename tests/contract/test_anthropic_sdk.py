"""The real Anthropic SDK, sync and async, with nothing but its base_url changed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from decimal import Decimal
from typing import Any, TypeVar

import anthropic
import pytest
from anthropic import Anthropic, AsyncAnthropic
from anthropic.types import MessageParam

from tests.contract.claude import KEY, MODEL
from tests.contract.claude import claude as claude
from tests.contract.claude import house as house
from tests.story.house import House
from tests.upstreams.claude import Claude, Turn

T = TypeVar("T")
HI: list[MessageParam] = [{"role": "user", "content": "hi"}]
FARE = (10 * 3 + 5 * 15) * 1000
"""Microcredits of the usual turn: 1000 credits are one dollar."""
WEATHER: Any = {"name": "weather", "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}}}


@pytest.fixture
async def client(house: House) -> AsyncIterator[AsyncAnthropic]:
    async with AsyncAnthropic(base_url=house.url, api_key=house.me.secret) as client:
        yield client


async def sync(house: House, use: Callable[[Anthropic], T]) -> T:
    """Use the sync client in a thread; the gateway runs in this loop."""

    def run() -> T:
        with Anthropic(base_url=house.url, api_key=house.me.secret) as client:
            return use(client)

    return await asyncio.to_thread(run)


async def failing(client: AsyncAnthropic, **options: Any) -> anthropic.APIStatusError:
    """The error of a call."""
    with pytest.raises(anthropic.APIStatusError) as caught:
        await client.messages.create(**{"model": MODEL, "max_tokens": 100, "messages": HI, **options})
    return caught.value


def told(error: anthropic.APIStatusError) -> dict[str, Any]:
    """The inner error of its body, which must have Anthropic's shape."""
    assert isinstance(error.body, dict)
    assert error.body["type"] == "error"
    inner: dict[str, Any] = error.body["error"]
    return inner


# What goes well -----------------------------------------------------------------------------------------


async def test_a_plain_call(house: House, client: AsyncAnthropic) -> None:
    got = await client.messages.create(model=MODEL, max_tokens=100, messages=HI)
    assert got.content[0].type == "text"
    assert got.content[0].text == "hello there"
    assert (got.usage.input_tokens, got.usage.output_tokens) == (10, 5)
    record = await house.record()
    assert (record.charge_microcredits, record.endpoint, record.estimated) == (FARE, "messages", False)


async def test_a_plain_call_with_the_sync_client(house: House) -> None:
    got = await sync(house, lambda client: client.messages.create(model=MODEL, max_tokens=100, messages=HI))
    assert got.stop_reason == "end_turn"
    assert (await house.record()).charge_microcredits == FARE


async def test_a_stream(house: House, client: AsyncAnthropic) -> None:
    async with client.messages.stream(model=MODEL, max_tokens=100, messages=HI) as stream:
        text = "".join([piece async for piece in stream.text_stream])
        final = await stream.get_final_message()
    assert text == "hello there "
    assert final.usage.output_tokens == 5
    assert (await house.record()).charge_microcredits == FARE


async def test_a_stream_with_the_sync_client(house: House) -> None:
    def use(client: Anthropic) -> str:
        with client.messages.stream(model=MODEL, max_tokens=100, messages=HI) as stream:
            return stream.get_final_text()

    assert await sync(house, use) == "hello there "
    assert (await house.record()).charge_microcredits == FARE


async def test_tools_in_a_stream(claude: Claude, client: AsyncAnthropic) -> None:
    call = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Köln\u2028am Rhein"}}
    claude.turn = Turn(content=[call, {**call, "id": "toolu_2"}], stop_reason="tool_use")
    async with client.messages.stream(model=MODEL, max_tokens=100, messages=HI, tools=[WEATHER]) as stream:
        final = await stream.get_final_message()
    assert [block.id for block in final.content if block.type == "tool_use"] == ["toolu_1", "toolu_2"]
    assert final.content[0].type == "tool_use"
    assert final.content[0].input == {"city": "Köln\u2028am Rhein"}


async def test_tokens_are_counted_for_nothing(house: House, client: AsyncAnthropic) -> None:
    got = await client.messages.count_tokens(model=MODEL, messages=HI)
    await house.settled()
    assert (got.input_tokens, await house.records(), await house.balance()) == (10, [], 1000 * 1_000_000)


async def test_tokens_are_counted_for_those_who_have_nothing(house: House, client: AsyncAnthropic) -> None:
    poor = await house.caller(0)
    got = await client.with_options(api_key=poor.secret).messages.count_tokens(model=MODEL, messages=HI)
    assert got.input_tokens == 10


async def test_the_users_own_id_is_recorded_and_the_providers_request_is_told(
    house: House, client: AsyncAnthropic
) -> None:
    got = await client.messages.create(model=MODEL, max_tokens=9, messages=HI, metadata={"user_id": "u-7"})
    assert (await house.record()).attribution["user"] == "u-7"
    assert got._request_id == "req_up_1"


async def test_what_goes_upstream(claude: Claude, client: AsyncAnthropic) -> None:
    await client.beta.messages.create(
        model=MODEL, max_tokens=9, messages=[{"role": "user", "content": "hi"}], betas=["context-1m-2025-08-07"]
    )
    asked = claude.asked[0]
    assert asked.path == "/v1/messages"
    assert (asked.headers["x-api-key"], asked.headers["anthropic-beta"]) == (KEY, "context-1m-2025-08-07")
    assert asked.headers["anthropic-version"] == client.default_headers["anthropic-version"]
    assert asked.body["model"] == "claude-sonnet-4-5"
    assert not [name for name in asked.headers if name.startswith(("x-stainless", "x-faregate", "authorization"))]


async def test_the_beta_flag_of_older_sdks_goes_along(house: House, claude: Claude) -> None:
    body = {"model": MODEL, "max_tokens": 9, "messages": HI}
    await house.http.post("/v1/messages?x=1&beta=true&y=2", json=body)
    assert claude.asked[0].path == "/v1/messages?beta=true"


async def test_a_key_as_a_bearer_token(house: House) -> None:
    async with AsyncAnthropic(base_url=house.url, auth_token=house.me.secret, api_key=None) as client:
        assert (await client.messages.create(model=MODEL, max_tokens=9, messages=HI)).id == "msg_01"


async def test_the_cost_is_in_the_streams_last_usage(house: House, client: AsyncAnthropic) -> None:
    events = await client.messages.create(
        model=MODEL, max_tokens=9, messages=HI, stream=True, extra_headers={"x-faregate-include-cost": "true"}
    )
    (last,) = [event async for event in events if event.type == "message_delta"]
    extra = last.usage.model_extra
    assert extra is not None
    assert (Decimal(str(extra["cost_usd"])), extra["credits"]) == (Decimal("0.000105"), 0.105)


async def test_a_test_key_reaches_the_sandbox(house: House, claude: Claude, client: AsyncAnthropic) -> None:
    key = await house.caller(test=True)
    async with client.with_options(api_key=key.secret).messages.stream(
        model="claude", max_tokens=50, messages=[{"role": "user", "content": "Write 7 words"}]
    ) as stream:
        final = await stream.get_final_message()
    assert (final.usage.output_tokens, claude.asked) == (7, [])


# What goes wrong ----------------------------------------------------------------------------------------


async def test_a_bad_key(house: House, client: AsyncAnthropic) -> None:
    error = await failing(client.with_options(api_key="fg_live_nobody"))
    assert isinstance(error, anthropic.AuthenticationError)
    assert told(error)["type"] == "authentication_error"
    assert error.request_id == error.response.headers["x-faregate-request-id"]


async def test_no_bound(house: House) -> None:
    got = await house.http.post("/v1/messages", json={"model": MODEL, "messages": HI})
    assert (got.status_code, got.json()["error"]["type"]) == (400, "invalid_request_error")
    assert got.json()["error"]["param"] == "max_tokens"
    assert got.json()["request_id"] == got.headers["x-faregate-request-id"]


@pytest.mark.parametrize("most", [-1, 1.5, "9", True, 10**12])
async def test_a_bound_that_cannot_be_meant(house: House, most: Any) -> None:
    got = await house.http.post("/v1/messages", json={"model": MODEL, "messages": HI, "max_tokens": most})
    assert (got.status_code, got.json()["error"]["param"]) == (400, "max_tokens")


async def test_an_unknown_model(client: AsyncAnthropic) -> None:
    error = await failing(client, model="nobody")
    assert isinstance(error, anthropic.NotFoundError)
    assert told(error)["type"] == "not_found_error"


async def test_no_credit_is_not_retried(house: House, claude: Claude, client: AsyncAnthropic) -> None:
    poor = await house.caller(1000)
    error = await failing(client.with_options(api_key=poor.secret, max_retries=5))
    assert (error.status_code, told(error)["type"], claude.asked) == (402, "billing_error", [])
    assert told(error)["available_credits"] == 0.001
    assert told(error)["needed_credits"] > 0.001
    assert error.response.headers["x-should-retry"] == "false"
    samples = [s for metric in house.runtime.metrics.registry.collect() for s in metric.samples]
    assert sum(sample.value for sample in samples if sample.name == "faregate_refused_total") == 1


async def test_a_limit_of_ours(house: House, client: AsyncAnthropic) -> None:
    key = await house.caller(of=house.me, limits=[{"kind": "requests", "window": "month", "max": 0}])
    error = await failing(client.with_options(api_key=key.secret, max_retries=0))
    assert isinstance(error, anthropic.RateLimitError)
    assert told(error)["type"] == "rate_limit_error"


async def test_a_refusal_passes_without_the_operators_key(claude: Claude, client: AsyncAnthropic) -> None:
    claude.turn = Turn(status=400, error=("invalid_request_error", f"no good: {KEY} sk-ant-api03-abcd"))
    error = await failing(client)
    assert isinstance(error, anthropic.BadRequestError)
    assert told(error) == {"type": "invalid_request_error", "message": "no good: [redacted] [redacted]"}


@pytest.mark.parametrize(("status", "kind"), [(529, "api_error"), (401, "api_error"), (500, "api_error")])
async def test_trouble_of_the_providers_is_a_502(
    claude: Claude, client: AsyncAnthropic, status: int, kind: str
) -> None:
    claude.turn = Turn(status=status, error=("overloaded_error", "busy"))
    error = await failing(client.with_options(max_retries=0))
    assert (error.status_code, told(error)["type"]) == (502, kind)
    assert isinstance(error, anthropic.InternalServerError)


async def test_an_error_event_is_an_error_and_costs_what_was_told(
    house: House, claude: Claude, client: AsyncAnthropic
) -> None:
    claude.turn = Turn(fault="error_event", error=("overloaded_error", "too busy"))
    with pytest.raises(anthropic.APIStatusError, match="too busy"):
        async with client.messages.stream(model=MODEL, max_tokens=100, messages=HI) as stream:
            await stream.get_final_message()
    record = await house.record()
    assert (record.outcome, record.usage["input_tokens"], record.estimated) == ("upstream_error", 10, True)


async def test_a_stream_that_is_cut_ends_with_an_error(house: House, claude: Claude, client: AsyncAnthropic) -> None:
    claude.turn = Turn(fault="cut")
    with pytest.raises(anthropic.APIStatusError) as caught:
        async with client.messages.stream(model=MODEL, max_tokens=100, messages=HI) as stream:
            await stream.get_final_message()
    assert told(caught.value)["type"] == "api_error"
    await house.settled()


# Low credit ---------------------------------------------------------------------------------------------


async def test_a_low_balance_lowers_the_bound(house: House, claude: Claude, client: AsyncAnthropic) -> None:
    poor = await house.caller(20_000_000)
    raw = await client.with_options(api_key=poor.secret).messages.with_raw_response.create(
        model=MODEL, max_tokens=8000, messages=HI
    )
    cap = int(raw.headers["x-faregate-output-cap"])
    assert 64 <= cap < 8000
    assert claude.asked[0].body["max_tokens"] == cap


async def test_thinking_stays_below_a_lowered_bound(house: House, claude: Claude, client: AsyncAnthropic) -> None:
    poor = await house.caller(40_000_000)
    thinking: Any = {"type": "enabled", "budget_tokens": 7000}
    poor_client = client.with_options(api_key=poor.secret)
    await poor_client.messages.create(model=MODEL, max_tokens=8000, messages=HI, thinking=thinking)
    asked = claude.asked[0].body
    assert asked["max_tokens"] < 7000
    assert 1024 <= asked["thinking"]["budget_tokens"] < asked["max_tokens"]


async def test_thinking_that_does_not_fit_is_refused(house: House, claude: Claude, client: AsyncAnthropic) -> None:
    poor = await house.caller(20_000_000)
    thinking: Any = {"type": "enabled", "budget_tokens": 7000}
    error = await failing(client.with_options(api_key=poor.secret), max_tokens=8000, thinking=thinking)
    assert (error.status_code, claude.asked) == (402, [])
