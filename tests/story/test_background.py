"""Responses that are asked for again, and those that run on after their answer."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from faregate.background import Background
from faregate.ledger.responses import Responses
from tests.story.house import CREDIT, HEARTBEAT_S, INPUT, OUTPUT, Caller, House, events, eventually
from tests.upstreams.keeper import Keeper

FARE = 10 * INPUT + 5 * OUTPUT


async def create(house: House, by: Caller | None = None, **body: object) -> httpx.Response:
    headers = {"authorization": f"Bearer {by.secret}"} if by else {}
    return await house.http.post("/v1/responses", json={"model": "up/m", "input": "hi", **body}, headers=headers)


# Whose they are -----------------------------------------------------------------------------------------


async def test_its_owner_gets_it_again_and_pays_once(kept: House, keeper: Keeper) -> None:
    made = (await create(kept)).json()["id"]
    got = await kept.http.get(f"/v1/responses/{made}?include[]=reasoning.encrypted_content&api_key=x")
    assert got.json()["output"][0]["content"][0]["text"] == "hello there"
    assert keeper.seen[-1] == f"GET /v1/responses/{made}?include%5B%5D=reasoning.encrypted_content"
    await kept.record()
    assert await kept.balance() == 1000 * CREDIT - FARE


@pytest.mark.parametrize(
    ("method", "path"), [("GET", ""), ("DELETE", ""), ("POST", "/cancel"), ("GET", "/input_items")]
)
async def test_for_anybody_else_it_does_not_exist(kept: House, keeper: Keeper, method: str, path: str) -> None:
    made = (await create(kept)).json()["id"]
    other, sibling = await kept.caller(), await kept.caller(of=kept.me)
    asked = len(keeper.seen)
    for foreign in (other, sibling):
        headers = {"authorization": f"Bearer {foreign.secret}"}
        theirs = await kept.http.request(method, f"/v1/responses/{made}{path}", headers=headers)
        nobodys = await kept.http.request(method, f"/v1/responses/resp_none{path}", headers=headers)
        assert (theirs.status_code, theirs.json()) == (404, nobodys.json())
    assert len(keeper.seen) == asked


async def test_keys_of_one_account_share_its_responses(kept: House) -> None:
    account = (await kept.account("customer", CREDIT)).id
    one, two = [await kept.caller(of=kept.me, account_id=account) for _ in range(2)]
    made = (await create(kept, by=one)).json()["id"]
    got = await kept.http.get(f"/v1/responses/{made}", headers={"authorization": f"Bearer {two.secret}"})
    assert got.status_code == 200


async def test_a_foreign_response_cannot_be_gone_on_from(kept: House, keeper: Keeper) -> None:
    made = (await create(kept)).json()["id"]
    other = await kept.caller()
    asked = len(keeper.seen)
    got = await create(kept, by=other, previous_response_id=made)
    assert (got.status_code, got.json()["error"]["param"]) == (404, "previous_response_id")
    assert len(keeper.seen) == asked


async def test_what_it_goes_on_from_is_held_as_input(kept: House) -> None:
    made = (await create(kept, max_output_tokens=100)).json()["id"]
    alone = float((await create(kept, max_output_tokens=100)).headers["x-faregate-hold-credits"])
    on = await create(kept, max_output_tokens=100, previous_response_id=made)
    more_bytes = len(f',"previous_response_id":"{made}"')
    assert float(on.headers["x-faregate-hold-credits"]) == pytest.approx(alone + 15 * 0.001 + more_bytes // 2 * 0.001)


async def test_a_response_of_another_provider_cannot_be_gone_on_from(kept: House) -> None:
    made = (await create(kept)).json()["id"]
    got = await create(kept, model="bare/m", previous_response_id=made)
    assert got.status_code == 400


async def test_what_is_not_stored_is_nobodys(kept: House, keeper: Keeper) -> None:
    made = (await create(kept, store=False)).json()["id"]
    await kept.settled()
    assert (await kept.http.get(f"/v1/responses/{made}")).status_code == 404


async def test_a_deleted_one_is_gone(kept: House) -> None:
    made = (await create(kept)).json()["id"]
    assert (await kept.http.delete(f"/v1/responses/{made}")).json()["deleted"] is True
    assert (await kept.http.get(f"/v1/responses/{made}")).status_code == 404


async def test_a_revoked_key_gets_nothing_again(kept: House) -> None:
    made = (await create(kept)).json()["id"]
    await kept.runtime.ledger.keys.revoke(kept.me.key_id)
    assert (await kept.http.get(f"/v1/responses/{made}")).status_code == 401


# Running on ---------------------------------------------------------------------------------------------


async def test_a_background_response_is_charged_when_it_has_ended(kept: House, keeper: Keeper) -> None:
    keeper.polls = 4
    got = await create(kept, background=True)
    assert got.json()["status"] == "queued"
    assert "x-faregate-credits-charged" not in got.headers
    assert len(await kept.holds()) == 1
    assert await kept.records() == []
    await eventually(kept.records)
    record = await kept.record()
    assert (record.charge_microcredits, record.kind, record.estimated) == (FARE, "actual", False)
    assert await kept.balance() == 1000 * CREDIT - FARE
    assert keeper.gets() == 4


async def test_its_hold_outlives_many_deadlines(kept: House, keeper: Keeper) -> None:
    keeper.polls = 1_000_000
    made = (await create(kept, background=True)).json()["id"]
    await asyncio.sleep(8 * HEARTBEAT_S)
    assert len(await kept.holds()) == 1
    keeper.polls = 0
    got = await kept.http.get(f"/v1/responses/{made}")
    assert got.json()["status"] == "completed"
    assert [one.charge_microcredits for one in await kept.records()] == [FARE]
    await kept.settled()


async def test_whoever_sees_its_end_first_it_is_charged_once(kept: House, keeper: Keeper) -> None:
    keeper.polls = 2
    made = (await create(kept, background=True)).json()["id"]
    for _ in range(3):
        await asyncio.gather(*(kept.http.get(f"/v1/responses/{made}") for _ in range(8)))
    assert (await kept.record()).charge_microcredits == FARE
    assert await kept.balance() == 1000 * CREDIT - FARE


async def test_a_streamed_get_that_sees_its_end_charges_it(kept: House, keeper: Keeper) -> None:
    keeper.polls = 1_000_000
    made = (await create(kept, background=True)).json()["id"]
    keeper.polls = 0
    got = await kept.http.get(f"/v1/responses/{made}?stream=true&starting_after=1")
    assert events(got.content)[-1]["type"] == "response.completed"
    assert [one.charge_microcredits for one in await kept.records()] == [FARE]
    await kept.settled()


async def test_a_cancelled_one_costs_what_was_spent(kept: House, keeper: Keeper) -> None:
    keeper.polls = 1_000_000
    keeper.usage = {"input_tokens": 10, "output_tokens": 1, "total_tokens": 11}
    made = (await create(kept, background=True)).json()["id"]
    got = await kept.http.post(f"/v1/responses/{made}/cancel")
    assert got.json()["status"] == "cancelled"
    assert [one.charge_microcredits for one in await kept.records()] == [10 * INPUT + OUTPUT]
    await kept.settled()


async def test_a_deleted_one_is_cancelled_and_charged_first(kept: House, keeper: Keeper) -> None:
    keeper.polls = 1_000_000
    made = (await create(kept, background=True)).json()["id"]
    assert (await kept.http.delete(f"/v1/responses/{made}")).status_code == 200
    assert (await kept.record()).charge_microcredits == FARE


async def test_a_failed_one_costs_nothing(kept: House, keeper: Keeper) -> None:
    keeper.ends, keeper.usage = "failed", None
    made = (await create(kept, background=True)).json()["id"]
    await eventually(lambda: _is(kept, made, "failed"))
    await kept.settled()
    assert await kept.balance() == 1000 * CREDIT


async def test_one_that_its_provider_lost_ends_unconfirmed(kept: House, keeper: Keeper) -> None:
    keeper.fault = "404"
    got = await create(kept, background=True)
    assert got.status_code == 200
    await eventually(kept.records)
    assert (await kept.record()).kind == "unconfirmed"


async def test_a_provider_in_trouble_is_asked_again(kept: House, keeper: Keeper) -> None:
    keeper.fault = "500"
    await create(kept, background=True)
    await asyncio.sleep(3 * HEARTBEAT_S)
    assert len(await kept.holds()) == 1
    keeper.fault = ""
    await eventually(kept.records)
    assert (await kept.record()).charge_microcredits == FARE


async def test_a_background_stream_that_breaks_is_polled_to_its_end(kept: House, keeper: Keeper) -> None:
    keeper.fault = "cut"
    got = await create(kept, background=True, stream=True)
    assert events(got.content)[-1]["type"] == "error"
    keeper.fault = ""
    await eventually(kept.records)
    assert (await kept.record()).charge_microcredits == FARE


async def test_one_that_tells_no_usage_is_estimated(kept: House, keeper: Keeper) -> None:
    keeper.usage = None
    await create(kept, background=True)
    await eventually(kept.records)
    record = await kept.record()
    assert (record.estimated, record.outcome) == (True, "no_usage")
    assert record.charge_microcredits > 0


async def test_another_process_that_sees_its_end_charges_it(kept: House, keeper: Keeper) -> None:
    keeper.polls = 1_000_000
    made = (await create(kept, background=True)).json()["id"]
    runtime = kept.runtime
    sibling = Background(
        owner=runtime.owner,
        book=runtime.ledger.book,
        gate=runtime.gate,
        store=Responses(runtime.ledger.database, "sibling"),
        providers=runtime.background._providers,
        clock=runtime.clock,
        events=runtime.metrics,
    )
    principal = await runtime.keys.authenticate(kept.me.secret)
    found = await sibling.find(principal, made)
    keeper.polls = 0
    await sibling.look(found)
    assert [one.charge_microcredits for one in await kept.records()] == [FARE]
    await kept.settled()
    assert await kept.balance() == 1000 * CREDIT - FARE


async def test_the_sandbox_runs_in_the_background_too(kept: House) -> None:
    caller = await kept.caller(test=True)
    made = (await create(kept, by=caller, background=True, input="say 7 words")).json()
    assert made["status"] == "queued"
    headers = {"authorization": f"Bearer {caller.secret}"}
    got = await kept.http.get(f"/v1/responses/{made['id']}", headers=headers)
    assert got.json()["usage"]["output_tokens"] == 7


async def _is(house: House, response_id: str, status: str) -> bool:
    return bool((await house.http.get(f"/v1/responses/{response_id}")).json()["status"] == status)
