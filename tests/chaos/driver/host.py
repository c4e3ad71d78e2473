"""One machine with a gateway on it, and what can happen to it in any setting."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field

import psutil

from tests.chaos.driver.clock import SteppedClock
from tests.chaos.driver.disk import SmallDisk
from tests.chaos.driver.plan import Fault, Mark
from tests.chaos.driver.shim import Shim
from tests.chaos.world import Gateway

_REVIVE_S = 60.0
_PROCESS: frozenset[Mark] = frozenset({"process"})
_UPSTREAM: frozenset[Mark] = frozenset({"upstream"})
_CLOCK_MOST_S = 10


@dataclass(slots=True)
class Host:
    """`upstream` is the shim on its way to the provider. A part that could not be had here is None."""

    name: str
    gateway: Gateway
    upstream: Shim
    long_s: float
    """How long what goes on for a while goes on: longer than a hold deadline."""
    address: str = "127.0.0.1"
    clock: SteppedClock | None = None
    disk: SmallDisk | None = None
    _starting: asyncio.Lock = field(default_factory=asyncio.Lock)

    # What is done to it ---------------------------------------------------------------------------------

    async def revive(self) -> None:
        """As a service manager does: start it until it stays."""
        async with self._starting:
            deadline = time.monotonic() + _REVIVE_S
            while True:
                try:
                    return await asyncio.to_thread(self.gateway.start, 30.0)
                except AssertionError:
                    if time.monotonic() > deadline:
                        raise
                    await asyncio.sleep(0.5)

    async def kill(self) -> None:
        await asyncio.to_thread(self.gateway.kill)

    async def freeze(self, pids: list[int]) -> None:
        """SIGSTOP, and SIGCONT when it has lasted."""
        for pid in pids:
            _signal(pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(self.long_s)
        finally:
            for pid in pids:
                _signal(pid, signal.SIGCONT)

    async def _kill_all(self, dice: random.Random) -> str:
        await self.kill()
        await asyncio.sleep(dice.uniform(0, 0.5))
        await self.revive()
        return "parent, workers and all, started again"

    async def _kill_parent(self, dice: random.Random) -> str:
        await asyncio.to_thread(self.gateway.kill_parent)
        await self.revive()
        return "the parent alone, started again"

    async def _kill_worker(self, dice: random.Random) -> str:
        return kill_one(dice, self.gateway.worker_pids())

    async def _freeze_worker(self, dice: random.Random) -> str:
        pids = self.gateway.worker_pids()
        await self.freeze(dice.sample(pids, min(1, len(pids))))
        return f"one worker for {self.long_s:g} s"

    async def _disk_full(self, dice: random.Random) -> str:
        assert self.disk is not None
        with self.disk.full():
            await asyncio.sleep(self.long_s)
        return f"not a block left for {self.long_s:g} s"

    async def _disk_stalled(self, dice: random.Random) -> str:
        assert self.disk is not None
        with self.disk.stalled():
            await asyncio.sleep(self.long_s)
        return f"writes and fsync wait for {self.long_s:g} s"

    async def _clock_step(self, dice: random.Random) -> str:
        assert self.clock is not None
        before = self.clock.offset_s
        steps = [to for to in (-_CLOCK_MOST_S, -3, 3, _CLOCK_MOST_S) if to != before]
        self.clock.set(dice.choice(steps))
        await asyncio.sleep(1.0)
        return f"by {self.clock.offset_s - before:+d} s"

    async def _upstream_hangs(self, dice: random.Random) -> str:
        async with self.upstream.hanging():
            await asyncio.sleep(self.long_s)
        return f"silent for {self.long_s:g} s"

    async def _upstream_resets(self, dice: random.Random) -> str:
        count = 0
        for _ in range(3):
            count += self.upstream.reset()
            await asyncio.sleep(dice.uniform(0.05, 0.3))
        return f"{count} connections"

    # The list -------------------------------------------------------------------------------------------

    def faults(self) -> Iterator[Fault]:
        """All that every setting has."""
        yield self.fault("kill -9 gateway", self._kill_all, _PROCESS)
        yield self.fault("kill -9 parent", self._kill_parent, _PROCESS)
        yield self.fault("kill -9 worker", self._kill_worker, _PROCESS)
        yield self.fault("SIGSTOP worker", self._freeze_worker, _PROCESS)
        yield Fault(name=self.named("upstream hangs"), target="upstream", act=self._upstream_hangs, marks=_UPSTREAM)
        yield Fault(name=self.named("upstream resets"), target="upstream", act=self._upstream_resets, marks=_UPSTREAM)
        if self.clock is not None:
            yield self.fault("clock step", self._clock_step, frozenset())
        if self.disk is not None:
            yield self.fault("disk full", self._disk_full, frozenset())
            yield self.fault("disk stalls", self._disk_stalled, _PROCESS)

    def fault(self, name: str, act: Callable[[random.Random], Awaitable[str]], marks: frozenset[Mark]) -> Fault:
        """One that disturbs this host."""
        return Fault(name=self.named(name), target=f"host {self.name}", act=act, marks=marks)

    def named(self, name: str) -> str:
        return f"{name} ({self.name})" if self.name else name


def kill_one(dice: random.Random, pids: list[int]) -> str:
    """SIGKILL for one of them. In words."""
    for pid in dice.sample(pids, min(1, len(pids))):
        _signal(pid, signal.SIGKILL)
        return f"one of {len(pids)}"
    return "nobody was there"


def _signal(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def family(pid: int) -> list[int]:
    """A process and all below it."""
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        return [pid, *(child.pid for child in process.children(recursive=True))]
    return []
