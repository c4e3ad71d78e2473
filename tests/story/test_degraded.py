"""Every degraded mode of the design's table: it is seen in /health/ready and in the metrics, and it passes."""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections import Counter
from collections.abc import AsyncIterator

import httpx
import pytest
from sqlalchemy import make_url

from faregate.core.call import Hold, Snapshot
from faregate.credits import gate
from faregate.credits.embedded import socket_path
from faregate.gateway import endpoint
from tests import postgres
from tests.shim import Shim
from tests.story.conftest import Open
from tests.story.house import House, eventually
from tests.story.test_stores_away import FARE, WHOLE, begun, frozen, served


async def mode(house: House, name: str) -> int:
    """As /health/ready says it; the metric says the same."""
    shown = house.runtime.modes()[name]
    text = (await house.http.get("/metrics")).text
    found = re.search(rf'^faregate_degraded{{mode="{name}"}} (\S+)$', text, re.MULTILINE)
    assert found is not None
    assert float(found[1]) == shown
    return shown


async def ready(house: House) -> httpx.Response:
    """Not the answer it remembers."""
    await asyncio.sleep(0.51)
    return await house.http.get("/health/ready")


async def storm(house: House, calls: int) -> Counter[int]:
    """Calls at the same moment, by their statuses."""
    return Counter([got.status_code for got in await asyncio.gather(*(house.call() for _ in range(calls)))])


# Single calls -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "stream", "name"),
    [
        ("bad-request", False, "upstream_failed"),
        ("broken", False, "upstream_failed"),
        ("reset", False, "upstream_failed"),
        ("reset-mid", True, "upstream_cut"),
        ("no-usage", False, "usage_missing"),
        ("overrun", False, "overrun"),
    ],
)
async def test_what_a_provider_does_is_counted(house: House, model: str, stream: bool, name: str) -> None:
    try:
        await house.call(f"up/{model}", stream=stream)
    except httpx.RemoteProtocolError:
        assert stream
    await house.settled()
    assert await mode(house, name) == 1
    got = await ready(house)
    assert (got.json()["status"], got.json()["modes"][name]) == ("ok", 1)


async def test_a_client_that_leaves_is_counted(house: House) -> None:
    async with house.streaming("up/slow") as got:
        await anext(got.aiter_raw())
    await house.settled()
    assert await mode(house, "client_left") == 1


# Redis --------------------------------------------------------------------------------------------------


@pytest.fixture
async def line(open_house: Open) -> AsyncIterator[tuple[House, Shim]]:
    """A house that speaks with Redis through a line of the test's."""
    first = await open_house(own_valkey=True)
    async with Shim(socket_path(first.valkey._data_dir)) as shim:
        yield await open_house(redis_url=f"redis://127.0.0.1:{shim.port}/0"), shim


async def test_a_mute_redis_holds_nobody_up(line: tuple[House, Shim]) -> None:
    house, shim = line
    assert (await house.call()).status_code == 200
    shim.mute()
    began = time.monotonic()
    assert await storm(house, 40) == {503: 40}
    assert time.monotonic() - began < 3, "each has waited for 250 ms, and none for those before it"
    assert await mode(house, "redis_refuses") == 1
    pieces = shim.pieces
    assert await storm(house, 60) == {503: 60}
    assert shim.pieces - pieces < 20, "an open circuit asks no more than a probe now and then"
    got = await ready(house)
    assert (got.status_code, got.json()["status"]) == (503, "unavailable")
    shim.talk()
    await served(house)
    await house.settled()
    assert len([one for one in await house.records() if one.outcome == "ok"]) == 2


async def test_a_refusal_says_when_to_come_back(line: tuple[House, Shim]) -> None:
    house, shim = line
    shim.mute()
    await storm(house, 10)
    got = await house.call()
    assert (got.status_code, got.json()["error"]["code"]) == (503, "store_unavailable")
    assert got.headers["retry-after"] == "1"


async def test_a_slow_redis_is_as_good_as_none(line: tuple[House, Shim]) -> None:
    house, shim = line
    assert (await house.call()).status_code == 200
    shim.delay_s = 0.4
    assert await storm(house, 20) == {503: 20}
    assert house.runtime.gate.refusing == 1
    assert len(house.upstream.served) == 1
    shim.delay_s = 0.0
    await served(house)
    await house.settled()
    assert await house.balance() == WHOLE - 2 * FARE


async def test_closes_that_redis_has_not_heard_of_go_out_a_few_at_a_time(
    line: tuple[House, Shim], monkeypatch: pytest.MonkeyPatch
) -> None:
    house, shim = line
    calls = [asyncio.create_task(house.call(script={"first_byte_s": 0.5})) for _ in range(150)]
    await eventually(lambda: _served(house, 150))
    shim.cut()
    shim.mute()
    await asyncio.gather(*calls)
    assert await eventually(lambda: mode(house, "redis_late")) > 0
    at_once = 0
    settle = house.runtime.gate.settle
    running = 0

    async def counted(hold: Hold | None, snapshot: Snapshot, bucket: int) -> None:
        nonlocal at_once, running
        running += 1
        at_once = max(at_once, running)
        try:
            await settle(hold, snapshot, bucket)
        finally:
            running -= 1

    monkeypatch.setattr(house.runtime.gate, "settle", counted)
    shim.cut()
    shim.talk()
    await house.settled()
    assert 0 < at_once <= 64
    assert await mode(house, "redis_late") == 0


async def _served(house: House, count: int) -> bool:
    return len(house.upstream.served) >= count


async def test_calls_that_wait_for_a_fresh_gate_are_seen(open_house: Open) -> None:
    house = await open_house(own_valkey=True)
    assert (await house.call()).status_code == 200
    house.valkey.stop()
    house.valkey.start()
    call = asyncio.create_task(served(house))
    assert await eventually(lambda: mode(house, "redis_grace")) == 1
    await call
    assert await mode(house, "redis_grace") == 0


async def test_a_frozen_valkey_opens_the_circuit_and_a_thawed_one_closes_it(open_house: Open) -> None:
    house = await open_house(own_valkey=True)
    with frozen(house):
        await storm(house, 20)
        assert house.runtime.gate.refusing == 1
    for _ in range(40):
        await served(house)
    assert house.runtime.gate.refusing == 0
    await house.settled()


# SQL ----------------------------------------------------------------------------------------------------


async def test_records_that_wait_for_the_book_are_seen(open_house: Open) -> None:
    house = await open_house(credits__settle_wait_ms=50)
    await house.call()
    with house.locked_book():
        assert (await house.call()).status_code == 200
        assert house.runtime.owner.open_holds == 1
    await house.settled()


@pytest.fixture
async def slow_book(open_house: Open, cluster: postgres.Cluster) -> AsyncIterator[tuple[House, Shim]]:
    """A house whose PostgreSQL is at the end of a line of the test's."""
    with cluster.database() as url:
        name = make_url(url).database
        async with Shim(cluster.folder / ".s.PGSQL.5432") as shim:
            at = f"postgresql://{postgres.USER}@127.0.0.1:{shim.port}/{name}"
            house = await open_house(database_url=at, credits__settle_wait_ms=100)
            yield house, shim
            shim.talk()
            await house.settled()


async def test_known_keys_go_on_while_the_book_is_mute(slow_book: tuple[House, Shim]) -> None:
    house, shim = slow_book
    assert (await house.call()).status_code == 200
    entry = next(iter(house.runtime.keys._known._items.values()))
    shim.mute()
    entry.ask_at = 0.0  # As after a minute: the key is to be read again.
    began = time.monotonic()
    assert await storm(house, 20) == {200: 20}
    assert time.monotonic() - began < 2
    assert (await ready(house)).json()["status"] == "degraded"


async def test_unknown_keys_are_refused_in_time_and_then_at_once(slow_book: tuple[House, Shim]) -> None:
    house, shim = slow_book
    strangers = [await house.caller() for _ in range(8)]
    assert (await house.call()).status_code == 200
    shim.mute()
    began = time.monotonic()
    got = await asyncio.gather(*(house.call(by=one) for one in strangers))
    assert {one.status_code for one in got} == {503}
    assert time.monotonic() - began < 4
    assert await mode(house, "sql_reads") >= 1
    began = time.monotonic()
    asked = [asyncio.create_task(house.call(by=one)) for one in strangers]
    assert (await house.call()).status_code == 200, "a key that is known does not wait for it"
    done, probing = await asyncio.wait(asked, timeout=began + 1 - time.monotonic())
    assert {one.result().status_code for one in done} == {503}
    assert len(probing) <= 1, "one asks, the others are refused at once"
    await asyncio.gather(*probing)


async def test_charges_wait_on_the_journal_while_the_book_is_mute(slow_book: tuple[House, Shim]) -> None:
    house, shim = slow_book
    assert (await house.call()).status_code == 200
    shim.cut()
    shim.mute()
    assert (await storm(house, 10))[200] == 10
    shim.talk()
    await house.settled()
    assert await house.balance() == WHOLE - 11 * FARE


# The rest -----------------------------------------------------------------------------------------------


async def test_a_swept_hold_is_counted(house: House) -> None:
    call = await begun(house, first_byte_s=2.5)
    house.runtime.owner._live.clear()
    await eventually(house.records)
    assert await mode(house, "holds_swept") == 1
    await call
    await house.settled()


async def test_a_hold_that_redis_lost_is_counted(house: House) -> None:
    call = await begun(house, first_byte_s=0.8)
    await house.runtime.pipe.command(("FLUSHALL",), 2.0)
    await call
    assert await mode(house, "holds_put_back") == 1
    await house.settled()


async def test_a_full_journal_is_seen_and_lets_nobody_in(open_house: Open) -> None:
    house = await open_house(credits__settle_wait_ms=20)
    journal = house.runtime.journal
    journal._max_bytes, journal._segment_bytes = 40_000, 10_000
    await house.call()
    with house.locked_book():
        for _ in range(50):
            if (got := await house.call()).status_code == 503:
                break
        assert await mode(house, "journal_full") == 1
        assert (await ready(house)).json()["checks"]["journal"] == "down"
        assert got.status_code == 503
    await house.settled()
    assert (await house.call()).status_code == 200


async def test_a_full_disk_lets_nobody_in_and_room_lets_them_in_again(house: House) -> None:
    assert (await house.call()).status_code == 200
    segment = house.runtime.journal._active
    real, segment.fd = segment.fd, os.open("/dev/full", os.O_WRONLY)
    got = await house.call()
    assert (got.status_code, got.json()["error"]["code"]) == (503, "store_unavailable")
    assert len(house.upstream.served) == 1, "nothing is forwarded that cannot be journaled"
    os.close(segment.fd)
    segment.fd = real
    assert (await house.call()).status_code == 200
    await house.settled()
    assert await house.balance() == WHOLE - 2 * FARE


async def test_calls_beyond_the_bound_are_refused_and_the_others_are_answered(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoint, "MOST_CALLS", 4)
    calls = [asyncio.create_task(house.call(script={"first_byte_s": 0.5})) for _ in range(4)]
    await eventually(lambda: _served(house, 4))
    got = await house.call()
    assert (got.status_code, got.headers["retry-after"]) == (503, "1")
    assert {call.status_code for call in await asyncio.gather(*calls)} == {200}
    assert (await house.call()).status_code == 200
    await house.settled()


async def test_calls_beyond_the_bound_do_not_wait_for_a_fresh_gate(
    open_house: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "_IN_GRACE_MOST", 3)
    house = await open_house(own_valkey=True)
    assert (await house.call()).status_code == 200
    await house.runtime.pipe.command(("FLUSHALL",), 2.0)
    got = await storm(house, 10)
    assert (got[200], got[503]) == (3, 7)
    await house.settled()
