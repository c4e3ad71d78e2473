"""Reservations beside calls on a whole gateway: Redis dies, gateways die, time runs out."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Any

import httpx
import pytest

from faregate import app
from tests.story.conftest import Open
from tests.story.house import CREDIT, HEARTBEAT_S, Caller, House, eventually, serving

SCOPES = frozenset({"proxy", "credits:write"})


async def caller(house: House, credits: int = 10) -> Caller:
    """A key for both planes, on an account of its own."""
    return await house.caller(credits * CREDIT, scopes=SCOPES)


async def post(house: House, by: Caller, verb: str, url: str = "", **body: Any) -> httpx.Response:
    headers = {"authorization": f"Bearer {by.secret}"}
    return await house.http.post(f"{url}/v1/reservations/{verb}", json=body, headers=headers)


async def reserve(house: House, by: Caller, amount: object, **more: Any) -> str:
    """Its id."""
    got = await post(house, by, "create", accountId=by.account_id, amount=amount, **more)
    assert got.status_code == 200, got.text
    return str(got.json()["reservation"]["id"])


async def status(house: House, by: Caller) -> list[str]:
    got = await house.http.get("/v1/reservations", headers={"authorization": f"Bearer {by.secret}"})
    return [one["status"] for one in got.json()["reservations"]]


async def held(house: House, by: Caller) -> int:
    return sum(one.hold.microcredits for one in await house.holds(by))


async def available(house: House, by: Caller) -> Decimal:
    headers = {"authorization": f"Bearer {by.secret}"}
    got = await house.http.get("/v1/accounts/balance", params={"accountId": by.account_id}, headers=headers)
    assert got.status_code == 200, got.text
    return Decimal(str(got.json()["available"]))


async def test_calls_and_reservations_share_one_balance(house: House) -> None:
    me = await caller(house)
    mine = await reserve(house, me, "9.99")
    refused = await house.call(by=me, max_tokens=1000)
    assert (refused.status_code, refused.json()["error"]["code"]) == (402, "insufficient_credits")
    assert (await post(house, me, "cancel", reservationId=mine)).status_code == 200
    assert (await house.call(by=me, max_tokens=1000)).status_code == 200
    await house.settled(me)


async def test_it_outlives_heartbeats_and_sweeps(house: House) -> None:
    me = await caller(house)
    mine = await reserve(house, me, 4, ttlSeconds=60)
    await asyncio.sleep(6 * HEARTBEAT_S)
    assert (await held(house, me), house.runtime.owner.open_holds) == (4 * CREDIT, 0)
    assert (await post(house, me, "confirm", reservationId=mine, actualAmount=1)).json()["balance"] == 9
    await house.settled(me)


async def test_what_nobody_confirms_is_released_when_its_time_is_over(house: House) -> None:
    me = await caller(house)
    mine = await reserve(house, me, 4, ttlSeconds=1)

    async def free() -> bool:
        return not await held(house, me)

    await eventually(free)
    assert await status(house, me) == ["expired"]
    late = await post(house, me, "confirm", reservationId=mine, actualAmount=1)
    assert (late.status_code, late.json()["error"]["code"]) == (409, "reservation_expired")
    assert await house.balance(me) == 10 * CREDIT
    await house.settled(me)


async def test_one_whose_gateway_is_dead_is_expired_by_another(house: House) -> None:
    me = await caller(house)
    async with serving(app.Runtime(settings=house.runtime.settings, worker=1)) as url:
        got = await post(house, me, "create", url, accountId=me.account_id, amount=4, ttlSeconds=2)
        assert got.status_code == 200, got.text
    assert await held(house, me) == 4 * CREDIT

    async def expired() -> bool:
        return await status(house, me) == ["expired"] and not await held(house, me)

    await eventually(expired, 10)
    await house.settled(me)


async def test_two_gateways_confirm_it_once(house: House) -> None:
    me = await caller(house)
    async with serving(app.Runtime(settings=house.runtime.settings, worker=1)) as url:
        mine = await reserve(house, me, 4)
        answers = await asyncio.gather(
            *(
                post(house, me, "confirm", at, reservationId=mine, actualAmount=n)
                for n, at in enumerate(("", url) * 3, 1)
            )
        )
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.json()["transactionId"] for answer in answers}) == 1
    assert await house.balance(me) == 10 * CREDIT - int(answers[0].json()["amount"]) * CREDIT
    await house.settled(me)


@pytest.mark.parametrize("how", ["flush", "restart"])
async def test_a_redis_that_lost_everything_holds_it_again(open_house: Open, how: str) -> None:
    house = await open_house(own_valkey=True)
    me = await caller(house)
    mine = await reserve(house, me, 9)
    if how == "flush":
        await house.runtime.pipe.command(("FLUSHALL",), 2.0)
    else:
        house.valkey.stop()
        away = await post(house, me, "confirm", reservationId=mine, actualAmount=1)
        assert (away.status_code, away.json()["error"]["code"]) == (503, "store_unavailable")
        house.valkey.start()

    async def answered() -> int:
        """The second one never fits, whenever Redis is found again."""
        got = await post(house, me, "create", accountId=me.account_id, amount=2)
        return got.status_code if got.status_code != 503 else 0

    assert await eventually(answered) == 402
    assert await held(house, me) == 9 * CREDIT
    assert await available(house, me) == 1
    assert (await post(house, me, "confirm", reservationId=mine, actualAmount=9)).json()["balance"] == 1
    await house.settled(me)


async def test_redis_and_gateway_restart_and_it_is_still_there(open_house: Open) -> None:
    house = await open_house(own_valkey=True)
    me = await caller(house)
    async with serving(app.Runtime(settings=house.runtime.settings, worker=1)) as url:
        mine = (await post(house, me, "create", url, accountId=me.account_id, amount=9)).json()["reservation"]["id"]
    house.valkey.stop()
    house.valkey.start()
    async with serving(app.Runtime(settings=house.runtime.settings, worker=1)) as url:
        refused = await post(house, me, "create", url, accountId=me.account_id, amount=2)
        assert refused.status_code == 402, refused.text
        done = await post(house, me, "confirm", url, reservationId=mine, actualAmount=10)
        assert (done.json()["amount"], done.json()["balance"]) == (10, 0)
    await house.settled(me)


async def test_a_confirm_is_complete_while_redis_dies_under_it(open_house: Open) -> None:
    """The book has it; Redis comes back empty and learns it from there."""
    house = await open_house(own_valkey=True)
    me = await caller(house)
    mine = await reserve(house, me, 9)
    confirm = house.runtime.ledger.reservations.confirm

    async def then_die(reservation_id: str, actual: int) -> Any:
        done = await confirm(reservation_id, actual)
        house.valkey.stop()
        return done

    house.runtime.ledger.reservations.confirm = then_die  # type: ignore[method-assign]
    got = await post(house, me, "confirm", reservationId=mine, actualAmount=3)
    assert (got.status_code, got.json()["balance"]) == (200, 7)
    house.runtime.ledger.reservations.confirm = confirm  # type: ignore[method-assign]
    house.valkey.start()

    async def back() -> bool:
        return (await post(house, me, "create", accountId=me.account_id, amount=8)).status_code == 402

    await eventually(back)
    again = await post(house, me, "confirm", reservationId=mine, actualAmount=3)
    assert again.json() == got.json()
    await house.settled(me)
