from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from faregate.core.call import Principal
from faregate.errors import (
    InsufficientCredits,
    InvalidApiKey,
    InvalidRequest,
    PermissionDenied,
    StoreUnavailable,
)
from tests import parts
from tests.calls import (
    DONE,
    STREAMED,
    USAGE,
    House,
    event,
    opened,
    plain,
    stream,
)


@pytest.fixture(scope="module")
def stores() -> Iterator[tuple[Path, Path]]:
    with parts.stores() as stores:
        yield stores


@pytest.fixture
async def house(stores: tuple[Path, Path], tmp_path: Path) -> AsyncIterator[House]:
    async with opened(stores, tmp_path) as house:
        yield house


# The main path ------------------------------------------------------------------------------------------


async def test_an_answer_passes_as_it_came_with_its_bill(house: House) -> None:
    client = await house.call()
    (body,) = plain().pieces
    assert (client.status, client.body, client.ended) == (200, body, True)
    usage_id = client.headers.pop("x-faregate-usage-id")
    assert usage_id
    assert client.headers == {
        "content-type": "application/json",
        "content-length": str(len(client.body)),
        "x-faregate-provider": "up",
        "x-faregate-model": "up-m",
        "x-faregate-hold-credits": client.headers["x-faregate-hold-credits"],
        "x-faregate-cost-usd": "0.00002",
        "x-faregate-credits-charged": "0.02",
        "x-faregate-credits-remaining": "0.98",
    }
    assert await house.charges() == [20_000]


async def test_the_charge_is_booked_before_the_last_byte_and_the_first_when_there_is_one_body(house: House) -> None:
    await house.call()
    order = [word for word in house.site.log if word in ("commit", "start", "finish")]
    assert order == ["commit", "start", "finish"]


async def test_the_end_of_a_stream_waits_for_the_charge(house: House) -> None:
    house.up.answers = [stream(event("a"), event("b"), USAGE, DONE)]
    client = await house.call(STREAMED)
    order = [word for word in house.site.log if word in ("commit", "start", "finish")]
    assert order == ["start", "commit", "finish"]
    assert client.body == event("a") + event("b") + USAGE + DONE
    assert await house.charges() == [14_000]


async def test_every_event_of_a_stream_starts_the_idle_timer_again_but_comments_do_not(house: House) -> None:
    answer = stream(event("a"), b": keep-alive\n\n", event("b"), USAGE, DONE)
    house.up.answers = [answer]
    await house.call(STREAMED)
    assert (answer.touched, answer.closed) == (4, True)


async def test_while_sql_is_slow_the_bill_has_no_balance(house: House) -> None:
    house.site.book.slow = asyncio.Event()
    client = await house.call()
    assert client.headers["x-faregate-credits-charged"] == "0.02"
    assert not {"x-faregate-credits-remaining", "x-faregate-usage-id"} & set(client.headers)
    house.site.book.slow.set()
    assert await house.charges() == [20_000]


@pytest.mark.parametrize(
    ("stage", "error"), [("allow", PermissionDenied), ("body", InvalidRequest), ("credits", InsufficientCredits)]
)
async def test_what_is_refused_at_the_door_holds_nothing_and_reaches_nobody(
    house: House, stage: str, error: type[Exception]
) -> None:
    def deny(_: Principal) -> None:
        raise PermissionDenied("no")

    if stage == "allow":
        house.allow = deny
    if stage == "credits":
        house.rates = {"up": 1, "down": 10_000}
    with pytest.raises(error):
        await house.call({"stream": 3} if stage == "body" else None)
    assert (house.calls, house.client.started) == ([], False)
    assert await house.charges() == []


# Keys ---------------------------------------------------------------------------------------------------


async def test_a_key_that_redis_knows_otherwise_is_read_again_and_the_call_goes_on(house: House) -> None:
    house.principal = replace(house.principal, key_id="k", rev=6)
    assert (await house.call()).status == 200
    assert (house.refreshes, house.calls) == (1, ["up"])
    assert len(await house.charges()) == 1


async def test_a_key_that_changes_all_the_time_is_refused(house: House) -> None:
    house.principal, house.heals = replace(house.principal, key_id="k", rev=6), False
    with pytest.raises(InvalidApiKey):
        await house.call()
    assert (house.refreshes, house.calls, await house.charges()) == (3, [], [])


async def test_a_key_that_lost_its_scope_meanwhile_is_refused(house: House) -> None:
    seen: list[int] = []

    def allow(principal: Principal) -> None:
        seen.append(principal.rev)
        if principal.rev == 7:
            raise PermissionDenied("no")

    house.principal, house.allow = replace(house.principal, key_id="k", rev=6), allow
    with pytest.raises(PermissionDenied):
        await house.call()
    assert (seen, house.calls) == ([6, 7], [])


# Whatever happens ---------------------------------------------------------------------------------------


async def test_a_reply_that_cannot_be_written_is_charged_all_the_same(house: House) -> None:
    async def broken(status: int, headers: Mapping[str, str]) -> None:
        raise RuntimeError("no wire")

    house.client.start = broken  # type: ignore[method-assign]
    house.up.answers = [stream(event("a"), USAGE, DONE)]
    with pytest.raises(RuntimeError):
        await house.call(STREAMED)
    (charge,) = await house.charges()
    assert charge > 0


async def test_nothing_is_forwarded_without_a_journal(house: House) -> None:
    house.site.journal.fails = frozenset({"forward"})
    with pytest.raises(StoreUnavailable):
        await house.call()
    house.site.journal.fails = frozenset()
    assert (house.calls, await house.charges()) == ([], [])
