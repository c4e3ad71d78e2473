from __future__ import annotations

import asyncio
import gc

import pytest

from faregate.auth.flights import Flights


class Source:
    """Counts its reads; each waits for the gate and answers with its own number."""

    def __init__(self) -> None:
        self.reads = 0
        self.gate = asyncio.Event()

    async def read(self, name: str) -> str:
        self.reads += 1
        number = self.reads
        await self.gate.wait()
        if name == "bad":
            raise LookupError(name)
        return f"{name}{number}"


async def test_callers_at_once_share_one_read() -> None:
    source = Source()
    flights = Flights(source.read)
    callers = [asyncio.create_task(flights.join("a")) for _ in range(20)]
    await asyncio.sleep(0)
    source.gate.set()
    assert set(await asyncio.gather(*callers)) == {"a1"}


async def test_names_do_not_share() -> None:
    source = Source()
    source.gate.set()
    flights = Flights(source.read)
    assert list(await asyncio.gather(flights.join("a"), flights.join("b"))) == ["a1", "b2"]


async def test_a_landed_read_is_not_used_again() -> None:
    source = Source()
    source.gate.set()
    flights = Flights(source.read)
    assert [await flights.join("a"), await flights.join("a")] == ["a1", "a2"]


async def test_fresh_waits_for_a_read_begun_later_and_shares_it() -> None:
    source = Source()
    flights = Flights(source.read)
    old = asyncio.create_task(flights.join("a"))
    await asyncio.sleep(0)
    fresh = [asyncio.create_task(flights.fresh("a")) for _ in range(5)]
    await asyncio.sleep(0)
    source.gate.set()
    assert await old == "a1"
    assert set(await asyncio.gather(*fresh)) == {"a2"}


async def test_one_caller_leaving_does_not_cancel_the_others() -> None:
    source = Source()
    flights = Flights(source.read)
    first, second = (asyncio.create_task(flights.join("a")) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    source.gate.set()
    assert await second == "a1"
    assert first.cancelled()


async def test_a_failure_reaches_every_caller_and_the_next_read_is_new() -> None:
    source = Source()
    source.gate.set()
    flights = Flights(source.read)
    results = await asyncio.gather(flights.join("bad"), flights.join("bad"), return_exceptions=True)
    assert [type(result) for result in results] == [LookupError, LookupError]
    with pytest.raises(LookupError):
        await flights.fresh("bad")
    assert source.reads == 2


async def test_a_failure_nobody_waits_for_is_quiet() -> None:
    source = Source()
    flights = Flights(source.read)
    caller = asyncio.create_task(flights.join("bad"))
    await asyncio.sleep(0)
    caller.cancel()
    source.gate.set()
    await asyncio.sleep(0.01)
    gc.collect()
    assert caller.cancelled()
