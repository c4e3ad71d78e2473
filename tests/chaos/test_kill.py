"""`kill -9` of the whole gateway, of a worker, of the parent, of Valkey; SIGTERM; all under load."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from tests.chaos.load import Load
from tests.chaos.verify import connect
from tests.chaos.world import World

pytestmark = pytest.mark.xdist_group("chaos")


async def test_kill_of_everything_three_times_loses_and_doubles_nothing(world: World) -> None:
    await world.start()
    async with Load(world.gateway.port) as load:
        for _ in range(3):
            before = load.whole
            await asyncio.sleep(1.0)
            assert load.whole > before
            world.gateway.kill()
            await asyncio.to_thread(world.gateway.start)
        await asyncio.sleep(0.5)
    assert load.whole > 100
    assert await world.findings(load.answers) == []


async def test_kill_of_gateway_and_valkey_together(world: World) -> None:
    world.gateway.workers = 2
    await world.start()
    async with Load(world.gateway.port) as load:
        await asyncio.sleep(1.0)
        valkey = world.gateway.valkey_pid()
        world.gateway.kill()
        os.kill(valkey, signal.SIGKILL)
        await asyncio.to_thread(world.gateway.start)
        await asyncio.sleep(2.0)
    assert await world.findings(load.answers) == []


async def test_kill_of_one_worker_is_mended_by_its_sibling(world: World) -> None:
    world.gateway.workers = 2
    await world.start()
    async with Load(world.gateway.port) as load:
        for turn in range(3):
            await asyncio.sleep(0.8)
            os.kill(world.gateway.worker_pids()[turn % 2], signal.SIGKILL)
        await asyncio.sleep(1.0)
    assert load.whole > 100
    assert await world.findings(load.answers) == []


async def test_kill_of_the_parent_frees_the_port_and_the_next_start_adopts_valkey(world: World) -> None:
    await world.start()
    valkey = world.gateway.valkey_pid()
    async with Load(world.gateway.port) as load:
        await asyncio.sleep(0.8)
        world.gateway.kill_parent()
        await asyncio.to_thread(world.gateway.start)
        assert world.gateway.valkey_pid() == valkey
        await asyncio.sleep(0.8)
    assert load.whole > 100
    assert await world.findings(load.answers) == []


async def test_kill_of_valkey_under_load(world: World) -> None:
    await world.start()
    async with Load(world.gateway.port) as load:
        for _ in range(2):
            await asyncio.sleep(1.0)
            os.kill(world.gateway.valkey_pid(), signal.SIGKILL)
            await asyncio.sleep(1.0)
        before = load.whole
        await asyncio.sleep(2.5)
        assert load.whole > before
    assert await world.findings(load.answers) == []


async def test_flushall_under_load(world: World) -> None:
    await world.start()
    async with Load(world.gateway.port) as load:
        for _ in range(3):
            await asyncio.sleep(0.7)
            with connect(world.gateway.data_dir) as client:
                client.flushall()
        await asyncio.sleep(2.5)
    assert load.whole > 100
    assert await world.findings(load.answers) == []


async def test_sigterm_under_load_completes_what_is_in_flight_and_leaves_an_empty_journal(world: World) -> None:
    world.gateway.workers = 2
    await world.start()
    async with Load(world.gateway.port) as load:
        await asyncio.sleep(1.0)
        world.gateway.terminate()
        await load.stop()
    assert await asyncio.to_thread(world.gateway.wait) == 0
    broken = [answer for answer in load.answers.values() if answer.status and not answer.complete]
    assert broken == []
    assert world.findings_now(load.answers, running=False) == []


async def test_a_call_that_sits_out_the_whole_grace_is_served(world: World) -> None:
    await world.start()
    async with Load(world.gateway.port, connections=4, calls=4, name="before") as before:
        await before.done()
    await world.rest()
    with connect(world.gateway.data_dir) as client:
        client.flushall()
    async with Load(world.gateway.port, connections=4, calls=4) as load:
        await load.done()
    assert load.statuses() == {200: 4}
    assert await world.findings(before.answers | load.answers) == []
