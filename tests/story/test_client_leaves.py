"""The client hangs up before the end."""

from __future__ import annotations

import asyncio

import httpx

from tests.story.conftest import Open
from tests.story.house import INPUT, OUTPUT, House, until
from tests.upstreams.scripted import Scripted

SLOW = {"output_tokens": 20, "delay_s": 0.02}


async def leave_after_the_first_bytes(house: House) -> None:
    async with house.streaming(script=SLOW) as got:
        async for _ in got.aiter_raw():
            break


async def test_the_answer_is_read_to_its_end_for_exact_usage(house: House, upstream: Scripted) -> None:
    await leave_after_the_first_bytes(house)
    await until(lambda: upstream.served[0].outcome == "completed")
    record = await house.record()
    assert (record.outcome, record.estimated) == ("client_gone", False)
    assert record.charge_microcredits == 10 * INPUT + 20 * OUTPUT


async def test_cancel_hangs_up_and_charges_what_was_delivered(open_house: Open, upstream: Scripted) -> None:
    house = await open_house(providers__up={"on_disconnect": "cancel"})
    await leave_after_the_first_bytes(house)
    await until(lambda: upstream.served[0].outcome == "aborted")
    record = await house.record()
    assert (record.outcome, record.estimated) == ("client_gone", True)
    assert upstream.served[0].output_tokens < 20
    assert (
        record.charge_microcredits
        == int(str(record.usage["input_tokens"])) * INPUT + int(str(record.usage["output_tokens"])) * OUTPUT
    )
    assert 1 <= int(str(record.usage["output_tokens"])) <= 2 * upstream.served[0].output_tokens


async def leave_before_the_first_byte(house: House, upstream: Scripted) -> None:
    call = asyncio.create_task(house.call(script={"first_byte_s": 0.3}))
    await until(lambda: bool(upstream.served))
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)


async def test_a_plain_answer_is_read_to_its_end_too(house: House, upstream: Scripted) -> None:
    await leave_before_the_first_byte(house, upstream)
    record = await house.record()
    assert (record.estimated, record.charge_microcredits) == (False, 10 * INPUT + 5 * OUTPUT)


async def test_cancel_hangs_up_before_the_first_byte_too(open_house: Open, upstream: Scripted) -> None:
    house = await open_house(providers__up={"on_disconnect": "cancel"})
    await leave_before_the_first_byte(house, upstream)
    await until(lambda: upstream.served[0].outcome == "aborted")
    record = await house.record()
    assert (record.outcome, record.estimated) == ("client_gone", True)
    assert record.charge_microcredits > 0


async def test_one_who_hangs_up_at_done_has_been_charged(house: House) -> None:
    async with house.streaming() as got:
        async for chunk in got.aiter_raw():
            if b"[DONE]" in chunk:
                assert len(await house.records()) == 1
    await house.settled()


async def test_one_who_leaves_before_the_body_is_read_costs_nothing(house: House, upstream: Scripted) -> None:
    url = httpx.URL(house.url)
    _, writer = await asyncio.open_connection(url.host, url.port)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {house.me.secret}\r\n"
    writer.write(head.encode() + b"content-length: 100\r\n\r\n{")
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    await asyncio.sleep(0.05)
    await house.settled()
    assert upstream.served == []
