"""Bounded waits, and who is asked while a store does not answer."""

from __future__ import annotations

import asyncio
import time

import pytest

from faregate.clock import SystemClock
from faregate.errors import BookUnavailable, NotFound, StoreUnavailable, StoreUnreached
from faregate.guard import Guard, book_guard, redis_guard


async def never() -> None:
    await asyncio.sleep(60)


async def at_once() -> str:
    return "here"


async def fails() -> None:
    raise StoreUnavailable("away")


async def tripped(guard: Guard) -> None:
    for _ in range(5):
        with pytest.raises(StoreUnavailable):
            await guard.run(fails)
    assert not guard.closed


async def test_a_wait_has_an_end() -> None:
    guard = book_guard(SystemClock(), 0.02, "too slow")
    with pytest.raises(BookUnavailable, match="too slow"):
        await guard.run(never)


async def test_an_open_circuit_refuses_at_once_and_asks_nobody() -> None:
    guard = book_guard(SystemClock(), 60, "away")
    await tripped(guard)
    began = time.monotonic()
    with pytest.raises(BookUnavailable) as caught:
        await guard.run(never)
    assert caught.value.retry_after_s == 1
    assert time.monotonic() - began < 0.02


async def test_it_closes_by_itself_when_answers_come() -> None:
    guard = book_guard(SystemClock(), 1, "away")
    await tripped(guard)
    await asyncio.sleep(0.08)
    assert [await guard.run(at_once) for _ in range(33)] == ["here"] * 33
    assert guard.closed


async def test_what_is_not_there_is_an_answer() -> None:
    guard = book_guard(SystemClock(), 1, "away")

    async def missing() -> None:
        raise NotFound("no such account")

    for _ in range(20):
        with pytest.raises(NotFound):
            await guard.run(missing)
    assert guard.closed


async def test_a_probe_that_fails_sends_no_work() -> None:
    guard = redis_guard(SystemClock(), fails)
    await tripped(guard)
    await asyncio.sleep(0.08)
    with pytest.raises(StoreUnreached):
        await guard.run(at_once)


async def test_a_caller_who_leaves_gives_his_place_back() -> None:
    guard = book_guard(SystemClock(), 60, "away")
    await tripped(guard)
    await asyncio.sleep(0.08)
    probe = asyncio.create_task(guard.run(never))
    await asyncio.sleep(0.01)
    probe.cancel()
    await asyncio.gather(probe, return_exceptions=True)
    assert await guard.run(at_once) == "here"
