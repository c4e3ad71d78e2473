"""A Claude-style coding agent through /v1/messages, with its real SDK: long prompts, caches, tools, hang-ups.

What it owes is worked out here from the list prices and the counts on the wire alone, to the last digit.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from decimal import Decimal
from typing import Any

import pytest
from anthropic import Anthropic, APIError, AsyncAnthropic, DefaultHttpxClient

from tests.contract.claude import KEY, MODEL, PRICES
from tests.contract.claude import claude as claude
from tests.contract.claude import house as house
from tests.story.conftest import Open
from tests.story.house import CREDIT, House, until
from tests.upstreams.claude import Claude, Turn, events

USD = Decimal("0.000001")
RATES = {
    "input": 3 * USD,
    "read": Decimal("0.30") * USD,
    "5m": Decimal("3.75") * USD,
    "1h": 6 * USD,
    "output": 15 * USD,
}
NAMES = ("Read", "Edit", "Write", "Bash", "Grep", "Glob", "Task", "WebFetch", "TodoWrite", "NotebookEdit")
TOOLS: Any = [
    {
        "name": name,
        "description": f"{name} does what it says. " * 40,
        "input_schema": {"type": "object", "properties": {"path": {"type": "string"}, "why": {"type": "string"}}},
        **({"cache_control": {"type": "ephemeral"}} if name == NAMES[-1] else {}),
    }
    for name in NAMES
]
SYSTEM: Any = [
    {"type": "text", "text": "You write code. " * 2000, "cache_control": {"type": "ephemeral", "ttl": "1h"}},
]


def counted(fresh: int, read: int, short: int, long: int, output: int) -> dict[str, Any]:
    """Usage as Anthropic tells it."""
    return {
        "input_tokens": fresh,
        "cache_read_input_tokens": read,
        "cache_creation_input_tokens": short + long,
        "cache_creation": {"ephemeral_5m_input_tokens": short, "ephemeral_1h_input_tokens": long},
        "output_tokens": output,
        "service_tier": "standard",
    }


def owed(usage: Mapping[str, Any]) -> Decimal:
    """USD, exact."""
    split = usage["cache_creation"]
    total: Decimal = (
        usage["input_tokens"] * RATES["input"]
        + usage["cache_read_input_tokens"] * RATES["read"]
        + split["ephemeral_5m_input_tokens"] * RATES["5m"]
        + split["ephemeral_1h_input_tokens"] * RATES["1h"]
        + usage["output_tokens"] * RATES["output"]
    )
    return total


def turn(number: int) -> Turn:
    """What the model says in a turn: thinking, a word, and tool calls that go side by side."""
    calls = [
        {
            "type": "tool_use",
            "id": f"toolu_{number}_{at}",
            "name": NAMES[(number + at) % len(NAMES)],
            "input": {"path": f"src/ä{at}.py", "why": 'line\u2028separator \\ "quote"'},
        }
        for at in range(number % 3 + 1)
    ]
    thinking = {"type": "thinking", "thinking": f"step {number}", "signature": f"sig{number}=="}
    text = {"type": "text", "text": f"Turn {number}: let me look at that."}
    first = number == 0
    usage = counted(
        17 + number, 0 if first else 8123 + 611 * number, 611 + number, 7013 if first else 0, 137 + 31 * number
    )
    return Turn(content=[thinking, text, *calls], stop_reason="tool_use", usage=usage)


@pytest.fixture
async def agent(house: House) -> AsyncIterator[AsyncAnthropic]:
    async with AsyncAnthropic(base_url=house.url, api_key=house.me.secret, max_retries=0) as client:
        yield client


def request(messages: list[Any]) -> dict[str, Any]:
    """The agent's next request: the whole conversation, the last message to be cached for five minutes."""
    *before, last = messages
    cached = [{**last["content"][-1], "cache_control": {"type": "ephemeral"}}]
    return {
        "model": MODEL,
        "max_tokens": 4000,
        "system": SYSTEM,
        "tools": TOOLS,
        "messages": [*before, {**last, "content": [*last["content"][:-1], *cached]}],
        "thinking": {"type": "enabled", "budget_tokens": 2000},
        "metadata": {"user_id": "user_abc"},
    }


def answered(content: Any) -> list[Any]:
    """The answer as it goes back, and the results of its tool calls."""
    said = [block.model_dump(exclude_none=True) for block in content]
    results = [
        {"type": "tool_result", "tool_use_id": block["id"], "content": [{"type": "text", "text": "done " * 50}]}
        for block in said
        if block["type"] == "tool_use"
    ]
    return [{"role": "assistant", "content": said}, {"role": "user", "content": results}]


def begin() -> list[Any]:
    return [{"role": "user", "content": [{"type": "text", "text": "Mend the tests, please."}]}]


async def test_a_session_is_charged_to_the_last_digit(house: House, claude: Claude, agent: AsyncAnthropic) -> None:
    claude.turns = [turn(number) for number in range(8)]
    usages = [one.usage for one in claude.turns]
    messages = begin()
    for _ in range(8):
        async with agent.messages.stream(**request(messages)) as stream:
            messages += answered((await stream.get_final_message()).content)
    await house.settled()
    records = list(reversed(await house.records()))
    assert [record.cost_usd for record in records] == [owed(usage) for usage in usages]
    assert await house.balance() == 1000 * CREDIT - sum(owed(usage) for usage in usages) * 1000 * CREDIT
    assert {record.attribution["user"] for record in records} == {"user_abc"}
    assert not any(record.estimated for record in records)


async def test_every_byte_goes_both_ways(open_house: Open, claude: Claude) -> None:
    up = {"kind": "anthropic", "base_url": claude.url, "api_key": KEY}
    house = await open_house(providers__up=up, prices=PRICES, models={"coder": ["up/coder"]})
    claude.turns = [turn(0), turn(1)]
    sent: list[bytes] = []

    def run() -> None:
        """With the sync client."""
        http = DefaultHttpxClient(event_hooks={"request": [lambda request: sent.append(request.content)]})
        with Anthropic(base_url=house.url, api_key=house.me.secret, http_client=http) as client:
            messages = begin()
            for _ in range(2):
                with client.messages.stream(**{**request(messages), "model": "coder"}) as stream:
                    messages += answered(stream.get_final_message().content)

    await asyncio.to_thread(run)
    assert [asked.raw for asked in claude.asked] == sent
    claude.turn = turn(2)
    got = await house.http.post("/v1/messages", content=sent[1], headers={"x-api-key": house.me.secret})
    assert got.content == b"".join(events(claude.turn, "coder"))


async def test_an_advisor_is_paid_at_its_own_rates(open_house: Open, claude: Claude) -> None:
    up = {"kind": "anthropic", "base_url": claude.url, "api_key": KEY}
    prices = """
- {provider: up, model: small, per_million: {input: 1, output: 5}, max_output_tokens: 8192}
- {provider: up, model: clever, per_million: {input: 5, output: 25}, max_output_tokens: 8192}
"""
    house = await open_house(providers__up=up, prices=prices)
    own, advice = {"input_tokens": 100, "output_tokens": 20}, {"input_tokens": 900, "output_tokens": 300}
    steps = [{"type": "message", **own}, {"type": "advisor_message", "model": "clever", **advice}]
    claude.turn = Turn(usage={**own, "iterations": steps})
    body = {"model": "up/small", "max_tokens": 500, "messages": begin()}
    got = await house.http.post("/v1/messages", json=body, headers={"anthropic-beta": "advisor-tool-2026-03-01"})
    record = await house.record()
    assert got.status_code == 200
    assert record.cost_usd == (100 * 1 + 20 * 5 + 900 * 5 + 300 * 25) * USD
    assert (record.usage["input_tokens"], record.usage["output_tokens"]) == (1000, 320)


async def test_agents_side_by_side(house: House, claude: Claude, agent: AsyncAnthropic) -> None:
    claude.turn = turn(3)
    rich = await house.caller(10_000 * CREDIT)
    theirs = agent.with_options(api_key=rich.secret)

    async def one() -> None:
        async with theirs.messages.stream(**request(begin())) as stream:
            await stream.get_final_message()

    await asyncio.gather(*(one() for _ in range(20)))
    await house.settled(rich)
    assert await house.balance(rich) == 10_000 * CREDIT - 20 * owed(claude.turn.usage) * 1000 * CREDIT


async def test_an_agent_that_hangs_up_pays_what_was_used(house: House, claude: Claude, agent: AsyncAnthropic) -> None:
    claude.turn = Turn(content=turn(2).content, usage=turn(2).usage, pause_s=0.01)
    async with agent.messages.stream(**request(begin())) as stream:
        async for event in stream:
            if event.type == "content_block_delta":
                break
    await until(lambda: claude.asked[0].outcome == "completed")
    record = await house.record()
    assert (record.cost_usd, record.outcome, record.estimated) == (owed(claude.turn.usage), "client_gone", False)


async def test_hanging_up_can_stop_the_provider(open_house: Open, claude: Claude) -> None:
    up = {"kind": "anthropic", "base_url": claude.url, "api_key": KEY, "on_disconnect": "cancel"}
    house = await open_house(providers__up=up, prices=PRICES)
    claude.turn = Turn(content=[{"type": "text", "text": "word " * 200}], usage=turn(2).usage, pause_s=0.01)
    agent = AsyncAnthropic(base_url=house.url, api_key=house.me.secret)
    async with agent, agent.messages.stream(**request(begin())) as stream:
        async for event in stream:
            if event.type == "content_block_delta":
                break
    record = await house.record()
    await until(lambda: claude.asked[0].outcome == "aborted")
    usage = turn(2).usage
    least = owed({**usage, "output_tokens": 1})
    assert record.estimated
    assert (record.usage["input_tokens"], record.usage["cache_write_1h_tokens"]) == (
        usage["input_tokens"] + usage["cache_read_input_tokens"] + usage["cache_creation_input_tokens"],
        0,
    )
    assert least <= record.cost_usd < owed(usage)


@pytest.mark.parametrize("fault", ["cut", "error_event"])
async def test_a_turn_that_breaks_costs_its_input_and_what_was_delivered(
    house: House, claude: Claude, agent: AsyncAnthropic, fault: Any
) -> None:
    usage = turn(1).usage
    claude.turn = Turn(content=turn(1).content, usage=usage, fault=fault)
    with pytest.raises(APIError):
        async with agent.messages.stream(**request(begin())) as stream:
            await stream.get_final_message()
    record = await house.record()
    assert (record.outcome, record.estimated) == ("upstream_error", True)
    assert record.cost_usd == owed({**usage, "output_tokens": record.usage["output_tokens"]})


async def test_the_hold_covers_what_an_agent_can_use(house: House, claude: Claude, agent: AsyncAnthropic) -> None:
    """Written to the dearest cache, every byte of the request at two to a token, and all the output it allows."""
    claude.turn = turn(0)
    got = await agent.messages.with_raw_response.create(**request(begin()))
    held = Decimal(got.headers["x-faregate-hold-credits"])
    size = len(claude.asked[0].raw)
    assert held >= (size // 2 * RATES["1h"] + 4000 * RATES["output"]) * 1000
    assert held < (size // 2 * RATES["1h"] + 4000 * RATES["output"]) * 1000 * Decimal("1.05")
