"""Repeats of an Idempotency-Key, with `replay` configured: the answer again, charged nothing."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from faregate.ledger import replays
from tests.story.conftest import Open
from tests.story.house import House, until
from tests.upstreams.scripted import Script, Scripted

KEEP = {"replay__ttl_s": 60, "replay__max_bytes": 4_000}
KEY = {"idempotency-key": "k-1"}


@pytest.fixture
async def house(open_house: Open) -> House:
    return await open_house(**KEEP)


def refusal(got: httpx.Response) -> tuple[int, str]:
    return got.status_code, got.json()["error"]["code"]


async def test_a_repeat_gets_the_answer_again_and_is_charged_nothing(house: House, upstream: Scripted) -> None:
    first = await house.call(headers=KEY)
    balance = await house.balance()
    again = await house.call(headers=KEY)
    assert (again.status_code, again.content) == (200, first.content)
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"
    assert again.headers["x-faregate-credits-charged"] == "0"
    for name in ("content-type", "x-faregate-usage-id", "x-faregate-model"):
        assert again.headers[name] == first.headers[name]
    assert (len(upstream.served), len(await house.records())) == (1, 1)
    assert await house.balance() == balance
    await house.settled()


async def test_another_body_is_409_and_another_key_another_call(house: House, upstream: Scripted) -> None:
    await house.call(headers=KEY)
    assert refusal(await house.call(prompt="other", headers=KEY)) == (409, "idempotency_mismatch")
    assert (await house.call(prompt="other", headers={"idempotency-key": "k-2"})).status_code == 200
    assert len(upstream.served) == 2


async def test_the_same_json_written_otherwise_is_the_same(house: House, upstream: Scripted) -> None:
    one = b'{"model":"up/m","messages":[{"role":"user","content":"hi"}]}'
    other = b'{ "messages": [{"content": "hi", "role": "user"}], "model": "up/m" }'
    for body in (one, other):
        got = await house.http.post("/v1/chat/completions", content=body, headers=KEY)
    assert (got.headers["idempotent-replayed"], len(upstream.served)) == ("true", 1)


async def test_while_the_first_runs_a_repeat_is_in_progress(house: House, upstream: Scripted) -> None:
    upstream.scripts["m"] = Script(first_byte_s=1.0)
    first = asyncio.create_task(house.call(headers=KEY))
    await until(lambda: len(upstream.served) == 1)
    second = await house.call(headers=KEY)
    assert refusal(second) == (409, "in_progress")
    assert second.headers["retry-after"] == "1"
    assert (await first).status_code == 200
    assert (await house.call(headers=KEY)).headers["idempotent-replayed"] == "true"


async def test_a_client_that_left_finds_its_answer(house: House, upstream: Scripted) -> None:
    upstream.scripts["m"] = Script(first_byte_s=0.5)
    with pytest.raises(httpx.TimeoutException):
        await house.http.post(
            "/v1/chat/completions",
            json={"model": "up/m", "messages": [{"role": "user", "content": "hi"}]},
            headers=KEY,
            timeout=0.2,
        )
    for _ in range(100):
        again = await house.call(headers=KEY)
        if again.status_code == 200:
            break
        await asyncio.sleep(0.05)
    assert again.headers["idempotent-replayed"] == "true"
    assert (len(upstream.served), len(await house.records())) == (1, 1)


async def test_keys_are_an_organization_s_own(house: House, upstream: Scripted) -> None:
    await house.call(headers=KEY)
    other = await house.caller()
    got = await house.call(by=other, headers=KEY)
    assert ("idempotent-replayed" in got.headers, len(upstream.served)) == (False, 2)


async def test_refusals_streams_and_long_answers_are_not_kept(house: House, upstream: Scripted) -> None:
    upstream.scripts["bad"] = Script(status=400)
    upstream.scripts["long"] = Script(output_tokens=4_000, ignore_cap=True)
    for model, stream in (("up/bad", False), ("up/long", False), ("up/m", True)):
        headers = {"idempotency-key": f"k-{model}"}
        for _ in range(2):
            got = await house.call(model, headers=headers, stream=stream)
            assert "idempotent-replayed" not in got.headers
    assert len(upstream.served) == 6


async def test_a_kept_answer_ends(open_house: Open, upstream: Scripted) -> None:
    house = await open_house(replay__ttl_s=1)
    await house.call(headers=KEY)
    await asyncio.sleep(1.5)
    assert "idempotent-replayed" not in (await house.call(headers=KEY)).headers
    assert len(upstream.served) == 2


async def test_without_room_a_call_is_a_call(house: House, upstream: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replays, "MOST_KEPT", 1)
    await house.call(headers=KEY)
    for _ in range(2):
        got = await house.call(headers={"idempotency-key": "k-2"})
        assert (got.status_code, "idempotent-replayed" in got.headers) == (200, False)
    assert (await house.call(headers=KEY)).headers["idempotent-replayed"] == "true"
    assert len(upstream.served) == 3


@pytest.mark.parametrize("key", ["", "x" * 256])
async def test_a_key_that_is_none_is_400(house: House, upstream: Scripted, key: str) -> None:
    got = await house.call(headers={"idempotency-key": key})
    assert (*refusal(got), got.json()["error"]["param"]) == (400, "invalid_request", "Idempotency-Key")
    assert upstream.served == []


async def test_a_wrong_key_learns_nothing(house: House) -> None:
    await house.call(headers=KEY)
    got = await house.call(headers={**KEY, "authorization": "Bearer fg_live_wrong"})
    assert got.status_code == 401


async def test_without_it_every_call_is_a_call(open_house: Open, upstream: Scripted) -> None:
    house = await open_house()
    for _ in range(2):
        assert (await house.call(headers=KEY)).status_code == 200
    assert len(upstream.served) == 2
    assert house.runtime.replays is None
