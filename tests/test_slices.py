"""Many at once, but never more than a slice."""

from __future__ import annotations

import asyncio

import pytest

from faregate.slices import SLICE, in_slices


async def test_answers_come_in_order_and_no_more_than_a_slice_is_under_way() -> None:
    under_way, most = 0, 0

    async def act(item: int) -> int:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0)
        under_way -= 1
        return -item

    items = list(range(2 * SLICE + 5))
    assert await in_slices(items, act) == [-item for item in items]
    assert most == SLICE


async def test_what_one_raises_is_raised() -> None:
    async def act(item: int) -> int:
        return 1 // item

    with pytest.raises(ZeroDivisionError):
        await in_slices([1, 0], act)
