"""Balances and limits: how much of a call is let through."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Any

import httpx
import pytest

from tests.story.conftest import Open
from tests.story.house import CREDIT, INPUT, OUTPUT, House, until
from tests.upstreams.scripted import Scripted

LONG = {"output_tokens": 5000}


def input_bound(got: httpx.Response) -> int:
    """Two bytes to a token."""
    return -(-len(got.request.content) // 2)


async def test_one_call_gets_a_quarter_of_what_is_there(house: House, upstream: Scripted) -> None:
    poor = await house.caller(1 * CREDIT)
    got = await house.call(by=poor, script=LONG)
    cap = (CREDIT // 4 - input_bound(got) * INPUT) // OUTPUT
    assert got.headers["x-faregate-output-cap"] == str(cap)
    assert got.headers["x-faregate-hold-credits"] == "0.25"
    assert (upstream.served[0].json["max_tokens"], upstream.served[0].output_tokens) == (cap, cap)
    await house.settled(poor)


async def test_the_cap_is_shared_by_the_choices(house: House, upstream: Scripted) -> None:
    poor = await house.caller(4 * CREDIT)
    got = await house.call(by=poor, script=LONG, n=3)
    cap = (CREDIT - input_bound(got) * INPUT) // OUTPUT // 3
    assert got.headers["x-faregate-output-cap"] == str(cap)
    assert upstream.served[0].output_tokens == 3 * cap


async def test_the_cap_lowers_the_clients_own_field(house: House, upstream: Scripted) -> None:
    poor = await house.caller(1 * CREDIT)
    await house.call(by=poor, script=LONG, max_completion_tokens=900)
    body = upstream.served[0].json
    assert "max_tokens" not in body
    assert 64 <= int(str(body["max_completion_tokens"])) < 125


async def test_a_call_that_fits_is_left_alone(house: House, upstream: Scripted) -> None:
    got = await house.call(max_tokens=7)
    assert "x-faregate-output-cap" not in got.headers
    assert upstream.served[0].json == {**upstream.served[0].json, "max_tokens": 7}


async def test_less_than_the_floor_is_402_and_never_forwarded(house: House, upstream: Scripted) -> None:
    poor = await house.caller(100_000)
    got = await house.call(by=poor)
    error = got.json(parse_float=Decimal)["error"]
    assert (got.status_code, error["code"], error["available_credits"]) == (402, "insufficient_credits", Decimal("0.1"))
    assert error["needed_credits"] == Decimal(input_bound(got) * INPUT + 64 * OUTPUT) / CREDIT
    assert got.headers["x-should-retry"] == "false"
    assert upstream.served == []
    await house.settled(poor)


async def test_on_low_credit_refuse_caps_nothing(open_house: Open, upstream: Scripted) -> None:
    house = await open_house(credits__on_low_credit="refuse")
    poor = await house.caller(1 * CREDIT)
    assert (await house.call(by=poor)).status_code == 402
    got = await house.call(by=poor, max_tokens=400)
    assert (got.status_code, upstream.served[0].json["max_tokens"]) == (200, 400)
    assert "x-faregate-output-cap" not in got.headers


async def test_credits_that_come_in_let_the_next_call_through(house: House) -> None:
    poor = await house.caller(1000)
    assert (await house.call(by=poor)).status_code == 402
    await house.runtime.ledger.book.add_credits(poor.account_id, CREDIT)
    await asyncio.sleep(1.0)  # The book is asked again at most once a second.
    assert (await house.call(by=poor)).status_code == 200


# Limits -------------------------------------------------------------------------------------------------

TIGHT: list[tuple[dict[str, Any], str]] = [
    ({"kind": "requests", "window": "minute", "max": 0}, "requests per minute"),
    ({"kind": "tokens", "window": "hour", "max": 50}, "tokens per hour"),
    ({"kind": "credits", "window": "day", "max": "0.1"}, "credits per day"),
    ({"kind": "concurrency", "max": 0}, "concurrency"),
]


@pytest.mark.parametrize(("limit", "name"), TIGHT)
async def test_a_limit_is_429_and_names_itself(
    house: House, upstream: Scripted, limit: dict[str, Any], name: str
) -> None:
    key = await house.caller(of=house.me, limits=[limit])
    got = await house.call(by=key)
    error = got.json()["error"]
    assert (got.status_code, error["code"], error["limit"]) == (429, "limit_exceeded", name)
    assert int(got.headers["retry-after"]) >= 1
    assert upstream.served == []
    await house.settled()


async def test_requests_are_counted_and_shown(house: House) -> None:
    key = await house.caller(of=house.me, limits=[{"kind": "requests", "window": "month", "max": 2}])
    answers = [await house.call(by=key) for _ in range(3)]
    assert [got.status_code for got in answers] == [200, 200, 429]
    assert [got.headers.get("x-ratelimit-remaining-requests") for got in answers] == ["1", "0", None]
    assert answers[0].headers["x-ratelimit-limit-requests"] == "2"
    await house.settled()


async def test_concurrency_is_free_again_when_a_call_ends(house: House, upstream: Scripted) -> None:
    key = await house.caller(of=house.me, limits=[{"kind": "concurrency", "max": 1}])
    first = asyncio.create_task(house.call(by=key, script={"first_byte_s": 0.2}))
    await until(lambda: bool(upstream.served))
    assert (await house.call(by=key)).status_code == 429
    assert (await first).status_code == 200
    assert (await house.call(by=key)).status_code == 200


async def test_a_token_limit_lowers_the_output_bound(house: House, upstream: Scripted) -> None:
    key = await house.caller(of=house.me, limits=[{"kind": "tokens", "window": "total", "max": 600}])
    got = await house.call(by=key, script=LONG)
    assert got.headers["x-faregate-output-cap"] == str(150 - input_bound(got))
    assert upstream.served[0].output_tokens == 150 - input_bound(got)


async def test_a_credit_limit_is_a_share_like_the_balance(house: House) -> None:
    key = await house.caller(of=house.me, limits=[{"kind": "credits", "window": "total", "max": 1}])
    got = await house.call(by=key, script=LONG)
    assert got.headers["x-faregate-hold-credits"] == "0.25"
    await house.settled()


# Many at once -------------------------------------------------------------------------------------------


@pytest.fixture
async def roomy(open_house: Open) -> House:
    """A house whose clockwork bears that clients, gateway and upstream share one busy loop."""
    return await open_house(timing__heartbeat_s=2.0, timing__hold_wait_ms=5000)


async def test_200_calls_at_once_never_spend_more_than_there_is(roomy: House, upstream: Scripted) -> None:
    poor = await roomy.caller(2 * CREDIT)
    answers = await asyncio.gather(*(roomy.call(by=poor, script=LONG, stream=i % 2 == 0) for i in range(200)))
    assert {got.status_code for got in answers} == {200, 402}
    await roomy.settled(poor)
    served = upstream.totals()
    assert served["requests"] == sum(got.status_code == 200 for got in answers)
    spent = served["input_tokens"] * INPUT + served["output_tokens"] * OUTPUT
    assert CREDIT < spent <= 2 * CREDIT
    assert await roomy.balance(poor) == 2 * CREDIT - spent
    assert len(await roomy.records(poor)) == served["requests"]


async def test_after_a_rush_what_is_left_can_be_spent(roomy: House) -> None:
    poor = await roomy.caller(3 * CREDIT)
    await asyncio.gather(*(roomy.call(by=poor, script={"output_tokens": 1}) for _ in range(100)))
    await roomy.settled(poor)
    got = await roomy.call(by=poor, max_tokens=64)
    assert (got.status_code, (await roomy.redis(poor))["held"]) == (200, "0")


async def test_100_calls_at_once_pass_a_request_limit_as_often_as_it_says(roomy: House, upstream: Scripted) -> None:
    key = await roomy.caller(of=roomy.me, limits=[{"kind": "requests", "window": "total", "max": 7}])
    answers = await asyncio.gather(*(roomy.call(by=key) for _ in range(100)))
    assert sorted(got.status_code for got in answers) == [200] * 7 + [429] * 93
    assert len(upstream.served) == 7
    await roomy.settled()
