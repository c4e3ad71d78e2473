"""POST /v1/responses, plain and streamed."""

from __future__ import annotations

import pytest

from tests.story.conftest import Open
from tests.story.house import CREDIT, INPUT, OUTPUT, House, events
from tests.upstreams.keeper import Keeper

FARE = 10 * INPUT + 5 * OUTPUT


async def test_a_plain_response_is_charged_before_it_arrives(kept: House, keeper: Keeper) -> None:
    got = await kept.http.post("/v1/responses", json={"model": "up/m", "input": "hi"})
    assert got.json()["status"] == "completed"
    assert got.headers["x-faregate-credits-charged"] == "0.02"
    assert keeper.bodies == [{"model": "m", "input": "hi"}]
    record = await kept.record()
    assert (record.charge_microcredits, record.endpoint) == (FARE, "responses")
    assert await kept.balance() == 1000 * CREDIT - FARE


async def test_a_stream_ends_with_its_own_last_event(kept: House) -> None:
    got = await kept.http.post("/v1/responses", json={"model": "up/m", "input": "hi", "stream": True})
    kinds = [event["type"] for event in events(got.content)]
    assert kinds[0] == "response.created"
    assert kinds[-1] == "response.completed"
    assert b"[DONE]" not in got.content
    assert (await kept.record()).charge_microcredits == FARE


async def test_a_client_that_asks_finds_its_cost_in_the_last_event(kept: House) -> None:
    body = {"model": "up/m", "input": "hi", "stream": True}
    got = await kept.http.post("/v1/responses", json=body, headers={"x-faregate-include-cost": "true"})
    usage = events(got.content)[-1]["response"]["usage"]
    assert (f"{usage['cost_usd']:f}", f"{usage['credits']:f}") == ("0.00002", "0.02")


@pytest.mark.parametrize("ends", ["incomplete", "failed"])
async def test_other_ends_are_ends_too(kept: House, keeper: Keeper, ends: str) -> None:
    keeper.ends = ends
    got = await kept.http.post("/v1/responses", json={"model": "up/m", "input": "hi", "stream": True})
    assert events(got.content)[-1]["type"] == f"response.{ends}"
    assert (await kept.record()).charge_microcredits == FARE


async def test_a_failure_without_usage_costs_nothing(kept: House, keeper: Keeper) -> None:
    keeper.ends, keeper.usage = "failed", None
    got = await kept.http.post("/v1/responses", json={"model": "up/m", "input": "hi"})
    assert got.json()["status"] == "failed"
    await kept.settled()
    assert await kept.balance() == 1000 * CREDIT


async def test_a_stream_that_breaks_ends_with_an_error_event(kept: House, keeper: Keeper) -> None:
    keeper.fault = "cut"
    got = await kept.http.post("/v1/responses", json={"model": "up/m", "input": "hi", "stream": True})
    last = events(got.content)[-1]
    assert (last["type"], last["code"]) == ("error", "upstream_error")
    assert got.content.rstrip().splitlines()[-2] == b"event: error"
    record = await kept.record()
    assert record.estimated
    assert record.outcome == "upstream_error"


async def test_the_bound_is_lowered_to_what_the_account_covers(open_house: Open, keeper: Keeper) -> None:
    house = await open_house(**{"providers.up": {"base_url": keeper.url}})
    poor = await house.caller(400 * OUTPUT)
    headers = {"authorization": f"Bearer {poor.secret}"}
    got = await house.http.post("/v1/responses", json={"model": "up/m", "input": "hi"}, headers=headers)
    cap = int(got.headers["x-faregate-output-cap"])
    assert keeper.bodies[-1]["max_output_tokens"] == cap
    assert 64 <= cap < 400


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"max_output_tokens": -1}, "max_output_tokens"),
        ({"max_output_tokens": "many"}, "max_output_tokens"),
        ({"max_tool_calls": 1e99}, "max_tool_calls"),
        ({"background": "yes"}, "background"),
        ({"background": True, "store": False}, "store"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"previous_response_id": 7}, "previous_response_id"),
        ({"previous_response_id": "x" * 300}, "previous_response_id"),
        ({"tools": "search"}, "tools"),
    ],
)
async def test_what_cannot_be_meant_is_refused(
    kept: House, keeper: Keeper, wrong: dict[str, object], param: str
) -> None:
    got = await kept.http.post("/v1/responses", json={"model": "up/m", "input": "hi", **wrong})
    assert (got.status_code, got.json()["error"]["param"]) == (400, param)
    assert keeper.seen == []


async def test_the_sandbox_answers_test_keys(kept: House) -> None:
    caller = await kept.caller(test=True)
    headers = {"authorization": f"Bearer {caller.secret}"}
    body = {"model": "up/m", "input": "say 3 words", "stream": True}
    got = await kept.http.post("/v1/responses", json=body, headers=headers)
    last = events(got.content)[-1]
    assert last["type"] == "response.completed"
    assert last["response"]["usage"]["output_tokens"] == 3
