"""Houses for stories: one Valkey for the session, emptied for each test; a fresh book and journal for each.

Every story can be told on both databases: see tests/conftest.py for which are.
"""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from faregate.credits.embedded import EmbeddedValkey
from faregate.credits.embedded import url as redis_url
from faregate.credits.pipe import Pipe
from tests.story import house as houses
from tests.story.house import House
from tests.upstreams.keeper import Keeper
from tests.upstreams.scripted import Scripted

Open = Callable[..., Awaitable[House]]


@pytest.fixture(scope="session")
def story_valkey() -> Iterator[Path]:
    """The data directory of the session's Valkey."""
    with tempfile.TemporaryDirectory(prefix="fg") as folder:
        server = EmbeddedValkey(Path(folder))
        server.start()
        yield Path(folder)
        server.stop()


@pytest.fixture
async def upstream() -> AsyncIterator[Scripted]:
    async with Scripted() as upstream:
        yield upstream


@pytest.fixture
async def open_house(story_valkey: Path, url: str, upstream: Scripted, tmp_path: Path) -> AsyncIterator[Open]:
    """Opens a house: settings by dotted key; `own_valkey` for one that may be killed."""
    pipe = Pipe(redis_url(story_valkey))
    await pipe.command(("FLUSHALL",), 5.0)
    await pipe.close()
    async with AsyncExitStack() as stack:

        async def open_one(own_valkey: bool = False, **changes: object) -> House:
            folder = story_valkey
            if own_valkey:
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fg")))
            valkey = EmbeddedValkey(folder)
            if own_valkey:
                valkey.start()
                stack.callback(valkey.stop)
            settings = {name.replace("__", "."): value for name, value in changes.items()}
            opened = houses.opened(tmp_path, url, valkey, upstream, redis_url(folder), settings)
            return await stack.enter_async_context(opened)

        yield open_one


@pytest.fixture
async def house(open_house: Open) -> House:
    """A house with the usual settings."""
    return await open_house()


@pytest.fixture
async def keeper() -> AsyncIterator[Keeper]:
    async with Keeper() as keeper:
        yield keeper


@pytest.fixture
async def kept(open_house: Open, keeper: Keeper) -> House:
    """A house whose `up` keeps responses."""
    return await open_house(**{"providers.up": {"base_url": keeper.url}})
