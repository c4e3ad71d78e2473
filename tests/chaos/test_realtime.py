"""A realtime session in whose middle the gateway is stopped, or killed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from faregate.ledger.audit import audit
from faregate.ledger.book import SqlBook
from faregate.ledger.database import Database
from tests.chaos.load import ADMIN_KEY
from tests.chaos.test_background import booked
from tests.chaos.verify import INPUT_MICROCREDITS, OUTPUT_MICROCREDITS, open_in_journals, open_in_redis
from tests.chaos.world import ACCOUNT, Gateway
from tests.story.house import eventually
from tests.upstreams.talker import Talker

pytestmark = pytest.mark.xdist_group("chaos")


@pytest.fixture
async def talker() -> AsyncIterator[Talker]:
    async with Talker(hang=True) as talker:
        yield talker


@pytest.fixture
async def gateway(talker: Talker, tmp_path: Path) -> AsyncIterator[Gateway]:
    gateway = Gateway(tmp_path, talker.url)
    await asyncio.to_thread(gateway.start)
    database = Database(f"sqlite:///{gateway.data_dir}/faregate.db")
    await SqlBook(database).add_credits(ACCOUNT, 10**9)
    await database.close()
    yield gateway
    await asyncio.to_thread(gateway.end)


async def begin(gateway: Gateway) -> ClientConnection:
    """A session in the middle of a response."""
    url = f"ws://127.0.0.1:{gateway.port}/v1/realtime?model=m"
    socket = await connect(url, additional_headers={"authorization": f"Bearer {ADMIN_KEY}"})
    await socket.send('{"type": "response.create"}')
    while json.loads(await socket.recv())["type"] != "response.output_text.delta":
        pass
    return socket


async def at_rest(gateway: Gateway) -> bool:
    return not open_in_journals(gateway.data_dir) and not open_in_redis(gateway.data_dir)


async def test_a_stop_cancels_it_and_charges_what_it_cost(gateway: Gateway) -> None:
    socket = await begin(gateway)
    assert await asyncio.to_thread(gateway.stop) == 0
    assert booked(gateway) == [("actual", 10 * INPUT_MICROCREDITS + OUTPUT_MICROCREDITS)]
    assert await asyncio.to_thread(audit, f"sqlite:///{gateway.data_dir}/faregate.db") == []
    await socket.close()


async def test_a_kill_ends_it_unconfirmed(gateway: Gateway) -> None:
    socket = await begin(gateway)
    await asyncio.sleep(2 * gateway.heartbeat_s)
    gateway.kill()
    await asyncio.to_thread(gateway.start)
    await eventually(lambda: at_rest(gateway))
    ((kind, charge),) = booked(gateway)
    assert kind == "unconfirmed"
    assert charge >= 3 * OUTPUT_MICROCREDITS
    assert await asyncio.to_thread(audit, f"sqlite:///{gateway.data_dir}/faregate.db") == []
    with suppress(ConnectionClosed):
        await socket.close()
