"""Many calls of one kind at once, but not more than a connection takes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

SLICE = 1_000


async def in_slices(items: Sequence[T], act: Callable[[T], Awaitable[R]]) -> list[R]:
    """`act` on each item, a slice of them at a time; answers in order. What one raises is raised."""
    answers: list[R] = []
    for start in range(0, len(items), SLICE):
        answers += await asyncio.gather(*(act(item) for item in items[start : start + SLICE]))
    return answers
