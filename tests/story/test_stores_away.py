"""Redis or SQL is away, slow, or has lost everything."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest

from tests.story.conftest import Open
from tests.story.house import HEARTBEAT_S, INPUT, OUTPUT, House, eventually, until
from tests.upstreams.scripted import Scripted

WHOLE = 1_000_000_000
FARE = 10 * INPUT + 5 * OUTPUT


@contextmanager
def frozen(house: House) -> Iterator[None]:
    """The house's own Valkey takes commands and answers none."""
    process = house.valkey._process
    assert process is not None
    os.kill(process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(process.pid, signal.SIGCONT)


async def begun(house: House, **script: object) -> asyncio.Task[httpx.Response]:
    """A call that the upstream has received and will answer in a moment."""
    call = asyncio.create_task(house.call(script={"first_byte_s": 0.3, **script}))
    await until(lambda: bool(house.upstream.served))
    return call


@pytest.fixture
async def brisk(open_house: Open) -> House:
    """A house that does not wait long for SQL."""
    return await open_house(credits__settle_wait_ms=100)


async def served(house: House) -> httpx.Response:
    """A call that succeeds, as soon as Redis has been found again."""

    async def call() -> httpx.Response | None:
        got = await house.call()
        return got if got.status_code == 200 else None

    got = await eventually(call)
    assert got is not None
    return got


# Redis --------------------------------------------------------------------------------------------------


async def test_without_redis_nothing_is_forwarded(open_house: Open, upstream: Scripted) -> None:
    house = await open_house(own_valkey=True)
    house.valkey.stop()
    got = await house.call()
    assert (got.status_code, got.json()["error"]["code"]) == (503, "store_unavailable")
    assert upstream.served == []
    house.valkey.start()
    await served(house)
    await house.settled()


async def test_a_reserve_that_was_applied_unheard_is_released(open_house: Open, upstream: Scripted) -> None:
    house = await open_house(own_valkey=True)
    assert (await house.call()).status_code == 200
    with frozen(house):
        got = await house.call()
        assert (got.status_code, got.json()["error"]["code"]) == (503, "store_unavailable")
        assert len(upstream.served) == 1
    await house.settled()
    assert await house.balance() == WHOLE - FARE


async def test_redis_dies_between_hold_and_settle_and_the_answer_completes(open_house: Open) -> None:
    house = await open_house(own_valkey=True, credits__settle_wait_ms=300)
    call = await begun(house)
    house.valkey.stop()
    got = await call
    assert (got.status_code, await house.balance()) == (200, WHOLE - FARE)
    assert house.runtime.owner.open_holds == 1
    house.valkey.start()
    assert (await house.record()).charge_microcredits == FARE


async def test_a_call_of_a_known_account_after_a_restart_waits_for_the_owners(open_house: Open) -> None:
    house = await open_house(own_valkey=True)
    assert (await house.call()).status_code == 200
    house.valkey.stop()
    house.valkey.start()
    begun_at = time.monotonic()
    await served(house)
    assert time.monotonic() - begun_at > HEARTBEAT_S
    await house.settled()


async def test_a_flush_in_mid_call_is_answered_by_putting_the_hold_back(house: House) -> None:
    call = await begun(house, first_byte_s=0.8)
    (before,) = await house.holds()
    await house.runtime.pipe.command(("FLUSHALL",), 2.0)
    (after,) = await eventually(house.holds)
    assert (after.hold.id, after.hold.microcredits) == (before.hold.id, before.hold.microcredits)
    assert (await call).status_code == 200
    assert (await house.record()).charge_microcredits == FARE


async def test_a_flush_while_nothing_is_open_loses_no_credit(house: House) -> None:
    await house.call()
    await house.runtime.pipe.command(("FLUSHALL",), 2.0)
    got = await house.call()
    assert got.status_code == 200, got.text
    assert got.headers["x-faregate-credits-remaining"] == "999.96"
    await house.settled()


async def test_a_hold_whose_owner_is_gone_is_swept_and_a_late_truth_adjusts_it(house: House) -> None:
    call = await begun(house, first_byte_s=2.5)
    house.runtime.owner._live.clear()  # Its heartbeats stop, as if the process were cut off.
    (swept,) = await eventually(house.records)
    assert (swept.kind, swept.estimated) == ("unconfirmed", True)
    await call
    await until(lambda: not house.runtime.owner._ends)
    records = await house.records()
    assert sorted(record.kind for record in records) == ["adjustment", "unconfirmed"]
    assert await house.balance() == WHOLE - FARE
    await house.settled()


# SQL ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
async def test_a_slow_book_does_not_keep_the_answer(brisk: House, stream: bool) -> None:
    await brisk.call()
    with brisk.locked_book():
        began = time.monotonic()
        got = await brisk.call(stream=stream)
        assert 0.09 < time.monotonic() - began < 2
        assert got.status_code == 200
        assert got.text.endswith("data: [DONE]\n\n") is stream
        assert (await brisk.balance(), brisk.runtime.journal.open_holds) == (WHOLE - FARE, 1)
    await brisk.settled()
    assert [record.charge_microcredits for record in await brisk.records()] == [FARE, FARE]


async def test_new_calls_go_on_while_the_book_is_away(brisk: House) -> None:
    await brisk.call()
    with brisk.locked_book():
        for _ in range(3):
            assert (await brisk.call()).status_code == 200
        assert int((await brisk.redis())["held"]) >= 3 * FARE
    await brisk.settled()
    assert await brisk.balance() == WHOLE - 4 * FARE


async def test_a_plain_answer_on_the_journal_names_its_charge_but_no_balance(brisk: House) -> None:
    await brisk.call()
    with brisk.locked_book():
        got = await brisk.call()
    assert got.headers["x-faregate-credits-charged"] == "0.02"
    assert "x-faregate-credits-remaining" not in got.headers
    await brisk.settled()
