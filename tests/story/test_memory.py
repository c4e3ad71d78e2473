"""A stream is never kept whole: memory does not grow with its length."""

from __future__ import annotations

import tracemalloc

from tests.story.conftest import Open
from tests.story.house import INPUT, OUTPUT
from tests.story.raw import RawUpstream

EVENT = b'data: {"id":"c","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":"' + b"word " * 20
PIECE = (EVENT + b'"}}]}\n\n') * 300
PIECES = 50_000_000 // len(PIECE)
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":10,"completion_tokens":5}}\n\n'
MOST = 6_000_000
"""Bytes: read-ahead, one chunk on each of the three connections and their buffers."""


async def test_50_megabytes_pass_in_a_few(open_house: Open) -> None:
    async with RawUpstream([PIECE] * PIECES + [USAGE, b"data: [DONE]\n\n"]) as raw:
        house = await open_house(providers__up={"base_url": raw.url})
        received = 0
        tracemalloc.start()
        try:
            async with house.streaming() as got:
                async for chunk in got.aiter_raw():
                    received += len(chunk)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert received == len(PIECE) * PIECES + len(b"data: [DONE]\n\n")
    assert peak < MOST
    assert (await house.record()).charge_microcredits == 10 * INPUT + 5 * OUTPUT
