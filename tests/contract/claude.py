"""Houses whose `up` is a scripted Claude, for the tests with Anthropic's SDK and with OpenAI's in front of it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.story.conftest import Open
from tests.story.house import House
from tests.upstreams.claude import Claude

KEY = "sk-ant-operators-own-0123456789"
MODEL = "up/claude-sonnet-4-5"

PRICES = """
- provider: up
  model: "*"
  per_million: {input: 3, cached_input: 0.30, cache_write_5m: 3.75, cache_write_1h: 6, output: 15}
  max_output_tokens: 8192
"""


@pytest.fixture
async def claude() -> AsyncIterator[Claude]:
    """The upstream."""
    async with Claude() as server:
        yield server


@pytest.fixture
async def house(open_house: Open, claude: Claude) -> House:
    """A house in front of it, at the list prices of Sonnet."""
    up = {"kind": "anthropic", "base_url": claude.url, "api_key": KEY}
    return await open_house(providers__up=up, prices=PRICES)
