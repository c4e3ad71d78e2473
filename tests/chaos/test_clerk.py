"""The clerk, which writes the book for all workers, is killed and frozen under load."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from tests.chaos.load import Load
from tests.chaos.world import World

pytestmark = pytest.mark.xdist_group("chaos")


async def test_a_clerk_killed_three_times_under_load_loses_and_doubles_nothing(world: World) -> None:
    world.gateway.workers = 2
    await world.start()
    async with Load(world.gateway.port) as load:
        for _ in range(3):
            await asyncio.sleep(0.6)
            os.kill(world.gateway.clerk_pid(), signal.SIGKILL)
            await asyncio.sleep(1.6)
        before = load.whole
        await asyncio.sleep(1.0)
        assert load.whole > before
    assert set(load.statuses()) == {200}
    assert await world.findings(load.answers) == []


async def test_answers_go_on_while_the_clerk_is_frozen(world: World) -> None:
    await world.start()
    async with Load(world.gateway.port) as load:
        await asyncio.sleep(0.6)
        clerk = world.gateway.clerk_pid()
        os.kill(clerk, signal.SIGSTOP)
        before = load.whole
        await asyncio.sleep(2.5)
        assert load.whole > before + 10
        os.kill(clerk, signal.SIGCONT)
        await asyncio.sleep(0.5)
    assert set(load.statuses()) == {200}
    assert await world.findings(load.answers) == []


async def test_a_gateway_that_is_told_to_stop_leaves_no_clerk_behind(world: World) -> None:
    await world.start()
    async with Load(world.gateway.port) as load:
        await asyncio.sleep(0.6)
        clerk = world.gateway.clerk_pid()
        world.gateway.terminate()
        assert await asyncio.to_thread(world.gateway.wait) == 0
        with pytest.raises(ProcessLookupError):
            os.kill(clerk, 0)
    assert world.findings_now(load.answers, running=False) == []
